"""The walls between the rooms: who imports whom, and what each door shows (docs/architecture.md)."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import raydog

ROOT = Path(raydog.__file__).parent

FORBIDDEN = {
    "autoscaler": ("yellowdog_client", "requests", "aiohttp", "raydog.builder", "raydog.watcher", "raydog.cli"),
    "builder": ("ray.autoscaler", "raydog.autoscaler", "yellowdog_client", "raydog.cli"),
    "yellowdog": ("ray", "raydog.autoscaler", "raydog.builder", "raydog.watcher", "raydog.ssh", "raydog.cli"),
    "ssh": ("ray", "yellowdog_client", "raydog.yellowdog", "raydog.autoscaler", "raydog.cli"),
    "tunnels": ("ray", "yellowdog_client", "raydog.yellowdog", "raydog.autoscaler", "raydog.builder", "raydog.cli"),
    "emulator": (
        "ray", "raydog.yellowdog", "raydog.autoscaler", "raydog.builder", "raydog.ssh", "raydog.watcher", "raydog.cli",
    ),
    "observability": ("ray", "yellowdog_client", "raydog.yellowdog", "raydog.autoscaler", "raydog.ssh", "raydog.cli"),
    "watcher": ("yellowdog_client", "raydog.yellowdog", "raydog.autoscaler", "raydog.cli"),
    "elastic": ("yellowdog_client", "raydog.yellowdog", "raydog.autoscaler", "raydog.cli"),
}  # fmt: skip

DOORS = {
    "raydog": {"__version__"},
    "raydog.autoscaler": {"RayDogNodeProvider"},
    "yellowdog_ray.raydog.autoscaler": {"RayDogNodeProvider"},
    "raydog.builder": {"RayDogCluster", "RayDogClusterProxy"},
    "yellowdog_ray.raydog.builder": {"RayDogCluster", "RayDogClusterProxy"},
    "raydog.emulator": {"Emulator", "VirtualClock"},
    "raydog.observability": {"GRAFANA_PORT", "PROMETHEUS_PORT", "RECEIVER_PORT", "head_part", "node_script"},
    "raydog.ssh": {
        "Completed",
        "Forward",
        "PortForwarding",
        "RemoteFile",
        "SshSession",
        "SshTarget",
        "Tunnel",
        "login",
        "wait_for_login",
    },
    "raydog.tunnels": {"RayTunnels", "SSHTunnelSpec"},
    "yellowdog_ray.utils.ray_ssh_tunnels": {"RayTunnels", "SSHTunnelSpec"},
}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it; those for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = path.relative_to(ROOT.parent).parts[: -node.level]
                module = ".".join((*package, module)).rstrip(".")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


ROOMS = sorted(room for room in FORBIDDEN if (ROOT / room).is_dir())


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_nothing_that_it_must_not_know(room: str) -> None:
    files = [path for path in (ROOT / room).rglob("*.py") if "guest" not in path.parts]
    assert files
    crossed = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in files
        for module in imports(path)
        if any(within(module, wall) for wall in FORBIDDEN[room])
    ]
    assert crossed == []


def test_rooms_that_the_walls_are_about_exist() -> None:
    assert {"autoscaler", "builder", "emulator", "ssh", "yellowdog"} <= set(ROOMS)


def test_only_the_yellowdog_room_and_the_emulator_know_the_platforms_client() -> None:
    users = {
        path.relative_to(ROOT).parts[0]
        for path in ROOT.rglob("*.py")
        if any(within(module, "yellowdog_client") for module in imports(path))
    }
    assert users <= {"yellowdog", "emulator"}
    assert "yellowdog" in users


def test_a_wall_sees_what_crosses_it(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("def f():\n    from yellowdog_client import model\n")
    assert any(within(module, "yellowdog_client") for module in imports(file))
    assert not within("raydog", "ray")


@pytest.mark.parametrize("name", sorted(DOORS))
def test_doors_show_exactly_this(name: str) -> None:
    module = importlib.import_module(name)
    assert set(module.__all__) == DOORS[name]
    assert all(getattr(module, public) is not None for public in module.__all__)


def test_old_import_path_is_the_same_class() -> None:
    old = importlib.import_module("yellowdog_ray.raydog.autoscaler")
    assert old.RayDogNodeProvider is importlib.import_module("raydog.autoscaler").RayDogNodeProvider
