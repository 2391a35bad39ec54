"""User-data in the form of upstream's adaptor: a #cloud-config with write_files, of which apf.json tells who may call.

    /run/peerpod/apf.json              TLS key and certificate of this VM, the clients' CA, the pod's network
    /run/peerpod/initdata              base64 of gzip of the TOML
    /run/peerpod/auth.json, scratch-space.marker

It holds everything that Bind brings, so it becomes a BindRequest, and what follows is the same. `aa.toml` and `cdh.toml`
among its files are ignored: here they come out of initdata, which is measured, or are the image's own. Pure.
"""

import base64
import binascii
import ipaddress
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from adaptor import names
from adaptor.errors import AdaptorError
from adaptor.protos.guest_pb2 import BindRequest

MAGIC: Final = b"#cloud-config"
MOST: Final = 1 << 20  # bytes of initdata, unpacked
_ENTRY: Final = re.compile(r"( *)- path: *(\S+) *")
_PROTOCOLS: Final = {"": 3, "boot": 3, "kernel": 2, "static": 4, "dhcp": 16}
_SCOPES: Final = {"": 0, "universe": 0, "link": 253}
_UNMEASURED: Final = ("aa.toml", "cdh.toml")


class StockFault(AdaptorError):
    """User-data of upstream's form that cannot be used; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Stock:
    """Who this VM is and who may call it (PEM), and what it is for. `ignored`: paths that were not written."""

    key: bytes = field(repr=False)
    certificate: bytes
    client_ca: bytes
    request: BindRequest = field(repr=False)
    ignored: tuple[str, ...] = ()
    port: int = names.GUEST_PORT


def parse(text: bytes) -> Stock:
    """Raises: StockFault."""
    files = cloud_config(text)
    try:
        apf = json.loads(files.pop(names.UPSTREAM_APF))
        key, certificate, ca = (apf[f"tls-{name}"].encode() for name in ("server-key", "server-cert", "client-ca"))
        network = _plan(apf["pod-network"])
        pod = str(apf.get("pod-namespace", "")), str(apf.get("pod-name", ""))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        # Never the value: a key may be part of it.
        raise StockFault(f"its apf.json cannot be used ({type(error).__name__}): {_told(error)}") from None
    folder = names.UPSTREAM_APF.rpartition("/")[0]
    known = {name: files.pop(f"{folder}/{name}", None) for name in ("initdata", "auth.json", "scratch-space.marker")}
    request = BindRequest(
        sandbox_id="/".join(pod).strip("/") or "upstream",
        pod_namespace=pod[0],
        pod_name=pod[1],
        initdata=_initdata(known["initdata"] or ""),
        registry_auth=(known["auth.json"] or "").encode(),
        scratch_space=known["scratch-space.marker"] is not None,
        network=network,
    )
    return Stock(key, certificate, ca, request, tuple(files))


def cloud_config(text: bytes) -> dict[str, str]:
    """Path -> content, in exactly the form in which upstream's adaptor writes it: less than YAML. Raises: StockFault."""
    try:
        lines = text.decode().split("\n")
    except UnicodeDecodeError:
        raise StockFault("it is a #cloud-config, and no UTF-8") from None
    body = [(number, line) for number, line in enumerate(lines, start=1) if number > 1]
    while body and not body[0][1].strip():
        body.pop(0)
    if not body or body.pop(0)[1].rstrip() != "write_files:":
        raise StockFault("it is a #cloud-config without write_files: that is all that is understood of one")
    files: dict[str, str] = {}
    while body:
        number, line = body.pop(0)
        if not line.strip():
            continue
        entry = _ENTRY.fullmatch(line)
        if entry is None or not body or body.pop(0)[1].rstrip() != f"{entry[1]}  content: |":
            raise StockFault(
                f"its line {number} is no '- path: ...' followed by 'content: |', as upstream's adaptor writes"
            )
        if entry[2] in files:
            raise StockFault(f"it has {entry[2]} twice")
        files[entry[2]] = _block(body, len(entry[1]) + 2)
    return files


def _block(body: list[tuple[int, str]], outer: int) -> str:
    """The lines that are further in than `outer`, taken from `body`."""
    taken: list[str] = []
    while body and (not body[0][1].strip() or _indent(body[0][1]) > outer):
        taken.append(body.pop(0)[1])
    inner = min((_indent(line) for line in taken if line.strip()), default=0)
    return "\n".join(line[inner:] for line in taken).rstrip("\n") + "\n"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _initdata(encoded: str) -> bytes:
    if not encoded.strip():
        return b""
    try:
        packed = base64.b64decode("".join(encoded.split()), validate=True)
        unpacking = zlib.decompressobj(31)
        raw = unpacking.decompress(packed, MOST)
    except (binascii.Error, zlib.error) as error:
        raise StockFault(f"its initdata is not base64 of gzip: {error}") from None
    if not unpacking.eof:
        raise StockFault(f"its initdata is cut off, or has more than {MOST} bytes")
    return raw


def _plan(network: Mapping[str, Any]) -> bytes:
    """As Bind carries it."""
    from adaptor.podnet.plan import GuestPlan, Interface, Neighbour, Route, to_json

    if network["tunnel-type"] != "vxlan":
        raise ValueError(f"tunnel-type is {network['tunnel-type']!r}; vxlan is understood")
    if network.get("external-net-via-pod-vm"):
        raise ValueError("external-net-via-pod-vm: our image does that for workers of ours only (guest.flavor = own)")
    routes = [
        Route(
            destination="" if each["dst"] == "0.0.0.0/0" else str(ipaddress.ip_network(each["dst"])),
            family=4,
            gateway=each.get("gw", ""),
            scope=_SCOPES[each.get("scope", "")],
            protocol=_PROTOCOLS[each.get("protocol", "")],
        )
        for each in network.get("routes") or ()
    ]
    interface = Interface(
        network["interface"] or "eth0",
        network["pod-hw-addr"],
        network["mtu"],
        (network["podip"],),
        tuple(sorted(routes, key=lambda route: bool(route.gateway))),
        tuple(Neighbour(each["ip"], each["hw-addr"]) for each in network.get("neighbors") or ()),
    )
    worker = str(ipaddress.ip_interface(network["worker-node-ip"]).ip)
    return to_json(GuestPlan((interface,), (network["vxlan-id"],), network["vxlan-port"], worker))


def _told(error: Exception) -> str:
    return "it is no JSON" if isinstance(error, json.JSONDecodeError) else str(error)
