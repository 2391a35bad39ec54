"""Which tables of the packet filter have rules, in the namespace that this thread is in: nftables, and iptables of the
kind that came before it. A mesh's CNI plugin puts such rules into a pod's namespace. Nothing is made by the looking."""

import ctypes
import errno
import os
import socket
import struct
from typing import Final

from adaptor.podnet.exchange import NETLINK_NETFILTER, Exchange, Refused, attributes, message

_GETRULE: Final = 10 << 8 | 7  # of the subsystem nftables
_TABLE: Final = 1  # a rule's attribute
_FAMILIES: Final = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}

# linux/netfilter_ipv4/ip_tables.h, and IPv6's likewise: which protocol's socket is asked, who names the tables
_LEGACY: Final = (
    ("iptables", socket.AF_INET, socket.IPPROTO_IP, "ip_tables_names"),
    ("ip6tables", socket.AF_INET6, socket.IPPROTO_IPV6, "ip6_tables_names"),
)
_GET_INFO: Final = 64
_INFO: Final = struct.Struct("=32sI5I5III")  # name, hooks (bits), their places, their policies' places, entries, size
_ABSENT: Final = (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT)


def tables() -> tuple[str, ...]:
    """Those with rules, as their own tools call them. Raises: OSError."""
    return tuple(sorted({*_nftables(), *_iptables()}))


def _nftables() -> list[str]:
    try:
        with Exchange(NETLINK_NETFILTER) as kernel:
            rules = kernel.dump(message(_GETRULE, 0, struct.pack(">BBH", 0, 0, 0)))
    except (OSError, Refused) as error:
        if error.errno in _ABSENT:
            return []  # this kernel has no nftables
        raise
    return [f"nftables {_FAMILIES.get(body[0], body[0])} {_text(attributes(body[4:])[_TABLE])}" for body in rules]


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _iptables() -> list[str]:
    found: list[str] = []
    for program, family, level, names in _LEGACY:
        try:
            with open(f"/proc/thread-self/net/{names}", encoding="ascii") as file:
                listed = file.read().split()
        except FileNotFoundError:
            continue  # this kernel has none
        if listed:
            with socket.socket(family, socket.SOCK_DGRAM) as asked:
                found += [f"{program} {table}" for table in listed if _has_rules(asked, level, table)]
    return found


def _has_rules(asked: socket.socket, level: int, table: str) -> bool:
    """An empty table has one entry for each hook's policy, and one that marks its end."""
    buffer = ctypes.create_string_buffer(_INFO.pack(table.encode(), *[0] * 13), _INFO.size)
    size = ctypes.c_uint32(_INFO.size)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(asked.fileno(), level, _GET_INFO, buffer, ctypes.byref(size)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    _, hooks, *_, entries, _ = _INFO.unpack(buffer.raw)
    return bool(entries > int(hooks).bit_count() + 1)
