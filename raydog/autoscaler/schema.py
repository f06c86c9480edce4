"""Checking a complete cluster YAML: every fault in one report, before anything calls the platform."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raydog.autoscaler import config, files
from raydog.autoscaler.config import ClusterConfig, NodeType, SshAuth
from raydog.autoscaler.fields import Fault, Findings, Section, as_mapping, fault_report, shown
from raydog.autoscaler.keys import inspect_private_key
from raydog.autoscaler.ray_keys import (
    check_file_mounts,
    check_ray_commands,
    check_ray_schema,
    check_scaling,
    refuse_docker,
    worker_setup_keys,
)
from raydog.autoscaler.uploads import FileUpload
from raydog.userdata import EMPTY_SCRIPT, can_authorize_key
from raydog.yellowdog import naming

_RAY_PROVIDER_KEYS = (
    "type",
    "module",
    "auth",
    "use_internal_ips",
    "use_external_head_ip",
    "disable_node_updaters",
    "disable_launch_config_check",
    "foreground_node_launch",
    "worker_liveness_check",
)
_PROVIDER_HINTS = {
    "namespace": "did you mean 'cluster_namespace'?",
    "tag": "did you mean 'cluster_tag'?",
    "lifetime": "did you mean 'cluster_lifetime_hours'?",
    "build_timeout": "did you mean 'head_node_build_timeout_minutes'?",
    "initialization_script": "set nodes up with 'userdata' in each node_config",
    "compute_requirement_template": "it belongs into each node type's node_config",
}
_NODE_HINTS = {
    "max_nodes": "write max_workers beside node_config",
    "min_workers": "write it beside node_config",
    "max_workers": "write it beside node_config",
    "resources": "write it beside node_config",
    "labels": "write it beside node_config",
    "template": "did you mean 'compute_requirement_template'?",
    "image_id": "did you mean 'images_id'?",
}


@dataclass(frozen=True)
class Parsed:
    """A YAML that was read. ``faults`` holds only those that the caller chose to live with."""

    config: ClusterConfig
    warnings: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()


def parse_cluster(
    cluster_config: Mapping[str, Any], base_dirs: Sequence[Path], *, files_may_be_missing: bool = False
) -> Parsed:
    """Read a complete cluster configuration, after Ray's ``prepare_config``.

    Relative paths are looked for in each of ``base_dirs``. Raises one `ConfigError` that holds every fault.
    ``files_may_be_missing`` is for taking a cluster down, which no lost script may prevent: then faults that
    are about files only are returned instead.
    """
    findings = Findings()
    top = Section(cluster_config, "", findings)
    config.check_cluster_name(cluster_config.get("cluster_name"), findings)
    check_ray_schema(cluster_config, findings)

    provider = top.section("provider")
    provider.refuse_unknown([*_RAY_PROVIDER_KEYS, *config.PROVIDER_PROPERTIES, *_old_names()], _PROVIDER_HINTS)
    auth = _read_auth(cluster_config, findings, base_dirs)
    name = cluster_config.get("cluster_name")
    cluster = config.read_provider(name if isinstance(name, str) else "", provider, base_dirs, auth)
    node_types = dict(_read_node_types(cluster_config, findings, base_dirs))
    if provider.raw("authorize_ssh_key") is True:
        node_types = {
            name: replace(node_type, user_data=node_type.user_data or EMPTY_SCRIPT)
            for name, node_type in node_types.items()
        }
        observability = cluster.observability
        if observability is not None:
            observability = replace(observability, user_data=observability.user_data or EMPTY_SCRIPT)
            cluster = replace(cluster, observability=observability)
    head_type = cluster_config.get("head_node_type")
    head = node_types.get(head_type) if isinstance(head_type, str) else None

    names = list(node_types)
    if cluster.observability is not None:
        beside = naming.OBSERVABILITY_TYPE
        if beside in names:
            findings.fault(f"available_node_types.{beside}", "is the name of the observability node; choose another")
            names.remove(beside)
        names.insert(0, beside)
    _check_pool_names(cluster.cluster_name, names, findings)
    check_ray_commands(top)
    check_file_mounts(top, base_dirs)
    refuse_docker(top)
    check_scaling(cluster_config, head_type, findings)
    updaters = _node_updaters(cluster_config, provider)
    if updaters and (auth is None or auth.private_key is None):
        findings.fault(
            "auth.ssh_private_key",
            "missing; Ray sets workers up from the head over SSH, because the YAML has "
            f"{' and '.join(worker_setup_keys(cluster_config))}",
        )
    _warn_about_user_data(cluster, node_types, findings)

    faults = findings.faults
    if faults and not (files_may_be_missing and all(fault.in_file for fault in faults)):
        path = files.yaml_path()
        raise fault_report(str(path) if path else "The cluster configuration", faults)
    cluster = replace(
        cluster,
        node_types=node_types,
        head_type=head_type,
        head_resources=head.resources if head else {},
        head_labels=head.labels if head else {},
        node_updaters=updaters,
        autoscaler_v2=config.autoscaler_v2_wanted(),
        files_to_upload=_with_references(cluster.files_to_upload, cluster_config, base_dirs),
        complete=True,
    )
    return Parsed(cluster, tuple(dict.fromkeys(findings.warnings)), tuple(faults))


def _node_updaters(cluster_config: Mapping[str, Any], provider: Section) -> bool:
    needed = worker_setup_keys(cluster_config)
    disabled = provider.optional_boolean("disable_node_updaters")
    if disabled and needed:
        provider.warn("disable_node_updaters", f"is true, so workers do not get {' and '.join(needed)}")
    return bool(needed) if disabled is None else not disabled


def _old_names() -> list[str]:
    return [old for new, old in config.RENAMED.items() if new in config.PROVIDER_PROPERTIES]


def _read_auth(cluster_config: Mapping[str, Any], findings: Findings, base_dirs: Sequence[Path]) -> SshAuth | None:
    own = as_mapping(cluster_config.get("auth"))
    repeated = as_mapping(as_mapping(cluster_config.get("provider")).get("auth"))
    values, path = (own, "auth") if own or not repeated else (repeated, "provider.auth")
    section = Section(values, path, findings)
    if own:
        for key in repeated:
            if not str(key).startswith("_") and own.get(key) != repeated[key] and not _bootstrapped(cluster_config):
                findings.warn(f"provider.auth.{key}", f"differs from auth.{key}, which is used; remove provider.auth")
    user = section.required_text("ssh_user", "write the user to log in to nodes as, such as yd-agent", _check_user)
    private_key, derived_key = _private_key(section, base_dirs)
    proxy = section.text("ssh_proxy_command")
    if user is None:
        return None
    public_key = _public_key(section, base_dirs) or derived_key
    by_node_id = section.boolean("ssh_proxy_use_node_id", default=False)
    return SshAuth(user, private_key, proxy, by_node_id, public_key)


def _bootstrapped(cluster_config: Mapping[str, Any]) -> bool:
    return as_mapping(cluster_config.get("provider")).get("_bootstrapped") is True


def _check_user(user: str) -> str | None:
    return None if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*\$?", user) else "is no name of a Unix user"


def _private_key(section: Section, base_dirs: Sequence[Path]) -> tuple[Path | None, str | None]:
    """The private key's path, and its public half where that is known."""
    text = section.text("ssh_private_key")
    if text is None:
        return None, None
    found = files.find(text, base_dirs)
    if isinstance(found, files.Missing):
        section.fault("ssh_private_key", found.reason, in_file=True)
        return None, None
    key = inspect_private_key(found)
    if key.fault is not None:
        section.fault("ssh_private_key", key.fault, in_file=True)
    elif key.encrypted:
        section.fault(
            "ssh_private_key",
            f"'{found}' has a passphrase, but nobody is there to type it when RayDog and the head log in; "
            f"use a key without one (ssh-keygen -p -N '' -f {found} takes it away)",
            in_file=True,
        )
    return found, key.public_key


def _public_key(section: Section, base_dirs: Sequence[Path]) -> str | None:
    text = section.text("ssh_public_key")
    if text is None:
        return None
    content = files.read_text(text, base_dirs)
    if isinstance(content, files.Missing):
        section.fault("ssh_public_key", content.reason, in_file=True)
        return None
    words = content.split()
    if len(words) < 2 or "PRIVATE" in content:
        section.fault("ssh_public_key", f"'{text}' is not an SSH public key", in_file=True)
        return None
    return " ".join(words[:2])


def _read_node_types(
    cluster_config: Mapping[str, Any], findings: Findings, base_dirs: Sequence[Path]
) -> Iterator[tuple[str, NodeType]]:
    available = cluster_config.get("available_node_types")
    path = "available_node_types"
    if not available or _is_rays_placeholder(available):
        findings.fault(path, "missing; describe the head's node type and at least one for workers")
        return
    if not isinstance(available, Mapping):
        return  # Ray's schema has said so
    head_type = cluster_config.get("head_node_type")
    if not isinstance(head_type, str) or head_type not in available:
        findings.fault("head_node_type", f"must be one of {', '.join(map(str, available))}, not {shown(head_type)}")
    for name, values in available.items():
        what = naming.check_node_type(name) if isinstance(name, str) else "is no text; put it in quotes"
        if what is not None:
            findings.fault(f"{path}.{name}", f"the name '{name}' {what}")
        if not isinstance(values, Mapping) or not isinstance(name, str):
            continue  # likewise
        section = Section(values, f"{path}.{name}", findings)
        if not section.has("node_config"):
            section.fault("node_config", "missing; it holds compute_requirement_template")
        if not section.has("resources") and name != head_type:
            section.fault("resources", "missing; write what one such node offers, such as {CPU: 4}: Ray scales by it")
        node_config = section.section("node_config")
        node_config.refuse_unknown([*config.NODE_PROPERTIES, config.RENAMED["userdata"]], _NODE_HINTS)
        yield (
            name,
            config.read_node_type(
                name,
                node_config,
                base_dirs,
                resources=dict(as_mapping(values.get("resources"))),
                labels=dict(as_mapping(values.get("labels"))),
                min_workers=_count(section, "min_workers"),
                max_workers=_count(section, "max_workers"),
            ),
        )


def _is_rays_placeholder(available: Any) -> bool:
    """Ray puts two empty node types in where the YAML has none (``MINIMAL_EXTERNAL_CONFIG``)."""
    return isinstance(available, Mapping) and not any(
        isinstance(values, Mapping) and (values.get("node_config") or values.get("resources"))
        for values in available.values()
    )


def _count(section: Section, key: str) -> int:
    value = section.raw(key)
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            section.fault(key, f"must be at least 0, not {value}")
        return max(value, 0)
    return 0


def _check_pool_names(cluster_name: str, node_types: Sequence[str], findings: Findings) -> None:
    if not cluster_name:
        return
    taken: dict[str, str] = {}
    for name in node_types:
        pool = naming.pool_name(cluster_name, "0" * naming.CLUSTER_ID_LENGTH, name)
        if len(pool) > naming.MAX_NAME_LENGTH:
            continue  # the cluster's name alone is too long, which has been said
        if pool in taken:
            findings.fault(
                f"available_node_types.{name}",
                f"with '{taken[pool]}' it shares the worker pool name that the long cluster_name leaves room for; "
                "shorten cluster_name",
            )
        taken.setdefault(pool, name)


def _warn_about_user_data(cluster: ClusterConfig, node_types: Mapping[str, NodeType], findings: Findings) -> None:
    if not cluster.authorize_ssh_key or cluster.auth is None or cluster.auth.private_key is None:
        return
    if cluster.auth.public_key is None:
        findings.warn("auth.ssh_private_key", "its public half could not be found, so user data must authorise it")
        return
    places = {f"available_node_types.{name}.node_config": node_type for name, node_type in node_types.items()}
    if cluster.observability is not None:
        places["provider.observability"] = cluster.observability
    for place, node_type in places.items():
        if not can_authorize_key(node_type.user_data):
            findings.warn(
                f"{place}.userdata",
                "is no shell script, so RayDog cannot add the SSH key to it; it must authorise the key itself",
            )


def _with_references(
    uploads: tuple[FileUpload, ...], cluster_config: Mapping[str, Any], base_dirs: Sequence[Path]
) -> tuple[FileUpload, ...]:
    """Add the files that scripts and user data are read from: yellowdog-ray puts those on the head as well."""
    values = [as_mapping(cluster_config.get("provider")).get(key) for key in config.SCRIPT_PROPERTIES]
    for node_type in as_mapping(cluster_config.get("available_node_types")).values():
        node_config = as_mapping(as_mapping(node_type).get("node_config"))
        values += [node_config.get(key) for key in config.SCRIPT_PROPERTIES]
    result = {upload.destination: upload for upload in uploads}
    for value in values:
        if isinstance(value, str) and files.is_file_reference(value):
            path = files.referenced_path(value)
            found = files.find(path, base_dirs)
            if isinstance(found, Path):
                upload = FileUpload(str(found), files.upload_destination(path))
                result.setdefault(upload.destination, upload)
    return tuple(result.values())
