"""How busy the real instances are, from this machine's process table: an instance is a PID namespace of its own.

Sampled only while a page is open, in a thread. Simulated instances have no processes and no load.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_LOCAL_ADDRESS = re.compile(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL")


@dataclass(frozen=True)
class Load:
    """``cpu_percent`` of one CPU (200: two CPUs are busy) since the last sample; all ``processes`` count."""

    cpu_percent: float
    processes: int


class LoadSampler:
    """Takes samples of /proc. Not thread-safe: one `sample` at a time."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._own = _read_link(proc / "self/ns/pid")
        self._ticks_per_second = os.sysconf("SC_CLK_TCK")
        self._addresses: dict[str, frozenset[str]] = {}
        """PID namespace to the addresses in its network: looked up once."""
        self._ticks: dict[str, int] = {}
        """CPU time that a namespace had used at the last sample."""
        self._at = 0.0

    def sample(self, addresses: Mapping[str, str]) -> dict[str, Load]:
        """The load of each instance (id by address) that has processes. The first sample knows no CPU time yet."""
        now = time.monotonic()
        namespaces: dict[str, list[int]] = {}
        for process in self._processes():
            namespace = _read_link(self._proc / str(process) / "ns/pid")
            if namespace is not None and namespace != self._own:
                namespaces.setdefault(namespace, []).append(process)
        seconds = now - self._at
        ticks: dict[str, int] = {}
        found: dict[str, Load] = {}
        for namespace, processes in namespaces.items():
            instance_id = self._instance(namespace, processes, addresses)
            if instance_id is None:
                continue
            ticks[namespace] = spent = sum(map(self._spent, processes))
            used = max(spent - self._ticks.get(namespace, spent), 0)
            found[instance_id] = Load(100.0 * used / self._ticks_per_second / seconds, len(processes))
        self._addresses = {key: value for key, value in self._addresses.items() if key in namespaces}
        self._ticks, self._at = ticks, now
        return found

    def _processes(self) -> Iterable[int]:
        return (int(entry.name) for entry in os.scandir(self._proc) if entry.name.isdigit())

    def _instance(self, namespace: str, processes: list[int], addresses: Mapping[str, str]) -> str | None:
        known = self._addresses.get(namespace)
        if known is None:
            text = _read(self._proc / str(processes[0]) / "net/fib_trie") or ""
            known = frozenset(_LOCAL_ADDRESS.findall(text))
            if known - {"127.0.0.1"}:  # one that just boots has no address yet
                self._addresses[namespace] = known
        return next((addresses[address] for address in known if address in addresses), None)

    def _spent(self, process: int) -> int:
        """Clock ticks of CPU time that a process, and those of its children that have ended, have used.

        What a process used passes to its parent when it ends, so that the sum over a namespace only grows.
        """
        text = _read(self._proc / str(process) / "stat")
        if text is None:
            return 0
        return sum(map(int, text.rpartition(")")[2].split()[11:15]))


def _read_link(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except OSError:  # it has ended, or is not ours to look at
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # likewise
        return None
