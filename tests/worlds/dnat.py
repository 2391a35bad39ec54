"""A Kubernetes Service on a worker as kube-proxy makes one: nftables rules that turn its address into a pod's."""

import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import Any, Final

from pyroute2.nftables.expressions import genex, ipv4addr, masq
from pyroute2.nftables.main import NFTables

TABLE: Final = "services"
# name → (hook, priority of a nat chain there)
_CHAINS: Final = {"prerouting": -100, "output": -100, "postrouting": 100}
_TRANSPORT_HEADER: Final = 2
_DESTINATION_PORT: Final = (2, 2)  # offset, bytes
_IPV4: Final = 2
_DNAT: Final = 1


@contextmanager
def service(address: str, port: int, backend: str, backend_port: int) -> Iterator[None]:
    """What goes to `address`:`port`, from pods and from the worker, goes to the backend; sources are masqueraded, so
    that answers come back here. Of this namespace."""
    with ThreadPoolExecutor(1) as thread:  # pyroute2 has an event loop of its own
        thread.submit(_make, address, port, backend, backend_port).result()
        try:
            yield
        finally:
            thread.submit(_remove).result()


def _make(address: str, port: int, backend: str, backend_port: int) -> None:
    matches = [ipv4addr(dst=address), _port(port)]
    rewrites = [
        genex("immediate", {"dreg": 1, "data": _value(IPv4Address(backend).packed)}),
        genex("immediate", {"dreg": 2, "data": _value(struct.pack(">H", backend_port))}),
        genex("nat", {"type": _DNAT, "family": _IPV4, "reg_addr_min": 1, "reg_proto_min": 2}),
    ]
    with NFTables(nfgen_family=_IPV4) as nft:
        nft.table("add", name=TABLE)
        for hook, priority in _CHAINS.items():
            nft.chain("add", table=TABLE, name=hook, hook=hook, type="nat", policy=1, priority=priority)
        for chain in ("prerouting", "output"):
            nft.rule("add", table=TABLE, chain=chain, expressions=(*matches, rewrites))
        nft.rule("add", table=TABLE, chain="postrouting", expressions=(ipv4addr(dst=backend), masq()))


def _remove() -> None:
    with NFTables(nfgen_family=_IPV4) as nft:
        nft.table("del", name=TABLE)


def _port(port: int) -> list[Any]:
    offset, length = _DESTINATION_PORT
    return [
        genex("payload", {"dreg": 1, "base": _TRANSPORT_HEADER, "offset": offset, "len": length}),
        genex("cmp", {"sreg": 1, "op": 0, "data": _value(struct.pack(">H", port))}),
    ]


def _value(data: bytes) -> dict[str, Any]:
    return {"attrs": [("NFTA_DATA_VALUE", data)]}
