"""Compute requirement templates: what an instance of each looks like, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from raydog.emulator.ids import template_uuid, ydid
from raydog.emulator.problems import Problem, invalid
from raydog.emulator.wire import check_name
from raydog.errors import ConfigError, MissingFileError

if TYPE_CHECKING:
    from raydog.emulator.entities import Pool

_NUMBERS: dict[str, type] = {"cpus": float, "gpus": int, "ram_gb": float, "boot_seconds": float}


@dataclass(eq=False)
class Template:
    """One kind of instance. ``capacity`` None means unlimited; ``boots`` False: a boot never ends."""

    name: str
    cpus: float = 1.0
    gpus: int = 0
    ram_gb: float = 2.0
    boot_seconds: float = 0.0
    capacity: int | None = None
    spot: bool = False
    instance_type: str = "local"
    boots: bool = True
    in_use: int = 0
    waiting: dict[Pool, None] = field(default_factory=dict)
    """Pools that want more instances of it than there are."""

    @property
    def id(self) -> str:
        return ydid("crt", template_uuid(self.name))

    @property
    def source_id(self) -> str:
        """Of the source template of the same name: each template has one."""
        return ydid("cst", template_uuid(self.name))

    @property
    def namespace(self) -> str:
        return self.name.split("/", 1)[0]

    @property
    def short_name(self) -> str:
        return self.name.split("/", 1)[1]


BUILT_IN = (
    Template("local/head", cpus=2.0, ram_gb=4.0, instance_type="local.head"),
    Template("local/worker", cpus=1.0, ram_gb=2.0, instance_type="local.worker"),
)


def _parse(entry: object, where: str, faults: list[str]) -> Template | None:
    if not isinstance(entry, dict):
        faults.append(f"{where}: not a mapping with a name, cpus, ram_gb, ...")
        return None
    template = Template(name=str(entry.get("name", "")))
    try:
        namespace, _, name = template.name.partition("/")
        check_name(namespace, "namespace")
        check_name(name, "name")
    except Problem:
        faults.append(f"{where}.name: {template.name!r} is not namespace/name")
        return None
    template.instance_type = name
    for key, value in entry.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        if key == "name":
            continue
        if key in _NUMBERS and number:
            setattr(template, key, _NUMBERS[key](value))
        elif key == "capacity" and (value is None or (number and isinstance(value, int))):
            template.capacity = value
        elif key in {"spot", "boots"} and isinstance(value, bool):
            setattr(template, key, value)
        elif key == "instance_type" and isinstance(value, str):
            template.instance_type = value
        else:
            known = "name, cpus, gpus, ram_gb, boot_seconds, capacity, spot, instance_type, boots"
            faults.append(f"{where}.{key}: {value!r} is not possible here (known: {known})")
    return template


class Templates:
    """All templates, found by ``namespace/name`` or id. The built-in ones can be replaced by name."""

    def __init__(self, extra: tuple[Template, ...] = ()) -> None:
        self._by_name = {template.name: replace(template, waiting={}) for template in (*BUILT_IN, *extra)}

    @classmethod
    def load(cls, path: Path | None) -> Templates:
        """The built-in templates and those of a YAML file (a list). All its faults in one `ConfigError`."""
        if path is None:
            return cls()
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise MissingFileError(f"cannot read the templates file {path}: {error.strerror}") from error
        try:
            entries = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"the templates file {path} is not YAML: {error}") from error
        if not isinstance(entries, list):
            raise ConfigError(f"the templates file {path} is not a list of templates")
        faults: list[str] = []
        parsed = [_parse(entry, f"[{index}]", faults) for index, entry in enumerate(entries)]
        if faults:
            raise ConfigError(f"the templates file {path} has faults:\n  " + "\n  ".join(faults), faults)
        return cls(tuple(template for template in parsed if template is not None))

    def all(self) -> list[Template]:
        return list(self._by_name.values())

    def find(self, key: object) -> Template | None:
        """By ``namespace/name`` or ydid."""
        if not isinstance(key, str):
            return None
        if key in self._by_name:
            return self._by_name[key]
        return next((template for template in self._by_name.values() if template.id == key), None)

    def require(self, key: object) -> Template:
        """As `find`; an unknown one is an InvalidRequestException that lists the known ones."""
        template = self.find(key)
        if template is None:
            known = ", ".join(sorted(self._by_name))
            raise invalid(f"compute requirement template {key!r} does not exist; known here: {known}")
        return template

    def change(self, key: str, settings: dict[str, Any]) -> Template:
        """Change ``capacity``, ``boot_seconds`` or ``boots`` of a template, for tests of scarce clouds."""
        template = self.require(key)
        faults: list[str] = []
        allowed = {"capacity", "boot_seconds", "boots"}
        changed = _parse({"name": template.name, **settings}, key, faults)
        faults += [f"{key}.{name}: cannot be changed" for name in settings if name not in allowed]
        if faults or changed is None:
            raise invalid("; ".join(faults))
        for name in settings:
            setattr(template, name, getattr(changed, name))
        return template
