"""What a tunnel joins: a local port and an address as the head sees it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from raydog.errors import ConfigError

_TUNNEL = re.compile(r"(?P<local>[0-9]+)(:((?P<host>[^:\[\]\s]+|\[[^\[\]\s]+\]):)?(?P<remote>[0-9]+))?")


@dataclass
class SSHTunnelSpec:
    """A local address and the remote address, as seen from the head, that it leads to.

    The names and their order are an older program's; the two ``..._ip_address`` fields are *ports*. `of` makes one
    from names that fit, and `local_host`, `local_port`, `remote_host`, `remote_port` read them. A local port of 0
    is any free one (`RayTunnels.specs` tells which).
    """

    local_bind_hostname: str
    local_bind_ip_address: int
    remote_bind_hostname: str
    remote_bind_ip_address: int

    @classmethod
    def of(
        cls,
        *,
        remote_port: int,
        local_port: int | None = None,
        remote_host: str = "localhost",
        local_host: str = "localhost",
    ) -> SSHTunnelSpec:
        """A tunnel to ``remote_port`` of ``remote_host``. ``local_port`` is the same number unless given."""
        return cls(local_host, remote_port if local_port is None else local_port, remote_host, remote_port)

    @classmethod
    def parse(cls, text: str) -> SSHTunnelSpec:
        """``PORT``, ``LOCAL:REMOTE`` or ``LOCAL:HOST:REMOTE``; an IPv6 host in brackets. Raises `ConfigError`."""
        found = _TUNNEL.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"{text!r} is no tunnel: write LOCAL_PORT[:HOST]:REMOTE_PORT, as in 3000:10.0.0.5:3000 (an IPv6 host "
                f"in brackets, as in 3000:[fd00::5]:3000)"
            )
        local = int(found["local"])
        host = (found["host"] or "localhost").strip("[]")
        spec = cls.of(local_port=local, remote_host=host, remote_port=int(found["remote"] or local))
        spec.check()
        return spec

    @property
    def local_host(self) -> str:
        """The local address that is listened on; ``localhost`` is loopback, an empty one is every address."""
        return self.local_bind_hostname

    @property
    def local_port(self) -> int:
        """The local port."""
        return self.local_bind_ip_address

    @property
    def remote_host(self) -> str:
        """The host that the tunnel leads to, as the head resolves it: ``localhost`` is the head itself."""
        return self.remote_bind_hostname

    @property
    def remote_port(self) -> int:
        """The port that the tunnel leads to."""
        return self.remote_bind_ip_address

    @property
    def url_host(self) -> str:
        """The local address as it stands in a URL."""
        if self.local_host in ("", "*", "0.0.0.0", "::"):
            return "localhost"
        return f"[{self.local_host}]" if ":" in self.local_host else self.local_host

    def check(self) -> None:
        """Raise `ConfigError` if it cannot work, naming the argument."""
        faults = []
        values: tuple[tuple[str, object, int], ...] = (
            ("local_bind_ip_address", self.local_port, 0),
            ("remote_bind_ip_address", self.remote_port, 1),
        )
        for name, port, least in values:
            if not isinstance(port, int) or isinstance(port, bool):
                faults.append(f"{name}: {port!r} is no port; this field takes a port number, for all its name")
            elif not least <= port <= 65535:
                faults.append(f"{name}: {port} is no port; ports go from {least} to 65535")
        hosts: tuple[tuple[str, object], ...] = (
            ("local_bind_hostname", self.local_host),
            ("remote_bind_hostname", self.remote_host),
        )
        for name, host in hosts:
            if not isinstance(host, str):
                faults.append(f"{name}: {host!r} is no host name")
        if self.remote_host == "":
            faults.append("remote_bind_hostname: is empty; 'localhost' is the head itself")
        if faults:
            raise ConfigError("; ".join(faults), faults)

    def __str__(self) -> str:
        return f"{self.url_host}:{self.local_port} -> {self.remote_host}:{self.remote_port}"
