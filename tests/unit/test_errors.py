"""The tree of errors: what each can be caught as, and how it prints."""

from __future__ import annotations

import click
import pytest

from raydog import errors


@pytest.mark.parametrize(
    ("kind", "also"),
    [
        (errors.ConfigError, ValueError),
        (errors.MissingFileError, FileNotFoundError),
        (errors.MissingFileError, errors.ConfigError),
        (errors.ProvisioningTimeoutError, TimeoutError),
        (errors.ProvisioningTimeoutError, errors.ProvisioningError),
        (errors.NotFoundError, errors.PlatformError),
        (errors.DuplicateError, errors.PlatformError),
        (errors.PlatformUnavailableError, errors.PlatformError),
        (errors.TeardownError, errors.RayDogError),
        (errors.StateError, errors.RayDogError),
        (errors.CredentialsError, click.ClickException),
    ],
)
def test_error_is_also(kind: type[Exception], also: type[Exception]) -> None:
    error = kind("what was wanted")
    assert isinstance(error, also)
    assert isinstance(error, errors.RayDogError)
    assert str(error) == "what was wanted"


def test_error_is_one_clean_line_and_exit_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    error = errors.StateError("not now")
    error.show()
    assert capsys.readouterr().err == "Error: not now\n"
    assert error.exit_code == 1


def test_errors_keep_what_programs_need() -> None:
    assert errors.ConfigError("two faults", ["a: b", "c: d"]).faults == ("a: b", "c: d")
    assert errors.PlatformError("no", 403).status == 403
    assert errors.TeardownError("left", ["pool"]).left == ("pool",)
    assert errors.ProvisioningError("no", "C" * 30).category == "C" * 20
    assert errors.ProvisioningTimeoutError("late").category == "Timeout"
