"""One login, or logins repeated until a booting node lets us in."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from paramiko import (
    AuthenticationException,
    MissingHostKeyPolicy,
    PKey,
    SSHClient,
    SSHException,
)
from paramiko.ssh_exception import IncompatiblePeer

from raydog.errors import CredentialsError, ProvisioningError, ProvisioningTimeoutError, StateError
from raydog.ssh.proxy import ProxyConnection
from raydog.ssh.session import SshSession
from raydog.ssh.target import SshTarget, load_private_key
from raydog.waiting import Clock, Pending, Ready, WaitTimeout, wait_until

_KEEPALIVE = 15
"""Seconds between keep-alive messages: below the idle limits of common firewalls and NAT gateways (60 s)."""

_ATTEMPT = 2.0
"""Seconds for one TCP connection while a node boots: the kernel's own second retry comes only after 3 s."""

_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)
"""Linux has it, macOS has not."""

_LOG = "raydog.ssh.transport"
logging.getLogger(_LOG).setLevel(logging.CRITICAL)
"""paramiko logs failed attempts with tracebacks; what matters is raised. Lower the level to debug."""


class _NotYetError(Exception):
    """The server cannot be reached or is not ready. Its text says what was seen."""


class _HostKeyPolicy(MissingHostKeyPolicy):
    """Accept every host key (see the package's docstring), or the expected one only; keep none."""

    def __init__(self, target: SshTarget, expected: PKey | None) -> None:
        self._target = target
        self._expected = expected

    def missing_host_key(self, client: object, hostname: object, key: PKey) -> None:
        """Raise `StateError` for another key, before any credentials are shown."""
        if self._expected not in (None, key):
            raise StateError(
                f"another machine answers at {self._target} now (its host key is not the one from before). If that is "
                f"what you want to reach, start the tunnels anew."
            )


class PromptSocket(socket.socket):
    """A TCP socket that neither delays small messages (Nagle) nor acknowledgements.

    SSH begins with many small messages. sshd obeys Nagle's rule, so its answer to our first request waits until
    the one before is acknowledged: 40 ms on a fast network, where the kernel delays acknowledgements. Linux
    forgets the wish whenever we send, hence it is repeated.
    """

    @classmethod
    def take(cls, sock: socket.socket) -> PromptSocket:
        timeout = sock.gettimeout()
        prompt = cls(sock.family, sock.type, sock.proto, fileno=sock.detach())
        prompt.settimeout(timeout)
        prompt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return prompt

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        if _QUICK_ACK is not None:
            self.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
        return super().recv(bufsize, flags)


def login(target: SshTarget, host_key: PKey | None = None) -> SshSession:
    """Log in once.

    Raises `CredentialsError` if the key is unusable or refused, `ConfigError` if the proxy command cannot be
    run, `ProvisioningError` (category ``SSH``) if the server does not answer, `StateError` if its host key is not
    ``host_key`` (None: any).
    """
    try:
        return _attempt(target, load_private_key(target), host_key=host_key)
    except _NotYetError as error:
        raise _no_connection(target, error) from error


def connect(target: SshTarget) -> PromptSocket:
    """A direct connection, without a login. Raises `ProvisioningError` (category ``SSH``) as `login` does."""
    try:
        return _connect(target, target.connect_timeout)
    except _NotYetError as error:
        raise _no_connection(target, error) from error


def _no_connection(target: SshTarget, error: _NotYetError) -> ProvisioningError:
    return ProvisioningError(
        f"no SSH connection to {target}{_through(target)}: {error}. Check that the node runs, and that "
        f"port {target.port} is open from here.",
        "SSH",
    )


def wait_for_login(
    target: SshTarget,
    timeout: float,
    on_pending: Callable[[str, float], None] | None = None,
    *,
    clock: Clock | None = None,
) -> SshSession:
    """Log in, waiting up to ``timeout`` seconds for the server: a node that boots refuses or drops connections.

    ``on_pending`` gets what was seen and the seconds waited, after each attempt. A refused login is final and
    raises `CredentialsError` at once (Ray's own loop would try it for 15 minutes); so does an unusable key.
    Raises `ProvisioningTimeoutError` with what was seen last at the deadline.
    """
    key = load_private_key(target)
    patient = replace(target, connect_timeout=min(target.connect_timeout, max(timeout, 1.0)))

    def condition() -> Ready[SshSession] | Pending:
        try:
            return Ready(_attempt(patient, key, connect_limit=_ATTEMPT))
        except _NotYetError as error:
            return Pending(str(error))

    try:
        return wait_until(condition, timeout, interval=0.05, max_interval=0.25, on_pending=on_pending, clock=clock)
    except WaitTimeout as error:
        raise ProvisioningTimeoutError(
            f"no SSH login to {target}{_through(target)} after {error.waited:.0f} s; last seen: "
            f"{error.observed}. Check that the node has booted, that port {target.port} is open from here, and "
            f"that 'ssh_proxy_command' and 'use_internal_ips' fit its network.",
            "SSH",
        ) from error


def _through(target: SshTarget) -> str:
    return " through ssh_proxy_command" if target.proxy_command else ""


def _attempt(
    target: SshTarget, key: PKey | None, connect_limit: float | None = None, host_key: PKey | None = None
) -> SshSession:
    """One login. Raises `_NotYetError` if trying again may help."""
    if target.proxy_command:
        proxy = ProxyConnection(target)
        try:
            return _authenticate(target, key, proxy.sock, proxy, host_key)
        except _NotYetError as error:
            try:
                if (reason := proxy.failure()) is not None:
                    raise _NotYetError(reason) from error
            finally:
                proxy.close()
            raise
        except BaseException:
            proxy.close()
            raise
    sock = _connect(target, min(target.connect_timeout, connect_limit or target.connect_timeout))
    return _authenticate(target, key, sock, None, host_key)


def _connect(target: SshTarget, limit: float) -> PromptSocket:
    try:
        return PromptSocket.take(socket.create_connection((target.host, target.port), timeout=limit))
    except TimeoutError as error:
        raise _NotYetError(f"no answer from port {target.port} in {limit:g} s") from error
    except OSError as error:
        raise _NotYetError(f"port {target.port}: {(error.strerror or str(error)).lower()}") from error


def _authenticate(
    target: SshTarget, key: PKey | None, sock: socket.socket, proxy: ProxyConnection | None, host_key: PKey | None
) -> SshSession:
    own_keys = key is None and target.password is None
    client = SSHClient()
    client.set_log_channel(_LOG)
    client.set_missing_host_key_policy(_HostKeyPolicy(target, host_key))
    try:
        client.connect(
            target.host,
            target.port,
            target.user,
            sock=sock,
            pkey=key,
            password=target.password,
            allow_agent=own_keys,
            look_for_keys=own_keys,
            timeout=target.connect_timeout,
            banner_timeout=target.connect_timeout,
            auth_timeout=target.connect_timeout,
            channel_timeout=target.connect_timeout,
        )
        return _session(target, client, proxy)
    except BaseException as error:
        transport = client.get_transport()
        refused = transport is not None and transport.is_active()
        client.close()
        with suppress(OSError):
            sock.close()
        verdict = _classified(error, target, refused)
        if verdict is error:
            raise
        raise verdict from error


def _session(target: SshTarget, client: SSHClient, proxy: ProxyConnection | None) -> SshSession:
    transport = client.get_transport()
    if transport is None or not transport.is_active():
        raise _NotYetError("the server closed the connection right after the login")
    transport.set_keepalive(_KEEPALIVE)
    return SshSession(target, client, transport, proxy)


def _classified(error: BaseException, target: SshTarget, answering: bool) -> BaseException:
    """What to raise for a failed login. ``answering``: the server still held the connection."""
    if isinstance(error, IncompatiblePeer):
        return StateError(f"SSH server of {target} supports none of our algorithms: {error}")
    if isinstance(error, AuthenticationException):
        if answering:
            return _refused(target)
        # A server that closes instead of refusing may be about to come up (pam_nologin while booting).
        return _NotYetError(
            f"connection closed while authenticating as {target.user} (is the system still booting, or the "
            f"account locked?)"
        )
    if isinstance(error, SSHException) and "No authentication methods" in str(error):
        return _refused(target)
    if isinstance(error, SSHException | EOFError):
        return _NotYetError(f"port {target.port} is open, but SSH does not answer yet ({_brief(error)})")
    if isinstance(error, OSError):
        return _NotYetError(f"connection broken: {(error.strerror or str(error)).lower()}")
    return error


def _brief(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _refused(target: SshTarget) -> CredentialsError:
    if target.private_key is not None:
        used = f"the private key {target.private_key}"
    elif target.password is not None:
        used = "the password given"
    else:
        used = "the keys of the SSH agent and of ~/.ssh"
    return CredentialsError(
        f"SSH login to {target} was refused for user {target.user!r} with {used}. Check the user and the key (in a "
        f"cluster YAML 'ssh_user' and 'ssh_private_key' under 'auth'), and that the matching public key is in "
        f"~{target.user}/.ssh/authorized_keys on the node."
    )
