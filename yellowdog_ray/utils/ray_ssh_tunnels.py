"""The old import path of `raydog.tunnels`."""

from raydog.tunnels import RayTunnels, SSHTunnelSpec

__all__ = ["RayTunnels", "SSHTunnelSpec"]
