"""Ray's ports, and others behind the head, as ports of this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from raydog.errors import ConfigError, CredentialsError, RayDogError, StateError
from raydog.ssh import Forward, PortForwarding, SshTarget
from raydog.tunnels.keeping import Keeper
from raydog.tunnels.spec import SSHTunnelSpec

CLIENT_PORT = 10001
"""Ray's client server: ``ray.init("ray://localhost:10001")``."""
DASHBOARD_PORT = 8265
"""Ray's dashboard and its job server."""
GRAFANA_PORT = 3000
PROMETHEUS_PORT = 9090

Self = TypeVar("Self", bound="RayTunnels")


class RayTunnels:
    """SSH tunnels to a head: ``ray://localhost:10001`` and ``http://localhost:8265``, unless others are asked for.

    ::

        with RayTunnels(head_ip, "yd-agent", private_key_file="~/.ssh/raydog"):
            ray.init("ray://localhost:10001")

    All tunnels share one SSH login. When it is lost it is made anew by itself; until then the local ports are closed,
    and connections that went through it are gone. All methods may be called from several threads.
    """

    def __init__(
        self,
        ray_head_ip_address: str,
        ssh_user: str,
        password: str | None = None,
        private_key_file: str | None = None,
        private_key_password: str | None = None,
        ray_tunnel_specs: list[SSHTunnelSpec] | None = None,
        *,
        ssh_port: int = 22,
        ssh_proxy_command: str | None = None,
        on_change: Callable[[str], None] | None = None,
    ) -> None:
        """
        Where to log in, how, and what to open. Nothing is opened before `start_tunnels`.

        With neither a key nor a password the SSH agent's keys and those in ``~/.ssh`` are tried. ``on_change`` gets a
        line, from another thread, when the login is lost or is back; without it these are logged as warnings
        (``raydog.tunnels``). Raises `ConfigError` for specs that cannot work.
        """
        if not ray_head_ip_address or not ssh_user:
            raise ConfigError("ray_head_ip_address and ssh_user: must not be empty")
        self._target = SshTarget(
            ray_head_ip_address,
            ssh_user,
            private_key=Path(private_key_file).expanduser() if private_key_file else None,
            port=ssh_port,
            proxy_command=ssh_proxy_command,
            private_key_password=private_key_password or (password if private_key_file else None) or None,
            password=password or None,
        )
        self._specs = _checked(self._default_specs() if ray_tunnel_specs is None else ray_tunnel_specs)
        self._on_change = on_change
        self._starting = threading.Lock()
        self._lock = threading.Lock()
        self._forwarding: PortForwarding | None = None
        self._keeper: Keeper | None = None

    @classmethod
    def to(
        cls,
        target: SshTarget,
        ray_tunnel_specs: Iterable[SSHTunnelSpec] | None = None,
        *,
        on_change: Callable[[str], None] | None = None,
    ) -> RayTunnels:
        """Tunnels to a head that is described by an `raydog.ssh.SshTarget`."""
        tunnels = cls(
            target.host,
            target.user,
            ray_tunnel_specs=None if ray_tunnel_specs is None else list(ray_tunnel_specs),
            on_change=on_change,
        )
        tunnels._target = target
        return tunnels

    @staticmethod
    def basic_port_forward(port: int) -> SSHTunnelSpec:
        """From ``port`` of this machine's loopback to the same port of the head's."""
        return SSHTunnelSpec.of(remote_port=port)

    @staticmethod
    def observability(host: str) -> list[SSHTunnelSpec]:
        """Grafana (3000) and Prometheus (9090) on the observability node: ``host`` is its private address."""
        return [SSHTunnelSpec.of(remote_port=port, remote_host=host) for port in (GRAFANA_PORT, PROMETHEUS_PORT)]

    @staticmethod
    def _default_specs() -> list[SSHTunnelSpec]:
        return [RayTunnels.basic_port_forward(port) for port in (CLIENT_PORT, DASHBOARD_PORT)]

    @property
    def specs(self) -> list[SSHTunnelSpec]:
        """The tunnels; while they are started, with the local ports that were chosen where any was asked for."""
        forwarding = self._forwarding
        if forwarding is None:
            return [SSHTunnelSpec(s.local_host, s.local_port, s.remote_host, s.remote_port) for s in self._specs]
        return [SSHTunnelSpec(f.local_host, f.local_port, f.remote_host, f.remote_port) for f in forwarding.forwards]

    @property
    def is_alive(self) -> bool:
        """Whether the tunnels are started and the login stands, as far as this side knows."""
        forwarding = self._forwarding
        return forwarding is not None and forwarding.is_alive

    @property
    def fault(self) -> RayDogError | None:
        """Why started tunnels were closed for good: a login that is refused now, or another machine at the address."""
        keeper = self._keeper
        return keeper.fault if keeper is not None else None

    def start_tunnels(self) -> None:
        """Log in and open the local ports: all of it or nothing. Harmless when started.

        Raises `ConfigError` for a local port that is taken, before any login; `CredentialsError` if the key cannot be
        used or the login is refused; `ProvisioningError` if the head does not answer; `StateError` if it is stopped
        meanwhile.
        """
        with self._starting:
            if not self._specs or (self._keeper is not None and self._keeper.fault is None):
                return
            forwards = [Forward(s.local_host, s.local_port, s.remote_host, s.remote_port) for s in self._specs]
            forwarding = PortForwarding(self._target, forwards, same_host=True)
            with self._lock:  # where `stop_tunnels` finds it, which does not wait for a login
                self._forwarding, self._keeper = forwarding, None
            try:
                forwarding.open()
            except BaseException as error:
                with self._lock:
                    if self._forwarding is forwarding:
                        self._forwarding = None
                if isinstance(error, ConfigError | CredentialsError):
                    raise _with_remedy(error) from error
                raise
            keeper = Keeper(forwarding, self._on_change)
            with self._lock:
                if self._forwarding is not forwarding:
                    raise StateError("the tunnels were stopped while they were started")
                self._keeper = keeper.start()

    def stop_tunnels(self, ignore_errors: bool = True) -> None:
        """Close the ports, the connections through them and the login. Harmless when stopped.

        ``ignore_errors=False`` raises what went wrong earlier: the `RayDogError` for which the tunnels were given up.
        """
        with self._lock:
            keeper, self._keeper = self._keeper, None
            forwarding, self._forwarding = self._forwarding, None
        if keeper is not None:
            keeper.stop()
        elif forwarding is not None:
            forwarding.close()
        if keeper is not None and keeper.fault is not None and not ignore_errors:
            raise keeper.fault

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the tunnels are stopped or given up (or ``timeout`` seconds); whether they are."""
        keeper = self._keeper
        return keeper is None or keeper.ended.wait(timeout)

    def __enter__(self: Self) -> Self:
        self.start_tunnels()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_tunnels()


def _checked(specs: Sequence[SSHTunnelSpec]) -> list[SSHTunnelSpec]:
    """The specs, copied. Raises `ConfigError` with all faults."""
    faults: list[str] = []
    seen: set[tuple[str, int]] = set()
    for place, spec in enumerate(specs):
        try:
            spec.check()
        except ConfigError as error:
            faults += [f"ray_tunnel_specs[{place}].{fault}" for fault in error.faults]
            continue
        local = (spec.local_host, spec.local_port)
        if spec.local_port and local in seen:
            faults.append(f"ray_tunnel_specs[{place}]: local port {spec.local_port} is used twice; choose another")
        seen.add(local)
    if faults:
        raise ConfigError("\n".join(faults), faults)
    return [SSHTunnelSpec(s.local_host, s.local_port, s.remote_host, s.remote_port) for s in specs]


def _with_remedy(error: ConfigError | CredentialsError) -> RayDogError:
    """The same error, with the argument by which to change it."""
    if isinstance(error, ConfigError):
        how = "In Python: ray_tunnel_specs=[SSHTunnelSpec.of(local_port=..., remote_port=...), ...]."
        return ConfigError(f"{error} {how}" if str(error).startswith("local ") else str(error), error.faults)
    if "is encrypted" in str(error):
        return CredentialsError(f"{error} Or give its passphrase as private_key_password.")
    return error
