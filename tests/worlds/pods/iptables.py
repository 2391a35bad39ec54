"""One rule of the iptables that came before nftables, as linux/netfilter_ipv4/ip_tables.h writes it."""

import ctypes
import socket
import struct

from tests.worlds.pods.namespaces import Namespace

_GET_INFO = _SET_REPLACE = 64
_HOOKS = (1, 2, 3)  # input, forward, output: those of the table filter
_DROP, _ACCEPT = -1, -2
_COUNTERS = bytes(16)


def look(namespace: Namespace) -> None:
    """As `iptables -L`: the kernel makes the table, without rules."""
    with namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as made:
        buffer = ctypes.create_string_buffer(b"filter", 84)
        size = ctypes.c_uint32(84)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.getsockopt(made.fileno(), socket.IPPROTO_IP, _GET_INFO, buffer, ctypes.byref(size)):
            raise OSError(ctypes.get_errno(), "this kernel has no table filter")


def drop_input(namespace: Namespace) -> None:
    """As `iptables -A INPUT -j DROP`."""
    policy = _entry(_standard(_ACCEPT))
    entries = [_entry(_standard(_DROP)), policy, policy, policy, _entry(_target(b"ERROR", b"ERROR".ljust(32, b"\0")))]
    at = len(policy)
    starts = {1: 0, 2: 2 * at, 3: 3 * at}
    policies = {1: at, 2: 2 * at, 3: 3 * at}
    old = ctypes.create_string_buffer(_COUNTERS * 4)
    head = struct.pack(
        "=32sIII5I5IIQ",
        b"filter",
        sum(1 << hook for hook in _HOOKS),
        len(entries),
        sum(map(len, entries)),
        *(starts.get(hook, 0) for hook in range(5)),
        *(policies.get(hook, 0) for hook in range(5)),
        4,  # what it has now: the policies, and the end
        ctypes.addressof(old),
    )
    with namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as made:
        made.setsockopt(socket.IPPROTO_IP, _SET_REPLACE, head + b"".join(entries))


def _entry(target: bytes) -> bytes:
    return bytes(84) + struct.pack("=IHHI", 0, 112, 112 + len(target), 0) + _COUNTERS + target


def _standard(verdict: int) -> bytes:
    return _target(b"", struct.pack("=ixxxx", verdict))


def _target(name: bytes, data: bytes) -> bytes:
    return struct.pack("=H29sB", 32 + len(data), name, 0) + data
