"""Network interfaces through the kernel's own protocol (rtnetlink): no ``ip`` program, no process a boot.

A socket keeps working on the network namespace it was opened in, also after its process has moved on; that
is how PID 1 of an instance makes a cable between its own namespace and the keeper's.
Layout of the messages: Linux ``include/uapi/linux/{netlink,rtnetlink,if_link}.h``.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_NEWROUTE = 16, 17, 18, 20, 24
_NLMSG_ERROR = 2
_REQUEST, _ACK, _EXCLUSIVE, _CREATE = 0x1, 0x4, 0x200, 0x400
_IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 3, 10, 18, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_GATEWAY, _RT_TABLE_MAIN, _RTPROT_BOOT, _RTN_UNICAST = 5, 254, 3, 1
_IFF_UP = 0x1
_HEADER = struct.Struct("=IHHII")


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", len(payload) + 4, kind) + payload + b"\0" * (-len(payload) % 4)


def _link(index: int = 0, *, up: bool = False) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, _IFF_UP * up, _IFF_UP * up)


def _name(name: str) -> bytes:
    return _attribute(_IFLA_IFNAME, name.encode() + b"\0")


class Netlink:
    """Requests to the network namespace that this process is in when the object is made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def add_bridge(self, name: str) -> None:
        """An Ethernet switch, switched on."""
        info = _attribute(_IFLA_LINKINFO, _attribute(_INFO_KIND, b"bridge"))
        self._request(_RTM_NEWLINK, _CREATE | _EXCLUSIVE, _link(up=True) + _name(name) + info)

    def add_cable(self, name: str, peer: str, peer_namespace: int, master: int = 0) -> None:
        """A veth pair: ``name`` here (a port of the bridge with index ``master``), ``peer`` there, off."""
        there = _link() + _name(peer) + _attribute(_IFLA_NET_NS_FD, struct.pack("=I", peer_namespace))
        data = _attribute(_INFO_DATA, _attribute(_VETH_PEER, there))
        info = _attribute(_IFLA_LINKINFO, _attribute(_INFO_KIND, b"veth") + data)
        port = _attribute(_IFLA_MASTER, struct.pack("=I", master)) if master else b""
        self._request(_RTM_NEWLINK, _CREATE | _EXCLUSIVE, _link(up=True) + _name(name) + info + port)

    def switch_on(self, index: int) -> None:
        """Set an interface up."""
        self._request(_RTM_NEWLINK, 0, _link(index, up=True))

    def join(self, index: int, bridge: int) -> None:
        """Make an interface a port of a bridge."""
        self._request(_RTM_NEWLINK, 0, _link(index) + _attribute(_IFLA_MASTER, struct.pack("=I", bridge)))

    def index(self, name: str) -> int:
        """Index of an interface in this object's namespace; OSError (ENODEV) if there is none."""
        answer = self._request(_RTM_GETLINK, 0, _link() + _name(name))
        (index,) = struct.unpack_from("=i", answer, _HEADER.size + 4)
        return int(index)

    def delete(self, name: str) -> None:
        """Remove an interface; OSError (ENODEV) if there is none of this name."""
        self._request(_RTM_DELLINK, 0, _link() + _name(name))

    def add_address(self, index: int, address: str, prefix: int) -> None:
        """Give an interface an IPv4 address."""
        network = ipaddress.ip_interface(f"{address}/{prefix}").network
        packed = socket.inet_aton(address)
        body = struct.pack("=BBBBi", socket.AF_INET, prefix, 0, 0, index)
        body += _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)
        body += _attribute(_IFA_BROADCAST, network.broadcast_address.packed)
        self._request(_RTM_NEWADDR, _CREATE | _EXCLUSIVE, body)

    def add_default_route(self, gateway: str) -> None:
        """Send everything that is not local to ``gateway``."""
        body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, 0, _RTN_UNICAST, 0)
        body += _attribute(_RTA_GATEWAY, socket.inet_aton(gateway))
        self._request(_RTM_NEWROUTE, _CREATE, body)

    def _request(self, kind: int, flags: int, body: bytes) -> bytes:
        """Send a request and wait for its acknowledgement; the message that came before that, if any."""
        self._sequence += 1
        length = _HEADER.size + len(body)
        header = _HEADER.pack(length, kind, _REQUEST | _ACK | flags, self._sequence, 0)
        self._socket.sendto(header + body, (0, 0))
        result = b""
        while True:
            answer = self._socket.recv(65536)
            _length, answer_kind, _flags, sequence, _port = _HEADER.unpack_from(answer)
            if answer_kind == _NLMSG_ERROR and sequence == self._sequence:
                (code,) = struct.unpack_from("=i", answer, _HEADER.size)
                if code:
                    raise OSError(-code, f"rtnetlink request {kind}: {os.strerror(-code)}")
                return result
            result = answer
