"""Old import path of `raydog.autoscaler`, as YAMLs name it: ``yellowdog_ray.raydog.autoscaler.RayDogNodeProvider``."""

from raydog.autoscaler.provider import RayDogNodeProvider

__all__ = ["RayDogNodeProvider"]
