"""Reads network namespaces over netlink: the sole importer of pyroute2, and it is imported at first use only
(7 MiB and 60 ms that a node with our own guests does not need to be ready)."""

import asyncio
import ctypes
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from adaptor.errors import InvalidRequest, Unavailable
from adaptor.podnet import inspect
from adaptor.podnet.inspect import PodNetwork

# ioctl(2) on a namespace file, from linux/nsfs.h and linux/sched.h
_NS_GET_NSTYPE: Final = 0xB703
_CLONE_NEWNET: Final = 0x40000000
_NUD_PERMANENT: Final = 0x80
_IFF_UP: Final = 0x1
_IFF_LOOPBACK: Final = 0x8


class HostNetworks:
    """The pod networks of this host, by the paths that the container runtime gives."""

    def __init__(self, vxlan_port: int = 4789, vni: int = 555_000) -> None:
        """`vni`: what every VM is told until this worker builds its half of the tunnels, and numbers them."""
        self._vxlan_port = vxlan_port
        self._vni = vni

    def check(self, netns: str) -> None:
        """Raises InvalidRequest unless `netns` is a network namespace that can be opened."""
        try:
            descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidRequest(
                f"the pod's network namespace {netns} cannot be opened: {os.strerror(error.errno or 0)}. Does the "
                "adaptor see the host's /run/netns (hostPath mount with propagation)?"
            ) from error
        try:
            kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
        except OSError:
            kind = 0
        finally:
            os.close(descriptor)
        if kind != _CLONE_NEWNET:
            raise InvalidRequest(
                f"{netns} is not a network namespace: the file exists but nothing is mounted on it (its pod may be gone)"
            )

    async def describe(self, netns: str) -> PodNetwork:
        """What the pod's namespace holds.

        Raises: InvalidRequest when it cannot be read or is of a shape that is not supported.
        """
        self.check(netns)
        return await asyncio.to_thread(_describe, netns)

    async def apf(self, netns: str) -> dict[str, Any]:
        """The "pod-network" of upstream's apf.json."""
        network = await self.describe(netns)
        worker = await asyncio.to_thread(_worker_address)
        return inspect.apf(network, worker_address=worker, vxlan_port=self._vxlan_port, vxlan_id=self._vni)


def _describe(netns: str) -> PodNetwork:
    from pyroute2 import IPRoute

    def read() -> PodNetwork:
        _enter(netns)
        with IPRoute() as ip:
            return inspect.describe(netns, _links(ip), _addresses(ip), _routes(ip), _neighbours(ip))

    # A thread that ends afterwards, since it cannot come back from there. pyroute2's own way in is a forked child
    # that it ends by SIGTERM: the child has our signal handlers, and asyncio's then stops this daemon.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="netns") as thread:
        try:
            return thread.submit(read).result()
        except OSError as error:
            raise InvalidRequest(f"the pod's network namespace {netns} cannot be read: {error}") from error


def _enter(netns: str) -> None:
    """Move this thread, and only it, into the namespace (os.setns needs Python 3.12). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


def _links(ip: Any) -> list[dict[str, Any]]:
    return [
        {
            "index": link.get("index"),
            "name": link.get("ifname"),
            "address": link.get("address") or "",
            "mtu": link.get("mtu"),
            "up": bool(link.get("flags") & _IFF_UP),
            "loopback": bool(link.get("flags") & _IFF_LOOPBACK),
        }
        for link in ip.get_links()
    ]


def _addresses(ip: Any) -> list[dict[str, Any]]:
    return [
        {
            "index": row.get("index"),
            "address": row.get("address"),
            "prefix": row.get("prefixlen"),
            "family": row.get("family"),
        }
        for row in ip.get_addr()
    ]


def _routes(ip: Any) -> list[dict[str, Any]]:
    return [
        {
            "index": row.get("oif"),
            "destination": f"{row.get('dst')}/{row.get('dst_len')}" if row.get("dst") else "",
            "gateway": row.get("gateway") or "",
            "protocol": row.get("proto"),
            "scope": row.get("scope"),
            "table": row.get("table"),
            "family": row.get("family"),
        }
        for row in ip.get_routes()
    ]


def _neighbours(ip: Any) -> list[dict[str, Any]]:
    return [
        {
            "index": row.get("ifindex"),
            "address": row.get("dst"),
            "hardware_address": row.get("lladdr") or "",
            "permanent": bool(row.get("state") & _NUD_PERMANENT),
        }
        for row in ip.get_neighbours()
    ]


def _worker_address() -> str:
    """This host's address, with prefix length: that of the default route's interface, else the first outward one."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        outward = {link["index"] for link in _links(ip) if link["up"] and not link["loopback"]}
        preferred = [row["index"] for row in _routes(ip) if row["destination"] == "" and row["gateway"]]
        rows = [row for row in _addresses(ip) if row["family"] == inspect.FAMILY_IPV4 and row["index"] in outward]
    rows.sort(key=lambda row: row["index"] not in preferred)
    if not rows:
        raise Unavailable("this worker has no IPv4 address that a pod VM could reach")
    return f"{rows[0]['address']}/{rows[0]['prefix']}"
