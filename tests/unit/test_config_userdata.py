"""User data that lets the YAML's key log in: run for real, with a `getent` that points into a temporary folder."""

from __future__ import annotations

import getpass
import os
import stat
import subprocess
from pathlib import Path

import pytest

from raydog.autoscaler.files import upload_destination
from raydog.userdata import EMPTY_SCRIPT, can_authorize_key, combine, with_authorized_key

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder that `getent passwd` gives for this user, on the search path of `run`."""
    home = tmp_path / "home"
    home.mkdir()
    getent = tmp_path / "bin" / "getent"
    getent.parent.mkdir()
    getent.write_text(
        f'#!/bin/sh\n[ "$2" = {getpass.getuser()} ] && echo "$2:x:{os.getuid()}:{os.getgid()}::{home}:/bin/sh"\n'
    )
    getent.chmod(0o755)
    return home


def run(user_data: str | None, home: Path) -> subprocess.CompletedProcess[str]:
    assert user_data is not None
    script = home.parent / "user-data"
    script.write_text(user_data)
    script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{home.parent}/bin:{os.environ['PATH']}"}
    return subprocess.run([script], env=environment, capture_output=True, text=True, timeout=30, check=False)


def keys(home: Path) -> list[str]:
    return (home / ".ssh/authorized_keys").read_text().splitlines()


@pytest.mark.parametrize("shebang", ["#!/bin/bash", "#!/bin/sh", "#!/usr/bin/env bash"])
def test_the_key_is_authorised_after_the_users_own_script(home: Path, shebang: str) -> None:
    result = run(with_authorized_key(f"{shebang}\necho mine", getpass.getuser(), KEY), home)
    assert (result.returncode, result.stdout) == (0, "mine\n")
    assert keys(home) == [KEY]
    assert stat.S_IMODE((home / ".ssh").stat().st_mode) == 0o700
    assert stat.S_IMODE((home / ".ssh/authorized_keys").stat().st_mode) == 0o600


def test_an_empty_script_authorises_the_key(home: Path) -> None:
    assert run(with_authorized_key(EMPTY_SCRIPT, getpass.getuser(), KEY), home).returncode == 0
    assert keys(home) == [KEY]


def test_a_templates_own_user_data_is_not_replaced() -> None:
    assert with_authorized_key(None, "me", KEY) is None


def test_doing_it_again_keeps_what_is_there(home: Path) -> None:
    (home / ".ssh").mkdir()
    (home / ".ssh/authorized_keys").write_text("ssh-rsa AAAAother other\n")
    for _ in range(2):
        run(with_authorized_key("#!/bin/bash\ntrue", getpass.getuser(), KEY), home)
    assert keys(home) == ["ssh-rsa AAAAother other", KEY]


@pytest.mark.parametrize("script", ["set -e\nfalse\necho never", "exit 7", "set -euo pipefail\necho $NO_SUCH_THING"])
def test_a_set_up_that_fails_can_still_be_looked_at_and_its_status_is_kept(home: Path, script: str) -> None:
    result = run(with_authorized_key(f"#!/bin/bash\n{script}\n", getpass.getuser(), KEY), home)
    assert result.returncode != 0
    assert keys(home) == [KEY]


def test_a_missing_user_is_said_and_fails_nothing(home: Path) -> None:
    result = run(with_authorized_key("#!/bin/bash\nset -e\ntrue", "nobody-here", KEY), home)
    assert result.returncode == 0
    assert "no user nobody-here" in result.stderr


def test_a_key_with_strange_characters_is_only_text(home: Path) -> None:
    strange = "ssh-rsa AAAA'$(touch pwned)"
    run(with_authorized_key("#!/bin/sh", getpass.getuser(), strange), home)
    assert keys(home) == [strange]


@pytest.mark.parametrize("text", ["#cloud-config\nusers: []", "#!/usr/bin/python3\nprint()", "<powershell>", "echo x"])
def test_other_formats_are_left_as_they_are(text: str) -> None:
    assert not can_authorize_key(text)
    assert with_authorized_key(text, "me", KEY) == text


@pytest.mark.parametrize(
    ("one", "other", "expected"), [(None, None, None), ("a", None, "a"), (None, "b", "b"), ("a", "b", "a\nb")]
)
def test_userdata_and_extra_userdata_are_one_script(one: str | None, other: str | None, expected: str | None) -> None:
    assert combine(one, other) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [("scripts/a.sh", "scripts/a.sh"), ("../key", "key"), ("./a", "a"), ("/etc/hosts", "etc/hosts"), ("~/x/y", "x/y")],
)
def test_a_file_keeps_its_relative_path_on_the_head(path: str, expected: str) -> None:
    assert upload_destination(path) == expected
