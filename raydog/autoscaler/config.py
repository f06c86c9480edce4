"""A cluster's configuration as a frozen, typed object, read once from Ray's dictionaries.

Three ways in: `raydog.autoscaler.schema.parse_cluster` reads a complete YAML and reports every fault;
`ClusterConfig.from_provider` reads the provider section that Ray gives a node provider's constructor; and
`NodeType.from_node_config` reads the ``node_config`` that Ray gives ``create_node``.

Properties and defaults: ``docs/autoscaler.md``. What `raydog.autoscaler.bootstrap` adds to the provider section
has names that begin with ``_``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, cast

from raydog.autoscaler import files
from raydog.autoscaler.fields import Findings, Section
from raydog.autoscaler.uploads import FileUpload, read_uploads
from raydog.userdata import combine
from raydog.yellowdog import naming

Credentials = Literal["ssh", "task_environment"]

PROVIDER_PROPERTIES = (
    "cluster_namespace",
    "cluster_tag",
    "cluster_lifetime_hours",
    "head_node_build_timeout_minutes",
    "head_node_tag_server_port",
    "ray_head_node_task_script",
    "ray_worker_node_task_script",
    "files_to_upload",
    "credentials",
    "node_launch_timeout_minutes",
    "authorize_ssh_key",
    "observability",
)
"""RayDog's own keys of the ``provider`` section."""

NODE_PROPERTIES = (
    "compute_requirement_template",
    "images_id",
    "userdata",
    "extra_userdata",
    "instance_tags",
    "metrics_enabled",
    "capture_taskoutput",
)
"""RayDog's keys of a ``node_config`` section; there are no others."""

OBSERVABILITY_PROPERTIES = (
    "compute_requirement_template",
    "images_id",
    "userdata",
    "extra_userdata",
    "instance_tags",
    "metrics_enabled",
    "start_script",
)
"""Keys of ``provider.observability``."""

RENAMED = {
    "ray_head_node_task_script": "head_start_ray_script",
    "ray_worker_node_task_script": "worker_start_ray_script",
    "userdata": "user_data",
}
"""Properties that have an older name, which is accepted with a warning."""

SCRIPT_PROPERTIES = (
    "ray_head_node_task_script",
    "ray_worker_node_task_script",
    "userdata",
    "extra_userdata",
    *RENAMED.values(),
)
"""Properties that are a text or name a file that holds it."""

_HOURS = (0.01, 10 * 366 * 24.0)
_MINUTES = (0.01, 7 * 24 * 60.0)
_MAX_TAG_LENGTH = 200


@dataclass(frozen=True)
class SshAuth:
    """How to log in to nodes. Without ``private_key``, ssh's own keys and agent are used."""

    user: str
    private_key: Path | None = None
    proxy_command: str | None = None
    proxy_use_node_id: bool = False
    public_key: str | None = None
    """The public half of ``private_key``, to authorise on nodes; None where it is not known or not wanted."""


@dataclass(frozen=True)
class NodeType:
    """One of ``available_node_types``: what to ask the platform for, and what such a node offers to Ray."""

    name: str
    templates: tuple[str, ...]
    """Compute requirement templates (id or ``namespace/name``), in the order in which they are tried."""
    images_id: str | None = None
    user_data: str | None = None
    instance_tags: Mapping[str, str] | None = None
    metrics_enabled: bool | None = None
    capture_task_output: bool = False
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    min_workers: int = 0
    max_workers: int = 0

    @classmethod
    def from_node_config(
        cls,
        name: str,
        node_config: Mapping[str, Any],
        resources: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> NodeType:
        """Read what Ray gives ``create_node``. Raises `ConfigError`, also if it holds unread ``file:`` values."""
        findings = Findings()
        section = Section(node_config, f"available_node_types.{name}.node_config", findings)
        node_type = read_node_type(name, section, None, resources=resources or {}, labels=labels or {})
        findings.raise_if_faulty(f"Node type '{name}'")
        return node_type


@dataclass(frozen=True)
class ClusterConfig:
    """Everything that the provider needs to know about a cluster."""

    cluster_name: str
    namespace: str
    tag: str | None = None
    lifetime: timedelta = timedelta(hours=1)
    head_build_timeout: timedelta = timedelta(minutes=5)
    tag_server_port: int = 16667
    head_script: str | None = None
    """The head's task script; None is the default one."""
    worker_script: str | None = None
    files_to_upload: tuple[FileUpload, ...] = ()
    credentials: Credentials = "ssh"
    node_launch_timeout: timedelta | None = None
    authorize_ssh_key: bool = True
    """Whether to add the key of ``auth`` to user data. Only a YAML that says true itself has user data made for it."""
    auth: SshAuth | None = None
    observability: NodeType | None = None
    """The machine for Prometheus and Grafana; None for a cluster without one. It is no node of Ray's."""
    observability_script: str | None = None
    """The observability node's task script; None is RayDog's own."""
    use_internal_ips: bool = False
    use_external_head_ip: bool = False
    """Ray's own exception to ``use_internal_ips``: the head alone is reached at its public address."""
    node_updaters: bool = True
    """Whether Ray sets workers up over SSH (``disable_node_updaters`` is false)."""
    autoscaler_v2: bool = True
    """Which autoscaler the head runs: v2, unless the client had ``RAY_UP_enable_autoscaler_v2=0``."""
    head_type: str | None = None
    head_resources: Mapping[str, float] = field(default_factory=dict)
    head_labels: Mapping[str, str] = field(default_factory=dict)
    node_types: Mapping[str, NodeType] = field(default_factory=dict)
    """By name; empty in a configuration read from the provider section, which does not have them."""
    complete: bool = True
    """False when read from a section that was never bootstrapped: good for reading, not for making nodes."""
    base_dirs: tuple[str, ...] = ()
    """The folders that relative paths were resolved in, where the section was bootstrapped on this machine."""
    config_cache_path: str | None = None
    """Where Ray keeps the bootstrapped YAML on this machine, readable by everybody."""

    @property
    def head_needs_internal_ip(self) -> bool:
        """Whether this machine reaches the head at its private address."""
        return self.use_internal_ips and not self.use_external_head_ip

    @classmethod
    def from_provider(cls, provider_config: Mapping[str, Any], cluster_name: str) -> ClusterConfig:
        """Read the section that Ray gives a provider's constructor, bootstrapped or straight from the YAML.

        ``ray get-head-ip``, ``get-worker-ips`` and the like never bootstrap: then files are not read, and neither
        ``auth`` nor scripts need to be there. Raises `ConfigError` with every fault of what is read.
        """
        findings = Findings()
        check_cluster_name(cluster_name, findings)
        config = read_provider(cluster_name, Section(provider_config, "provider", findings), None)
        findings.raise_if_faulty(f"The configuration of cluster '{cluster_name}'")
        return config


def autoscaler_v2_wanted() -> bool:
    """Whether ``ray up`` on this machine gives the head autoscaler v2 (``ray/autoscaler/_private/commands.py``)."""
    return os.environ.get("RAY_UP_enable_autoscaler_v2", "1") == "1"


def check_cluster_name(name: Any, findings: Findings) -> None:
    """Note what is wrong with ``cluster_name``."""
    if not isinstance(name, str):
        findings.fault("cluster_name", "must be a text; put it in quotes")
        return
    what = naming.check_cluster_name(name)
    if what is not None:
        findings.fault("cluster_name", f"'{name}' {what}")


def read_provider(
    cluster_name: str, section: Section, folders: Sequence[Path] | None, auth: SshAuth | None = None
) -> ClusterConfig:
    """Read RayDog's properties of a provider section.

    ``folders`` are where ``file:`` paths are looked for; None means that files are not to be touched. ``auth`` is
    the YAML's, if it has been read; otherwise the section's own is.
    """
    head_script = _script(section, section.renamed("ray_head_node_task_script", "head_start_ray_script"), folders)
    worker_script = _script(section, section.renamed("ray_worker_node_task_script", "worker_start_ray_script"), folders)
    launch_timeout = section.number("node_launch_timeout_minutes", None, within=_MINUTES, unit="minutes")
    v2 = section.raw("_autoscaler_v2")
    complete = section.raw("_bootstrapped") is True
    # Who only looks at a cluster need not know what its machines were made of.
    observability = None if folders is None and not complete else _observability(section, folders)
    return ClusterConfig(
        cluster_name=cluster_name,
        namespace=section.required_text(
            "cluster_namespace", "write the YellowDog namespace to work in", naming.check_name
        )
        or "",
        tag=_tag(section),
        lifetime=timedelta(hours=section.number("cluster_lifetime_hours", 1.0, within=_HOURS, unit="hours") or 1.0),
        head_build_timeout=timedelta(
            minutes=section.number("head_node_build_timeout_minutes", 5.0, within=_MINUTES, unit="minutes") or 5.0
        ),
        tag_server_port=section.port("head_node_tag_server_port", 16667),
        head_script=head_script,
        worker_script=worker_script,
        files_to_upload=read_uploads(section, folders),
        credentials=cast(Credentials, section.choice("credentials", ("ssh", "task_environment"))),
        node_launch_timeout=None if launch_timeout is None else timedelta(minutes=launch_timeout),
        authorize_ssh_key=section.boolean("authorize_ssh_key", default=True),
        auth=auth or _own_auth(section),
        observability=observability[0] if observability else None,
        observability_script=observability[1] if observability else None,
        use_internal_ips=section.boolean("use_internal_ips", default=False),
        use_external_head_ip=section.boolean("use_external_head_ip", default=False),
        node_updaters=not section.boolean("disable_node_updaters", default=False),
        autoscaler_v2=v2 if isinstance(v2, bool) else autoscaler_v2_wanted(),
        head_type=section.text("_head_node_type"),
        head_resources=section.mapping("_head_resources") or {},
        head_labels=section.mapping("_head_labels") or {},
        complete=complete,
        base_dirs=tuple(section.raw("_base_dirs") or ()),
        config_cache_path=section.text("_config_cache_path"),
    )


def read_node_type(  # a node type's parts
    name: str,
    section: Section,
    folders: Sequence[Path] | None,
    *,
    resources: Mapping[str, float],
    labels: Mapping[str, str],
    min_workers: int = 0,
    max_workers: int = 0,
) -> NodeType:
    """Read a ``node_config``. ``folders`` as for `read_provider`, but None makes ``file:`` values a fault."""
    if section.raw("compute_requirement_template") in (None, [], ""):
        section.fault(
            "compute_requirement_template",
            "missing; write the id or 'namespace/name' of a compute requirement template, or a list to try in order",
        )
    templates = section.texts("compute_requirement_template")
    for template in templates:
        if any(character.isspace() for character in template.strip()):
            section.fault(
                "compute_requirement_template", f"'{template}' contains a space; to name several, write a list"
            )
    user_data = [
        _script(section, key, folders, must_resolve=True)
        for key in (section.renamed("userdata", "user_data"), "extra_userdata")
    ]
    return NodeType(
        name=name,
        templates=tuple(template.strip() for template in templates),
        images_id=section.text("images_id"),
        user_data=combine(*user_data),
        instance_tags=section.text_map("instance_tags"),
        metrics_enabled=section.optional_boolean("metrics_enabled"),
        capture_task_output=section.boolean("capture_taskoutput", default=False),
        resources=resources,
        labels=labels,
        min_workers=min_workers,
        max_workers=max_workers,
    )


def _observability(section: Section, folders: Sequence[Path] | None) -> tuple[NodeType, str | None] | None:
    """The observability node's machine and script, if the cluster is to have such a node."""
    if section.raw("observability") is None:
        return None
    node = section.section("observability")
    node.refuse_unknown(OBSERVABILITY_PROPERTIES, {"user_data": "did you mean 'userdata'?"})
    node_type = read_node_type(naming.OBSERVABILITY_TYPE, node, folders, resources={}, labels={})
    return node_type, _script(node, "start_script", folders)


def _tag(section: Section) -> str | None:
    if section.raw("cluster_tag") == "":
        return None
    tag = section.text("cluster_tag")
    if tag is None:
        return None
    if len(tag) > _MAX_TAG_LENGTH:
        section.fault("cluster_tag", f"has {len(tag)} characters, YellowDog allows {_MAX_TAG_LENGTH}")
    elif naming.check_name(tag) is not None:
        section.warn("cluster_tag", f"'{tag}' {naming.check_name(tag)}; YellowDog's own tools may refuse it")
    return tag


def _script(section: Section, key: str, folders: Sequence[Path] | None, *, must_resolve: bool = False) -> str | None:
    """A script that stands in the YAML, as a text or a list of lines, or in a file; None if there is none."""
    value = section.raw(key)
    if value == "":
        return None
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        return "\n".join(value) + "\n"
    text = section.text(key)
    if text is None or not files.is_file_reference(text):
        return text
    if folders is None:
        if must_resolve:
            section.fault(key, f"'{text}' has not been read; the configuration was not bootstrapped")
        return None
    content = files.read_text(files.referenced_path(text), folders)
    if isinstance(content, files.Missing):
        section.fault(key, content.reason, in_file=True)
        return None
    if not content.strip():
        section.fault(key, f"the file '{files.referenced_path(text)}' is empty", in_file=True)
    return content


def _own_auth(section: Section) -> SshAuth | None:
    """The ``auth`` that bootstrapping put into the section, or that an old YAML repeats there."""
    auth = section.section("auth")
    user = auth.text("ssh_user")
    if user is None:
        return None
    key = auth.text("ssh_private_key")
    if key is not None:
        found = files.find(key, files.base_dirs())
        key = key if isinstance(found, files.Missing) else str(found)
    return SshAuth(
        user=user,
        private_key=None if key is None else Path(key),
        proxy_command=auth.text("ssh_proxy_command"),
        proxy_use_node_id=auth.boolean("ssh_proxy_use_node_id", default=False),
        public_key=section.text("_ssh_public_key"),
    )
