"""Logging in, running commands and moving files, against a real sshd."""

from __future__ import annotations

import logging
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydog.errors import (
    ConfigError,
    CredentialsError,
    ProvisioningError,
    ProvisioningTimeoutError,
    StateError,
)
from raydog.ssh import RemoteFile, SshSession, SshTarget, login, wait_for_login
from tests.support.servers import SshServer, eventually, free_port, make_key, relay_command


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with SshServer(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def target(server: SshServer) -> SshTarget:
    return SshTarget("127.0.0.1", server.user, server.key, server.port)


@pytest.fixture
def session(target: SshTarget) -> Iterator[SshSession]:
    with login(target) as running:
        yield running


def wait(target: SshTarget, timeout: float) -> SshSession:
    return wait_for_login(target, timeout)


def test_login_waits_for_a_port_that_opens_later(tmp_path: Path) -> None:
    server = SshServer(tmp_path)
    target = SshTarget("127.0.0.1", server.user, server.key, server.port)
    seen: list[str] = []
    opened: list[SshServer] = []

    def on_pending(observed: str, waited: float) -> None:
        seen.append(observed)
        if not opened:
            opened.append(server.start())

    try:
        with wait_for_login(target, 20, on_pending) as session:
            assert session.run("echo up", 10).stdout == "up\n"
    finally:
        server.kill()
    assert seen[0] == f"port {server.port}: connection refused"


def test_closed_port_ends_in_a_message_with_what_was_seen(server: SshServer) -> None:
    port = free_port()
    target = SshTarget("127.0.0.1", server.user, server.key, port)
    with pytest.raises(ProvisioningTimeoutError, match="connection refused") as caught:
        wait(target, 0.3)
    assert f"{server.user}@127.0.0.1:{port}" in str(caught.value)
    assert caught.value.category == "SSH"


def test_refused_key_fails_at_once_and_names_user_key_and_remedy(target: SshTarget, tmp_path: Path) -> None:
    other = SshTarget(target.host, target.user, make_key(tmp_path / "other"), target.port)
    observed: list[str] = []
    with pytest.raises(CredentialsError, match="ssh_private_key") as caught:
        wait_for_login(other, 60, lambda seen, _: observed.append(seen))
    assert observed == []
    assert str(tmp_path / "other") in str(caught.value)
    assert repr(target.user) in str(caught.value)


def test_refused_user_fails_at_once(target: SshTarget) -> None:
    with pytest.raises(CredentialsError, match="no-such-user"):
        wait(SshTarget(target.host, "no-such-user", target.private_key, target.port), 60)


def test_no_key_at_all_is_refused_at_once(target: SshTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(CredentialsError, match=r"keys of the SSH agent and of ~/\.ssh"):
        wait(SshTarget(target.host, target.user, None, target.port), 60)


def test_own_keys_are_tried_where_none_is_named(
    server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").write_bytes(server.key.read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with login(SshTarget("127.0.0.1", server.user, None, server.port)) as session:
        assert session.is_alive
    assert not (tmp_path / ".ssh" / "known_hosts").exists()


def test_refused_password_is_not_repeated(target: SshTarget) -> None:
    with pytest.raises(CredentialsError, match="the password given") as caught:
        wait(SshTarget(target.host, target.user, None, target.port, password="hunter2"), 60)
    assert "hunter2" not in str(caught.value)


def test_server_without_a_common_algorithm_is_final(tmp_path: Path) -> None:
    with SshServer(tmp_path, "Ciphers chacha20-poly1305@openssh.com") as server:
        target = SshTarget("127.0.0.1", server.user, server.key, server.port)
        with pytest.raises(StateError, match="none of our algorithms"):
            wait(target, 60)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_key_types(server: SshServer, target: SshTarget, tmp_path: Path, kind: str) -> None:
    key = make_key(tmp_path / "key", kind=kind)
    before = server.authorized.read_text()
    server.authorized.write_text(before + key.with_suffix(".pub").read_text())
    try:
        with login(SshTarget(target.host, target.user, key, target.port)) as session:
            assert session.is_alive
    finally:
        server.authorized.write_text(before)


def test_encrypted_key_needs_its_passphrase(server: SshServer, target: SshTarget, tmp_path: Path) -> None:
    key = make_key(tmp_path / "key", passphrase="open sesame")

    def wanted(passphrase: str | None) -> SshTarget:
        return SshTarget(target.host, target.user, key, target.port, private_key_password=passphrase)

    with pytest.raises(CredentialsError, match=r"is encrypted.*ssh-keygen -p"):
        wait(wanted(None), 60)
    with pytest.raises(CredentialsError, match="passphrase given does not open it") as caught:
        wait(wanted("wrong one"), 60)
    assert "wrong one" not in str(caught.value)
    assert "open sesame" not in repr(wanted("open sesame"))
    before = server.authorized.read_text()
    server.authorized.write_text(before + key.with_suffix(".pub").read_text())
    try:
        with login(wanted("open sesame")) as session:
            assert session.is_alive
    finally:
        server.authorized.write_text(before)


def test_unusable_key_files(target: SshTarget, tmp_path: Path) -> None:
    def attempt(path: Path) -> None:
        login(SshTarget(target.host, target.user, path, target.port))

    with pytest.raises(CredentialsError, match="there is no such file"):
        attempt(tmp_path / "missing")
    with pytest.raises(CredentialsError, match="cannot be read"):
        attempt(tmp_path)
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(CredentialsError, match="is not a private key"):
        attempt(tmp_path / "text")
    with pytest.raises(CredentialsError, match=r"not the one that ends in \.pub"):
        attempt(make_key(tmp_path / "key").with_suffix(".pub"))


def test_server_that_says_nothing_is_waited_for(server: SshServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        target = SshTarget("127.0.0.1", server.user, server.key, port, connect_timeout=0.3)
        with pytest.raises(ProvisioningTimeoutError, match="SSH does not answer yet"):
            wait(target, 0.2)


def test_nothing_is_logged_or_left_running(
    target: SshTarget, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    threads = set(threading.enumerate())
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(CredentialsError):
        login(SshTarget(target.host, target.user, make_key(tmp_path / "other"), target.port))
    with login(target) as session:
        session.run("true", 10)
    eventually(lambda: set(threading.enumerate()) <= threads, what="all threads have ended")
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, what="all files are closed")  # noqa: PTH208
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_run_returns_status_and_both_outputs(session: SshSession) -> None:
    done = session.run("echo out; echo err >&2; exit 3", timeout=10)
    assert (done.exit_status, done.stdout, done.stderr) == (3, "out\n", "err\n")
    with pytest.raises(ProvisioningError, match=r"(?s)starting it failed with status 3.*err"):
        done.check("starting it")


def test_run_feeds_and_collects_megabytes_both_ways(session: SshSession) -> None:
    data = os.urandom(1 << 20).hex()
    done = session.run("tee /dev/stderr", timeout=60, input=data)
    assert done.stdout == data
    assert done.stderr == data


def test_command_that_wants_no_input_does_not_hang(session: SshSession) -> None:
    assert session.run("exit 4", timeout=30, input=b"x" * (8 << 20)).exit_status == 4


def test_command_that_ends_before_its_small_input_comes(session: SshSession) -> None:
    assert [session.run("exec true", 30, input="x" * 1000).exit_status for _ in range(10)] == [0] * 10


def test_run_times_out(session: SshSession) -> None:
    with pytest.raises(ProvisioningTimeoutError, match=r"did not end in 0\.3 s"):
        session.run("exec sleep 5", timeout=0.3)
    assert session.run("echo on", timeout=10).stdout == "on\n", "the session goes on"


def test_run_from_many_threads(session: SshSession) -> None:
    results: dict[int, str] = {}

    def work(worker: int) -> None:
        results[worker] = session.run(f"echo {worker}", timeout=60).stdout

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {worker: f"{worker}\n" for worker in range(8)}


def test_lost_connection_is_an_error_and_not_a_result(tmp_path: Path) -> None:
    with SshServer(tmp_path) as server:
        target = SshTarget("127.0.0.1", server.user, server.key, server.port)
        with login(target) as session:
            timer = threading.Timer(0.3, server.drop_connections)
            timer.start()
            with pytest.raises(ProvisioningError, match="lost"):
                session.run("exec sleep 20", timeout=15)
            timer.join()
            assert not session.is_alive
            with pytest.raises(ProvisioningError, match="lost"):
                session.run("true", timeout=5)
    with pytest.raises(StateError, match="closed"):
        session.run("true", timeout=5)


def test_write_files_makes_them_with_mode_and_private_folders(session: SshSession, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "it's a folder"
    session.write_files(
        [
            RemoteFile(str(folder / "secret"), b"s3cret\n"),
            RemoteFile(str(folder / "script.sh"), b"\0\xff" * 100_000, 0o755),
            RemoteFile(str(folder / "empty"), b"", 0o640),
        ]
    )
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"secret": 0o600, "script.sh": 0o755, "empty": 0o640}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert (folder / "secret").read_bytes() == b"s3cret\n"
    assert (folder / "script.sh").read_bytes() == b"\0\xff" * 100_000


def test_write_file_replaces_and_never_changes_the_old_file(session: SshSession, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    with path.open() as reader:
        session.write_file(str(path), b"new")
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_failed_write_names_the_file_and_leaves_nothing(session: SshSession, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").write_text("x")
    for path in (tmp_path / "folder", tmp_path / "plain" / "below"):
        with pytest.raises(ProvisioningError, match=str(path)) as caught:
            session.write_file(str(path), b"the secret")
        assert "the secret" not in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "plain"]
    assert list((tmp_path / "folder").iterdir()) == []


def test_relative_paths_are_below_the_home_folder(server: SshServer, session: SshSession) -> None:
    name = f".raydog-test-{os.getpid()}"
    path = server.home / name
    try:
        session.write_file(f"~/{name}", b"x")
        assert path.read_bytes() == b"x"
        assert session.read_file(name) == b"x"
    finally:
        path.unlink(missing_ok=True)


def test_read_file(session: SshSession, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "it's -here").write_bytes(data)
    assert session.read_file(str(tmp_path / "it's -here")) == data
    assert session.read_file(str(tmp_path / "missing")) is None
    with pytest.raises(ProvisioningError, match="reading"):
        session.read_file(str(tmp_path))


def test_paths_that_cannot_be(session: SshSession) -> None:
    for path in ("", "two\nlines"):
        with pytest.raises(StateError, match="not a path"):
            session.write_file(path, b"")


def test_proxy_command_carries_the_connection_and_ends_with_it(target: SshTarget, tmp_path: Path) -> None:
    proxied = SshTarget(target.host, target.user, target.private_key, target.port, f"{relay_command(tmp_path)} 100%%")
    with wait(proxied, 20) as session:
        assert session.run("echo through", 10).stdout == "through\n"
        assert children()
    assert children() == []


def test_proxy_command_that_cannot_be_run_is_final(target: SshTarget) -> None:
    def attempt(command: str) -> None:
        wait(SshTarget(target.host, target.user, target.private_key, target.port, command), 60)

    with pytest.raises(ConfigError, match="ssh_proxy_command cannot be run"):
        attempt("/no/such/program %h")
    with pytest.raises(ConfigError, match="unknown token %x"):
        attempt("nc %x %p")
    assert children() == []


def test_proxy_command_that_fails_says_why(target: SshTarget) -> None:
    failing = SshTarget(target.host, target.user, target.private_key, target.port, "sh -c 'echo no route >&2; exit 5'")
    with pytest.raises(ProvisioningTimeoutError, match="proxy command ended with status 5: no route"):
        wait(failing, 0.3)
    with pytest.raises(ProvisioningError, match="no route"):
        login(failing)
    assert children() == []


def children() -> list[str]:
    """The command lines of the proxy commands that run."""
    own = Path(f"/proc/self/task/{threading.main_thread().native_id}/children").read_text().split()
    lines = [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in own]
    return [line for line in lines if "relay.py" in line or "/bin/sh" in line]
