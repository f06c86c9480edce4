"""What ``ray up`` and its relatives do with the YAML before the provider exists: fill in, check, resolve.

Ray calls ``fillout_available_node_types_resources`` (`fillout`), checks its own schema, then calls
``bootstrap_config`` (`bootstrap`), and writes the result into a cache that everybody on this machine can read
and, almost unchanged, to ``~/ray_bootstrap_config.yaml`` on the head. So nothing secret goes into it.

Both functions are deterministic, and harmless when called on their own result.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import click

from raydog.autoscaler import config, files
from raydog.autoscaler.config import ClusterConfig
from raydog.autoscaler.fields import fault_report
from raydog.autoscaler.ray_keys import users_commands
from raydog.autoscaler.schema import Parsed, parse_cluster
from raydog.autoscaler.scripts import HEAD_START_COMMANDS, WORKER_START_COMMANDS
from raydog.errors import ConfigError

HEAD_KEY_PATH = "~/ray_bootstrap_key.pem"
"""Where Ray puts the private key on the head (``ray/autoscaler/_private/commands.py``)."""

DEFAULT_UPSCALING_SPEED = 1000
"""Launch what is needed at once. Without a value v2 launches one node of a type at a time; KubeRay's default."""
DEFAULT_IDLE_TIMEOUT_MINUTES = 5
"""Ray's own default for its built-in providers."""

_LISTS = (
    "cluster_synced_files",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "rsync_exclude",
    "rsync_filter",
)
_TEARDOWN_COMMANDS = ("down", "teardown")

_said: set[str] = set()
"""Warnings that this process has printed: ``ray submit`` reads the YAML twice."""


def fillout(cluster_config: dict[str, Any]) -> dict[str, Any]:
    """Fill in every Ray key that may be left out, and check the whole YAML.

    If it has faults, prints all of them to standard error and raises ``SystemExit(1)``: Ray swallows every
    `Exception` at this point and goes on.
    """
    filled = _with_defaults(cluster_config)
    try:
        parsed = _parse(filled)
    except ConfigError as error:
        error.show()
        raise SystemExit(error.exit_code) from error
    warnings = list(parsed.warnings)
    if parsed.faults:
        warnings.append(str(fault_report("Taking the cluster down all the same. The configuration", parsed.faults)))
    for warning in warnings:
        if warning not in _said:
            _said.add(warning)
            click.echo(f"Warning: {warning}", err=True)
    return filled


def bootstrap(cluster_config: dict[str, Any]) -> dict[str, Any]:
    """Resolve everything that only this machine knows, so that the provider and the head need no other file.

    Raises `ConfigError` if the YAML has faults.
    """
    result = _with_defaults(cluster_config)
    parsed = _parse(result).config
    _resolve_auth(result, parsed)
    _resolve_provider(result, parsed)
    _resolve_node_types(result, parsed)
    _resolve_file_mounts(result)
    _drop_merged_setup_commands(result)
    result["head_start_ray_commands"] = [
        *users_commands(result["head_start_ray_commands"], HEAD_START_COMMANDS),
        *HEAD_START_COMMANDS,
    ]
    worker_commands = users_commands(result["worker_start_ray_commands"], WORKER_START_COMMANDS)
    if parsed.node_updaters:
        worker_commands += WORKER_START_COMMANDS
    result["worker_start_ray_commands"] = worker_commands
    return result


def for_head(cluster_config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as the head gets it, without what means something on this machine only.

    For ``prepare_for_head_node``: Ray has put its own path of the key into ``auth`` already.
    """
    result = copy.deepcopy(cluster_config)
    provider = result["provider"]
    for key in ("_config_cache_path", "_base_dirs", "files_to_upload"):
        provider.pop(key, None)
    auth = provider.get("auth")
    if auth:
        for key in ("ssh_proxy_command", "ssh_proxy_use_node_id"):
            auth.pop(key, None)
        if "ssh_private_key" in auth:
            auth["ssh_private_key"] = HEAD_KEY_PATH
    return result


def _parse(cluster_config: dict[str, Any]) -> Parsed:
    return parse_cluster(cluster_config, files.base_dirs(), files_may_be_missing=taking_down())


def taking_down() -> bool:
    """Whether the command being run is ``ray down``, which no lost file may stop."""
    context = click.get_current_context(silent=True)
    while context is not None:
        if context.info_name in _TEARDOWN_COMMANDS or context.command.name in _TEARDOWN_COMMANDS:
            return True
        context = context.parent
    return False


def _with_defaults(cluster_config: dict[str, Any]) -> dict[str, Any]:
    """A copy in which every key that Ray reads is there. An empty key (``setup_commands:``) counts as absent."""
    filled = _without_empty_keys(copy.deepcopy(cluster_config))
    for key in ("auth", "provider"):
        if isinstance(filled.get(key), dict):
            filled[key] = _without_empty_keys(filled[key])
    filled.setdefault("file_mounts", {})
    for key in _LISTS:
        filled.setdefault(key, [])
    filled.setdefault("upscaling_speed", DEFAULT_UPSCALING_SPEED)
    filled.setdefault("idle_timeout_minutes", DEFAULT_IDLE_TIMEOUT_MINUTES)
    for key in ("head_node", "worker_nodes", "docker"):
        if not filled.get(key):
            filled.pop(key, None)
    provider = filled.get("provider")
    if not filled.get("auth"):
        repeated = provider.get("auth") if isinstance(provider, dict) else None
        filled["auth"] = dict(repeated) if isinstance(repeated, dict) else {}
    node_types = filled.get("available_node_types")
    if isinstance(node_types, dict):
        for name, values in node_types.items():
            if isinstance(values, dict):
                is_head = name == filled.get("head_node_type")
                node_types[name] = _node_type_with_defaults(values, filled, is_head=is_head)
    return filled


def _without_empty_keys(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _node_type_with_defaults(values: dict[str, Any], filled: dict[str, Any], *, is_head: bool) -> dict[str, Any]:
    """As Ray's own ``fill_node_type_min_max_workers``, and a head that offers what Ray finds on it."""
    result = _without_empty_keys(values)
    result.setdefault("min_workers", 0)
    result.setdefault("max_workers", 0 if is_head else filled.get("max_workers", 0))
    if is_head:
        result.setdefault("resources", {})
    return result


def _resolve_auth(result: dict[str, Any], parsed: ClusterConfig) -> None:
    auth = result["auth"]
    # Ray opens the public key too wherever it hashes `auth`, and never puts it on the head.
    auth.pop("ssh_public_key", None)
    if parsed.auth is not None and parsed.auth.private_key is not None:
        auth["ssh_private_key"] = str(parsed.auth.private_key)


def _resolve_provider(result: dict[str, Any], parsed: ClusterConfig) -> None:
    provider = result["provider"]
    for new, old in config.RENAMED.items():
        if old in provider:
            provider[new] = provider.pop(old)
    for key, script in (
        ("ray_head_node_task_script", parsed.head_script),
        ("ray_worker_node_task_script", parsed.worker_script),
    ):
        provider.pop(key, None)
        if script is not None:
            provider[key] = script
    if parsed.observability is not None:
        resolved = {"userdata": parsed.observability.user_data, "start_script": parsed.observability_script}
        for key in (*resolved, "extra_userdata"):
            provider["observability"].pop(key, None)
        provider["observability"].update(_without_empty_keys(resolved))
    provider["files_to_upload"] = [
        {"source": upload.source, "destination": upload.destination} for upload in parsed.files_to_upload
    ]
    provider["auth"] = copy.deepcopy(result["auth"])
    provider["disable_node_updaters"] = not parsed.node_updaters
    provider["_head_node_type"] = parsed.head_type
    provider["_head_resources"] = dict(parsed.head_resources)
    provider["_head_labels"] = dict(parsed.head_labels)
    provider["_autoscaler_v2"] = parsed.autoscaler_v2
    provider["_bootstrapped"] = True
    provider["_base_dirs"] = [str(folder) for folder in files.base_dirs()]
    public_key = parsed.auth.public_key if parsed.auth is not None and parsed.authorize_ssh_key else None
    provider.pop("_ssh_public_key", None)
    if public_key is not None:
        provider["_ssh_public_key"] = public_key


def _resolve_node_types(result: dict[str, Any], parsed: ClusterConfig) -> None:
    for name, node_type in parsed.node_types.items():
        node_config = result["available_node_types"][name]["node_config"]
        for key in ("userdata", config.RENAMED["userdata"], "extra_userdata"):
            node_config.pop(key, None)
        if node_type.user_data is not None:
            node_config["userdata"] = node_type.user_data


def _resolve_file_mounts(result: dict[str, Any]) -> None:
    for remote, local in result["file_mounts"].items():
        found = files.find(local, files.base_dirs())
        if isinstance(found, Path):
            # rsync reads a folder's name with a slash at its end differently
            result["file_mounts"][remote] = str(found) + (os.sep if local.endswith("/") else "")


def _drop_merged_setup_commands(result: dict[str, Any]) -> None:
    """Ray has put ``setup_commands`` before those of head and workers; v2 does so again on the head, each time."""
    common = result["setup_commands"]
    merged = ("head_setup_commands", "worker_setup_commands")
    if all(result[key][: len(common)] == common for key in merged):
        result["setup_commands"] = []
