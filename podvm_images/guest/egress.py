"""Makes what leaves a pod from its own VM: a pair of devices, rules and routes at both ends, and packet filters.

Blocking, in whichever thread; the namespaces of others are entered in threads of their own. The modules of the pod VM's
kernel that it takes: veth, nf_tables, nft_ct, nft_chain_nat and nft_masq.
"""

import ctypes
import errno
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg
from pyroute2.netlink.nfnetlink import nftsocket as nft

from adaptor import names
from adaptor.errors import InvalidRequest, Unavailable
from adaptor.podnet.plan import GuestPlan
from podvm_images.guest import egress_filter, egress_layout
from podvm_images.guest.egress_layout import DEVICE, GATEWAYS, HERE, MAIN, MARK, PRIORITY, TABLE, Default, Link, Way

T = TypeVar("T")

# Seconds that DHCP on the second card may take from Bind on; it began when the VM booted.
CARD_TIMEOUT: Final = 10.0
_LOOK: Final = 0.2
_CLONE_NEWNET: Final = 0x40000000
_FAMILIES: Final = {4: 2, 6: 10}
_LOOPBACK: Final = 0x8
_PERMANENT: Final = 0x80
_ONLINK: Final = 4
_BEGIN, _END = 0x10, 0x11
_MESSAGES: Final = {
    "table": (nft.nft_table_msg, nft.NFT_MSG_NEWTABLE),
    "chain": (nft.nft_chain_msg, nft.NFT_MSG_NEWCHAIN),
    "rule": (nft.nft_rule_msg, nft.NFT_MSG_NEWRULE),
}


def apply(
    plan: GuestPlan, port: int, netns: str = names.POD_NETNS, card_timeout: float = CARD_TIMEOUT
) -> tuple[Way, ...]:
    """Have what `plan` says leave from this VM, once the pod's interfaces stand in `netns`; `port`: of this guest and, so
    one takes it, of others. What an earlier call made is replaced. Nothing is done for a plan that wants nothing.

    Raises: InvalidRequest (no second card, no way out), Unavailable (the kernel refuses).
    """
    if not egress_layout.wanted(plan):
        return ()
    try:
        found = _ways(plan, card_timeout)
        udp = [plan.port, names.WIREGUARD_PORT, *([plan.wireguard.port] if plan.wireguard else [])]
        _clear()
        _within(netns, _clear)
        # The filter is there before there is anything to filter.
        _filter(egress_filter.in_vm(found, [port], [each for each in udp if each]))
        _pair(found, netns)
        _vm(found)
        _within(netns, lambda: _pod(found, [interface.name for interface in plan.interfaces]))
    except (NetlinkError, OSError) as error:
        number = getattr(error, "code", None) or getattr(error, "errno", None) or 0
        raise Unavailable(
            f"the way out of the VM cannot be made: {os.strerror(number) if number else error}. The pod VM's kernel must "
            "have veth, nf_tables, nft_ct, nft_chain_nat and nft_masq"
        ) from error
    return found


def _ways(plan: GuestPlan, patience: float) -> tuple[Way, ...]:
    """Waits for the second card's DHCP."""
    until = time.monotonic() + patience
    while True:
        with IPRoute() as ip:
            links, defaults = _links(ip), _defaults(ip)
        try:
            return egress_layout.ways(plan, links, defaults)
        except InvalidRequest:
            if not (plan.egress and plan.egress.nic) or time.monotonic() >= until:
                raise
        time.sleep(_LOOK)


def _clear() -> None:
    """Take away, in this thread's namespace, whatever is ours."""
    with IPRoute() as ip:
        for index in ip.link_lookup(ifname=DEVICE):
            ip.link("del", index=index)
        for family in _FAMILIES.values():
            for rule in ip.get_rules(family=family):
                if PRIORITY <= (rule.get_attr("FRA_PRIORITY") or 0) < PRIORITY + 4:
                    ip.rule("del", family=family, priority=rule.get_attr("FRA_PRIORITY"))
            ip.flush_routes(family=family, table=TABLE)
    with suppress(NetlinkError, OSError):  # it is not there, mostly
        _send([_message(nft.nft_table_msg, nft.NFT_MSG_DELTABLE, {"name": egress_filter.TABLE})])


def _pair(found: tuple[Way, ...], netns: str) -> None:
    size = egress_layout.mtu(found)
    there = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        peer = {"ifname": DEVICE, "net_ns_fd": there, "address": egress_layout.THERE, "mtu": size}
        with IPRoute() as ip:
            ip.link("add", ifname=DEVICE, kind="veth", address=HERE, mtu=size, peer=peer)
    finally:
        os.close(there)


def _vm(found: tuple[Way, ...]) -> None:
    """The VM's end: who the pod is, and that it is forwarded for."""
    if any(way.family == 6 for way in found):
        _forward_ipv6()
    _quiet()
    with IPRoute() as ip:
        here = _up(ip)
        for way in found:
            family = _FAMILIES[way.family]
            for address in way.addresses:
                length = 32 if way.family == 4 else 128
                ip.neigh("replace", dst=address, lladdr=egress_layout.THERE, ifindex=here, state=_PERMANENT)
                ip.route("replace", family=family, dst=f"{address}/{length}", oif=here, scope=_scope(way))
                if way.out is not None and way.out != way.first:
                    ip.rule("add", family=family, src=address, src_len=length, table=TABLE, priority=PRIORITY)
            if way.out is not None and way.out != way.first:
                for network in way.metadata:
                    ip.route("replace", family=family, dst=network, type="throw", table=TABLE)
                gateway = {"gateway": way.out.gateway, "flags": _ONLINK} if way.out.gateway else {}
                ip.route("replace", family=family, dst=_everything(way), oif=way.out.index, table=TABLE, **gateway)
    if any(way.family == 4 for way in found):
        for name in sorted({DEVICE, *(card.name for way in found for card in egress_layout.cards(way))}):
            _sysctl(f"ipv4/conf/{name}/forwarding", 1)


def _pod(found: tuple[Way, ...], tunnels: list[str]) -> None:
    """The end in podns: what leaves by the pair, and what is answered by the tunnel."""
    _filter(egress_filter.in_podns(found, tunnels))
    _quiet()
    with IPRoute() as ip:
        there = _up(ip)
        for way in found:
            family, gateway = _FAMILIES[way.family], GATEWAYS[way.family]
            ip.neigh("replace", dst=gateway, lladdr=HERE, ifindex=there, state=_PERMANENT)
            out = {"oif": there, "gateway": gateway, "prefsrc": way.addresses[0], "flags": _ONLINK, "table": TABLE}
            for network in way.metadata:
                ip.route("replace", family=family, dst=network, **out)
            rule = {"family": family, "table": TABLE}
            ip.rule("add", **rule, priority=PRIORITY + 1, FRA_SUPPRESS_PREFIXLEN=0)
            if way.out is None:
                continue
            for network in way.kept:
                if network not in way.metadata:
                    ip.route("replace", family=family, dst=network, type="throw", table=TABLE)
            ip.route("replace", family=family, dst=_everything(way), **out)
            ip.rule("add", family=family, table=MAIN, priority=PRIORITY, fwmark=MARK, fwmask=MARK)
            ip.rule("add", family=family, table=MAIN, priority=PRIORITY + 2, FRA_SUPPRESS_PREFIXLEN=0)
            ip.rule("add", **rule, priority=PRIORITY + 3)
    if any(way.out for way in found):
        for name in tunnels:
            _sysctl(
                f"ipv4/conf/{name}/rp_filter", 2
            )  # strict, it would drop what is answered by the tunnel all the same


def _up(ip: Any) -> int:
    index = int(ip.link_lookup(ifname=DEVICE)[0])
    ip.link("set", index=index, state="up")
    return index


def _quiet() -> None:
    """No address of its own, no router's advertisements: nobody talks on the pair but the pod."""
    with suppress(FileNotFoundError):  # a kernel without IPv6
        _sysctl(f"ipv6/conf/{DEVICE}/accept_ra", 0)
        _sysctl(f"ipv6/conf/{DEVICE}/addr_gen_mode", 1)


def _scope(way: Way) -> int:
    return 253 if way.family == 4 else 0


def _everything(way: Way) -> str:
    return "0.0.0.0/0" if way.family == 4 else "::/0"


def _forward_ipv6() -> None:
    """It is for all interfaces or none. Those that learn their routes from a router's advertisements go on doing so."""
    for path in Path("/proc/sys/net/ipv6/conf").iterdir():
        if path.name not in ("all", "default") and (path / "accept_ra").read_text().strip() == "1":
            _sysctl(f"ipv6/conf/{path.name}/accept_ra", 2)
    _sysctl("ipv6/conf/all/forwarding", 1)


def _sysctl(path: str, value: int) -> None:
    """Of this thread's namespace; not written where it is so already."""
    file = Path("/proc/sys/net") / path
    if file.read_text().strip() != str(value):
        file.write_text(str(value))


def _links(ip: Any) -> list[Link]:
    return [
        Link(
            index=link["index"],
            name=link.get_attr("IFLA_IFNAME"),
            mtu=link.get_attr("IFLA_MTU"),
            kind=((info := link.get_attr("IFLA_LINKINFO")) and info.get_attr("IFLA_INFO_KIND")) or "",
            loopback=bool(link["flags"] & _LOOPBACK),
        )
        for link in ip.get_links()
    ]


def _defaults(ip: Any) -> list[Default]:
    return [
        Default(
            family=family,
            index=route.get_attr("RTA_OIF"),
            gateway=route.get_attr("RTA_GATEWAY") or "",
            metric=route.get_attr("RTA_PRIORITY") or 0,
            table=route.get_attr("RTA_TABLE") or route["table"],
        )
        for family, number in _FAMILIES.items()
        for route in ip.get_routes(family=number)
        if route["dst_len"] == 0 and route["type"] == 1 and route.get_attr("RTA_OIF")
    ]


def _within(netns: str, work: Callable[[], T]) -> T:
    """`work` in a thread that lives in `netns`, and ends there."""

    def enter() -> T:
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno() or errno.EPERM, f"cannot enter {netns}")
        finally:
            os.close(descriptor)
        return work()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="podns") as thread:
        return thread.submit(enter).result()


def _filter(statements: Iterable[egress_filter.Statement]) -> None:
    """All of them, or none."""
    if messages := [_message(*_MESSAGES[what], attributes) for what, attributes in statements]:
        _send(messages)


def _message(kind: Any, number: int, attributes: dict[str, Any]) -> Any:
    message = kind()
    message["attrs"] = [(kind.name2nla(key), value) for key, value in attributes.items()]
    message["header"]["type"] = (NFNL_SUBSYS_NFTABLES << 8) | number
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND
    message["nfgen_family"] = egress_filter.INET
    return message


def _send(messages: list[Any]) -> None:
    """As one transaction."""
    with nft.NFTSocket(nfgen_family=egress_filter.INET) as socket:
        for _ in socket.nlm_request_batch([_bracket(_BEGIN), *messages, _bracket(_END)]):
            pass


def _bracket(number: int) -> Any:
    message = nfgen_msg()
    message["res_id"] = NFNL_SUBSYS_NFTABLES
    message["header"]["type"] = number
    message["header"]["flags"] = NLM_F_REQUEST
    return message
