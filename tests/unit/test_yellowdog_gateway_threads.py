"""A gateway that many threads use at once: connections enough, and all of them closed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from raydog.yellowdog.credentials import Credentials
from raydog.yellowdog.gateway import Gateway


class Client:
    """Stands for the SDK's; answers when all threads are there."""

    def __init__(self, barrier: threading.Barrier) -> None:
        self.threads: set[int] = set()
        self.closed = False
        self._barrier = barrier
        self.work_client = self

    def get_task_by_id(self, task_id: str) -> Any:
        self.threads.add(threading.get_ident())
        self._barrier.wait(10)
        raise RuntimeError(task_id)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[Client]]:
    """Has gateways open such clients for so many threads."""

    def prepare(threads: int) -> list[Client]:
        clients: list[Client] = []
        barrier = threading.Barrier(threads)

        def open_one(_gateway: Gateway) -> Client:
            clients.append(Client(barrier))
            return clients[-1]

        monkeypatch.setattr(Gateway, "_open", open_one)
        return clients

    return prepare


@pytest.mark.parametrize(("threads", "clients"), [(1, 1), (8, 1), (9, 2), (32, 4)])
def test_no_client_serves_more_threads_than_its_session_keeps_connections(
    opened: Callable[[int], list[Client]], threads: int, clients: int
) -> None:
    made = opened(threads)
    gateway = Gateway(Credentials("http://127.0.0.1:1", "id", "secret"), swift=True, threads=threads)

    def call(number: int) -> None:
        with pytest.raises(Exception, match=f"task-{number}"):
            gateway.get_node(f"task-{number}")

    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(call, range(threads)))
    assert len(made) == clients
    assert sum(len(client.threads) for client in made) == threads
    assert max(len(client.threads) for client in made) <= 8
    gateway.close()
    assert all(client.closed for client in made)
