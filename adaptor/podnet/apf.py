"""A pod's network as stock upstream images want it written: apf.json's "pod-network"; pure."""

import ipaddress
from collections.abc import Mapping
from typing import Any, Final

from adaptor.errors import InvalidRequest
from adaptor.podnet.plan import Egress, Interface, PodNetwork, Route

# Words that their parser knows, for rtnetlink's numbers; it takes absence for boot and universe.
_PROTOCOLS: Final = {2: "kernel", 3: "boot", 4: "static", 16: "dhcp"}
_SCOPES: Final = {253: "link"}
_OWN: Final = "The image of our own guest carries it (guest.flavor = own)."


def pod_network(network: PodNetwork, *, worker_address: str, vxlan_port: int, vxlan_id: int) -> dict[str, Any]:
    """The VM's half of a tunnel; `worker_address` has a prefix length.

    Their parser refuses words that it does not know; it deletes the connected route that its kernel adds, so that one
    is listed like any other. An IPv6 link-local address is not said: their kernel makes it from the MAC.

    Raises: InvalidRequest for a network that their form has no place for.
    """
    interface, address = _only(network)
    return {
        "podip": address,
        "pod-hw-addr": interface.hardware_address,
        "interface": interface.name,
        "worker-node-ip": worker_address,
        "tunnel-type": "vxlan",
        "routes": [_route(route, interface.name) for route in interface.routes if route.family == 4],
        "neighbors": [
            {"ip": n.address, "hw-addr": n.hardware_address, "dev": interface.name, "state": "permanent"}
            for n in interface.neighbours
            if ":" not in n.address
        ],
        "mtu": interface.mtu,
        "index": 0,
        "vxlan-port": vxlan_port,
        "vxlan-id": vxlan_id,
        "dedicated": False,
    }


def leaving(written: Mapping[str, Any], egress: Egress | None) -> dict[str, Any]:
    """`written` by `pod_network`, with outside traffic leaving by the VM's second card: theirs moves it into the pod's
    namespace, where it becomes the default; what stays inside must be routed by the old one.

    Raises: InvalidRequest for a pod without a gateway that could be named.
    """
    if egress is None:
        return dict(written)
    default = next((route for route in written["routes"] if route["dst"] == "0.0.0.0/0" and route["gw"]), None)
    if default is None:
        raise InvalidRequest(
            "a stock pod VM image can keep the cluster's networks in the tunnel only by a gateway, and this pod's network "
            f"has no default route with one: external_network cannot be had here. {_OWN}"
        )
    listed = {route["dst"] for route in written["routes"]}
    inside = [
        {"dst": network, "gw": default["gw"], "dev": default["dev"]}
        for network in egress.inside
        if ":" not in network and network not in listed
    ]
    return {**written, "routes": [*written["routes"], *inside], "external-net-via-pod-vm": True}


def _only(network: PodNetwork) -> tuple[Interface, str]:
    """The one interface and the one address that their form has a place for."""
    reachable = [
        (interface.name, address)
        for interface in network.interfaces
        for address in interface.addresses
        if not ipaddress.ip_interface(address).is_link_local or "." in address
    ]
    listed = ", ".join(f"{address} on {name}" for name, address in reachable) or "none"
    if len(reachable) != 1 or ":" in reachable[0][1]:
        raise InvalidRequest(
            f"a stock pod VM image can be told exactly one IPv4 address, this pod's network has: {listed}. {_OWN}"
        )
    if len(network.interfaces) != 1:
        raise InvalidRequest(
            "a stock pod VM image can be told exactly one interface, this pod's network has: "
            f"{', '.join(interface.name for interface in network.interfaces)}. {_OWN}"
        )
    (interface,) = network.interfaces
    if interface.peers:
        raise InvalidRequest(
            f"a stock pod VM image cannot be told that an address has a peer ({interface.peers[0]} on "
            f"{interface.name}). {_OWN}"
        )
    for route in interface.routes:
        if route.family == 4 and (":" in route.gateway or route.on_link):
            raise InvalidRequest(
                f"a stock pod VM image cannot be told of the route {route.destination or 'default'} by way of "
                f"{route.gateway}, which no other route leads to. {_OWN}"
            )
        if route.family == 6 and not route.destination.startswith("fe80:"):
            raise InvalidRequest(
                f"a stock pod VM image knows no IPv6, this pod's network has the route "
                f"{route.destination or 'default (IPv6)'}. {_OWN}"
            )
    return interface, reachable[0][1]


def _route(route: Route, device: str) -> dict[str, str]:
    written = {"dst": route.destination or "0.0.0.0/0", "gw": route.gateway, "dev": device}
    if word := _PROTOCOLS.get(route.protocol):
        written["protocol"] = word
    if word := _SCOPES.get(route.scope):
        written["scope"] = word
    return written
