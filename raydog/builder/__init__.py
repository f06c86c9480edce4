"""Hand-made Ray clusters from Python: exactly the nodes that a program asks for, changed while they run."""

from raydog.builder.cluster import RayDogCluster
from raydog.builder.proxy import RayDogClusterProxy

__all__ = ["RayDogCluster", "RayDogClusterProxy"]
