"""This machine's side of real instances: can it, which addresses are free, what does its Python consist of."""

from __future__ import annotations

import hashlib
import importlib.util
import ipaddress
import os
import platform
import pwd
import socket
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import raydog
from raydog.errors import ConfigError, ProvisioningError

PREFIX = 22
"""Length of an emulator's subnet: a bridge takes 1,024 ports, so a thousand instances fit."""

_USER = "yd-agent"
_KERNEL = frozenset({"dev", "proc", "run", "sys"})


def check_machine() -> None:
    """Raise `ProvisioningError` with the remedy if real instances cannot run here."""
    if sys.platform != "linux" or platform.machine() not in {"x86_64", "aarch64"}:
        raise _refused(f"this is {platform.system()} on {platform.machine()}, not Linux on x86_64 or aarch64")
    if os.geteuid() != 0:
        raise _refused("they need root (start the emulator with sudo)")
    if "overlay" not in Path("/proc/filesystems").read_text() and not _module_exists("overlay"):
        raise _refused("the kernel has no overlay file system (modprobe overlay)")


def _module_exists(name: str) -> bool:
    folder = Path("/lib/modules", platform.release())
    return folder.is_dir() and any(f"/{name}.ko" in line for line in _lines(folder / "modules.dep"))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def _refused(cause: str) -> ProvisioningError:
    return ProvisioningError(
        f"real instances cannot run on this machine: {cause}. `--instances simulated` runs anywhere.", "Instances"
    )


def interface_name(state_dir: Path) -> str:
    """Name of the one network interface that an emulator with this state folder shows on the host."""
    return f"rd-{hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:8]}"


def take_subnet(state_dir: Path) -> tuple[ipaddress.IPv4Network, socket.socket]:
    """A subnet that nothing on this host uses, and the socket that holds it for this emulator.

    The hold is an abstract Unix socket: the kernel frees it with the process, so a crash leaves nothing.
    """
    used = list(_routes())
    for subnet in _subnets(interface_name(state_dir)):
        if any(subnet.overlaps(other) for other in used):
            continue
        hold = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            hold.bind(f"\0raydog-subnet-{subnet.network_address}")
        except OSError:
            hold.close()
            continue  # another emulator is about to use it
        return subnet, hold
    raise ProvisioningError("no free subnet for instances between 10.180.0.0 and 10.249.255.255", "Network")


def _subnets(seed: str) -> Iterator[ipaddress.IPv4Network]:
    size = 1 << (32 - PREFIX)
    first = int(ipaddress.ip_address("10.180.0.0"))
    count = (int(ipaddress.ip_address("10.250.0.0")) - first) // size
    start = int(hashlib.sha256(seed.encode()).hexdigest(), 16)
    for step in range(count):
        yield ipaddress.IPv4Network((first + (start + step) % count * size, PREFIX))


def _routes() -> Iterator[ipaddress.IPv4Network]:
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        destination, mask = (int(fields[n], 16).to_bytes(4, sys.byteorder) for n in (1, 7))
        if any(mask):  # not the default route
            length = int.from_bytes(mask, "big").bit_count()
            yield ipaddress.IPv4Network((destination, length), strict=False)


def account() -> tuple[str, int]:
    """Name of the agent's user in instances, and a number that no account of this host has."""
    taken = {entry.pw_uid for entry in pwd.getpwall()} | {entry.pw_gid for entry in pwd.getpwall()}
    return _USER, next(number for number in range(4040, 60000) if number not in taken)


def python_description() -> dict[str, Any]:
    """This process's Python, as `guest.python_environment.build` wants it."""
    site_packages = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    own: dict[str, str] = {"raydog": str(Path(raydog.__file__).parent)}
    found = importlib.util.find_spec("yellowdog_ray")
    if found is not None and found.origin is not None:
        own["yellowdog_ray"] = str(Path(found.origin).parent)
    for folder in site_packages:
        for metadata in Path(folder).glob("raydog-*.dist-info"):
            own.setdefault(metadata.name, str(metadata))
    return {
        "version": platform.python_version(),
        "executable": str(Path(sys._base_executable).resolve()),  # type: ignore[attr-defined]
        "site_packages": site_packages,
        "raydog": own,
        "scripts": sysconfig.get_path("scripts"),
    }


def exposed(folders: Sequence[Path], hidden: Sequence[str]) -> list[str]:
    """The folders that a user wants instances to see, checked. `ConfigError` for one that would show too much.

    ``hidden`` are folders that no instance may see.
    """
    found: list[str] = []
    for folder in folders:
        path = folder.resolve()
        if not path.is_dir():
            raise ConfigError(f"{folder} cannot be shown to instances: it is not a folder")
        if len(path.parts) == 1 or path.parts[1] in _KERNEL:
            raise ConfigError(f"{folder} cannot be shown to instances: they have one of their own")
        for other in hidden:
            if Path(other).is_relative_to(path) or path.is_relative_to(other):
                raise ConfigError(f"{folder} cannot be shown to instances: {other}, the emulator's own, would show too")
        found.append(str(path))
    return found


def visible_folders(python: dict[str, Any], exposed_folders: Sequence[str] = ()) -> list[str]:
    """The folders that instances see read-only at their own paths: Python, its packages, RayDog, exposed ones.

    Those in the operating system's folders are there anyway. Raises `ConfigError` when ordinary users could
    not read one of them.
    """
    wanted = [sys.base_prefix, sys.prefix, *python["site_packages"], *python["raydog"].values(), *exposed_folders]
    chosen: list[str] = []
    for path in sorted({os.path.abspath(path) for path in wanted}, key=len):  # noqa: PTH100 - keep links
        if Path(path) == Path("/usr") or any(Path(path).is_relative_to(parent) for parent in ("/usr", *chosen)):
            continue
        if not Path(path).stat().st_mode & 0o005 == 0o005:
            raise ConfigError(f"{path} must be readable for all users (chmod o+rx): instances' tasks use it")
        chosen.append(path)
    return chosen
