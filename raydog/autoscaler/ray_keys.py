"""The parts of a cluster YAML that are Ray's, not RayDog's: its schema, commands, limits, what workers need.

Ray's own JSON schema (``ray/autoscaler/ray-schema.json``) is applied here too, because Ray shows what it finds
as a traceback, and only the first fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import ray.autoscaler

from raydog.autoscaler import files
from raydog.autoscaler.fields import Findings, Section, as_mapping, shown, suggestion
from raydog.autoscaler.scripts import HEAD_START_COMMANDS, WORKER_START_COMMANDS

_STARTS_RAY = re.compile(r"\bray(\s+-\S+([=\s]+[^-\s]\S*)?)*\s+(start|stop)\b")
WORKER_SETUP_KEYS = ("file_mounts", "cluster_synced_files", "worker_setup_commands", "initialization_commands")
"""Top-level keys for which Ray has to log in to workers."""
_JSON_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "object": "a mapping",
    "array": "a list",
    "boolean": "true or false",
}
_NODE_TYPE_SETUP_KEYS = ("worker_setup_commands", "initialization_commands")


def worker_setup_keys(cluster_config: Mapping[str, Any]) -> list[str]:
    """The keys of a YAML for which Ray has to log in to workers, those of node types with their path."""
    keys = [key for key in WORKER_SETUP_KEYS if cluster_config.get(key)]
    if users_commands(cluster_config.get("worker_start_ray_commands"), WORKER_START_COMMANDS):
        keys.append("worker_start_ray_commands")
    for name, node_type in as_mapping(cluster_config.get("available_node_types")).items():
        if name != cluster_config.get("head_node_type"):
            keys += [
                f"available_node_types.{name}.{key}" for key in _NODE_TYPE_SETUP_KEYS if as_mapping(node_type).get(key)
            ]
    return keys


def users_commands(commands: Any, ours: Sequence[str]) -> list[str]:
    """Those of Ray's start commands that stand in the YAML, without the ones that bootstrapping adds."""
    return [c for c in commands if isinstance(c, str) and c not in ours] if isinstance(commands, list) else []


def check_ray_schema(cluster_config: Mapping[str, Any], findings: Findings) -> None:
    """Note what Ray's ``validate_config`` would raise, in our words where they are clearer."""
    config = _with_text_keys(cluster_config, "", findings)
    for error in jsonschema.Draft7Validator(_ray_schema()).iter_errors(config):
        path = ".".join(str(part) for part in error.absolute_path)
        prefix = f"{path}." if path else ""
        if path.startswith(("auth.", "cluster_name")):
            continue  # read by ourselves
        if error.validator == "additionalProperties":
            known = error.schema.get("properties", {})
            for key in error.instance:
                if key not in known:
                    findings.fault(f"{prefix}{key}", f"unknown property; {suggestion(key, known, {})}")
        elif error.validator == "required":
            # What a node type must have is said where it is read.
            if not path.startswith("available_node_types"):
                for key in error.validator_value:
                    if key not in error.instance and key != "cluster_name":
                        findings.fault(f"{prefix}{key}", "missing")
        elif error.validator == "type":
            findings.fault(path, f"must be {_JSON_TYPES[error.validator_value]}, not {shown(error.instance)}")
        elif error.validator == "minimum":
            findings.fault(path, f"must be at least {error.validator_value}, not {error.instance}")
        else:
            findings.fault(path or "the YAML", error.message)


def _with_text_keys(value: Any, path: str, findings: Findings) -> Any:
    """A copy in which every key is a text, as JSON schemas want it; others are noted."""
    if isinstance(value, list):
        return [_with_text_keys(item, path, findings) for item in value]
    if not isinstance(value, Mapping):
        return value
    result = {}
    for key, item in value.items():
        where = f"{path}.{key}" if path else str(key)
        if not isinstance(key, str):
            findings.fault(where, f"the name {key!r} is not a text; put it in quotes")
        result[str(key)] = _with_text_keys(item, where, findings)
    return result


@lru_cache(maxsize=1)
def _ray_schema() -> Mapping[str, Any]:
    path = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
    schema: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return schema


def check_ray_commands(top: Section) -> None:
    """Refuse commands of the user's own that would start or stop Ray beside the node's task."""
    for key, ours in (
        ("head_start_ray_commands", HEAD_START_COMMANDS),
        ("worker_start_ray_commands", WORKER_START_COMMANDS),
    ):
        for command in users_commands(top.raw(key), ours):
            if _STARTS_RAY.search(command):
                script = f"ray_{key.split('_', maxsplit=1)[0]}_node_task_script"
                top.fault(
                    key,
                    f"'{_short(command)}': Ray is started and stopped by the node's YellowDog task, and this would end "
                    f"the task and with it the node; remove it, or put it into provider.{script}",
                )


def _short(command: str) -> str:
    line = " ".join(command.split())
    return line if len(line) <= 60 else f"{line[:57]}..."


def check_file_mounts(top: Section, base_dirs: Sequence[Path]) -> None:
    """Note every file or folder to be mounted that is not there: Ray would show a traceback."""
    mounts = as_mapping(top.raw("file_mounts"))
    for remote, local in mounts.items():
        if not isinstance(local, str) or not isinstance(remote, str):
            top.fault(f"file_mounts.{remote}", "must be a path on this machine")
            continue
        found = files.find(local, base_dirs)
        if isinstance(found, files.Missing):
            top.fault(f"file_mounts.{remote}", found.reason, in_file=True)


def refuse_docker(top: Section) -> None:
    """Refuse Ray's own container support."""
    reason = (
        "is not supported: Ray would start containers itself, outside the node's YellowDog task; "
        "start the container in the task scripts instead (see docs/autoscaler.md)"
    )
    if any(as_mapping(top.raw("docker")).get(key) for key in ("image", "head_image", "worker_image", "container_name")):
        top.fault("docker", reason)
    for name, values in as_mapping(top.raw("available_node_types")).items():
        if as_mapping(values).get("docker"):
            top.fault(f"available_node_types.{name}.docker", reason)


def check_scaling(cluster_config: Mapping[str, Any], head_type: Any, findings: Findings) -> None:
    """Check the limits against each other, and warn where the cluster can never grow."""
    limit = cluster_config.get("max_workers")
    types = as_mapping(cluster_config.get("available_node_types"))
    if not isinstance(limit, int) or isinstance(limit, bool):
        if limit is None:
            findings.fault("max_workers", "missing; write how many workers the cluster may have in all")
        return
    minimum = 0
    can_grow = False
    for name, values in types.items():
        low, high = as_mapping(values).get("min_workers", 0), as_mapping(values).get("max_workers", 0)
        if not isinstance(low, int) or not isinstance(high, int):
            continue
        if low > high:
            findings.fault(f"available_node_types.{name}.min_workers", f"is {low}, more than its max_workers {high}")
        minimum += low
        can_grow = can_grow or (name != head_type and high > 0)
    if minimum > limit:
        findings.fault("max_workers", f"is {limit}, less than all min_workers together, which are {minimum}")
    elif limit == 0 and any(name != head_type for name in types):
        findings.warn("max_workers", "is 0, so the cluster can never have a worker")
    elif limit > 0 and not can_grow:
        findings.warn("available_node_types", "no worker type has max_workers above 0: the cluster cannot grow")
