"""Where a YAML's files are: ``file:`` values, private keys, uploads, relative to the YAML or the working directory.

Ray never tells a node provider which YAML it read. The command line being run knows: click's context carries
its arguments. Old YAMLs name files relative to the working directory, so that is tried second.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import click

FILE_PREFIX = "file:"
_YAML_ARGUMENTS = ("cluster_config_file", "config_file")
"""What Ray's commands (``ray/scripts/scripts.py``) and ours call the argument that names the YAML."""


def yaml_path() -> Path | None:
    """The cluster YAML of the command being run, or None where there is no command line or it names a URL."""
    context = click.get_current_context(silent=True)
    while context is not None:
        for name in _YAML_ARGUMENTS:
            value = context.params.get(name)
            if isinstance(value, str | os.PathLike) and "://" not in str(value):
                return Path(value).absolute()
        context = context.parent
    return None


def base_dirs() -> tuple[Path, ...]:
    """The folders that relative paths are tried in: the YAML's own, then the working directory."""
    path = yaml_path()
    folders = [path.parent] if path else []
    folders.append(Path.cwd())
    return tuple(dict.fromkeys(folders))


def is_file_reference(text: str) -> bool:
    """Whether a script property names a file instead of being the script."""
    return text.startswith(FILE_PREFIX)


def referenced_path(text: str) -> str:
    """The path in a ``file: path`` value, as written."""
    return text[len(FILE_PREFIX) :].strip()


@dataclass(frozen=True)
class Missing:
    """A file that is not where it should be. ``reason`` reads well after the property's name."""

    reason: str


def find(path: str, folders: Sequence[Path]) -> Path | Missing:
    """The absolute path of an existing file or folder, trying each of ``folders`` for a relative one."""
    if not path:
        return Missing("names no file")
    if "\0" in path:
        return Missing("contains a NUL character")
    try:
        expanded = Path(path).expanduser()
    except RuntimeError:
        return Missing(f"'{path}': there is no such user's home folder")
    tried = list(dict.fromkeys(folder / expanded for folder in folders)) or [expanded.absolute()]
    for candidate in tried:
        try:
            if candidate.exists():
                return Path(os.path.normpath(candidate))
        except OSError as error:
            return Missing(f"'{candidate}' cannot be looked at ({error.strerror})")
    return Missing(f"'{path}' does not exist (looked at {' and '.join(str(p) for p in tried)})")


def read_text(path: str, folders: Sequence[Path]) -> str | Missing:
    """The text of a file found as `find` finds it."""
    found = find(path, folders)
    if isinstance(found, Missing):
        return found
    if not found.is_file():
        return Missing(f"'{found}' is not a file")
    try:
        return found.read_text(encoding="utf-8")
    except OSError as error:
        return Missing(f"'{found}' cannot be read ({error.strerror})")
    except UnicodeDecodeError:
        return Missing(f"'{found}' is not a text file (UTF-8)")


def upload_destination(path: str) -> str:
    """Where a file named ``path`` lies on the head, relative to the home folder: the same path, without ``..``.

    A file below the YAML's folder keeps its place, as with yellowdog-ray; one beside it loses the ``..``.
    """
    parts = [part for part in PurePosixPath(path).parts if part not in {"/", "..", ".", "~"}]
    return str(PurePosixPath(*parts))
