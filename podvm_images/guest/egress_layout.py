"""What leaves a pod from its own VM, and by which card: decided from plain values; pure.

    podns                                            the VM's own namespace
    rule 7071  marked: came by the tunnel ─► main    eth0 ── the cloud      (eth1: the second card)
    rule 7072  TABLE without its default              ▲ masquerade
    rule 7073  main without its default               │ egress_filter
    rule 7074  TABLE, which throws what stays inside  │
    rule 32766 main ─► tunnel                         │
       ppegress ════════════ veth ════════════════ ppegress

The pod's own routes stay as its CNI wrote them: what they name, and what stays inside, goes by the tunnel as ever. A
family leaves from the VM only where the pod has an address of it, the VM a way out, and `inside` a network: of a family
for which nobody said what is inside, everything is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network
from typing import Final

from adaptor import names
from adaptor.errors import InvalidRequest
from adaptor.podnet.plan import GuestPlan

DEVICE: Final = "ppegress"  # both ends of the pair
TABLE: Final = 7070  # of routes, in podns; and in the VM for the second card
PRIORITY: Final = 7071  # the first of our rules
MARK: Final = 0x4000_0000  # one bit, so that marks of programs in the pod live beside it
MAIN: Final = 254
# Both ends know each other without asking: nothing of the pod's, not even ARP, has to reach the VM itself.
HERE: Final = "02:70:70:00:00:01"
THERE: Final = "02:70:70:00:00:02"
GATEWAYS: Final[Mapping[int, str]] = {4: "169.254.70.1", 6: "fe80::7070"}  # names of the VM's end, which has no address
# Kinds of links that are no card; a simulated cloud's card is a veth.
_MADE: Final = frozenset(
    {"bridge", "dummy", "gre", "ifb", "ip6tnl", "ipip", "macvlan", "sit", "tun", "vlan", "vrf", "vxlan", "wireguard"}
)

# What a cloud answers at inside a VM, by who says so.
METADATA: Final[Mapping[str, str]] = {
    "169.254.169.254/32": "AWS, Azure, Google Cloud and most others: their guides to instance metadata",
    "fd00:ec2::254/128": "AWS over IPv6: EC2 user guide, instance metadata options (HttpProtocolIpv6)",
    "fd20:ce::254/128": "Google Cloud, VMs with IPv6 only: Compute Engine guide, metadata server",
    "100.100.100.200/32": "Alibaba Cloud: ECS guide, instance metadata",
}
# What never leaves by the VM, unless it is of METADATA and the pod may.
KEPT: Final[Mapping[str, str]] = {
    "169.254.0.0/16": "link-local (RFC 3927); among them metadata, ECS's 169.254.170.2, EKS's 169.254.170.23, and names"
    " and time of AWS at .169.253 and .169.123; a cluster's NodeLocal DNS lives here too, by the tunnel",
    "168.63.129.16/32": "Azure's WireServer: Azure guide, 'What is IP address 168.63.129.16'",
    "100.100.100.200/32": "Alibaba Cloud, as above",
    "192.0.0.192/32": "Oracle Cloud's older metadata address (RFC 7600's block)",
    "224.0.0.0/3": "multicast and reserved",
    "fe80::/10": "link-local",
    "fd00:ec2::/32": "AWS's own services over IPv6: metadata ::254, names ::253, time ::123, EKS ::23",
    "fd20:ce::254/128": "Google Cloud, as above",
    "ff00::/8": "multicast",
}


@dataclass(frozen=True, slots=True)
class Card:
    """A network interface of the VM itself, with the gateway of its default route; empty: the route has none."""

    index: int
    name: str
    mtu: int
    gateway: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A link as netlink lists it; `kind` is empty for hardware."""

    index: int
    name: str
    mtu: int
    kind: str = ""
    loopback: bool = False


@dataclass(frozen=True, slots=True)
class Default:
    """A default route of any table."""

    family: int  # 4 | 6
    index: int
    gateway: str = ""
    metric: int = 0
    table: int = MAIN


@dataclass(frozen=True, slots=True)
class Way:
    """How one family of the pod leaves."""

    family: int
    addresses: tuple[str, ...]  # the pod's, without prefix length; the first is its source
    first: Card  # to metadata
    out: Card | None  # to everything else; None: through the worker, as ever
    kept: tuple[str, ...]  # networks that `out` is not for
    metadata: tuple[str, ...]  # networks that leave by `first`


def wanted(plan: GuestPlan) -> bool:
    """Whether anything is to leave from the VM."""
    return plan.egress is not None or plan.imds


def ways(plan: GuestPlan, links: Sequence[Link], defaults: Sequence[Default]) -> tuple[Way, ...]:
    """Everything that leaves from the VM. Raises: InvalidRequest when nothing can, although the plan wants it."""
    found = tuple(way for family in (4, 6) if (way := _way(family, plan, links, defaults)) is not None)
    if plan.egress is not None and not any(way.out for way in found):
        raise InvalidRequest(_no_way_out(plan, links, defaults))
    if plan.imds and not any(way.metadata for way in found):
        raise InvalidRequest(
            "the pod may ask its VM's metadata service, but there is no way to it: the pod has no address of a family "
            f"for which this VM has a default route ({_shown(links, defaults)})"
        )
    return found


def cards(way: Way) -> Iterator[Card]:
    """Those that it leaves by."""
    if way.metadata:
        yield way.first
    if way.out is not None:
        yield way.out


def mtu(found: Sequence[Way]) -> int:
    """Of the pair: no more than any card that it leads to."""
    return min(card.mtu for way in found for card in cards(way))


def told(way: Way) -> str:
    """For the log."""
    out = [f"IPv{way.family} by {way.out.name}"] if way.out else []
    return ", ".join([*out, *([f"{', '.join(way.metadata)} by {way.first.name}"] if way.metadata else [])])


def _way(family: int, plan: GuestPlan, links: Sequence[Link], defaults: Sequence[Default]) -> Way | None:
    addresses = tuple(_addresses(family, plan))
    first = _first(family, links, defaults)
    if not addresses or first is None:
        return None
    inside = tuple(_of(family, plan.egress.inside)) if plan.egress else ()
    out = None
    if plan.egress is not None and inside:
        out = _second(family, links, defaults) if plan.egress.nic else first
    metadata = tuple(_of(family, METADATA)) if plan.imds else ()
    if out is None and not metadata:
        return None
    return Way(family, addresses, first, out, (*inside, *_of(family, KEPT)), metadata)


def _addresses(family: int, plan: GuestPlan) -> Iterator[str]:
    """The pod's, link-local ones aside."""
    for interface in plan.interfaces:
        for text in interface.addresses:
            address = ip_interface(text).ip
            if address.version == family and not address.is_link_local:
                yield str(address)


def _of(family: int, networks: Sequence[str] | Mapping[str, str]) -> Iterator[str]:
    return (network for network in networks if ip_network(network).version == family)


def _first(family: int, links: Sequence[Link], defaults: Sequence[Default]) -> Card | None:
    """The card that the VM's own traffic takes, that of IPv4 before that of IPv6; None where it has none of `family`."""
    cards = {link.index: link for link in links if _is_card(link)}
    routes = [each for each in defaults if each.table == MAIN and each.index in cards]
    routes.sort(key=lambda each: (each.family, each.metric, each.index))
    mine = [each for each in routes if each.index == routes[0].index and each.family == family]
    return _card(cards[mine[0].index], mine[0]) if mine else None


def _second(family: int, links: Sequence[Link], defaults: Sequence[Default]) -> Card | None:
    """The first card besides that, with a default route of its own in whichever table."""
    spare = {link.index: link for link in _spare(links, defaults)}
    routes = [each for each in defaults if each.family == family and each.index in spare]
    routes.sort(key=lambda each: (each.index, each.metric))
    return _card(spare[routes[0].index], routes[0]) if routes else None


def _spare(links: Sequence[Link], defaults: Sequence[Default]) -> list[Link]:
    taken = {card.index for family in (4, 6) if (card := _first(family, links, defaults)) is not None}
    return [link for link in links if _is_card(link) and link.index not in taken]


def _is_card(link: Link) -> bool:
    ours = link.name in (DEVICE, names.WIREGUARD_DEVICE)
    return not (link.loopback or ours or link.kind in _MADE)


def _card(link: Link, route: Default) -> Card:
    return Card(link.index, link.name, link.mtu, route.gateway)


def _no_way_out(plan: GuestPlan, links: Sequence[Link], defaults: Sequence[Default]) -> str:
    assert plan.egress is not None, "asked for"
    spare = _spare(links, defaults)
    if plan.egress.nic and not spare:
        return (
            "the pod's outside traffic is to leave by the VM's second network card (external_network = \"nic\"), and this "
            f"VM has none ({_shown(links, defaults)}): have the cloud give one (aws.secondary_interface = true), or set "
            'external_network = "vm"'
        )
    if plan.egress.nic and not any(each.index in {link.index for link in spare} for each in defaults):
        return (
            f"the VM's second network card ({', '.join(link.name for link in spare)}) has no gateway: DHCP in the pod VM "
            "image must configure it, with a default route (of a higher metric than the first card's, or in a table of "
            "its own)"
        )
    return (
        "the pod's outside traffic is to leave from the VM, but the families do not meet: the pod has "
        f"{', '.join(each for family in (4, 6) for each in _addresses(family, plan)) or 'no address'}, pod_subnets are "
        f"{', '.join(plan.egress.inside) or 'none'}, and the VM has {_shown(links, defaults)}"
    )


def _shown(links: Sequence[Link], defaults: Sequence[Default]) -> str:
    cards = {link.index: link.name for link in links if _is_card(link)}
    shown = sorted({f"default of IPv{each.family} by {cards[each.index]}" for each in defaults if each.index in cards})
    return "; ".join((", ".join(cards.values()) or "no network card", *shown))
