"""The two ends of a TLS link, and waiting for a non-blocking one outside the pump.

Contexts are shared by all links of one identity: a context of its own would cost each tunnel more memory than all
else it holds.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any, Final, TypeVar

from adaptor import names
from adaptor.errors import InvalidRequest

T = TypeVar("T")

# Identities and CAs alive at one time: the node's own, and an old one for a while after each change.
_CONTEXTS = 16
# The reason of the SSLError, where it is no SSLEOFError, that a link ended without close_notify.
CUT: Final = "UNEXPECTED_EOF_WHILE_READING"


@lru_cache(_CONTEXTS)
def own_client(certificate: bytes, key: bytes) -> ssl.SSLContext:
    """The worker's end towards our guest; PEM, from memory. Trusts nobody: see `fingerprint`.

    The guest's certificate is self-signed. What makes it believable is the proof in Hello, and the pin from then on.
    Raises InvalidRequest for a certificate and key that can not be used.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, certificate, key)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([names.GUEST_ALPN])
    return context


@lru_cache(_CONTEXTS)
def upstream_client(certificate: bytes, key: bytes, ca: bytes) -> ssl.SSLContext:
    """The worker's end towards a stock upstream VM: its certificate must be issued by `ca` for the name dialled.

    Raises InvalidRequest for PEM that can not be used.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, certificate, key)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # the floor that upstream's TLS profile allows
    context.options |= ssl.OP_NO_RENEGOTIATION
    _trust(context, ca)
    return context


@lru_cache(_CONTEXTS)
def guest_server(certificate: bytes, key: bytes, worker_ca: bytes) -> ssl.SSLContext:
    """The guest's end: only clients whose certificate `worker_ca` issued get through the handshake.

    OpenSSL lets a client pass that offers another ALPN, or none: check `speaks_our_protocol` afterwards.
    Raises InvalidRequest for PEM that can not be used.
    """
    context = stock_server(certificate, key, worker_ca)
    context.set_alpn_protocols([names.GUEST_ALPN])
    return context


def stock_server(certificate: bytes, key: bytes, worker_ca: bytes) -> ssl.SSLContext:
    """As `guest_server`, for workers that take the guest for a stock upstream VM: no ALPN."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # nobody resumes TLS sessions here
    _trust(context, worker_ca)
    return context


def wrap(context: ssl.SSLContext, connection: socket.socket, server_name: str | None = None) -> ssl.SSLSocket:
    """TLS on a connected TCP socket, which it takes over; non-blocking, handshake still to come.

    An end without close_notify raises SSLEOFError, so that an orderly end can be told from a cut.
    """
    connection.setblocking(False)
    return context.wrap_socket(
        connection,
        server_side=context.protocol == ssl.PROTOCOL_TLS_SERVER,
        server_hostname=server_name,
        do_handshake_on_connect=False,
        suppress_ragged_eofs=False,
    )


def speaks_our_protocol(link: ssl.SSLSocket) -> bool:
    """Whether both ends named our ALPN; upstream's forwarder names none."""
    return link.selected_alpn_protocol() == names.GUEST_ALPN


def fingerprint(link: ssl.SSLSocket) -> bytes:
    """SHA-256 of the peer's certificate (DER), checked by nothing but the reader."""
    return sha256(link.getpeercert(binary_form=True) or b"").digest()


async def handshake(link: ssl.SSLSocket) -> None:
    """Raises OSError, of which ssl.SSLError and its kinds are part. Cancel-safe, but the link is of no use then."""
    await _until_done(link, link.do_handshake)


async def read_exactly(link: ssl.SSLSocket, size: int) -> bytes:
    """`size` bytes, and not one more taken from the link: what follows stays for whoever reads next.

    Raises ConnectionAbortedError when the link ends first and in order, another OSError when it breaks.
    """
    data = bytearray()
    while len(data) < size:
        piece = await _until_done(link, partial(link.recv, size - len(data)))
        if not piece:
            raise ConnectionAbortedError("the other end closed the link")
        data += piece
    return bytes(data)


async def write_all(link: ssl.SSLSocket, data: bytes) -> None:
    """Raises OSError. When cancelled, part of `data` may have been sent: close the link."""
    rest = memoryview(data)
    while rest:
        sent = await _until_done(link, partial(link.send, rest))
        rest = rest[sent:]


async def _until_done(link: ssl.SSLSocket, operation: Callable[[], T]) -> T:
    loop = asyncio.get_running_loop()
    while True:
        try:
            return operation()
        except ssl.SSLWantReadError:
            await _ready(link.fileno(), loop.add_reader, loop.remove_reader)
        except ssl.SSLWantWriteError:
            await _ready(link.fileno(), loop.add_writer, loop.remove_writer)


async def _ready(descriptor: int, add: Callable[..., Any], remove: Callable[[int], bool]) -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    add(descriptor, _wake, ready)
    try:
        await ready
    finally:
        remove(descriptor)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _context(protocol: int, certificate: bytes, key: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Some Pythons of 3.11 set this, and a cut link would look like one that was closed in order.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    # OpenSSL's loader takes file names only; a memory file keeps the key off every disk.
    descriptor = os.memfd_create("identity")
    try:
        os.write(descriptor, certificate + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=lambda: b"")  # never ask a terminal for one
    except (ssl.SSLError, ValueError) as error:
        raise InvalidRequest(f"the TLS certificate and key can not be used: {error}") from error
    finally:
        os.close(descriptor)
    return context


def _trust(context: ssl.SSLContext, ca: bytes) -> None:
    try:
        context.load_verify_locations(cadata=ca.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise InvalidRequest(f"the CA certificate can not be used: {error}") from error
