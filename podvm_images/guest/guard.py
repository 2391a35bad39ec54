"""Who may send to the tunnels' port: a VXLAN device takes anybody's packets, so nftables lets only the worker's in.

table inet peerpods, chain input (priority raw): UDP to the port, from the worker ─► accept; UDP to the port ─► drop
"""

import ipaddress
import socket
import struct
from typing import Any, Final

from adaptor import names

# linux/netfilter.h, linux/netfilter/nf_tables.h
_INET: Final = 1
_DROP, _ACCEPT = 0, 1
_RAW: Final = -300
_NETWORK, _TRANSPORT = 1, 2
_IIFNAME, _NFPROTO, _L4PROTO = 6, 15, 16
_IFNAMSIZ: Final = 16


def listen_only_to(worker: str, port: int, device: str = "") -> None:
    """In the namespace that this thread is in, for good; `device` is the only one they may come by, if it is told.

    Raises: pyroute2's NetlinkError, where the kernel has no nftables among others.
    """
    from pyroute2.nftables.expressions import verdict
    from pyroute2.nftables.main import NFTables

    address = ipaddress.ip_address(worker)
    family, offset = (socket.AF_INET, 12) if address.version == 4 else (socket.AF_INET6, 8)
    ours = [*_meta(_L4PROTO, bytes([socket.IPPROTO_UDP])), *_payload(_TRANSPORT, 2, struct.pack(">H", port))]
    theirs = [*_meta(_NFPROTO, bytes([family])), *_payload(_NETWORK, offset, address.packed)]
    if device:
        theirs += _meta(_IIFNAME, device.encode().ljust(_IFNAMSIZ, b"\0"))
    with NFTables(nfgen_family=_INET) as nft:
        table = names.NFT_TABLE
        nft.table("add", name=table)
        nft.chain("add", table=table, name="input", hook="input", type="filter", priority=_RAW, policy=_ACCEPT)
        nft.rule("add", table=table, chain="input", expressions=(ours, theirs, verdict(_ACCEPT)))
        nft.rule("add", table=table, chain="input", expressions=(ours, verdict(_DROP)))


def _meta(key: int, value: bytes) -> list[Any]:
    return _is("meta", {"dreg": 1, "key": key}, value)


def _payload(base: int, offset: int, value: bytes) -> list[Any]:
    return _is("payload", {"dreg": 1, "base": base, "offset": offset, "len": len(value)}, value)


def _is(load: str, arguments: dict[str, int], value: bytes) -> list[Any]:
    """Expressions that load something into a register and compare it."""
    from pyroute2.nftables.expressions import genex

    return [
        genex(load, arguments),
        genex("cmp", {"sreg": 1, "op": 0, "data": {"attrs": [("NFTA_DATA_VALUE", value)]}}),
    ]
