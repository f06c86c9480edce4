"""SSH to nodes: log in, run commands, write files, forward ports.

::

    target = SshTarget("10.0.0.7", "yd-agent", Path("~/.ssh/raydog").expanduser())
    with wait_for_login(target, timeout=120) as session:
        session.write_files([RemoteFile(".raydog/redis-password", secret)])
        session.run("ray status", timeout=30).check("ray status")
        with Tunnel(target, "127.0.0.1", 16667) as tunnel:
            connect("127.0.0.1", tunnel.local_port)

Nodes are ephemeral and addresses are used again, so a node's host key is accepted and not remembered.
"""

from raydog.ssh.login import login, wait_for_login
from raydog.ssh.session import Completed, RemoteFile, SshSession
from raydog.ssh.target import SshTarget
from raydog.ssh.tunnel import Forward, PortForwarding, Tunnel

__all__ = [
    "Completed",
    "Forward",
    "PortForwarding",
    "RemoteFile",
    "SshSession",
    "SshTarget",
    "Tunnel",
    "login",
    "wait_for_login",
]
