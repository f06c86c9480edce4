"""What ``ray up`` has brought to the head and the autoscaler reads there: the platform's key, the cluster's YAML."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

import yaml

from raydog.autoscaler.config import NodeType
from raydog.errors import StateError
from raydog.yellowdog.credentials import VARIABLES

BOOTSTRAP_CONFIG = "ray_bootstrap_config.yaml"
"""Where Ray puts the YAML, below the home folder (``ray/autoscaler/_private/commands.py``)."""


def with_credentials(environ: Mapping[str, str], file: Path) -> Mapping[str, str]:
    """The environment with the ``YD_*`` variables of ``credentials.env``, unless it has a key itself.

    The file holds lines ``export NAME='value'``, as `raydog.autoscaler.head.bring` writes them. Without it the
    environment comes back as it is. Raises `StateError` if it cannot be read.
    """
    if all(environ.get(name) for name in VARIABLES[1:]) or not file.exists():
        return environ
    try:
        words = shlex.split(file.read_text())
    except (OSError, ValueError) as error:
        raise StateError(f"the platform's key cannot be read from {file}: {type(error).__name__}") from error
    assigned = dict(word.split("=", 1) for word in words if "=" in word)
    return {**environ, **{name: value for name, value in assigned.items() if name in VARIABLES}}


def node_type_in_yaml(file: Path, name: str) -> NodeType | None:
    """A type of the cluster's YAML as it is now; None if the YAML has no such type, or is not to be seen from here.

    Raises `StateError` if it cannot be read, `ConfigError` if the ``node_config`` has faults.
    """
    try:
        document = yaml.safe_load(file.read_text())
        node_config = document["available_node_types"][name]["node_config"]
    except (FileNotFoundError, KeyError):
        return None
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise StateError(f"the cluster's YAML cannot be read from {file}: {type(error).__name__}") from error
    return NodeType.from_node_config(name, node_config)
