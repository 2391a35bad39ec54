"""All that netlink tells of a network namespace, as lines that can be compared; counters and ages left out."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from adaptor.demo import netns

_CARRIER: Final = 0x11  # RTNH_F_DEAD, RTNH_F_LINKDOWN: whether something is plugged in at the other end
_LOCAL_TABLE: Final = 255
_BY_KERNEL: Final = 2
_PERMANENT: Final = 0x80  # NUD_PERMANENT: what was not learnt
# What of a link says how it is made; the rest is counted, or changes with traffic.
_LINK: Final = ("IFLA_ADDRESS", "IFLA_MTU", "IFLA_MASTER", "IFLA_TXQLEN", "IFLA_GROUP", "IFLA_LINK_NETNSID")
_ROUTE_LEFT_OUT: Final = ("RTA_CACHEINFO", "RTA_EXPIRES", "RTA_OIF")


def dump(path: str = netns.HERE) -> frozenset[str]:
    """The namespace at `path`: links, addresses, routes, rules, neighbours, qdiscs, filters, nftables. Raises OSError."""
    return netns.visit(path, lambda: frozenset((*_rtnetlink(), *_nftables())))


def _rtnetlink() -> Iterator[str]:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        links = list(ip.get_links())
        names = {link["index"]: str(link.get("ifname")) for link in links}
        for link in links:
            info = link.get_attr("IFLA_LINKINFO")
            kind = info.get_attr("IFLA_INFO_KIND") if info is not None else ""
            data = _plain(info.get_attr("IFLA_INFO_DATA")) if kind in ("vxlan", "vlan", "wireguard") else ""
            up = "up" if link["flags"] & 1 else "down"
            yield f"link {names[link['index']]} {kind} {up} {_chosen(link, _LINK)} {data}"
        for row in ip.get_addr():
            yield f"address {row.get_attr('IFA_ADDRESS')}/{row['prefixlen']} on {names.get(row['index'])}"
        for row in ip.get_routes():
            if row["table"] == _LOCAL_TABLE and row["proto"] == _BY_KERNEL:
                continue  # follow from the addresses, some of them a second later (duplicate address detection)
            yield f"route on {names.get(row.get_attr('RTA_OIF'))} {_without(row, _ROUTE_LEFT_OUT)}"
        for row in ip.get_rules():
            yield f"rule {_without(row)}"
        for row in ip.get_neighbours():
            if row["state"] & _PERMANENT:
                where = names.get(row["ifindex"])
                yield f"neighbour {row.get_attr('NDA_DST')} {row.get_attr('NDA_LLADDR')} on {where}"
        for index, name in names.items():
            yield from _traffic_control(ip, index, name)


def _traffic_control(ip: Any, index: int, name: str) -> Iterator[str]:
    parents = []
    for row in ip.get_qdiscs(index=index):
        kind = row.get_attr("TCA_KIND")
        if kind in ("ingress", "clsact"):
            parents += [0xFFFF_FFF1, 0xFFFF_FFF2, 0xFFFF_FFF3, row["handle"]]
        yield f"qdisc {kind} {row['handle']:x} {row['parent']:x} on {name}"
    for parent in (0, *parents):
        for row in ip.get_filters(index=index, parent=parent):
            kind, at = row.get_attr("TCA_KIND"), f"{row['parent']:x} {row['handle']:x} {row['info']:x}"
            yield f"filter {kind} {at} on {name}"


def _nftables() -> Iterator[str]:
    from pyroute2.netlink.nfnetlink import nftsocket as nft

    with nft.NFTSocket(nfgen_family=0) as socket:
        for message, number, what, keys in (
            (nft.nft_table_msg, nft.NFT_MSG_GETTABLE, "table", ("NFTA_TABLE_NAME",)),
            (nft.nft_chain_msg, nft.NFT_MSG_GETCHAIN, "chain", ("NFTA_CHAIN_TABLE", "NFTA_CHAIN_NAME")),
            (nft.nft_set_msg, nft.NFT_MSG_GETSET, "set", ("NFTA_SET_TABLE", "NFTA_SET_NAME")),
            (nft.nft_rule_msg, nft.NFT_MSG_GETRULE, "rule", ("NFTA_RULE_TABLE", "NFTA_RULE_CHAIN", "NFTA_RULE_HANDLE")),
        ):
            for row in socket.request_get(message(), number):
                yield f"nftables {what} {row['nfgen_family']} {' '.join(str(row.get_attr(key)) for key in keys)}"


def _chosen(row: Any, keys: tuple[str, ...]) -> str:
    return " ".join(f"{key[5:].lower()}={row.get_attr(key)}" for key in keys if row.get_attr(key) is not None)


def _without(row: Any, left_out: tuple[str, ...] = ()) -> str:
    """A route or rule: its header and attributes in an order of their own."""
    fields = {key: value for key, value in row.items() if isinstance(value, int) and key != "event"}
    fields["flags"] &= ~_CARRIER
    attributes = {key: _plain(value) for key, value in row["attrs"] if key not in left_out}
    return " ".join(f"{key}={value}" for key, value in sorted((fields | attributes).items()))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping) and "attrs" in value:
        return "{" + " ".join(f"{key}={_plain(each)}" for key, each in value["attrs"]) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(_plain(each) for each in value) + "]"
    return str(value)
