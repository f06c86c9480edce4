"""Ray's node provider for the YellowDog Platform: ``provider.module: raydog.autoscaler.RayDogNodeProvider``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raydog.autoscaler.provider import RayDogNodeProvider

__all__ = ["RayDogNodeProvider"]


def __getattr__(name: str) -> Any:
    # Reading a YAML needs neither Ray nor the platform, so neither is imported before it is used.
    if name == "RayDogNodeProvider":
        from raydog.autoscaler.provider import RayDogNodeProvider  # noqa: PLC0415

        return RayDogNodeProvider
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
