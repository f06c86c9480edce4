"""Where the platform's address and key come from, and where the secret never shows."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from raydog.errors import CredentialsError
from raydog.yellowdog import credentials, ownership
from raydog.yellowdog.credentials import DEFAULT_API_URL, load_credentials

KEY = {"YD_API_KEY_ID": "id", "YD_API_KEY_SECRET": "secret"}


def test_environment_alone_with_the_default_url(tmp_path: Path) -> None:
    found = load_credentials(KEY, tmp_path)
    assert found.as_environment() == {"YD_API_URL": DEFAULT_API_URL, **KEY}


def test_environment_wins_over_dotenv_which_is_found_upwards(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("YD_API_KEY_ID=other\nYD_API_KEY_SECRET=from-file\nYD_API_URL=http://there/\n")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    found = load_credentials({"YD_API_KEY_ID": "id", "YD_API_KEY_SECRET": ""}, below)
    assert (found.api_url, found.key_id, found.key_secret) == ("http://there", "id", "from-file")


def test_working_directorys_dotenv_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("YD_API_KEY_ID=file\nYD_API_KEY_SECRET=from-file\n")
    monkeypatch.chdir(tmp_path)
    assert load_credentials({}).key_id == "file"


def test_missing_ones_are_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"YD_API_KEY_ID and YD_API_KEY_SECRET not set.*raydog emulator start"):
        load_credentials({}, tmp_path)
    with pytest.raises(CredentialsError, match=r"^YD_API_KEY_SECRET not set"):
        load_credentials({"YD_API_KEY_ID": "id"}, tmp_path)


@pytest.mark.parametrize("url", ["api.yellowdog.ai", "ftp://there", "//there"])
def test_address_that_is_no_url_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(CredentialsError, match="YD_API_URL"):
        load_credentials({**KEY, "YD_API_URL": url}, tmp_path)


def test_dotenv_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"YD_API_KEY_ID=\xff\xfe\n")
    with pytest.raises(CredentialsError, match=r"/\.env is no text in UTF-8"):
        load_credentials(KEY, tmp_path)
    complete = {**KEY, "YD_API_URL": "http://there"}  # then the file is not needed
    assert load_credentials(complete, tmp_path).api_url == "http://there"


def test_dotenv_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("YD_API_KEY_ID=id\n")

    def refuse(path: Path) -> dict[str, str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(credentials, "dotenv_values", refuse)  # root may read everything
    with pytest.raises(CredentialsError, match=r"/\.env cannot be read: Permission denied"):
        load_credentials(KEY, tmp_path)


def test_secret_never_shows(tmp_path: Path) -> None:
    found = load_credentials({**KEY, "YD_API_KEY_SECRET": "s3cr3t"}, tmp_path)
    assert "s3cr3t" not in f"{found!r} {found}"


@pytest.mark.parametrize(
    ("name", "cluster", "expected"),
    [
        ("demo-abcdefgh", "demo", "abcdefgh"),
        ("demo-2-abcdefgh", "demo", None),
        ("demo-2-abcdefgh", "demo-2", "abcdefgh"),
        ("demo-abcdefgh", "Demo", None),
        ("demo", "demo", None),
        ("demo-abcdefghi", "demo", None),
    ],
)
def test_requirement_belongs_to_the_cluster_of_exactly_its_name(name: str, cluster: str, expected: str | None) -> None:
    assert ownership.cluster_id_of(name, cluster) == expected


def test_pool_is_ours_only_if_name_and_tag_bear_the_same_id() -> None:
    assert ownership.pool_belongs("demo-abcdefgh-worker", "raydog-abcdefgh-worker", "demo")
    assert not ownership.pool_belongs("demo-abcdefgh-worker", "raydog-abcdefgi-worker", "demo")
    assert not ownership.pool_belongs("demo-abcdefgh-worker", "", "demo")
    assert not ownership.pool_belongs("demo-2-abcdefgh-worker", "raydog-abcdefgh-worker", "demo")
    assert not ownership.tag_belongs("raydog-abcdefgh", "abcdefgh")
