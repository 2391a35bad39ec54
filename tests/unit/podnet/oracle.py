"""pyroute2's reading of a namespace: what `netlink` is held to."""

from typing import Any, Final

from adaptor.podnet.inspect import AddressRow, LinkRow, NeighbourRow, QdiscRow, RouteRow, Rows, RuleRow

_FAMILIES: Final = {2: 4, 10: 6}  # rtnetlink's number: ours. Multicast routing has more


def read(ip: Any) -> Rows:
    """The namespace that `ip` (an IPRoute) speaks to, in the form that `inspect` documents. Raises: OSError."""
    return Rows(_links(ip), _addresses(ip), _routes(ip), _neighbours(ip), _rules(ip), _qdiscs(ip))


def _links(ip: Any) -> list[LinkRow]:
    return [
        {
            "index": link.get("index"),
            "name": link.get("ifname"),
            "kind": link.get(("linkinfo", "kind")) or "",
            "address": link.get("address") or "",
            "mtu": link.get("mtu"),
            "flags": link.get("flags"),
            "type": link.get("ifi_type"),
        }
        for link in ip.get_links()
    ]


def _addresses(ip: Any) -> list[AddressRow]:
    """Of IPv4 the kernel always says both ends (the same where there is but one), of IPv6 only where they differ."""
    rows: list[AddressRow] = []
    for row in ip.get_addr():
        if not (family := _FAMILIES.get(row.get("family"), 0)):
            continue
        address, local = row.get("address") or row.get("local"), row.get("local") or row.get("address")
        rows.append(
            {
                "index": row.get("index"),
                "family": family,
                "address": local,
                "prefix": row.get("prefixlen"),
                "peer": address if address != local else "",
                "scope": row.get("scope"),
                "flags": row.get("flags"),
            }
        )
    return rows


def _routes(ip: Any) -> list[RouteRow]:
    return [
        {
            "family": _FAMILIES[row.get("family")],
            "table": row.get("table"),
            "type": row.get("type"),
            "index": row.get("oif") or 0,
            "destination": f"{row.get('dst')}/{row.get('dst_len')}" if row.get("dst_len") else "",
            "origin": f"{row.get('src')}/{row.get('src_len')}" if row.get("src_len") else "",
            "gateway": row.get("gateway") or (row.get("via") or {}).get("addr") or "",
            "source": row.get("prefsrc") or "",
            "scope": row.get("scope"),
            "protocol": row.get("proto"),
            "metric": row.get("priority") or 0,
            "flags": row.get("flags"),
            "tos": row.get("tos"),
            "mtu": row.get(("metrics", "mtu")) or 0,
            "hops": len(row.get("multipath") or ()),
            "encapsulated": row.get("encap") is not None,
        }
        for row in ip.get_routes()
        if row.get("family") in _FAMILIES
    ]


def _neighbours(ip: Any) -> list[NeighbourRow]:
    return [
        {
            "index": row.get("ifindex"),
            "family": _FAMILIES[row.get("family")],
            "address": row.get("dst"),
            "hardware_address": row.get("lladdr") or "",
            "state": row.get("state"),
            "flags": row.get("flags"),
        }
        for row in ip.get_neighbours()
        if row.get("family") in _FAMILIES
    ]


def _rules(ip: Any) -> list[RuleRow]:
    return [
        {
            "family": _FAMILIES[row.get("family")],
            "priority": row.get("priority") or 0,
            "table": row.get("table"),
            "text": _rule_text(row),
        }
        for row in ip.get_rules()
        if row.get("family") in _FAMILIES
    ]


def _rule_text(row: Any) -> str:
    words = [f"from {row.get('src')}/{row.get('src_len')}" if row.get("src_len") else "from all"]
    words += [f"to {row.get('dst')}/{row.get('dst_len')}"] if row.get("dst_len") else []
    words += [f"fwmark {row.get('fwmark'):#x}"] if row.get("fwmark") else []
    words += [f"iif {row.get('iifname')}"] if row.get("iifname") else []
    words += [f"oif {row.get('oifname')}"] if row.get("oifname") else []
    return " ".join(words)


def _qdiscs(ip: Any) -> list[QdiscRow]:
    return [
        {"index": row.get("index"), "kind": row.get("kind"), "handle": row.get("handle"), "parent": row.get("parent")}
        for row in ip.get_qdiscs()
    ]
