"""The root file system of one instance, mounted inside its own mount namespace.

Bottom to top: the host's ``/`` (read only by nature of an overlay), the image layer, a tmpfs that takes what
the instance writes. Kernel file systems are fresh ones. All of it ends with the instance's last process.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from . import syscalls
from .layer import OPERATING_SYSTEM
from .syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY

_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_LINKS = {
    "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx",
}  # fmt: skip
_PROC_READ_ONLY = ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi")
_PROC_HIDDEN = ("kcore", "keys", "timer_list", "kmsg", "kallsyms", "sched_debug")
_PSEUDO = frozenset(
    {
        "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs",
        "efivarfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rpc_pipefs",
        "securityfs", "sysfs", "tmpfs", "tracefs",
    }
)  # fmt: skip


def split_mounts() -> list[str]:
    """Folders of the operating system that are mounts of their own on this host (``/usr``, ``/var``)."""
    found: list[str] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ", 1)
        path = before.split()[4].encode().decode("unicode_escape")
        kind = after.split()[0]
        parts = Path(path).parts
        ours = len(parts) > 1 and parts[1] in OPERATING_SYSTEM and kind not in _PSEUDO
        if ours and path not in found and Path(path).is_dir():
            found.append(path)
    return found


def mount_root(workplace: Path, visible: list[str], split: list[str]) -> None:
    """Mount and enter the root. ``workplace`` has the folders ``layer``, ``upper`` and ``root``.

    ``visible`` are folders of the host to show read-only at their own paths, ``split`` what `split_mounts`
    found. Call it in a new mount namespace with private propagation.
    """
    os.chdir(workplace)  # overlay's options take relative paths, which need no escaping
    syscalls.mount("upper", "upper", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    _overlay("/", "root", 0)
    for number, path in enumerate(split, start=1):
        _overlay(path, f"root{path}", number)
    for path in visible:
        syscalls.bind(path, f"root{path}", read_only=True)
    _kernel_file_systems()
    syscalls.change_root("root")


def _overlay(lower: str, target: str, number: int) -> None:
    for name in ("data", "work"):
        Path(f"upper/{name}{number}").mkdir()
    Path(f"upper/data{number}").chmod(stat.S_IMODE(Path(lower).stat().st_mode))
    layer = "layer" if lower == "/" else f"layer{lower}"
    lowers = f"{layer}:{lower}" if Path(layer).is_dir() else lower
    options = f"lowerdir={lowers},upperdir=upper/data{number},workdir=upper/work{number}"
    syscalls.mount("overlay", target, "overlay", 0, options)


def _kernel_file_systems() -> None:
    syscalls.mount("proc", "root/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    syscalls.mount("sysfs", "root/sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    syscalls.mount("dev", "root/dev", "tmpfs", MS_NOSUID, "mode=755,size=64k")
    old_mask = os.umask(0)
    for name, (major, minor) in _DEVICES.items():
        os.mknod(f"root/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
    os.umask(old_mask)
    for name, target in _LINKS.items():
        Path(f"root/dev/{name}").symlink_to(target)
    for name in ("pts", "shm"):
        Path(f"root/dev/{name}").mkdir()
    syscalls.mount("devpts", "root/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=620,ptmxmode=666,gid=5")
    syscalls.mount("shm", "root/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    # The kernel's switches are the host's: there is no user namespace, so root here is root there.
    for name in _PROC_READ_ONLY:
        if Path(f"root/proc/{name}").exists():
            syscalls.bind(f"root/proc/{name}", f"root/proc/{name}", read_only=True)
    for name in _PROC_HIDDEN:
        if Path(f"root/proc/{name}").exists():
            syscalls.bind("root/dev/null", f"root/proc/{name}", read_only=False)
