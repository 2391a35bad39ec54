"""A pod's network as a value, read out of netlink rows; pure.

`describe` takes the rows that `netlink.dump` gives: plain dicts with the fields named below, whatever library read
them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from adaptor.errors import InvalidRequest

# rtnetlink's numbers
FAMILY_IPV4: Final = 2
_PROTOCOLS: Final = {2: "kernel", 3: "boot", 4: "static", 16: "dhcp"}
_SCOPES: Final = {253: "link"}
_MAIN_TABLE: Final = 254


@dataclass(frozen=True, slots=True)
class Route:
    """One IPv4 route of the pod; empty destination = default."""

    destination: str
    gateway: str
    device: str
    protocol: int
    scope: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour entry that will not be learnt again (permanent)."""

    address: str
    hardware_address: str
    device: str


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """What the pod's interface has."""

    interface: str
    address: str  # with prefix length
    hardware_address: str
    mtu: int
    routes: tuple[Route, ...]
    neighbours: tuple[Neighbour, ...]


def describe(
    netns: str,
    links: Sequence[Mapping[str, Any]],
    addresses: Sequence[Mapping[str, Any]],
    routes: Sequence[Mapping[str, Any]],
    neighbours: Sequence[Mapping[str, Any]],
) -> PodNetwork:
    """The network of the namespace at `netns`.

    links: {index, name, address, mtu, up, loopback}; addresses: {index, address, prefix, family};
    routes: {index, destination, gateway, protocol, scope, table, family}; neighbours: {index, address,
    hardware_address, permanent}.

    Raises: InvalidRequest when there is not exactly one interface with exactly one IPv4 address.
    """
    names = {link["index"]: link["name"] for link in links}
    outward = {link["index"]: link for link in links if not link["loopback"]}
    found = [row for row in addresses if row["index"] in outward and row["family"] == FAMILY_IPV4]
    if len(found) != 1:
        listed = ", ".join(f"{row['address']}/{row['prefix']} on {names[row['index']]}" for row in found) or "none"
        raise InvalidRequest(
            f"the pod's network namespace {netns} must have exactly one IPv4 address for this pod VM image, it has: "
            f"{listed}. Is the CNI plugin done, and does it give each pod one interface?"
        )
    link = outward[found[0]["index"]]
    return PodNetwork(
        interface=link["name"],
        address=f"{found[0]['address']}/{found[0]['prefix']}",
        hardware_address=link["address"],
        mtu=link["mtu"],
        routes=tuple(
            Route(row["destination"], row["gateway"], names.get(row["index"], ""), row["protocol"], row["scope"])
            for row in routes
            if row["family"] == FAMILY_IPV4 and row["table"] == _MAIN_TABLE and row["index"] == link["index"]
        ),
        neighbours=tuple(
            Neighbour(row["address"], row["hardware_address"], names.get(row["index"], ""))
            for row in neighbours
            if row["permanent"] and row["index"] == link["index"]
        ),
    )


def apf(network: PodNetwork, *, worker_address: str, vxlan_port: int, vxlan_id: int) -> dict[str, Any]:
    """apf.json's "pod-network" as stock upstream images read it.

    Their parser takes words for protocol and scope, refuses those it does not know, and takes absence for boot and
    universe; it deletes the connected route that its kernel adds, so that one must be listed.
    """
    return {
        "podip": network.address,
        "pod-hw-addr": network.hardware_address,
        "interface": network.interface,
        "worker-node-ip": worker_address,
        "tunnel-type": "vxlan",
        "routes": [_apf_route(route) for route in network.routes],
        "neighbors": [
            {"ip": n.address, "hw-addr": n.hardware_address, "dev": n.device, "state": "permanent"}
            for n in network.neighbours
        ],
        "mtu": network.mtu,
        "index": 0,
        "vxlan-port": vxlan_port,
        "vxlan-id": vxlan_id,
        "dedicated": False,
    }


def _apf_route(route: Route) -> dict[str, str]:
    written = {"dst": route.destination or "0.0.0.0/0", "gw": route.gateway, "dev": route.device}
    if word := _PROTOCOLS.get(route.protocol):
        written["protocol"] = word
    if word := _SCOPES.get(route.scope):
        written["scope"] = word
    return written
