"""Proof that an emulator has left nothing: what was seen while it ran must be gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NAMESPACES = ("net", "mnt", "pid", "uts", "ipc")


@dataclass(frozen=True)
class Footprint:
    """Processes (id and start time) below one process, and the namespaces that are theirs alone."""

    processes: frozenset[tuple[int, str]]
    namespaces: frozenset[str]

    def __or__(self, other: Footprint) -> Footprint:
        return Footprint(self.processes | other.processes, self.namespaces | other.namespaces)


NOTHING = Footprint(frozenset(), frozenset())


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
    namespaces = {name for pid in family for name in _namespaces(str(pid))} - ours
    return Footprint(frozenset((pid, parents[pid][1]) for pid in family), frozenset(namespaces))


def left_of(seen: Footprint, folder: Path, links: frozenset[str]) -> list[str]:
    """What of a footprint, of mounts below ``folder`` and of network ``links`` still exists, in words."""
    left = [f"process {pid}" for pid, start in seen.processes if (now := _stat(pid)) is not None and now[1] == start]
    alive = {name for pid in _pids() for name in _namespaces(str(pid))}
    left += [f"namespace {name}" for name in sorted(seen.namespaces & alive)]
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    left += [f"mount {line.split()[1]}" for line in mounts if str(folder) in line]
    return left + [f"network link {name}" for name in sorted(links & network_links())]


def network_links() -> frozenset[str]:
    """The network links of this machine."""
    return frozenset(link.name for link in Path("/sys/class/net").iterdir())


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _stat(pid: int) -> tuple[int, str] | None:
    """Parent and start time of a process; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else (int(fields[1]), fields[19])


def _namespaces(pid: str) -> Iterator[str]:
    for kind in _NAMESPACES:
        try:
            yield str(Path(f"/proc/{pid}/ns/{kind}").readlink())
        except OSError:
            return  # it has ended
