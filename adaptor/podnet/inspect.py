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
    """A neighbour entry that will not be learnt again (static)."""

    address: str
    hardware_address: str
    device: str
    state: int


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
    hardware_address, state, permanent}.

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
            Neighbour(row["address"], row["hardware_address"], names.get(row["index"], ""), row["state"])
            for row in neighbours
            if row["permanent"] and row["index"] == link["index"]
        ),
    )


def apf(network: PodNetwork, *, worker_address: str, vxlan_port: int, vxlan_id: int) -> dict[str, Any]:
    """apf.json's "pod-network" as stock upstream images read it."""
    return {
        "podip": network.address,
        "pod-hw-addr": network.hardware_address,
        "interface": network.interface,
        "worker-node-ip": worker_address,
        "tunnel-type": "vxlan",
        "routes": [
            {"dst": r.destination, "gw": r.gateway, "dev": r.device, "protocol": r.protocol, "scope": r.scope}
            for r in network.routes
        ],
        "neighbors": [
            {"ip": n.address, "hw-addr": n.hardware_address, "dev": n.device, "state": n.state}
            for n in network.neighbours
        ],
        "mtu": network.mtu,
        "index": 0,
        "vxlan-port": vxlan_port,
        "vxlan-id": vxlan_id,
        "dedicated": False,
    }
