"""The Linux calls that Python's standard library lacks (before 3.12, or at all)."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_CAPBSET_DROP = 24
_CAPABILITY_VERSION_3 = 0x20080522
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """Move this process (its later children, for ``CLONE_NEWPID``) into new namespaces."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(descriptor: int, kind: int) -> None:
    """Enter the namespace of ``kind`` that the file descriptor names."""
    _check(_libc.setns(descriptor, kind), f"setns({kind:#x})")


def mount(source: str, target: str, filesystem: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    _check(
        _libc.mount(source.encode(), target.encode(), filesystem.encode(), ctypes.c_ulong(flags), options.encode()),
        f"mount {filesystem or source} on {target}",
    )


def bind(source: str, target: str, *, read_only: bool) -> None:
    """Show ``source`` at ``target`` as well; what is mounted below ``source`` is left out."""
    mount(source, target, flags=MS_BIND)
    if read_only:
        mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)


def change_root(target: str) -> None:
    """Make the mount ``target`` the root of this mount namespace and let go of the old one."""
    number = _SYS_PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise OSError(f"real instances know x86_64 and aarch64, not {platform.machine()}")
    os.chdir(target)
    # pivot_root(".", ".") stacks the old root on the new one, from where it is detached.
    _check(_libc.syscall(ctypes.c_long(number), b".", b"."), f"pivot_root to {target}")
    _check(_libc.umount2(b".", MNT_DETACH), "detach the old root")
    os.chdir("/")


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process a signal when its parent ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0), "prctl(PDEATHSIG)")


def set_process_name(name: str) -> None:
    """Name of this process in ``ps`` (15 bytes)."""
    _check(_libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0), "prctl(NAME)")


def forbid_inspection() -> None:
    """Keep other processes of the same user from reading this one's memory."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(DUMPABLE)")


def keep_capabilities(kept: frozenset[int]) -> None:
    """Give up every capability but ``kept`` for this process and all that it starts, root included."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for number in range(last + 1):
        if number not in kept:
            _check(_libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0), f"drop capability {number}")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    _check(_libc.capget(header, data), "capget")
    for half in range(2):
        mask = sum(1 << (number - 32 * half) for number in kept if number // 32 == half)
        for field in range(3):
            data[half * 3 + field] &= mask
    _check(_libc.capset(header, data), "capset")
