"""A pod's network as a value, read out of netlink rows; pure.

`describe` takes what `netlink` reads of a namespace: plain dicts with the fields named below, whatever library read
them. What a VM cannot be given is refused here, before any money is spent; nothing is left out that the pod would miss.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

from adaptor import names
from adaptor.errors import InvalidRequest
from adaptor.podnet.plan import MOST_INTERFACES, Interface, Neighbour, PodNetwork, Route

# rtnetlink's numbers
MAIN_TABLE: Final = 254
_IFF_UP, _IFF_LOOPBACK, _IFF_NOARP = 0x1, 0x8, 0x80
_ARPHRD_ETHER: Final = 1
_IFA_F_TEMPORARY, _IFA_F_DADFAILED = 0x01, 0x08  # 0x01 is "secondary" with IPv4
_RTN_UNICAST: Final = 1
_RTN_WORDS: Final = {2: "local", 3: "broadcast", 4: "anycast", 5: "multicast", 6: "blackhole", 7: "unreachable",
                     8: "prohibit", 9: "throw", 10: "nat"}  # fmt: skip
_RTPROT_REDIRECT, _RTPROT_KERNEL = 1, 2
_RTNH_F_ONLINK: Final = 0x4
_RTM_F_CLONED: Final = 0x200
_NUD_PERMANENT: Final = 0x80
_NTF_PROXY: Final = 0x8
_NO_ADDRESS: Final = ("", "00:00:00:00:00:00")
_OWN_RULES: Final = frozenset({(0, 255), (32766, MAIN_TABLE), (32767, 253)})  # every namespace begins with these
_INGRESS: Final = ("ingress", "clsact")


class LinkRow(TypedDict):
    """One device."""

    index: int
    name: str
    kind: str  # veth, macvlan, ipvlan, netkit, vxlan, ...; empty: hardware
    address: str  # hardware address; empty: none
    mtu: int
    flags: int  # IFF_*
    type: int  # ARPHRD_*


class AddressRow(TypedDict):
    """One address of a device."""

    index: int
    family: int  # 4 | 6
    address: str  # its own
    prefix: int
    peer: str  # the other end's, whose network `prefix` then gives; empty: none
    scope: int
    flags: int  # IFA_F_*


class RouteRow(TypedDict):
    """One route, of any table and kind."""

    family: int  # 4 | 6
    table: int
    type: int  # RTN_*
    index: int  # of its device; 0: none
    destination: str  # with prefix length; empty: default
    origin: str  # the packets' source network, where the route is for those alone (IPv6); empty: any
    gateway: str  # empty: none; of the other family where the kernel was told so (`via inet6`)
    source: str  # preferred; empty: none
    scope: int
    protocol: int
    metric: int
    flags: int  # RTNH_F_* and RTM_F_*
    tos: int
    mtu: int  # 0: none of its own
    hops: int  # next hops of a multipath route; 0: an ordinary route
    encapsulated: bool  # a lightweight tunnel (MPLS, segment routing)


class NeighbourRow(TypedDict):
    """One entry of a neighbour table."""

    index: int
    family: int  # 4 | 6
    address: str
    hardware_address: str  # empty: none
    state: int  # NUD_*
    flags: int  # NTF_*


class RuleRow(TypedDict):
    """One rule of policy routing."""

    family: int  # 4 | 6
    priority: int
    table: int
    text: str  # for people: "from 10.0.0.5/32 to all fwmark 0x1"


class QdiscRow(TypedDict):
    """One queueing discipline."""

    index: int
    kind: str
    handle: int
    parent: int


@dataclass(frozen=True, slots=True)
class Rows:
    """A namespace, in the order in which the kernel tells it."""

    links: Sequence[LinkRow] = ()
    addresses: Sequence[AddressRow] = ()
    routes: Sequence[RouteRow] = ()
    neighbours: Sequence[NeighbourRow] = ()
    rules: Sequence[RuleRow] = ()
    qdiscs: Sequence[QdiscRow] = ()
    filters: Sequence[str] = ()  # tables of the packet filter that have rules, for people


def describe(netns: str, rows: Rows, ours: Collection[str] = ()) -> PodNetwork:
    """The network of the pod whose namespace, at the path `netns`, has `rows`.

    Interfaces, addresses and routes are in the kernel's order: the first address is the one that a packet's source is
    taken from. `ours` names the devices of this pod's tunnels where they exist already; they are not described.

    Raises: InvalidRequest for what a VM cannot be given.
    """
    links = [link for link in rows.links if link["name"] not in ours]
    try:
        if not ours:
            _refuse_another_tunnel(links, rows.qdiscs)
        _refuse_rules(rows.rules)
        _refuse_filters(rows.filters)
        carried = _carried(links, rows.addresses)
        _refuse_loopback_addresses(links, rows.addresses)
        routes = dict(_routes(rows.routes, {link["index"]: link for link in links}, carried))
        interfaces = tuple(
            Interface(
                name=link["name"],
                hardware_address=link["address"],
                mtu=link["mtu"],
                addresses=tuple(f"{row['address']}/{row['prefix']}" for row in found),
                routes=tuple(route for at, route in routes.items() if rows.routes[at]["index"] == index),
                neighbours=_neighbours(index, rows.neighbours),
                peers=tuple(f"{row['address']}={row['peer']}" for row in found if row["peer"]),
            )
            for index, (link, found) in carried.items()
        )
        _refuse_useless(interfaces)
    except _Refused as refused:
        raise InvalidRequest(f"the pod's network namespace {netns} {refused}") from None
    return PodNetwork(interfaces)


class _Refused(Exception):
    """What the namespace has or lacks: the end of a sentence that begins with it."""


_Carried = Mapping[int, tuple[LinkRow, Sequence[AddressRow]]]


def _carried(links: Sequence[LinkRow], addresses: Sequence[AddressRow]) -> _Carried:
    """By index, the devices that get a tunnel, with their addresses. Those that are down are left out: they carry
    nothing in an ordinary pod either (every namespace has some, such as tunl0 and sit0, where their modules are
    loaded)."""
    found: dict[int, tuple[LinkRow, Sequence[AddressRow]]] = {}
    for link in links:
        if link["flags"] & _IFF_LOOPBACK or not link["flags"] & _IFF_UP:
            continue
        kept = [row for row in addresses if row["index"] == link["index"] and _lasts(row)]
        if link["type"] != _ARPHRD_ETHER or link["flags"] & _IFF_NOARP or link["address"] in _NO_ADDRESS:
            if not kept:
                continue  # nothing comes or goes by it
            raise _Refused(
                f"has {_listed(kept)} on {link['name']}, which is not an Ethernet interface with addresses that are "
                f"resolved ({link['kind'] or 'hardware'}, such as netkit or ipvlan in L3 mode): a VXLAN cannot carry "
                "it. Have the CNI plugin give pods a veth, macvlan or ipvlan in L2 mode"
            )
        found[link["index"]] = (link, kept)
    if not found:
        seen = ", ".join(f"{link['name']} ({_state(link)})" for link in links) or "nothing"
        raise _Refused(f"has no outward interface that is up, it has: {seen}. Is the CNI plugin done?")
    if len(found) > MOST_INTERFACES:
        raise _Refused(f"has {len(found)} interfaces, {MOST_INTERFACES} can be carried")
    return found


def _state(link: LinkRow) -> str:
    return "loopback" if link["flags"] & _IFF_LOOPBACK else "up" if link["flags"] & _IFF_UP else "down"


def _lasts(row: AddressRow) -> bool:
    """What a router or DHCP gave for a time is carried as if it were to stay: the VM believes nobody on the network.
    Temporary addresses are the kernel's own doing, and one that failed duplicate detection is not in use."""
    return row["family"] == 4 or not row["flags"] & (_IFA_F_TEMPORARY | _IFA_F_DADFAILED)


def _listed(rows: Sequence[AddressRow]) -> str:
    return ", ".join(f"{row['address']}/{row['prefix']}" for row in rows)


def _routes(rows: Sequence[RouteRow], links: Mapping[int, LinkRow], carried: _Carried) -> Iterator[tuple[int, Route]]:
    """The main table's, each with its place in `rows`; those that a router advertised too, as with addresses above. The
    local table is left to the VM's kernel, which makes it from the addresses; what it learnt of single destinations
    (redirects, path MTUs) is learnt again."""
    for at, row in enumerate(rows):
        if row["table"] != MAIN_TABLE or row["flags"] & _RTM_F_CLONED or row["protocol"] == _RTPROT_REDIRECT:
            continue
        if row["index"] not in carried and row["protocol"] == _RTPROT_KERNEL:
            continue  # loopback's own
        _refuse_odd(row, links, carried)
        yield (
            at,
            Route(
                destination=row["destination"],
                family=row["family"],
                gateway=row["gateway"],
                source=row["source"],
                scope=row["scope"],
                protocol=row["protocol"],
                metric=row["metric"],
                on_link=bool(row["flags"] & _RTNH_F_ONLINK),
                mtu=row["mtu"],
            ),
        )


def _refuse_odd(row: RouteRow, links: Mapping[int, LinkRow], carried: _Carried) -> None:
    """Such routes are no CNI plugin's that we know. To leave one out would send packets elsewhere than in an ordinary
    pod, perhaps where somebody meant them not to go: so the pod is told."""
    device = links[row["index"]]["name"] if row["index"] in links else "no device"
    odd = ""
    if row["type"] != _RTN_UNICAST:
        odd = f"of the kind {_RTN_WORDS.get(row['type'], row['type'])}"
    elif row["hops"]:
        odd = f"with {row['hops']} next hops"
    elif row["encapsulated"]:
        odd = "with an encapsulation"
    elif row["tos"] or row["origin"]:
        odd = f"for packets from {row['origin']}" if row["origin"] else f"for the type of service {row['tos']}"
    elif row["index"] not in carried:
        odd = f"by {device}, which leads nowhere"
    if odd:
        raise _Refused(
            f"has the route {row['destination'] or 'default'}, {odd}: only plain routes of the pod's interfaces are "
            "carried to its VM. Take it out of the CNI plugin's configuration"
        )


def _neighbours(index: int, rows: Sequence[NeighbourRow]) -> tuple[Neighbour, ...]:
    """Those that will not be learnt again."""
    return tuple(
        Neighbour(row["address"], row["hardware_address"])
        for row in rows
        if row["index"] == index
        and row["state"] & _NUD_PERMANENT
        and not row["flags"] & _NTF_PROXY
        and row["hardware_address"]
    )


def _refuse_another_tunnel(links: Sequence[LinkRow], qdiscs: Sequence[QdiscRow]) -> None:
    """Whose ever they are: two redirects of one interface would each have a part of its packets."""
    redirected = {row["index"] for row in qdiscs if row["kind"] in _INGRESS}
    for link in links:
        if link["name"].removeprefix(names.TUNNEL_DEVICE).isdecimal() and link["name"].startswith(names.TUNNEL_DEVICE):
            raise _Refused(
                f"has a device {link['name']} already ({link['kind'] or 'hardware'}), which is what this pod's tunnel "
                "would be called: does another cloud adaptor serve this pod, or has one left it behind?"
            )
        if link["index"] in redirected and link["flags"] & _IFF_UP:
            raise _Refused(
                f"has filters for what comes in at {link['name']} already (qdisc ingress or clsact): another program "
                "redirects its packets, and the tunnel must"
            )


def _refuse_rules(rules: Sequence[RuleRow]) -> None:
    """Rules choose among tables; only the main one is carried. The pod would answer by the wrong interface, or get
    around what the rule was for (a mesh's proxy)."""
    other = [f"{row['priority']}: {row['text']} lookup {row['table']}" for row in rules
             if (row["priority"], row["table"]) not in _OWN_RULES]  # fmt: skip
    if other:
        raise _Refused(
            f"has rules of policy routing, which a VM is not given: {'; '.join(other[:5])}. They come from a CNI "
            "plugin in the chain (source based routing, a service mesh): leave it out for pods with this runtime class"
        )


def _refuse_filters(filters: Sequence[str]) -> None:
    """They see none of the packets that pass between the tunnel and the interface, and a VM is not given them: the pod
    would get around what they are for."""
    if filters:
        raise _Refused(
            f"has rules of the packet filter, which a VM is not given: {', '.join(filters)}. A CNI plugin in the chain "
            "puts them there (a service mesh): leave it out for pods with this runtime class. An init container that "
            "makes them in the pod does so in its VM"
        )


def _refuse_loopback_addresses(links: Sequence[LinkRow], addresses: Sequence[AddressRow]) -> None:
    loopback = {link["index"] for link in links if link["flags"] & _IFF_LOOPBACK}
    for row in addresses:
        if row["index"] in loopback and row["address"] != "::1" and not row["address"].startswith("127."):
            raise _Refused(
                f"has the address {row['address']}/{row['prefix']} on its loopback, where no tunnel brings packets for "
                "it: have the CNI plugin give it to an interface"
            )


def _refuse_useless(interfaces: Sequence[Interface]) -> None:
    """An interface without an address may be meant so, where another has one (Multus); a network without routes is a
    CNI plugin's that is not done. A default route is not asked for: a network may be meant to lead nowhere else."""
    named = ", ".join(interface.name for interface in interfaces)
    if not any(not address.startswith("fe80:") for interface in interfaces for address in interface.addresses):
        raise _Refused(f"has no address on {named} that others could reach. Is the CNI plugin done?")
    if not any(not r.destination.startswith("fe80:") for interface in interfaces for r in interface.routes):
        raise _Refused(
            f"has addresses on {named}, but no route: not one packet could leave. Is the CNI plugin done, and is the "
            "interface's other end up?"
        )
