"""What the pod's namespace in this VM must hold: the operations that make it so, and what must be found afterwards; pure.

    GuestPlan ─check─► fit (the MTU that our own path leaves) ─┬─ operations ──► network does them
                                                               └─ wanted ──┐
                                       what the kernel has then ──► found ─┴─ differences: none, or the VM is spent

Addresses get no route of the kernel's own, so that the routes are the plan's and no others, whatever these are.
"""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from adaptor.errors import Code, InvalidRequest, StatusError
from adaptor.podnet import vxlan
from adaptor.podnet.plan import GuestPlan, Interface, Neighbour, PlanFault, Route, fitted

_METRIC_V6: Final = 1024  # what the kernel makes of an IPv6 route without one


@dataclass(frozen=True, slots=True)
class Path:
    """How packets go from this VM to the worker."""

    device: str
    source: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Vxlan:
    """A tunnel's device, but for what every interface has."""

    vni: int
    remote: str
    local: str
    port: int  # UDP
    learning: bool = False  # peers from packets


@dataclass(frozen=True, slots=True)
class Up:
    """The interface is used from here on."""


@dataclass(frozen=True, slots=True)
class Address:
    """`prefix` is that of the peer's network, where there is a peer."""

    own: str
    prefix: int
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One request to the kernel, of an interface in the pod's namespace; `says` completes "cannot ..."."""

    interface: str
    says: str
    value: Up | Address | Neighbour | Route


def check(plan: GuestPlan) -> None:
    """Raises InvalidRequest for what no worker of ours would ask."""
    worker = ipaddress.ip_address(plan.worker)
    if worker.is_link_local:
        raise InvalidRequest(f"the worker's address {plan.worker} is link-local: it does not say by which interface")


def fit(plan: GuestPlan, path: Path) -> tuple[Interface, ...]:
    """The interfaces, none with a larger MTU than our path to the worker leaves.

    Raises: StatusError (FAILED_PRECONDITION) where that is too little for a family that the pod has.
    """
    left = vxlan.inner_mtu(path.mtu, _family(plan.worker))
    try:
        return tuple(fitted(interface, left) for interface in plan.interfaces)
    except PlanFault as fault:
        raise StatusError(Code.FAILED_PRECONDITION, f"by {path.device} (MTU {path.mtu}), {fault}") from None


def operations(interfaces: Sequence[Interface]) -> Iterator[Operation]:
    """What to do with the interfaces, made and down, in order: routes without a gateway first, for the others need
    them, whichever interface they go by."""
    for interface in interfaces:
        name = interface.name
        yield Operation(name, f"bring {name} up", Up())
        # A packet's source is the first that fits; the kernel puts a new one last with IPv4, and first with IPv6.
        told = list(addresses(interface))
        for address in (*(a for a in told if ":" not in a.own), *(a for a in reversed(told) if ":" in a.own)):
            yield Operation(name, f"give {name} the address {address_text(address)}", address)
        for neighbour in interface.neighbours:
            yield Operation(name, f"make {neighbour.address} a neighbour at {name}", neighbour)
    routes = [(interface.name, route) for interface in interfaces for route in interface.routes]
    for name, route in sorted(routes, key=lambda each: bool(each[1].gateway)):
        yield Operation(name, f"add the route {route_text(route)} at {name}", route)


def addresses(interface: Interface) -> Iterator[Address]:
    """The interface's, each with its peer."""
    peers = dict(peer.split("=", 1) for peer in interface.peers)
    for address in interface.addresses:
        own, _, prefix = address.partition("/")
        yield Address(own, int(prefix), peers.get(own, ""))


# -- what must be found -----------------------------------------------------------------------------


def wanted(plan: GuestPlan, interfaces: Sequence[Interface], path: Path) -> dict[str, Any]:
    """By what it is, in people's words, as `network` reads it back."""
    state: dict[str, Any] = {"interfaces": {interface.name for interface in interfaces}}
    for vni, interface in zip(plan.vnis, interfaces, strict=True):
        name = interface.name
        state[f"{name}'s tunnel"] = tunnel_text(Vxlan(vni, plan.worker, path.source, plan.port))
        state[f"{name}'s MAC address"] = interface.hardware_address.lower()
        state[f"{name}'s MTU"] = interface.mtu
        state[f"{name}'s state"] = "up"
        state[f"{name}'s addresses"] = {address_text(address) for address in addresses(interface)}
        state[f"{name}'s routes"] = {route_text(route) for route in interface.routes}
        state[f"{name}'s neighbours"] = {neighbour_text(neighbour) for neighbour in interface.neighbours}
    return state


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """A sentence for each thing that is not as wanted."""
    return [
        f"{what}: {_listed(found.get(what))} instead of {_listed(value)}"
        for what, value in wanted.items()
        if found.get(what) != value
    ]


def _listed(value: object) -> str:
    if isinstance(value, set):
        return ", ".join(sorted(value)) or "none"
    return "none" if value is None else str(value)


def tunnel_text(device: Vxlan) -> str:
    ends = f"from {_canonical(device.local)} to {_canonical(device.remote)}"
    return f"VXLAN {device.vni} {ends}, UDP {device.port}" + ", learning" * device.learning


def address_text(address: Address) -> str:
    own, peer = _canonical(address.own), address.peer and _canonical(address.peer)
    return f"{own}/{address.prefix}" + (f" peer {peer}" if peer not in ("", own) else "")


def neighbour_text(neighbour: Neighbour) -> str:
    return f"{_canonical(neighbour.address)} at {neighbour.hardware_address.lower()}"


def route_text(route: Route) -> str:
    """As the kernel tells it: with IPv6, scopes do not exist and a metric always does."""
    words = [
        str(ipaddress.ip_network(route.destination, strict=False))
        if route.destination
        else f"default IPv{route.family}"
    ]
    if route.gateway:
        words += ["via", _canonical(route.gateway)]
    if route.source:
        words += ["from", _canonical(route.source)]
    if route.family == 4 and route.scope:
        words.append(f"scope {route.scope}")
    metric = route.metric or (_METRIC_V6 if route.family == 6 else 0)
    words += [f"metric {metric}"] * bool(metric) + ["onlink"] * route.on_link + [f"mtu {route.mtu}"] * bool(route.mtu)
    return " ".join([*words, f"proto {route.protocol}"])


def _canonical(address: str) -> str:
    """One text for one address; empty where the kernel has none."""
    return str(ipaddress.ip_address(address)) if address else "none"


def _family(address: str) -> int:
    return ipaddress.ip_address(address).version
