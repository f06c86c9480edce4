"""The saved state of a cluster: what another program needs to shut it down."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydog.errors import ConfigError, MissingFileError
from raydog.yellowdog import naming

_ID = re.compile(r"[A-Za-z0-9:_-]+")
_CLUSTER_ID = re.compile(rf"[a-z0-9]{{{naming.CLUSTER_ID_LENGTH}}}")


@dataclass(frozen=True)
class SavedState:
    """``cluster_id`` is RayDog's own; states that yellowdog-ray has saved have none."""

    cluster_name: str
    cluster_namespace: str
    cluster_tag: str | None
    work_requirement_id: str
    worker_pool_ids: tuple[str, ...]
    cluster_id: str | None = None

    def to_json(self) -> str:
        fields: dict[str, Any] = {
            "cluster_name": self.cluster_name,
            "cluster_namespace": self.cluster_namespace,
            "cluster_tag": self.cluster_tag,
            "work_requirement_id": self.work_requirement_id,
            "worker_pool_ids": list(self.worker_pool_ids),
        }
        if self.cluster_id is not None:
            fields["cluster_id"] = self.cluster_id
        return json.dumps(fields, indent=2)

    @classmethod
    def from_json(cls, text: str, source: str = "the cluster state") -> SavedState:
        """Raises `ConfigError` if it is no state, with what is wrong about ``source``."""
        try:
            fields = json.loads(text)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{source} is not JSON: {error}") from error
        if not isinstance(fields, Mapping):
            raise ConfigError(f"{source} is not a JSON object with work_requirement_id and worker_pool_ids")
        faults = []
        requirement_id, pool_ids = fields.get("work_requirement_id"), fields.get("worker_pool_ids")
        if not _is_id(requirement_id):
            faults.append(f"work_requirement_id: {requirement_id!r} is not an id of the platform")
        if not isinstance(pool_ids, list) or not all(one is None or _is_id(one) for one in pool_ids):
            faults.append(f"worker_pool_ids: {pool_ids!r} is not a list of ids of the platform")
        cluster_id = fields.get("cluster_id")
        if cluster_id is not None and not (isinstance(cluster_id, str) and _CLUSTER_ID.fullmatch(cluster_id)):
            faults.append(f"cluster_id: {cluster_id!r} is not the id of a cluster")
        if faults:
            raise ConfigError(f"{source} is no state of a cluster:\n  " + "\n  ".join(faults), faults)
        tag = fields.get("cluster_tag")
        return cls(
            cluster_name=str(fields.get("cluster_name") or ""),
            cluster_namespace=str(fields.get("cluster_namespace") or ""),
            cluster_tag=None if tag is None else str(tag),
            work_requirement_id=str(requirement_id),
            worker_pool_ids=tuple(one for one in pool_ids if one is not None) if isinstance(pool_ids, list) else (),
            cluster_id=cluster_id,
        )

    @classmethod
    def from_file(cls, file_name: str | Path) -> SavedState:
        """Raises `MissingFileError` if the file cannot be read, `ConfigError` if it holds no state."""
        try:
            text = Path(file_name).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise MissingFileError(f"cannot read the cluster state {file_name}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"the cluster state {file_name} is no text in UTF-8") from error
        return cls.from_json(text, f"the cluster state {file_name}")


def write_file(path: Path, text: str) -> None:
    """Write a file so that it holds the old text or the new one, and never a part. Raises `OSError`."""
    if path.exists() and not path.is_file():  # a pipe or a terminal
        path.write_text(text, encoding="utf-8")
        return
    path = path.resolve()  # a link stays one
    new = path.with_name(f".{path.name[:200]}.{os.getpid()}")
    try:
        new.write_text(text, encoding="utf-8")
        if path.exists():
            shutil.copymode(path, new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None
