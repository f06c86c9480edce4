"""RayDog itself as an archive, to be carried to a head node: exactly the code that runs here."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Traversable

_PACKAGES = ("raydog", "yellowdog_ray")
_LEFT_OUT = ("raydog/emulator/", "raydog/demo/")
_SUFFIXES = (".py", ".sh", ".typed")


@cache
def archive() -> bytes:
    """The packages' files as a gzipped tar, the same bytes for the same code. The emulator stays at home."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for package in _PACKAGES:
            for name, data in _files(resources.files(package), package):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                entry.mode = 0o644
                tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _files(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    for item in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = f"{path}/{item.name}"
        if name.startswith(_LEFT_OUT) or f"{name}/".startswith(_LEFT_OUT):
            continue
        if item.is_dir() and item.name != "__pycache__":
            yield from _files(item, name)
        elif item.name.endswith(_SUFFIXES):
            yield name, item.read_bytes()
