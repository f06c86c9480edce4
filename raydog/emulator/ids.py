"""YellowDog ids: ``ydid:<kind>:<account>:<uuid>[:<n>[:<m>]]`` (contract, section 3.9).

Children carry their parent's uuid and a number, since clients compute a parent's id from its child's.
"""

from __future__ import annotations

import uuid

ACCOUNT = "D06D06"
_TEMPLATES = uuid.UUID("5b1a0f2e-6c7d-4f0e-9a53-2f1d8c1b7e90")


def new_uuid() -> str:
    return str(uuid.uuid4())


def template_uuid(name: str) -> str:
    """The same for the same name in every emulator, so that a ydid in a YAML stays valid."""
    return str(uuid.uuid5(_TEMPLATES, name))


def ydid(kind: str, entity_uuid: str, *numbers: int) -> str:
    return ":".join(["ydid", kind, ACCOUNT, entity_uuid, *map(str, numbers)])


def new_instance_id() -> str:
    """An instance id in a cloud's manner; safe in file names."""
    return f"i-{uuid.uuid4().hex[:17]}"
