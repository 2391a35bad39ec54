"""Makes and takes away the tunnels' devices, and the redirects between them and the pods' interfaces, by rtnetlink.

Each deed may be repeated, and so may its undoing. Messages are written with pyroute2's classes, which name what they
hold; it is imported at first use, for it costs 100 ms.
"""

import errno
import ipaddress
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final

from adaptor.podnet import probe
from adaptor.podnet.exchange import NLM_F_CREATE, NLM_F_EXCL, Exchange, Refused, attributes
from adaptor.podnet.operations import AddVxlan, KeepIn, LetIn, OfPod, Point, Raise, RemoveVxlan, SendOut

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWQDISC, _DELQDISC, _GETQDISC = 36, 37, 38
_NEWTFILTER, _DELTFILTER, _GETTFILTER = 44, 45, 46

_IFINFO: Final = struct.Struct("=BxHiII")
_TCMSG: Final = struct.Struct("=BxxxiIII")
_IFLA_LINKINFO, _IFLA_INFO_KIND, _IFLA_INFO_DATA = 18, 1, 2
_IFLA_VXLAN_ID, _IFLA_VXLAN_PORT = 1, 15
_TCA_KIND: Final = 1
_IFF_UP: Final = 0x1
_NO_STATISTICS: Final = 8  # RTEXT_FILTER_SKIP_STATS
_GEN_MODE_NONE: Final = 1  # no IPv6 address of its own: no router solicitation, no duplicate detection
_TTL: Final = 64  # hops to the VM

_INGRESS_HANDLE, _INGRESS_PARENT = 0xFFFF0000, 0xFFFFFFF1
_ON_INGRESS, _ON_EGRESS = 0xFFFFFFF2, 0xFFFFFFF3  # where filters sit; the second in a clsact only
_ALL, _ARP, _IPV6 = 0x0003, 0x0806, 0x86DD  # EtherTypes
_NODE: Final = 0x800  # a filter's number within its priority: the same one again is refused
_STOLEN, _REDIRECT = 4, 1  # TC_ACT_*, TCA_EGRESS_REDIR

# Our filter's priority on a pod's interface says whether the qdisc under it was made with it, or found there.
_WITH_QDISC, _ON_ANOTHERS = 0x7070, 0x7071

_GONE: Final = frozenset({errno.ENODEV, errno.ENOENT})
_THERE: Final = frozenset({0, errno.EEXIST, errno.ENOSPC})


class NameTaken(Exception):
    """The pod's namespace has another device of the tunnel's name."""


class NumberTaken(Exception):
    """The kernel has a device with this number and port already."""

    def __init__(self, vni: int) -> None:
        super().__init__(vni)
        self.vni = vni


def carry_out(operation: OfPod, host: Exchange, pod: Exchange, netns: int) -> None:
    """`netns`: a descriptor of the pod's namespace, which `pod` speaks to; `host` to the worker's.

    Raises: Refused, NameTaken, NumberTaken, OSError.
    """
    match operation:
        case AddVxlan():
            _add_vxlan(operation, host, pod, netns)
        case RemoveVxlan(device, vni, port):
            _remove_vxlan(pod, device, vni, port)
        case LetIn(device, interface):
            _let_in(pod, _index(pod, device), _index(pod, interface))
        case Raise(device):
            _raise(pod, _index(pod, device))
        case Point(device, peer):
            data = [_address("IFLA_VXLAN_GROUP", peer)]
            pod.do(_link(_NEWLINK, 0, _vxlan(data), index=_index(pod, device)))
        case SendOut(interface, device):
            _send_out(pod, _index(pod, interface), _index(pod, device))
        case KeepIn(interface):
            _keep_in(pod, interface)


def _add_vxlan(wanted: AddVxlan, host: Exchange, pod: Exchange, netns: int) -> None:
    data = [
        ["IFLA_VXLAN_ID", wanted.vni],
        ["IFLA_VXLAN_PORT", wanted.port],
        ["IFLA_VXLAN_LEARNING", 0],
        ["IFLA_VXLAN_AGEING", 0],
        ["IFLA_VXLAN_TTL", _TTL],
        _address("IFLA_VXLAN_LOCAL", wanted.worker),
    ]
    if wanted.peer:
        data.append(_address("IFLA_VXLAN_GROUP", wanted.peer))
    if wanted.link:
        data.append(["IFLA_VXLAN_LINK", socket.if_nametoindex(wanted.link)])
    attrs: _Attributes = [["IFLA_IFNAME", wanted.device], ["IFLA_NET_NS_FD", netns], *_vxlan(data)]
    (verdict,) = host.tell(_link(_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, attrs))
    if not verdict.number:
        return
    if verdict.number != errno.EEXIST:
        raise Refused(verdict)
    found = _find(pod, wanted.device)
    if found is None:
        raise NumberTaken(wanted.vni)
    if not _is_tunnel(found, wanted.vni, wanted.port):
        raise NameTaken(wanted.device)
    if wanted.peer:  # ours, of an earlier try, perhaps with another VM
        pod.do(_link(_NEWLINK, 0, _vxlan([_address("IFLA_VXLAN_GROUP", wanted.peer)]), index=_number(found)))


def _remove_vxlan(pod: Exchange, device: str, vni: int, port: int) -> None:
    found = _find(pod, device)
    if found is not None and _is_tunnel(found, vni, port):
        _unless_gone(pod, _link(_DELLINK, 0, [], index=_number(found)))


def _let_in(pod: Exchange, device: int, interface: int) -> None:
    """The probe's answers are for the probe alone: who sees them on the worker would wonder. Left in the namespace they
    are dropped, for their MAC is nobody's."""
    mac = probe.MAC.hex()
    arp = [f"0x{mac[:8]}/0xffffffff+18", f"0x{mac[8:]}0000/0xffff0000+22"]  # the target's hardware address
    address = probe.LINK_LOCAL.packed.hex()
    ipv6 = [f"0x{address[at : at + 8]}/0xffffffff+{24 + at // 2}" for at in range(0, 32, 8)]  # the destination
    verdicts = pod.tell(
        _qdisc(device),
        _filter(device, 1, _ARP, arp),
        _filter(device, 2, _IPV6, ipv6),
        _filter(device, 3, _ALL, _EVERYTHING, _redirect(interface)),
    )
    for verdict in verdicts:
        if verdict.number not in _THERE:
            raise Refused(verdict)


def _raise(pod: Exchange, device: int) -> None:
    quiet = ["IFLA_AF_SPEC", {"attrs": [["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", _GEN_MODE_NONE]]}]]}]
    # two messages: a link that is raised by the first part of one is no longer quiet when the second part comes
    mute, up = pod.tell(_link(_NEWLINK, 0, [quiet], index=device), _link(_NEWLINK, 0, [], index=device, flags=_IFF_UP))
    if mute.number not in (0, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):  # no IPv6 here: quiet anyway
        raise Refused(mute)
    if up.number:
        raise Refused(up)


def _send_out(pod: Exchange, interface: int, device: int) -> None:
    for _ in range(3):
        if _ingress(pod, interface):
            if not _priorities(pod, interface, _ON_INGRESS) & {_WITH_QDISC, _ON_ANOTHERS}:
                pod.do(_filter(interface, _ON_ANOTHERS, _ALL, _EVERYTHING, _redirect(device)))
            return
        # As one: had we ended in between, nobody could say whose the empty qdisc is.
        qdisc, filter_ = pod.tell(
            _qdisc(interface), _filter(interface, _WITH_QDISC, _ALL, _EVERYTHING, _redirect(device))
        )
        if not qdisc.number and not filter_.number:
            return
        if not qdisc.number:
            _unless_gone(pod, _no_qdisc(interface))
            raise Refused(filter_)
        if not filter_.number:  # somebody else's qdisc came first
            _unless_gone(pod, _no_filter(interface, _WITH_QDISC))
        if qdisc.number != errno.EEXIST:
            raise Refused(qdisc)
    raise Refused(qdisc)


def _keep_in(pod: Exchange, interface: str) -> None:
    found = _find(pod, interface)
    if found is None or not (kind := _ingress(pod, index := _number(found))):
        return
    filters = _priorities(pod, index, _ON_INGRESS)
    others = filters - {_WITH_QDISC} or (kind == b"clsact" and _priorities(pod, index, _ON_EGRESS))
    if _WITH_QDISC in filters:
        _unless_gone(pod, _no_filter(index, _WITH_QDISC) if others else _no_qdisc(index))
    if _ON_ANOTHERS in filters:
        _unless_gone(pod, _no_filter(index, _ON_ANOTHERS))


# what is there


def _find(pod: Exchange, name: str) -> bytes | None:
    """The link's message, or None."""
    try:
        return pod.get(_link(_GETLINK, 0, [["IFLA_IFNAME", name], ["IFLA_EXT_MASK", _NO_STATISTICS]]))
    except Refused as refused:
        if refused.errno in _GONE:
            return None
        raise


def _index(pod: Exchange, name: str) -> int:
    found = _find(pod, name)
    if found is None:
        raise OSError(errno.ENODEV, f"it has no interface {name}")
    return _number(found)


def _number(link: bytes) -> int:
    index: int = _IFINFO.unpack_from(link)[2]
    return index


def _is_tunnel(link: bytes, vni: int, port: int) -> bool:
    info = attributes(attributes(link[_IFINFO.size :]).get(_IFLA_LINKINFO, b""))
    data = attributes(info.get(_IFLA_INFO_DATA, b""))
    return (
        info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0") == b"vxlan"
        and data.get(_IFLA_VXLAN_ID) == struct.pack("=I", vni)
        and data.get(_IFLA_VXLAN_PORT) == struct.pack(">H", port)
    )


def _ingress(pod: Exchange, index: int) -> bytes:
    """The kind of the qdisc that holds filters for what comes in; empty: there is none."""
    for body in pod.dump(_tc(_GETQDISC, 0, index)):
        if _TCMSG.unpack_from(body)[1] == index:
            kind = attributes(body[_TCMSG.size :]).get(_TCA_KIND, b"").rstrip(b"\0")
            if kind in (b"ingress", b"clsact"):
                return kind
    return b""


def _priorities(pod: Exchange, index: int, parent: int) -> set[int]:
    return {_TCMSG.unpack_from(body)[4] >> 16 for body in pod.dump(_tc(_GETTFILTER, 0, index, parent=parent))}


def _unless_gone(pod: Exchange, message: bytes) -> None:
    try:
        pod.do(message)
    except Refused as refused:
        if refused.errno not in _GONE:
            raise


# messages

_Attributes = Sequence[Sequence[Any]]
_EVERYTHING: Final = ("0x0/0x0+0",)


def _link(kind: int, given: int, attrs: _Attributes, *, index: int = 0, flags: int = 0) -> bytes:
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    return _encoded(ifinfmsg(), kind, given, attrs, index=index, flags=flags, change=flags)


def _vxlan(data: _Attributes) -> _Attributes:
    return [["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "vxlan"], ["IFLA_INFO_DATA", {"attrs": data}]]}]]


def _address(name: str, address: str) -> Sequence[Any]:
    return [name if ipaddress.ip_address(address).version == 4 else f"{name}6", address]


def _qdisc(index: int) -> bytes:
    kind = [["TCA_KIND", "ingress"]]
    return _tc(_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, index, kind, handle=_INGRESS_HANDLE, parent=_INGRESS_PARENT)


def _no_qdisc(index: int) -> bytes:
    return _tc(_DELQDISC, 0, index, handle=_INGRESS_HANDLE, parent=_INGRESS_PARENT)


def _filter(index: int, priority: int, protocol: int, keys: Sequence[str], action: Any = None) -> bytes:
    """Without an action a packet that matches goes its ordinary way, and no later filter sees it."""
    options: Any = {"attrs": [["TCA_U32_SEL", {"keys": keys}]]}
    if action is not None:
        options["attrs"].insert(0, ["TCA_U32_ACT", {"attrs": [["TCA_ACT_PRIO_1", action]]}])
    return _tc(
        _NEWTFILTER,
        NLM_F_CREATE | NLM_F_EXCL,
        index,
        [["TCA_KIND", "u32"], ["TCA_OPTIONS", options]],
        handle=_NODE,
        parent=_ON_INGRESS,
        info=priority << 16 | socket.htons(protocol),
    )


def _no_filter(index: int, priority: int) -> bytes:
    """With everything of that priority."""
    info = priority << 16 | socket.htons(_ALL)
    return _tc(_DELTFILTER, 0, index, [["TCA_KIND", "u32"]], parent=_ON_INGRESS, info=info)


def _redirect(index: int) -> Any:
    parameters = {"eaction": _REDIRECT, "ifindex": index, "action": _STOLEN}
    options = {"attrs": [["TCA_MIRRED_PARMS", parameters]]}
    return {"attrs": [["TCA_ACT_KIND", "mirred"], ["TCA_ACT_OPTIONS", options]]}


def _tc(kind: int, given: int, index: int, attrs: _Attributes = (), **fields: int) -> bytes:
    from pyroute2.netlink.rtnl.tcmsg import tcmsg

    return _encoded(tcmsg(), kind, given, attrs, index=index, **fields)


def _encoded(message: Any, kind: int, given: int, attrs: _Attributes, **fields: int) -> bytes:
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = list(attrs)
    message["header"]["type"] = kind
    message["header"]["flags"] = given
    message.encode()
    return bytes(message.data)
