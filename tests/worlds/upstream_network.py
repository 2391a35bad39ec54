"""The pod's network as a stock image makes it of apf.json's "pod-network", step for step and as particular as it.

    VXLAN made in the VM's namespace ─► moved to podns, renamed, MAC, MTU ≤ 1450, address, up
        ─► the kernel's own route out ─► routes without a gateway, routes with one ─► neighbours

Left out: its iptables rules, which only spare conntrack work, and the external network.
"""

import errno
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from adaptor.demo import netns
from adaptor.protos.agent_pb2 import CreateContainerRequest

PODNS: Final = Path("/run/netns/podns")
_DEVICE: Final = "vxlan0"
_MTU: Final = 1450  # never more, whatever the worker says
_PROTOCOLS: Final = {"": 3, "boot": 3, "kernel": 2, "static": 4}
_SCOPES: Final = {"": 0, "universe": 0, "link": 253}
_PERMANENT: Final = 0x80


def apply(network: Mapping[str, Any]) -> None:
    """Make it, once, in a VM that has no podns yet. Raises OSError and ValueError where the image would give up."""
    if network["tunnel-type"] != "vxlan":
        raise ValueError(f"unknown tunnel type {network['tunnel-type']!r}")
    address, worker = IPv4Interface(network["podip"]), IPv4Interface(network["worker-node-ip"])
    PODNS.parent.mkdir(parents=True, exist_ok=True)
    netns.make(PODNS)
    _make_device(network, worker)
    netns.visit(str(PODNS), lambda: _set_up(network, address))


def join(payload: bytes) -> bytes:
    """CreateContainer as the forwarder passes it on: the container's network is podns."""
    request = CreateContainerRequest.FromString(payload)
    request.oci.linux.namespaces.add(type="network", path=str(PODNS))
    return request.SerializeToString()


def _make_device(network: Mapping[str, Any], worker: IPv4Interface) -> None:
    with _plain_errors(), IPRoute() as ip, PODNS.open() as podns:
        ip.link(
            "add",
            ifname=_DEVICE,
            kind="vxlan",
            vxlan_id=network["vxlan-id"],
            vxlan_port=network["vxlan-port"],
            vxlan_group=str(worker.ip),
            vxlan_learning=0,
        )
        ip.link("set", index=ip.link_lookup(ifname=_DEVICE)[0], net_ns_fd=podns.fileno())


def _set_up(network: Mapping[str, Any], address: IPv4Interface) -> None:
    name = network["interface"]
    with _plain_errors(), IPRoute() as ip:
        index = ip.link_lookup(ifname=_DEVICE)[0]
        ip.link("set", index=index, ifname=name)
        ip.link("set", index=index, address=network["pod-hw-addr"])
        ip.link("set", index=index, mtu=min(network["mtu"], _MTU))
        ip.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
        for each in (1, index):
            ip.link("set", index=each, state="up")
        if address.network.prefixlen < 32:
            ip.route("del", dst=str(address.network), oif=index, scope=_SCOPES["link"], proto=_PROTOCOLS["kernel"])
        for route in sorted(network["routes"] or (), key=lambda route: bool(route.get("gw"))):
            _add_route(ip, route)
        for each in network["neighbors"] or ():
            device = ip.link_lookup(ifname=each["dev"])[0]
            ip.neigh("add", dst=each["ip"], lladdr=each["hw-addr"], ifindex=device, state=_PERMANENT)


def _add_route(ip: IPRoute, route: Mapping[str, str]) -> None:
    """It knows destination, gateway, device, protocol and scope, and these words."""
    if unknown := set(route) - {"dst", "gw", "dev", "protocol", "scope"}:
        raise ValueError(f"a route has what the image does not know: {unknown}")
    scope = _SCOPES[route.get("scope", "")] if route.get("gw") else _SCOPES["link"]
    where = {"gateway": route["gw"]} if route.get("gw") else {}
    if route.get("dev"):
        where["oif"] = ip.link_lookup(ifname=route["dev"])[0]
    ip.route(
        "add",
        family=socket.AF_INET,
        dst=route["dst"],
        proto=_PROTOCOLS[route.get("protocol", "")],
        scope=scope,
        **where,
    )


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Netlink's refusals as OSError."""
    try:
        yield
    except NetlinkError as error:
        raise OSError(
            error.code, f"the pod's network: {os.strerror(error.code)} ({errno.errorcode[error.code]})"
        ) from error
