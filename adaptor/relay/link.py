"""Reaching a VM: dial until it answers, TLS, who it is, and the two control calls before the link is the agent's.

    connect ─► handshake ─► ALPN, pin ─► Hello ─► Link ─► Bind ─► handed over to the pump
    └── refused, dropped, cut, silent: dialled again until the deadline; the wrong peer: no use in trying again

A VM has booted when it answers, so dialling is how a boot is noticed: short attempts at a steady pace find it within
ATTEMPT + GAP of listening, where one long attempt would wait in the kernel's doubling pauses.
"""

import asyncio
import hmac
import ipaddress
import itertools
import os
import socket
import ssl
from contextlib import ExitStack, suppress
from typing import Final

from adaptor import names
from adaptor.errors import GuestUnreachable, InvalidRequest, StatusError
from adaptor.protos.guest_pb2 import HelloRequest
from adaptor.protos.relay_pb2 import DialRequest
from adaptor.relay import tls
from adaptor.ttrpc.connection import ClientConnection, ProtocolError
from adaptor.ttrpc.frames import HEADER, MAX_PAYLOAD

# Seconds for one TCP connect. In one region an answer takes milliseconds. What a boot is noticed late by, at worst, is
# this and GAP where packets vanish until the VM listens; the aim is half a second (`python -m tests.bench start`).
ATTEMPT: Final = 0.35
# Seconds between attempts, so that a VM that refuses is not dialled in a busy loop.
GAP: Final = 0.1
# Seconds for TLS and Hello once TCP is up. Milliseconds on an idle VM, but one that boots is busy. What accepts and
# then says nothing (a proxy, a socket unit whose service hangs) is dialled again after that.
GREETING: Final = 5.0

# Seconds until a link that brings no sign of life is given up, to be dialled again. The shim sends a Health.Check every
# 5 s and gives it 30 s: one that went into a dead link must be answered from here well before. So bytes that stay
# unacknowledged end the link after 10 s, and a link without any (they are all on their way to us) is probed from 5 s
# on. Longer than TCP takes over a few lost packets in a row; the kernel by itself would wait for 2 hours. Probes also
# keep the connection known to the firewalls on its way.
_SILENCE: Final = 10
_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),  # a call is one small write, and its answer is waited for
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE * 1000),
)


class NobodyThere(GuestUnreachable):
    """Nobody answered who could be the VM, until the time was up; `last` is what the last attempt met."""

    def __init__(self, message: str, last: str) -> None:
        super().__init__(message)
        self.last = last


class Link:
    """A VM that has been reached and greeted; whoever takes `tls` owns it from then on."""

    def __init__(self, link: ssl.SSLSocket, address: str, *, ours: bool) -> None:
        self.tls = link
        self.address = address  # host:port
        self.ours = ours  # our own guest, which understands `call`
        self.hello = b""  # guest.HelloResponse as received; empty from an upstream guest
        self.attempts = 0
        self.connect_seconds = 0.0  # from the first attempt until TCP was up
        self.handshake_seconds = 0.0
        self._connection = ClientConnection()

    @property
    def certificate(self) -> bytes:
        """The VM's, DER."""
        return self.tls.getpeercert(binary_form=True) or b""

    async def call(self, method: str, message: bytes, timeout: float) -> bytes:
        """One control call to our guest; takes no byte off the link that comes after the answer.

        Raises StatusError, the guest's own answer. After OSError, TimeoutError or ProtocolError the link is of no use.
        """
        stream_id = self._connection.request(names.GUEST_SERVICE, method, message, timeout)
        async with asyncio.timeout(timeout):
            with suppress(OSError):  # what the guest said before it closed explains more: it is read next
                await tls.write_all(self.tls, self._connection.data_to_send())
            while True:
                for answer in self._connection.receive(await self._frame()):
                    if answer.stream_id == stream_id:
                        if answer.error:
                            raise answer.error
                        return answer.payload

    async def _frame(self) -> bytes:
        head = await tls.read_exactly(self.tls, HEADER.size)
        length = HEADER.unpack(head)[0]
        if length > MAX_PAYLOAD:
            raise ProtocolError(f"the guest announced an answer of {length} bytes")
        return head + await tls.read_exactly(self.tls, length)


async def dial(request: DialRequest) -> Link:
    """Dial the addresses in turn until one answers and is who it should be, `request.timeout` seconds at most.

    Raises InvalidRequest, NobodyThere, and GuestUnreachable at once for who it should not be. Cancel-safe: no socket is
    left behind.
    """
    context = _context(request)
    loop = asyncio.get_running_loop()
    started = loop.time()
    deadline = started + request.timeout
    for attempts in itertools.count(1):
        address = request.addresses[(attempts - 1) % len(request.addresses)]
        try:
            link = await _attempt(request, address, context, deadline)
        except _NotYet as error:
            if loop.time() + GAP >= deadline:
                raise _unreachable(request, attempts, error) from error
            await asyncio.sleep(GAP)
        else:
            link.attempts = attempts
            link.connect_seconds = loop.time() - started - link.handshake_seconds
            return link
    raise AssertionError("counting never ends")


def tune(connection: socket.socket) -> None:
    """Set what every link of ours has set."""
    for option in _OPTIONS:
        connection.setsockopt(*option)


class _NotYet(Exception):
    """An attempt that failed as attempts do on a VM that is still booting."""


async def _attempt(request: DialRequest, address: str, context: ssl.SSLContext, deadline: float) -> Link:
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        connection = stack.enter_context(socket.socket(_family(address), socket.SOCK_STREAM))
        connection.setblocking(False)
        try:
            async with asyncio.timeout_at(min(loop.time() + ATTEMPT, deadline)):
                await loop.sock_connect(connection, (address, request.port))
            tune(connection)
        except TimeoutError as error:
            raise _NotYet(f"{address}: no answer to TCP within {ATTEMPT} s") from error
        except OSError as error:
            raise _NotYet(f"{address}: {_reason(error)}") from error
        server_name = request.upstream.server_name or None
        link = stack.enter_context(tls.wrap(context, connection, server_name))
        greeted = await _greet(request, link, address, deadline)
        stack.pop_all()
        return greeted


async def _greet(request: DialRequest, link: ssl.SSLSocket, address: str, deadline: float) -> Link:
    loop = asyncio.get_running_loop()
    where = f"[{address}]:{request.port}" if ":" in address else f"{address}:{request.port}"
    started = loop.time()
    found = Link(link, where, ours=request.HasField("own"))
    try:
        async with asyncio.timeout_at(min(started + GREETING, deadline)):
            await tls.handshake(link)
            if found.ours:
                _check_own(request, found)
                hello = HelloRequest(protocol=names.GUEST_PROTOCOL, nonce=request.own.nonce)
                found.hello = await found.call("Hello", hello.SerializeToString(), GREETING)
    except TimeoutError as error:
        raise _NotYet(f"{where}: TCP connected, but TLS and Hello did not finish in {GREETING:g} s") from error
    except ssl.SSLCertVerificationError as error:
        raise GuestUnreachable(
            f"the VM at {where} is not the one that was created: its certificate is not accepted"
            f" ({error.verify_message}). If its image has our guest in it, guest.flavor must be own, not upstream"
        ) from error
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        raise _NotYet(f"{where}: TCP connected, but the connection was closed during TLS or Hello") from error
    except ssl.SSLError as error:
        if error.reason == tls.CUT:
            raise _NotYet(f"{where}: TCP connected, but the connection was cut during TLS or Hello") from error
        raise GuestUnreachable(
            f"no TLS link with {where}: {error.reason or error}. Something else may be listening there, or the VM does"
            " not trust this node's certificate: is it from another launch or another node?"
        ) from error
    except OSError as error:
        raise _NotYet(f"{where}: {_reason(error)} during TLS or Hello") from error
    except (StatusError, ProtocolError) as error:
        raise GuestUnreachable(f"the guest at {where} did not accept Hello: {error}") from error
    found.handshake_seconds = loop.time() - started
    return found


def _check_own(request: DialRequest, link: Link) -> None:
    if not tls.speaks_our_protocol(link.tls):
        raise GuestUnreachable(
            f"what answers at {link.address} is no peerpods guest (it names no ALPN {names.GUEST_ALPN}): set"
            " guest.flavor to upstream if this is a stock upstream image, or use an image with our guest"
        )
    pinned = request.own.pinned_sha256
    if pinned and not hmac.compare_digest(pinned, tls.fingerprint(link.tls)):
        raise GuestUnreachable(
            f"what answers at {link.address} is not the VM that was there before: its certificate has changed. Another"
            " machine may have taken over the address, or somebody sits in between"
        )


def _context(request: DialRequest) -> ssl.SSLContext:
    """The TLS of this request; raises InvalidRequest for anything in it that can never work."""
    for address in request.addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise InvalidRequest(f"Dial: {address!r} is no IP address; names are not looked up here") from error
    if not request.addresses or not 0 < request.port < 1 << 16 or not request.timeout > 0:
        raise InvalidRequest("Dial needs an address, a port below 65536 and a timeout in seconds")
    identity = request.identity
    match request.WhichOneof("trust"):
        case "own":
            if not request.own.nonce:
                raise InvalidRequest("Dial: own.nonce is empty; the guest's proof would prove nothing")
            return tls.own_client(identity.certificate, identity.key)
        case "upstream":
            if not request.upstream.server_name:
                raise InvalidRequest("Dial: upstream.server_name is empty; any certificate of this CA would do")
            return tls.upstream_client(identity.certificate, identity.key, request.upstream.ca)
    raise InvalidRequest("Dial needs to know whom to trust: own or upstream")


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)  # the loops word it in their own ways


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _unreachable(request: DialRequest, attempts: int, last: Exception) -> NobodyThere:
    return NobodyThere(
        f"no guest answered at {', '.join(request.addresses)}, TCP port {request.port}, within {request.timeout:.3g} s"
        f" ({attempts} attempts, the last: {last}). Check that the security group or firewall lets TCP"
        f" {request.port} in from this node, that the VM's image has the guest in it, and the VM's console log",
        str(last),
    )
