"""Which folders of this machine may be shown to real instances (``raydog emulator start --expose``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydog.emulator.daemon import Settings
from raydog.emulator.real.host import exposed, python_description, visible_folders
from raydog.errors import ConfigError


def test_folder_is_shown_at_its_real_path(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "link").symlink_to("project")
    shown = exposed([tmp_path / "link"], ["/var/lib/emulator"])
    assert shown == [str((tmp_path / "project").resolve())]
    assert shown[0] in visible_folders(python_description(), shown)


def test_folder_within_another_is_shown_once(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    tmp_path.chmod(0o755)
    shown = visible_folders(python_description(), exposed([tmp_path / "a" / "b", tmp_path / "a"], []))
    assert str((tmp_path / "a").resolve()) in shown
    assert str((tmp_path / "a" / "b").resolve()) not in shown


@pytest.mark.parametrize("folder", ["/", "/proc/self", "/dev", "/run/user"])
def test_system_is_not_shown(folder: str) -> None:
    with pytest.raises(ConfigError, match="cannot be shown"):
        exposed([Path(folder)], [])


def test_emulators_own_files_are_not_shown(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "instances").mkdir(parents=True)
    for folder in (tmp_path, state, state / "instances"):
        with pytest.raises(ConfigError, match="emulator's own"):
            exposed([folder], [str(state)])


def test_file_and_folder_for_one_user_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match="not a folder"):
        exposed([file], [])
    private = tmp_path / "private"
    private.mkdir()
    private.chmod(0o700)
    with pytest.raises(ConfigError, match="chmod o"):
        visible_folders(python_description(), exposed([private], []))


def test_simulated_instances_have_no_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only real instances"):
        Settings("simulated", expose=(tmp_path,)).check()
