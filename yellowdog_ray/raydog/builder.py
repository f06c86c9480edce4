"""Old import path of `raydog.builder`."""

from raydog.builder import RayDogCluster, RayDogClusterProxy

__all__ = ["RayDogCluster", "RayDogClusterProxy"]
