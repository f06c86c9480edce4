"""Proof that an emulator has left nothing: what was seen while it ran must be gone afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_NAMESPACES = ("net", "mnt", "pid", "uts", "ipc")


@dataclass(frozen=True)
class Footprint:
    """Processes (id and start time) below one process, and the namespaces that are theirs alone.

    A namespace comes with the time (clock ticks since boot) when it was last seen, since its number is soon used again:
    whoever is in it later, and has started later, is somebody else.
    """

    processes: frozenset[tuple[int, int]] = frozenset()
    namespaces: Mapping[str, int] = field(default_factory=dict)

    def __or__(self, other: Footprint) -> Footprint:
        names = self.namespaces.keys() | other.namespaces.keys()
        last = {name: max(self.namespaces.get(name, 0), other.namespaces.get(name, 0)) for name in names}
        return Footprint(self.processes | other.processes, last)


NOTHING = Footprint()


def footprint(root: int) -> Footprint:
    """What exists now below the process ``root``, itself included."""
    parents = {pid: fields for pid in _pids() if (fields := _stat(pid)) is not None}
    family = {root} if root in parents else set()
    grown = True
    while grown:
        children = {pid for pid, (parent, _start) in parents.items() if parent in family}
        grown = not children <= family
        family |= children
    ours = set(_namespaces("self"))
    now = _now()
    namespaces = {name: now for pid in family for name in _namespaces(str(pid)) if name not in ours}
    return Footprint(frozenset((pid, parents[pid][1]) for pid in family), namespaces)


def left_of(seen: Footprint, folder: Path, links: frozenset[str]) -> list[str]:
    """What of a footprint, of mounts below ``folder`` and of network ``links`` still exists, in words."""
    left = [f"process {pid}" for pid, start in seen.processes if (now := _stat(pid)) is not None and now[1] == start]
    for pid in _pids():
        stat = _stat(pid)
        if stat is not None:
            left += [f"namespace {name}" for name in _namespaces(str(pid)) if stat[1] <= seen.namespaces.get(name, -1)]
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    left += [f"mount {line.split()[1]}" for line in mounts if str(folder) in line]
    return sorted(set(left)) + [f"network link {name}" for name in sorted(links & network_links())]


def network_links() -> frozenset[str]:
    """The network links of this machine."""
    return frozenset(link.name for link in Path("/sys/class/net").iterdir())


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _now() -> int:
    """Clock ticks since boot."""
    uptime = Path("/proc/uptime").read_text(encoding="utf-8").split()[0]
    return int(float(uptime) * os.sysconf("SC_CLK_TCK"))


def _stat(pid: int) -> tuple[int, int] | None:
    """Parent and start time (clock ticks since boot) of a process; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else (int(fields[1]), int(fields[19]))


def _namespaces(pid: str) -> Iterator[str]:
    for kind in _NAMESPACES:
        try:
            yield str(Path(f"/proc/{pid}/ns/{kind}").readlink())
        except OSError:
            return  # it has ended
