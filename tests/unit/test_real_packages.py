"""Which Debian packages real instances may be given (``raydog emulator start --package``)."""

from __future__ import annotations

import pytest

from raydog.emulator.daemon import Settings
from raydog.errors import ConfigError


def test_packages_have_debians_names() -> None:
    Settings(packages=("prometheus", "libstdc++6", "python3.11")).check()


@pytest.mark.parametrize("name", ["", "-o", "--force-yes", "a", "Prometheus", "prometheus=1", "a b", "../x", "x\n"])
def test_what_is_no_package_never_reaches_apt(name: str) -> None:
    with pytest.raises(ConfigError, match="no name of a Debian package"):
        Settings(packages=(name,)).check()


def test_simulated_instances_have_no_programs() -> None:
    with pytest.raises(ConfigError, match="simulated"):
        Settings("simulated", packages=("prometheus",)).check()
