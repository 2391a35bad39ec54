"""What this host's kernel says of the way to a VM: the address that it sends from, and the MTU."""

import ipaddress
import os
import socket

from adaptor.errors import Unavailable

_IP_MTU, _IPV6_MTU = 14, 24
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DO = 10, 23, 2


def address_of(peer: str) -> str:
    """The VM's address in its one usual form. Raises: Unavailable."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        raise Unavailable(
            f"the pod VM's address {peer!r} is not an IP address, which its network's tunnel needs"
        ) from None
    if address.is_unspecified or address.is_multicast or address.is_link_local:
        raise Unavailable(f"no tunnel can be made to the pod VM's address {peer}: it is not one host's on any path")
    return str(address)


def source(peer: str, port: int, interface: str | None) -> str:
    """Our address on the way to `peer`; by way of `interface` where that is given. Raises: Unavailable."""
    with _connected(peer, port, interface) as probe:
        return str(probe.getsockname()[0])


def mtu(peer: str, port: int, interface: str | None) -> int:
    """Of the path to `peer`: the route's or device's, or what the path has told since. Raises: Unavailable."""
    with _connected(peer, port, interface) as probe:
        if probe.family == socket.AF_INET:
            return probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        return probe.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)


def _connected(peer: str, port: int, interface: str | None) -> socket.socket:
    """A UDP socket: connecting it has the kernel choose a route, and sends nothing."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    probe = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        if interface:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        if family == socket.AF_INET:
            probe.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
        else:
            probe.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
        probe.connect((peer, port))
    except OSError as error:
        probe.close()
        by = f" by the interface {interface} ([network] host_interface)" if interface else ""
        raise Unavailable(
            f"this node has no way to the pod VM's address {peer}{by}: {os.strerror(error.errno or 0)}"
        ) from error
    return probe
