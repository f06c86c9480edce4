"""The image layer: what lies over this machine's own root file system in every instance.

It is a folder that the overlay puts on top of ``/``: the packages that the host lacks, accounts, the
configuration of sshd, and *blanks* over everything that is none of an instance's business. A blank is part of
the overlay (an opaque folder, a whiteout), not a mount, so that nobody in an instance can take it away.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

OPERATING_SYSTEM = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "opt", "var"})
"""Top folders of the host that an instance sees; all others are blank."""

_STANDARD = {
    "boot": 0o755, "dev": 0o755, "home": 0o755, "media": 0o755, "mnt": 0o755, "proc": 0o555, "root": 0o700,
    "run": 0o755, "srv": 0o755, "sys": 0o555, "tmp": 0o1777,
}  # fmt: skip
_BLANK = {"/var/tmp": 0o1777, "/var/log": 0o755, "/var/lib/docker": 0o710, "/etc/ssh": 0o755}
_PRIVATE_BELOW = {"/etc": 8, "/var": 6, "/opt": 3}
"""Where the host's private files are looked for, and how many folders deep."""

_SSHD = """\
# Written by RayDog's emulator.
Port 22
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
AllowTcpForwarding yes
MaxStartups 1000
MaxSessions 1000
MaxAuthTries 20
LoginGraceTime 30
PrintMotd no
PidFile /run/sshd.pid
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
"""


class Layer:
    """A layer being built in the folder ``root`` (on a file system with ``trusted`` attributes: tmpfs)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blanks: set[str] = set()

    def at(self, path: str) -> Path:
        """Where ``path`` of an instance lies in the layer."""
        return self.root / path.lstrip("/")

    def folder(self, path: str) -> Path:
        """A folder, with its parents; one that the host has keeps the host's mode and owner."""
        here = self.at(path)
        if not here.is_dir():
            if path.strip("/"):
                self.folder(os.path.dirname(path.rstrip("/")))  # noqa: PTH120
            here.mkdir()
            there = Path(path)
            if there.is_dir():
                status = there.stat()
                os.chown(here, status.st_uid, status.st_gid)
                here.chmod(stat.S_IMODE(status.st_mode))
            else:
                here.chmod(0o755)
        return here

    def write(self, path: str, text: str, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> None:
        """A file, with the folders above it."""
        self.folder(os.path.dirname(path))  # noqa: PTH120
        here = self.at(path)
        here.unlink(missing_ok=True)
        here.touch(0o600)
        here.write_text(text)
        os.chown(here, *owner)
        here.chmod(mode)

    def blank(self, path: str, mode: int | None = None) -> None:
        """Hide what the host has in a folder: an instance sees it empty (but for what the layer adds)."""
        here = self.folder(path)
        if mode is not None:
            here.chmod(mode)
        os.setxattr(here, "trusted.overlay.opaque", b"y")
        self._blanks.add(path)

    def whiteout(self, path: str) -> None:
        """Hide a file of the host, or a whole folder: an instance sees nothing at this path."""
        self.folder(os.path.dirname(path))  # noqa: PTH120
        if not os.path.lexists(self.at(path)):
            os.mknod(self.at(path), stat.S_IFCHR, os.makedev(0, 0))

    def add_tree(self, tree: Path) -> None:
        """Add unpacked packages; everything belongs to root, whoever unpacked it."""
        for folder, _folders, files in os.walk(tree):
            inside = "/" + os.path.relpath(folder, tree)
            self.folder(os.path.normpath(inside))
            for name in files:
                target = self.at(inside) / name
                target.unlink(missing_ok=True)  # two trees may have the same package in them
                shutil.copy(Path(folder, name), target, follow_symlinks=False)
        for folder, folders, _files in os.walk(tree):
            for name in folders:
                link = Path(folder, name)
                target = self.at("/" + os.path.relpath(link, tree))
                if link.is_symlink() and not os.path.lexists(target):
                    target.symlink_to(link.readlink())

    def hide_private(self, hidden: Iterable[str], visible: Iterable[str]) -> None:
        """Blank all that an ordinary user of the host may not read, the host's data, and ``hidden`` folders.

        ``visible`` are paths that will be mounted later: their mount points are made, passable for all.
        """
        for path, mode in _BLANK.items():
            self.blank(path, mode)
        for name, mode in _STANDARD.items():
            self.blank(f"/{name}", mode)
            os.chown(self.at(name), 0, 0)
        kept = {Path(path).parts[1] for path in visible}
        for entry in os.scandir("/"):
            if entry.name in OPERATING_SYSTEM or entry.name in _STANDARD:
                continue
            if entry.name in kept and entry.is_dir(follow_symlinks=False):
                self.blank(entry.path, 0o755)
            else:
                self.whiteout(entry.path)
        for top, depth in _PRIVATE_BELOW.items():
            self._hide_unreadable(top, depth)
        for path in hidden:
            if Path(path).is_dir() and not Path(path).is_symlink():
                self._hide_folder(path)
        for path in visible:
            self._mount_point(path)

    def _hide_unreadable(self, folder: str, depth: int) -> None:
        for entry in os.scandir(folder):
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                if entry.path in self._blanks:
                    continue
                if mode & 0o005 != 0o005:
                    self.blank(entry.path)
                elif depth > 1:
                    self._hide_unreadable(entry.path, depth - 1)
            elif stat.S_ISREG(mode) and not mode & stat.S_IROTH:
                self.whiteout(entry.path)

    def _hide_folder(self, path: str) -> None:
        parts = Path(path).parts
        if parts[1] in OPERATING_SYSTEM:
            self.blank(path)

    def _mount_point(self, path: str) -> None:
        above = ""
        for part in Path(path).parts[1:]:
            above += f"/{part}"
            here = self.at(above)
            if not here.is_dir():
                here.unlink(missing_ok=True)
                here.mkdir()
                here.chmod(0o755)
            here.chmod(stat.S_IMODE(here.stat().st_mode) | 0o011)

    def accounts(self, name: str, number: int, home: str) -> None:
        """The host's system accounts, nobody's password, and the agent's account, for keys only."""
        users = [line for line in Path("/etc/passwd").read_text().splitlines() if _is_system_account(line)]
        names = {line.split(":")[0] for line in users}
        if "sshd" not in names:
            users.append("sshd:x:4041:65534::/run/sshd:/usr/sbin/nologin")
        users.append(f"{name}:x:{number}:{number}:YellowDog agent:{home}:/bin/bash")
        groups = [*Path("/etc/group").read_text().splitlines(), f"{name}:x:{number}:"]
        self.write("/etc/passwd", "\n".join(users) + "\n")
        self.write("/etc/group", "\n".join(groups) + "\n")
        # "*" is a password that nothing matches; "!" would lock the account for keys as well.
        shadow = [f"{line.split(':')[0]}:*:19000:0:99999:7:::" for line in users]
        self.write("/etc/shadow", "\n".join(shadow) + "\n", 0o640)
        self.write("/etc/gshadow", "".join(f"{line.split(':')[0]}:*::\n" for line in groups), 0o640)
        if Path("/etc/sudoers").exists():
            self.blank("/etc/sudoers.d")
            self.write("/etc/sudoers", "root ALL=(ALL:ALL) ALL\n", 0o440)

    def home(self, path: str, number: int) -> None:
        """A home folder as ``useradd --create-home`` makes it, with the files of ``/etc/skel``."""
        here = self.folder(path)
        if Path("/etc/skel").is_dir():
            shutil.copytree("/etc/skel", here, symlinks=True, dirs_exist_ok=True)
        here.chmod(0o755)
        for entry in (here, *here.rglob("*")):
            os.lchown(entry, number, number)

    def ssh_server(self, keygen: str, environment: dict[str, str]) -> None:
        """sshd's configuration and a host key of this emulator's own."""
        self.write("/etc/ssh/sshd_config", _SSHD)
        key = self.at("/etc/ssh/ssh_host_ed25519_key")
        command = [keygen, "-q", "-t", "ed25519", "-N", "", "-C", "emulator", "-f", str(key)]
        subprocess.run(command, env=environment, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        for path in ("/run/sshd", "/run/lock", "/var/log"):
            self.folder(path)
        self.at("/run/lock").chmod(0o1777)


def _is_system_account(line: str) -> bool:
    fields = line.split(":")
    return len(fields) == 7 and fields[2].isdigit() and (int(fields[2]) < 1000 or int(fields[2]) >= 65534)
