"""The head's tag server, started by the shell that starts it there: killed, spoilt, crowded out. Nobody notices."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import redis

from raydog.autoscaler import scripts
from raydog.autoscaler.provider import RayDogNodeProvider
from tests.support.head_room import HeadRoom, running
from tests.support.servers import RedisServer, answers, eventually, libraries, program, redis_client

MakeRoom = Callable[..., HeadRoom]
SHELL = Path(scripts.__file__).parent / "shell" / "head_prologue.sh"


def quiet_port() -> int:
    """A port that is free and stays so: no outgoing connection gets its own port from there."""
    for port in range(20_002, 30_000, 2):
        if not answers(port):
            return port
    pytest.fail("no free port")


class TagServer:
    """``serve_tags`` of a head's task, which starts Redis again whenever it ends."""

    def __init__(self, home: Path) -> None:
        self.directory = home / ".raydog"
        self.directory.mkdir()
        self.port = quiet_port()
        server = Path(program("redis-server"))
        self._process = subprocess.Popen(
            ["bash", "-c", f'umask 077; say() {{ echo "$*"; }}; . "{SHELL}"; serve_tags & wait "$!"'],
            env={
                **os.environ,
                **libraries(),
                "PATH": f"{server.parent}:{os.environ['PATH']}",
                "HOME": str(home),
                "RAYDOG_DIR": str(self.directory),
                "RAYDOG_TAG_PORT": str(self.port),
            },
            start_new_session=True,
        )
        self.await_service()

    @property
    def password(self) -> str:
        return (self.directory / "redis.password").read_text()

    def serves(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.RedisError, FileNotFoundError):
            return False

    def await_service(self) -> None:
        eventually(self.serves, timeout=20, what="the tag server serves")

    def client(self) -> redis.Redis:
        return redis_client(self.port, self.password)

    def tried_in_vain(self) -> bool:
        """Whether Redis has found its port taken."""
        logs = [file.read_text() for file in self.directory.glob("redis.log*")]
        return any("already in use" in log for log in logs)

    def stored(self) -> dict[str, str]:
        with self.client() as client:
            (key,) = client.keys("*:tags")
            return {node.decode(): tags.decode() for node, tags in client.hgetall(key).items()}

    def kill(self) -> None:
        """SIGKILL to Redis and to nobody else."""
        with self.client() as client:
            pid = int(client.info("server")["process_id"])
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not answers(self.port), what="Redis has gone")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody starts Redis again meanwhile."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in map(int, children):
            os.kill(pid, signal.SIGSTOP)
        yield
        for pid in map(int, children):
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@pytest.fixture
def tag_server(tmp_path: Path) -> Iterator[TagServer]:
    made = TagServer(tmp_path)
    yield made
    made.close()


def spoil_increments(data: Path) -> None:
    (file,) = data.glob("appendonlydir/*.incr.aof")
    text = file.read_bytes()
    file.write_bytes(text[: len(text) // 2] + b"\x00spoilt\xff" * 20 + text[len(text) // 2 :])


def spoil_base(data: Path) -> None:
    (file,) = data.glob("appendonlydir/*.base.rdb")
    file.write_bytes(b"spoilt" * 10)


def spoil_manifest(data: Path) -> None:
    (file,) = data.glob("appendonlydir/*.manifest")
    file.write_text("spoilt\n")


def lose_increments(data: Path) -> None:
    (file,) = data.glob("appendonlydir/*.incr.aof")
    file.unlink()


def cut_short(data: Path) -> None:
    (file,) = data.glob("appendonlydir/*.incr.aof")
    file.write_bytes(file.read_bytes()[:-7])


def leave_alone(data: Path) -> None:
    """Killed only."""


def tagged(provider: RayDogNodeProvider) -> dict[str, dict[str, str]]:
    return {name: provider.node_tags(name) for name in provider.non_terminated_nodes({})}


SPOILERS = (spoil_increments, spoil_base, spoil_manifest, lose_increments, cut_short, leave_alone)


@pytest.mark.parametrize("spoil", SPOILERS)
def test_killed_with_its_file_spoilt_no_node_and_no_tag_is_lost_and_scaling_goes_on(
    make_room: MakeRoom, tag_server: TagServer, spoil: Callable[[Path], None]
) -> None:
    room = make_room(tag_port=tag_server.port)
    provider = room.provider()
    nodes = room.launch(provider, 3)
    running(provider, nodes)
    for number, node in enumerate(nodes):
        provider.set_node_tags(node, {"own": str(number)})
    eventually(lambda: set(tag_server.stored()) >= set(nodes), what="the tags are stored")
    before = tagged(provider)

    with tag_server.held():
        tag_server.kill()
        spoil(tag_server.directory / "redis")
        assert tagged(provider) == before
        provider.set_node_tags(nodes[0], {"meanwhile": "1"})
        provider.terminate_node(nodes[2])
        (new,) = room.launch(provider)
        running(provider, [new])
        assert set(provider.non_terminated_nodes({})) == {room.head.name, *nodes[:2], new}
    tag_server.await_service()

    def complete() -> bool:
        provider.non_terminated_nodes({})
        with tag_server.client() as client:
            found = client.keys("*:tags")
        return bool(found) and tag_server.stored().keys() >= {*nodes[:2], new}

    eventually(complete, timeout=20, what="the tags are there again")
    provider.close()
    second = room.provider()  # it has nothing in memory
    eventually(lambda: set(second.non_terminated_nodes({})) == {room.head.name, *nodes[:2], new}, what="all nodes")
    assert second.node_tags(nodes[0]) == {**before[nodes[0]], "meanwhile": "1"}
    assert second.node_tags(nodes[1]) == before[nodes[1]]
    assert {node.name for node in room.tasks()} == {*nodes[:2], new}


@contextmanager
def silent_stranger(port: int, folder: Path) -> Iterator[None]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", port)):
        yield


@contextmanager
def rude_stranger(port: int, folder: Path) -> Iterator[None]:
    """Answers whatever comes as a web server does."""
    with socket.create_server(("127.0.0.1", port)) as server:

        def serve() -> None:
            while True:
                try:
                    caller, _ = server.accept()
                except OSError:
                    return
                with caller:
                    caller.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextmanager
def redis_stranger(port: int, folder: Path, password: str | None = None) -> Iterator[None]:
    """Somebody else's Redis, which lets everybody in and must be given nothing of ours."""
    (folder / "stranger").mkdir()
    server = RedisServer(folder / "stranger", password)
    server.port = port
    with server:
        yield
        with redis_client(port, password) as client:
            assert client.keys() == []


@contextmanager
def locked_redis_stranger(port: int, folder: Path) -> Iterator[None]:
    """Somebody else's Redis, with a password of its own."""
    with redis_stranger(port, folder, "theirs"):
        yield


Stranger = Callable[[int, Path], AbstractContextManager[None]]


@pytest.mark.parametrize("stranger", [silent_stranger, rude_stranger, redis_stranger, locked_redis_stranger])
def test_stranger_on_its_port_is_not_believed_and_scaling_goes_on(
    make_room: MakeRoom, tag_server: TagServer, stranger: Stranger, tmp_path: Path
) -> None:
    room = make_room(tag_port=tag_server.port)
    provider = room.provider()
    nodes = room.launch(provider, 2)
    running(provider, nodes)
    provider.set_node_tags(nodes[0], {"own": "1"})
    eventually(lambda: "own" in tag_server.stored()[nodes[0]], what="the tags are stored")
    before = tagged(provider)
    with tag_server.held():
        tag_server.kill()
        holder = stranger(tag_server.port, tmp_path)
        holder.__enter__()
    try:
        assert tagged(provider) == before
        provider.set_node_tags(nodes[0], {"own": "2"})
        provider.terminate_node(nodes[1])
        (new,) = room.launch(provider)
        running(provider, [new])
        eventually(tag_server.tried_in_vain, timeout=20, what="Redis tries in vain")
        assert provider.node_tags(nodes[0]) == {**before[nodes[0]], "own": "2"}
    finally:
        holder.__exit__(None, None, None)
    tag_server.await_service()
    assert not (tag_server.directory / "redis.unreadable").exists(), "its data are fine"

    def sent() -> bool:
        provider.non_terminated_nodes({})
        stored = tag_server.stored()
        return new in stored and '"own":"2"' in stored[nodes[0]].replace(" ", "") and nodes[1] not in stored

    eventually(sent, timeout=20, what="what was written meanwhile is stored")
    assert set(provider.non_terminated_nodes({})) == {room.head.name, nodes[0], new}


def test_end_of_the_task_ends_the_tag_server(tag_server: TagServer) -> None:
    with tag_server.client() as client:
        pid = int(client.info("server")["process_id"])
    shell = int(Path(f"/proc/{tag_server._process.pid}/task/{tag_server._process.pid}/children").read_text())
    os.kill(shell, signal.SIGTERM)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), what="Redis has ended")
    tag_server._process.wait(timeout=10)
