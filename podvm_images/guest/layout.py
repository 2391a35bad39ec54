"""What the pod's namespace in this VM must hold: the operations that make it so, and what must be found afterwards; pure.

    GuestPlan ─check─► fit (the MTU that our own path leaves) ─┬─ operations ──► network does them
                                                               └─ wanted ──┐
                                       what the kernel has then ──► found ─┴─ differences: none, or the VM is spent

Addresses get no route of the kernel's own, so that the routes are the plan's and no others, whatever these are.
"""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from adaptor.errors import Code, InvalidRequest, StatusError
from adaptor.podnet import vxlan
from adaptor.podnet.plan import GuestPlan, Interface, PlanFault, Route, fitted

# rtnetlink's numbers
MAIN_TABLE: Final = 254
FAMILY: Final = {4: 2, 6: 10}
ON_LINK: Final = 0x4  # RTNH_F_ONLINK
PERMANENT: Final = 0x80  # NUD_PERMANENT
_NODAD: Final = 0x02  # nobody else has the address: the worker's namespace has it, and is silent
_NO_PREFIX_ROUTE: Final = 0x200
_METRIC_V6: Final = 1024  # what the kernel makes of an IPv6 route without one


@dataclass(frozen=True, slots=True)
class Path:
    """How packets go from this VM to the worker."""

    device: str
    source: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One netlink request in the pod's namespace; `says` completes "cannot ..."."""

    kind: str  # pyroute2's name of it: link, addr, route, neigh
    interface: str
    says: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


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
        yield Operation("link", interface.name, f"bring {interface.name} up", {"state": "up"})
        # A packet's source is the first that fits; the kernel puts a new one last with IPv4, and first with IPv6.
        told = list(addresses(interface))
        for own, prefix, peer in (*(a for a in told if ":" not in a[0]), *(a for a in reversed(told) if ":" in a[0])):
            yield _address(interface.name, own, prefix, peer)
        for neighbour in interface.neighbours:
            yield Operation(
                "neigh",
                interface.name,
                f"make {neighbour.address} a neighbour at {interface.name}",
                {"dst": neighbour.address, "lladdr": neighbour.hardware_address, "state": PERMANENT,
                 "family": FAMILY[_family(neighbour.address)]},
            )  # fmt: skip
    routes = [(interface.name, route) for interface in interfaces for route in interface.routes]
    for name, route in sorted(routes, key=lambda each: bool(each[1].gateway)):
        yield Operation("route", name, f"add the route {route_text(route)} at {name}", _route(route))


def addresses(interface: Interface) -> Iterator[tuple[str, int, str]]:
    """Its own, the prefix's length, and the peer that the prefix belongs to then; empty: none."""
    peers = dict(peer.split("=", 1) for peer in interface.peers)
    for address in interface.addresses:
        own, _, prefix = address.partition("/")
        yield own, int(prefix), peers.get(own, "")


def _address(name: str, own: str, prefix: int, peer: str) -> Operation:
    arguments: dict[str, Any] = {
        "address": peer or own,
        "local": own,
        "prefixlen": prefix,
        "family": FAMILY[_family(own)],
        "flags": _NODAD | _NO_PREFIX_ROUTE,
    }
    return Operation("addr", name, f"give {name} the address {address_text(own, prefix, peer)}", arguments)


def _route(route: Route) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "family": FAMILY[route.family],
        "dst": route.destination or "default",
        "table": MAIN_TABLE,
        "scope": route.scope,
        "proto": route.protocol,
        "flags": ON_LINK if route.on_link else 0,
    }
    if route.gateway:
        family = _family(route.gateway)
        other = {"via": {"family": FAMILY[family], "addr": route.gateway}}
        arguments |= {"gateway": route.gateway} if family == route.family else other
    if route.source:
        arguments["prefsrc"] = route.source
    if route.metric:
        arguments["priority"] = route.metric
    if route.mtu:
        arguments["metrics"] = {"mtu": route.mtu}
    return arguments


# -- what must be found -----------------------------------------------------------------------------


def wanted(plan: GuestPlan, interfaces: Sequence[Interface], path: Path) -> dict[str, Any]:
    """By what it is, in people's words, as `network` reads it back."""
    state: dict[str, Any] = {"interfaces": {interface.name for interface in interfaces}}
    for vni, interface in zip(plan.vnis, interfaces, strict=True):
        name = interface.name
        state[f"{name}'s tunnel"] = tunnel_text(vni, plan.worker, path.source, plan.port)
        state[f"{name}'s MAC address"] = interface.hardware_address.lower()
        state[f"{name}'s MTU"] = interface.mtu
        state[f"{name}'s state"] = "up"
        state[f"{name}'s addresses"] = {address_text(own, prefix, peer) for own, prefix, peer in addresses(interface)}
        state[f"{name}'s routes"] = {route_text(route) for route in interface.routes}
        state[f"{name}'s neighbours"] = {
            neighbour_text(each.address, each.hardware_address) for each in interface.neighbours
        }
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


def tunnel_text(vni: int, remote: str, local: str, port: int) -> str:
    return f"VXLAN {vni} from {_canonical(local)} to {_canonical(remote)}, UDP {port}"


def address_text(address: str, prefix: int, peer: str) -> str:
    own = f"{_canonical(address)}/{prefix}"
    return f"{own} peer {_canonical(peer)}" if peer and _canonical(peer) != _canonical(address) else own


def neighbour_text(address: str, hardware_address: str) -> str:
    return f"{_canonical(address)} at {hardware_address.lower()}"


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
    return str(ipaddress.ip_address(address))


def _family(address: str) -> int:
    return ipaddress.ip_address(address).version
