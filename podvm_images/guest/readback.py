"""What the kernel has in the pod's namespace, in the words of `layout.wanted`."""

import socket
from collections.abc import Iterator
from typing import Any, Final

from adaptor.podnet.plan import Route
from podvm_images.guest import layout

_IFF_UP: Final = 0x1
_IFF_LOOPBACK: Final = 0x8
# Devices that the kernel itself makes in every namespace where their modules are loaded. They are down, and stay so.
_KERNELS_OWN: Final = {
    "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0",
}  # fmt: skip


def outward(pod: Any) -> dict[int, Any]:
    """The devices besides loopback, by index. `pod` is an IPRoute of the namespace."""
    return {
        link.get("index"): link
        for link in pod.get_links()
        if not link.get("flags") & _IFF_LOOPBACK
        and (link.get("flags") & _IFF_UP or link.get("ifname") not in _KERNELS_OWN)
    }


def found(pod: Any) -> dict[str, Any]:
    """What the kernel has, as `layout.wanted` has it."""
    links = outward(pod)
    found: dict[str, Any] = {"interfaces": {link.get("ifname") for link in links.values()}}
    for index, link in links.items():
        name = link.get("ifname")
        found[f"{name}'s tunnel"] = _tunnel(link)
        found[f"{name}'s MAC address"] = link.get("address")
        found[f"{name}'s MTU"] = link.get("mtu")
        found[f"{name}'s state"] = "up" if link.get("flags") & _IFF_UP else "down"
        found[f"{name}'s addresses"] = {
            layout.address_text(local, row.get("prefixlen"), row.get("address"))
            for row in pod.get_addr(index=index)
            for local in [row.get("local") or row.get("address")]
        }
        found[f"{name}'s neighbours"] = {
            layout.neighbour_text(row.get("dst"), row.get("lladdr"))
            for row in pod.get_neighbours(ifindex=index)
            if row.get("state") & layout.PERMANENT
        }
        found[f"{name}'s routes"] = set()
    for index, route in _routes(pod):
        if index in links:
            found[f"{links[index].get('ifname')}'s routes"].add(layout.route_text(route))
    return found


def _tunnel(link: Any) -> str:
    attributes = dict(link.get("linkinfo", {}).get("attrs", ()))
    if attributes.get("IFLA_INFO_KIND") != "vxlan":
        return f"a {attributes.get('IFLA_INFO_KIND')}"
    data: dict[str, Any] = dict(attributes["IFLA_INFO_DATA"]["attrs"])
    told = layout.tunnel_text(
        data["IFLA_VXLAN_ID"],
        data.get("IFLA_VXLAN_GROUP") or data.get("IFLA_VXLAN_GROUP6", ""),
        data.get("IFLA_VXLAN_LOCAL") or data.get("IFLA_VXLAN_LOCAL6", ""),
        data["IFLA_VXLAN_PORT"],
    )
    return f"{told}, learning" if data.get("IFLA_VXLAN_LEARNING") else told


def _routes(pod: Any) -> Iterator[tuple[int, Route]]:
    """The main table's. Of an IPv6 destination with several gateways the kernel makes one route with as many hops."""
    for row in pod.get_routes(table=layout.MAIN_TABLE):
        hops = row.get("multipath") or [row]
        for hop in hops:
            attributes = dict(hop["attrs"])
            via = attributes.get("RTA_VIA") or {}
            metrics = dict((row.get("metrics") or {}).get("attrs", ()))
            yield (
                attributes.get("RTA_OIF") or hop.get("oif"),
                Route(
                    destination=f"{row.get('dst')}/{row.get('dst_len')}" if row.get("dst") else "",
                    family=4 if row.get("family") == socket.AF_INET else 6,
                    gateway=attributes.get("RTA_GATEWAY") or via.get("addr", ""),
                    source=row.get("prefsrc") or "",
                    scope=row.get("scope"),
                    protocol=row.get("proto"),
                    metric=row.get("priority") or 0,
                    on_link=bool(hop["flags"] & layout.ON_LINK),
                    mtu=metrics.get("RTAX_MTU") or 0,
                ),
            )
