"""Where a cluster's head was last seen, so that ``raydog status`` can ask it while the platform does not answer.

A small file for each cluster below ``$XDG_STATE_HOME/raydog/heads`` (``~/.local/state`` by default). It holds no
secret. Addresses are used again, so whoever logs in there looks first whether it is still the node that is remembered.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from raydog.yellowdog import naming
from raydog.yellowdog.cluster import ClusterName

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RememberedHead:
    """A head's node id, and the host where this machine has logged in to it."""

    node_id: str
    host: str


def remember(api_url: str, name: ClusterName, head: RememberedHead) -> None:
    """Keep it. That it cannot be kept is no error: it is only of use while the platform is away."""
    path = _path(api_url, name)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary.write_text(json.dumps(asdict(head)))
        temporary.replace(path)
    except OSError as error:
        logger.warning("the head's address cannot be kept in %s: %s", path, error.strerror)


def recall(api_url: str, name: ClusterName) -> RememberedHead | None:
    """The head that was last seen from this machine, by this user."""
    path = _path(api_url, name)
    try:
        return RememberedHead(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        logger.warning("the head's address cannot be read from %s: %s", path, error)
        return None


def forget(api_url: str, name: ClusterName) -> None:
    """The cluster has gone."""
    path = _path(api_url, name)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s cannot be removed: %s", path, error.strerror)


def _path(api_url: str, name: ClusterName) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    digest = hashlib.sha256("\n".join((api_url, name.namespace, name.cluster)).encode()).hexdigest()[:16]
    return Path(state).expanduser() / "raydog" / "heads" / f"{naming.cluster_slug(name.cluster)}-{digest}.json"
