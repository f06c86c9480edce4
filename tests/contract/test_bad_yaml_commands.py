"""A handful of YAMLs with faults, typed at Ray's real commands: a clean message, and the platform hears nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydog.emulator import Emulator
from tests.support.ray_cli import RayCluster, no_traceback

Change = Callable[[dict[str, Any]], object]


def worker(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["available_node_types"]["worker"]
    return found


FAULTS: dict[str, tuple[Change, str]] = {
    "a namespace that is a list": (
        lambda document: document["provider"].update(cluster_namespace=["a", "b"]),
        "provider.cluster_namespace",
    ),
    "a misspelt property": (
        lambda document: worker(document)["node_config"].update(instance_tag={"a": "b"}),
        "instance_tags",
    ),
    "no template, and a script that is not there": (
        lambda document: worker(document).update(node_config={"userdata": "file:nowhere.sh"}),
        "nowhere.sh",
    ),
    "a container": (lambda document: document.update(docker={"image": "x", "container_name": "y"}), "docker"),
}


@pytest.mark.parametrize(("command", "fault"), [*(("up", fault) for fault in FAULTS), ("exec", "a misspelt property")])
def test_yaml_with_a_fault_is_refused_cleanly_before_any_call(
    emulator: Emulator, tmp_path: Path, command: str, fault: str
) -> None:
    change, named = FAULTS[fault]
    cluster = RayCluster(tmp_path / "cluster", "faulty", emulator.environment)
    cluster.write(change)
    arguments = ("-y",) if command == "up" else ("true",)
    finished = cluster.ray(command, *arguments, code=1)
    no_traceback(finished)
    assert named in finished.flat
    assert emulator.calls() == []
    cluster.close()
