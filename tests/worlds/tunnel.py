"""A pod VM as the relay meets it: certificates, and a guest that greets, binds, resumes and echoes agent calls.

Built on plain blocking `ssl` in threads, so that it shares nothing with what it tests but the protocol's names.
"""

import datetime as dt
import hashlib
import hmac
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any, Final, Protocol, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from google.protobuf.message import Message

from adaptor import names
from adaptor.errors import Code, StatusError
from adaptor.protos.guest_pb2 import (
    BindRequest,
    BindResponse,
    HelloRequest,
    HelloResponse,
    ResumeRequest,
    ResumeResponse,
)
from adaptor.protos.ttrpc_pb2 import Request, Response
from adaptor.relay.client import Identity, OwnGuest, UpstreamGuest
from adaptor.ttrpc import messages
from adaptor.ttrpc.frames import HEADER, Frame, MessageType, encode
from tests.worlds.bound import Agent

TOKEN: Final = bytes(range(32))
NONCE: Final = b"0123456789abcdef"
PATIENCE: Final = 20.0  # seconds; only a failing test waits that long


@dataclass(frozen=True)
class Certificate:
    """PEM, with the key it belongs to, and the objects to issue more with."""

    certificate: x509.Certificate
    private: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def key(self) -> bytes:
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def identity(self) -> Identity:
        return Identity(self.pem, self.key)


def issue(name: str, issuer: Certificate | None = None, *, ca: bool = False) -> Certificate:
    """A certificate for `name` (also as its only DNS name), self-signed where there is no issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not ca,
                key_cert_sign=ca,
                crl_sign=ca,
                encipher_only=False,
                decipher_only=False,
                **usage,
            ),
            critical=True,
        )
    )
    return Certificate(builder.sign(issuer.private if issuer else key, hashes.SHA256()), key)


@dataclass(frozen=True)
class Pki:
    """Everybody's papers: the worker's, of our guest (nobody signs them), and of an upstream VM."""

    ca: Certificate = field(default_factory=lambda: issue("worker ca", ca=True))
    guest: Certificate = field(default_factory=lambda: issue("peerpods-guest"))

    @cached_property
    def worker(self) -> Identity:
        return issue("worker", self.ca).identity

    def own(self, pinned: bytes = b"") -> OwnGuest:
        return OwnGuest(NONCE, pinned)

    def upstream(self, name: str = "podvm") -> tuple[Certificate, UpstreamGuest]:
        return issue(name, self.ca), UpstreamGuest(self.ca.pem, name)


def server_context(certificate: Certificate, ca: bytes, *, alpn: bool = True) -> ssl.SSLContext:
    """TLS 1.3 that asks for a certificate of `ca`, as guests do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate.pem + certificate.key)
        file.flush()
        context.load_cert_chain(file.name)
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # some Pythons of 3.11 set it, and a cut would pass for an end
    context.load_verify_locations(cadata=ca.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    if alpn:
        context.set_alpn_protocols([names.GUEST_ALPN])
    return context


class Readable(Protocol):
    """A socket, or the agent's end of a bound VM."""

    def recv(self, size: int, /) -> bytes: ...


class Talks(Readable, Protocol):
    """Both ways."""

    def sendall(self, data: bytes, /) -> None: ...


def echo(link: Talks) -> None:
    """An agent that answers each request with its own message."""
    while frame := read_frame(link):
        if frame.type == MessageType.REQUEST:
            message = Request.FromString(frame.payload).payload
            link.sendall(answer(frame.stream_id, message))


def answer(stream_id: int, message: bytes) -> bytes:
    return encode(Frame(stream_id, MessageType.RESPONSE, 0, Response(payload=message).SerializeToString()))


def outcome(stream_id: int, what: Message | StatusError) -> bytes:
    if isinstance(what, StatusError):
        return encode(Frame(stream_id, MessageType.RESPONSE, 0, messages.encode_failure(what)))
    return answer(stream_id, what.SerializeToString())


def call(stream_id: int, method: str, message: bytes, service: str = names.AGENT_SERVICE) -> bytes:
    """A request frame as the shim sends it."""
    envelope = Request(service=service, method=method, payload=message, timeout_nano=60_000_000_000)
    envelope.metadata.add(key="containerd-namespace-ttrpc", value="k8s.io")
    return HEADER.pack(envelope.ByteSize(), stream_id, MessageType.REQUEST, 0) + envelope.SerializeToString()


def read_frame(link: Readable) -> Frame | None:
    """The next frame; None where the link ends before one."""
    header = read_exactly(link, HEADER.size)
    if header is None:
        return None
    length, stream_id, kind, flags = HEADER.unpack(header)
    payload = read_exactly(link, length)
    return None if payload is None else Frame(stream_id, kind, flags, payload)


def read_exactly(link: Readable, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = link.recv(size - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)


class Guest:
    """A VM at `address`:`port`. Change its attributes to have it behave otherwise; close it in the end.

    `agent` gets the bytes of each bound VM, in a thread of its own, and of an upstream VM each link. The stream ends
    in order when it returns. Any number of sandboxes may be bound here, as if each had a VM of its own.
    """

    def __init__(
        self, context: ssl.SSLContext, certificate: Certificate, listener: socket.socket | None = None
    ) -> None:
        self.agent: Callable[[Any], None] = echo
        self.greets = True  # or accepts, and never says a word
        self.answer = BindResponse(network=b'{"version":1}')  # to Bind
        self.binds_as_told = True  # or leaves Bind unanswered until `confirm`
        self.resumes_as_told = True  # or leaves Resume unanswered
        self.refusal: StatusError | None = None  # the answer to Bind, if it is to be one
        self.resume_refusal: StatusError | None = None
        self.hello_refusal: StatusError | None = None
        self.hellos: list[HelloRequest] = []
        self.binds: list[BindRequest] = []
        self.resumes: list[ResumeRequest] = []
        self.bound: dict[str, Agent] = {}
        self.accepted = 0
        self._context = context
        self._certificate = certificate
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.address, self.port = self._listener.getsockname()[:2]
        self._confirmed = threading.Event()
        self._closed = False
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def links(self) -> int:
        """How many are open."""
        return len(self._open)

    def confirm(self) -> None:
        """Answer the Bind that was left unanswered."""
        self._confirmed.set()

    @property
    def sockets(self) -> list[socket.socket]:
        """Where its packets come in: the listener, and every link."""
        return [self._listener, *self._open]

    def cut(self) -> None:
        """Cut every link there is, in whatever phase; the VM lives on."""
        for link in list(self._open):
            with suppress(OSError):
                socket.socket.shutdown(link, socket.SHUT_RDWR)

    def close(self) -> None:
        """Cut every link and stop listening."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._closed = True
        self.cut()
        for agent in self.bound.values():
            agent.unwrap()
        self._confirmed.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._start(self._serve, connection)

    def _start(self, work: Callable[[Any], None], what: object) -> None:
        thread = threading.Thread(target=work, args=(what,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        link: socket.socket = connection
        try:
            if not self.greets:
                connection.recv(1 << 20)
                connection.recv(1)  # until the other side has had enough
                return
            link = wrapped = self._context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=False)
            self._open ^= {connection, link}
            if wrapped.selected_alpn_protocol() != names.GUEST_ALPN:
                self.agent(wrapped)  # an upstream VM knows no Hello: its link is the agent's from the first byte on
            elif agent := self._until_bound(wrapped):
                agent.carry(wrapped)
        except OSError:
            pass  # the other side's end of it, which is what the test looks at
        finally:
            self._open -= {connection, link}
            link.close()

    def _until_bound(self, link: ssl.SSLSocket) -> Agent | None:
        while frame := read_frame(link):
            request = Request.FromString(frame.payload)
            if request.method == "Hello":
                hello = HelloRequest.FromString(request.payload)
                self.hellos.append(hello)
                link.sendall(outcome(frame.stream_id, self.hello_refusal or self._prove(hello.nonce)))
                continue
            assert request.method in ("Bind", "Resume"), "nothing else may come before Bind"
            agent, said = self._bind(request.payload) if request.method == "Bind" else self._resume(request.payload)
            if said:
                link.sendall(outcome(frame.stream_id, said))
            if agent:
                return agent
        return None

    def _bind(self, payload: bytes) -> tuple[Agent | None, Message | StatusError | None]:
        request = BindRequest.FromString(payload)
        self.binds.append(request)
        if not self.binds_as_told:
            self._confirmed.wait(PATIENCE)
        if self._closed:
            return None, None
        if self.refusal:
            return None, self.refusal
        agent = self.bound.get(request.sandbox_id)
        if agent is None:
            agent = self.bound[request.sandbox_id] = Agent()
            self._start(self._run_agent, agent)
        elif agent.heard:
            return None, StatusError(Code.FAILED_PRECONDITION, "bound, and its agent has been talked to")
        agent.go_on(0)
        return agent, self.answer

    def _resume(self, payload: bytes) -> tuple[Agent | None, Message | StatusError | None]:
        request = ResumeRequest.FromString(payload)
        self.resumes.append(request)
        if not self.resumes_as_told:
            return None, None
        agent = self.bound.get(request.sandbox_id)
        if self.resume_refusal or agent is None:
            return None, self.resume_refusal or StatusError(Code.FAILED_PRECONDITION, "this VM is not bound")
        try:
            return agent, ResumeResponse(received=agent.go_on(request.received))
        except StatusError as error:
            return None, error

    def _run_agent(self, agent: Agent) -> None:
        try:
            self.agent(agent)
        finally:
            agent.unwrap()

    def _prove(self, nonce: bytes) -> HelloResponse:
        bound = names.LAUNCH_PROOF_LABEL + nonce + hashlib.sha256(self._certificate.der).digest()
        proof = hmac.digest(TOKEN, bound, "sha256")
        return HelloResponse(protocol=names.GUEST_PROTOCOL, proof=proof, version="stand-in")


def cut(link: socket.socket) -> None:
    """End a connection with a reset, as a machine that was switched off does when it is back."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()
