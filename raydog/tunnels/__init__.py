"""SSH tunnels from this machine to a Ray cluster: its client port, its dashboard, and whatever is behind the head."""

from raydog.tunnels.ray_tunnels import RayTunnels
from raydog.tunnels.spec import SSHTunnelSpec

__all__ = ["RayTunnels", "SSHTunnelSpec"]
