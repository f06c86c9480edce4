"""``files_to_upload``: files of this machine that the head gets into its home folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from raydog.autoscaler import files
from raydog.autoscaler.fields import Section

_MAX_FILES_OF_A_FOLDER = 1000


@dataclass(frozen=True)
class FileUpload:
    """A file to put on the head: ``source`` on this machine, ``destination`` relative to the home folder there."""

    source: str
    destination: str


def read_uploads(section: Section, folders: Sequence[Path] | None) -> tuple[FileUpload, ...]:
    """Read the property. ``folders`` are where the files are looked for; None means that they are not touched."""
    value = section.raw("files_to_upload")
    if value is None:
        return ()
    if not isinstance(value, list):
        section.fault("files_to_upload", "must be a list of paths")
        return ()
    uploads = []
    for index, item in enumerate(value):
        key = f"files_to_upload[{index}]"
        if isinstance(item, str) and item.strip():
            upload = FileUpload(item, files.upload_destination(item))
        elif _is_upload(item):
            upload = FileUpload(item["source"], item["destination"])
        else:
            section.fault(key, "must be a path, or a mapping with 'source' and 'destination'")
            continue
        if upload.destination in {"", "."}:
            section.fault(key, f"'{upload.source}' has no name to be called on the head")
        elif folders is None:
            uploads.append(upload)
        else:
            uploads += _found_uploads(section, key, upload, folders)
    return tuple(uploads)


def _found_uploads(section: Section, key: str, upload: FileUpload, folders: Sequence[Path]) -> list[FileUpload]:
    """The file that an upload names, or all those of a folder, each by its absolute path."""
    found = files.find(upload.source, folders)
    if isinstance(found, files.Missing):
        section.fault(key, found.reason, in_file=True)
        return []
    if not found.is_dir():
        if not os.access(found, os.R_OK):
            section.fault(key, f"'{found}' cannot be read", in_file=True)
        return [FileUpload(str(found), upload.destination)]
    inside = list(islice((path for path in found.rglob("*") if path.is_file()), _MAX_FILES_OF_A_FOLDER + 1))
    if len(inside) > _MAX_FILES_OF_A_FOLDER:
        section.fault(key, f"'{found}' holds more than {_MAX_FILES_OF_A_FOLDER} files; use file_mounts for it")
        return []
    return [
        FileUpload(str(path), (PurePosixPath(upload.destination) / path.relative_to(found)).as_posix())
        for path in sorted(inside)
    ]


def _is_upload(item: Any) -> bool:
    return isinstance(item, Mapping) and all(
        isinstance(item.get(key), str) and item[key].strip() for key in ("source", "destination")
    )
