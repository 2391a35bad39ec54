"""The adaptor's side of relay.sock.

Each call has a connection of its own: giving a call up then stops it in the relay too (ttrpc knows no cancel message),
and a relay that was replaced is found by the next call without further ado.
"""

import asyncio
import hashlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from adaptor import names
from adaptor.errors import (
    AdaptorError,
    Code,
    Conflict,
    GuestUnreachable,
    InvalidRequest,
    LinkLost,
    StartFailed,
    StatusError,
    Unavailable,
    UnknownSandbox,
)
from adaptor.protos import relay_pb2
from adaptor.protos.guest_pb2 import HelloResponse
from adaptor.relay.states import SessionState
from adaptor.ttrpc.aio import Client

__all__ = [
    "Dialled",
    "Identity",
    "Listing",
    "OwnGuest",
    "RelayClient",
    "Session",
    "SessionState",
    "UpstreamGuest",
    "ensure_relay",
]

M = TypeVar("M", bound=Message)

# Seconds for calls that only touch the relay's memory, and what a call that waits for a VM gets on top of its own
# time: far more than a relay ever needs, so that only a stuck one is given up.
_PATIENCE: Final = 10.0
# Seconds within which a relay that dropped a call must take connections again, or it is gone: one that hands over
# to a successor keeps its socket open all the while.
_SUCCESSION: Final = 2.0
# Seconds from a stopping server's last word to the end of its connection.
_GOODBYE: Final = 0.1
# Seconds that a call gets at least when it has to be made again.
_LEAST: Final = 1.0
# Seconds until a spawned relay must answer (0.3 are usual), and between looks whether it does.
_SPAWN_PATIENCE: Final = 10.0
_SPAWN_POLL: Final = 0.02


@dataclass(frozen=True, slots=True)
class Identity:
    """The worker's client certificate and key, PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OwnGuest:
    """A VM with our guest; the caller checks Hello's proof against `nonce`. `pinned_sha256` once that has been done."""

    nonce: bytes
    pinned_sha256: bytes = b""


@dataclass(frozen=True, slots=True)
class UpstreamGuest:
    """A VM of a stock upstream image: `ca` (PEM) must have issued its certificate for `server_name`."""

    ca: bytes
    server_name: str


@dataclass(frozen=True, slots=True)
class Dialled:
    """The VM that answered. `hello` is empty from an upstream guest."""

    address: str  # host:port
    certificate: bytes  # DER
    hello: HelloResponse
    attempts: int
    connect_seconds: float
    handshake_seconds: float

    @property
    def certificate_sha256(self) -> bytes:
        """What to pin when this VM is dialled again."""
        return hashlib.sha256(self.certificate).digest()


@dataclass(frozen=True, slots=True)
class Session:
    """One sandbox in the relay. `reason` says why it is over, being resumed, or back to LISTENING."""

    sandbox_id: str
    socket_path: str
    state: SessionState
    address: str
    certificate_sha256: bytes
    shim_connected: bool
    bytes_to_guest: int
    bytes_from_guest: int
    requests: int
    reason: str
    resumes: int = 0  # links after the first


@dataclass(frozen=True, slots=True)
class Listing:
    """Every session, at `generation` of the relay `pid`."""

    sessions: tuple[Session, ...]
    generation: int
    version: str
    pid: int


class RelayClient:
    """Every call is idempotent and cancel-safe, and raises Unavailable when no relay answers, or it dies meanwhile."""

    def __init__(self, socket_path: str = names.RELAY_SOCKET) -> None:
        self.socket_path = socket_path
        self._busy: set[Client] = set()

    async def open(
        self,
        sandbox_id: str,
        socket_path: str,
        *,
        all_gpus: bool = False,
        volumes: Sequence[relay_pb2.DirectVolume] = (),
        volumes_unknown: bool = False,
    ) -> None:
        """Have the agent socket listen at `socket_path`. Raises InvalidRequest, Conflict if it is open elsewhere, and
        Unavailable where the relay is of a version that knows nothing of volumes, or drops Bind's answers."""
        rewrites = relay_pb2.Rewrites(all_gpus=all_gpus, volumes=volumes, volumes_unknown=volumes_unknown)
        request = relay_pb2.OpenRequest(sandbox_id=sandbox_id, socket_path=socket_path, rewrites=rewrites)
        answer = await self._call("Open", request, relay_pb2.OpenResponse)
        if answer.volumes != len(volumes) or not answer.answers:
            what = "tell what a VM answers" if answer.volumes == len(volumes) else "give a pod its volumes"
            raise Unavailable(
                f"the relay on this node is of an older version, which cannot {what}: have a new one take over "
                "(`peerpods relay --takeover`)"
            )

    async def dial(
        self,
        sandbox_id: str,
        addresses: Sequence[str],
        port: int,
        timeout: float,
        identity: Identity,
        trust: OwnGuest | UpstreamGuest,
        link_grace: float = 120.0,
    ) -> Dialled:
        """Dial the IP `addresses` in turn until the VM answers and is who it should be; cancelling stops it.

        `link_grace`: seconds for which the relay re-dials the VM, once it is a running pod's, when the link breaks.

        Raises GuestUnreachable (after `timeout` seconds, or at once for a wrong peer), InvalidRequest, UnknownSandbox,
        Conflict for a session that is over.
        """
        request = relay_pb2.DialRequest(
            sandbox_id=sandbox_id,
            addresses=addresses,
            port=port,
            timeout=timeout,
            identity=relay_pb2.Identity(certificate=identity.certificate, key=identity.key),
            link_grace=link_grace,
        )
        match trust:
            case OwnGuest(nonce, pinned):
                request.own.MergeFrom(relay_pb2.OwnGuest(nonce=nonce, pinned_sha256=pinned))
            case UpstreamGuest(ca, server_name):
                request.upstream.MergeFrom(relay_pb2.UpstreamGuest(ca=ca, server_name=server_name))
        answer = await self._call("Dial", request, relay_pb2.DialResponse, timeout)
        return Dialled(
            address=answer.address,
            certificate=answer.certificate,
            hello=_hello(answer),
            attempts=answer.attempts,
            connect_seconds=answer.connect_seconds,
            handshake_seconds=answer.handshake_seconds,
        )

    async def bind(self, sandbox_id: str, bind: bytes, timeout: float) -> bytes:
        """Bind the dialled VM with a serialised guest.BindRequest (empty: an upstream guest) and join it to the shim;
        its guest.BindResponse, serialised.

        Giving this up stops nothing; a repeat joins what still runs. Raises Conflict when nothing is dialled or the VM
        is bound already, StartFailed with the guest's reason, LinkLost if the VM never confirmed it.
        """
        request = relay_pb2.BindRequest(sandbox_id=sandbox_id, bind=bind, timeout=timeout)
        return (await self._call("Bind", request, relay_pb2.BindResponse, timeout)).answer

    async def close(self, sandbox_id: str) -> None:
        """End the session and all that is open in it; one that does not exist is closed."""
        await self._call("Close", relay_pb2.CloseRequest(sandbox_id=sandbox_id), relay_pb2.CloseResponse)

    async def list(self) -> Listing:
        return _listing(await self._call("List", relay_pb2.ListRequest(), relay_pb2.ListResponse))

    async def sessions(self) -> tuple[Session, ...]:
        return (await self.list()).sessions

    async def watch(self, generation: int) -> Listing:
        """Return when the sessions are no longer those of `generation`; at once if that was another relay's."""
        request = relay_pb2.WatchRequest(generation=generation)
        return _listing(await self._call("Watch", request, relay_pb2.ListResponse, None))

    async def aclose(self) -> None:
        """End the calls under way; sessions live on."""
        ending, self._busy = self._busy, set()
        await asyncio.gather(*(client.aclose() for client in ending))

    async def _call(self, method: str, request: Message, answer: type[M], waits: float | None = 0.0) -> M:
        """`waits`: seconds the relay itself may wait for something before it answers; None: for ever.

        A relay that hands over to its successor drops the calls under way: they are made again.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        lost_at: float | None = None  # when the connection of a call under way was lost, the last time
        while True:
            try:
                client = await Client.connect_unix(self.socket_path)
            except StatusError as error:
                if lost_at is None:
                    raise Unavailable(f"the relay does not answer: {error}. Is peerpods' relay running?") from error
                if loop.time() - lost_at > _SUCCESSION:
                    raise Unavailable(f"the relay went away during {method}: {error}") from error
                await asyncio.sleep(_SPAWN_POLL)
                continue
            made = loop.time()
            left = None if waits is None else max(waits + _PATIENCE - (made - began), _LEAST)
            if lost_at is not None and waits:
                request.timeout = max(waits - (made - began), _LEAST)  # type: ignore[attr-defined] # Dial's and Bind's
            self._busy.add(client)
            try:
                return await client.call(names.RELAY_SERVICE, method, request, answer, left)
            except StatusError as error:
                if not await _ended_by(client, error):
                    raise _raised(method, error) from error
                lost_at = loop.time()
                if waits is None and lost_at - made > _PATIENCE:
                    began = lost_at  # a wait for ever that had lasted: its repeats are counted anew
                given_up = client not in self._busy
                if given_up or lost_at - began > (waits or 0.0) + _PATIENCE:
                    raise Unavailable(f"the relay went away during {method}: {error}") from error
            finally:
                self._busy.discard(client)
                await client.aclose()
            await asyncio.sleep(_SPAWN_POLL)


async def ensure_relay(
    socket_path: str = names.RELAY_SOCKET, *, spawn: bool = True, log: int | None = None
) -> RelayClient:
    """A client of the relay at `socket_path`, which is started if there is none and `spawn` allows it.

    A started relay leaves this process's session and outlives it; it writes its log to the descriptor `log` (default:
    nowhere). Raises Unavailable.
    """
    client = RelayClient(socket_path)
    if not spawn or await _answers(client):
        await client.list()
        return client
    pid = _spawn(socket_path, log)
    deadline = asyncio.get_running_loop().time() + _SPAWN_PATIENCE
    while not await _answers(client):
        if _has_ended(pid):
            if await _answers(client):  # another one was quicker
                return client
            raise Unavailable(f"the relay started for {socket_path} ended at once; its log says why")
        if asyncio.get_running_loop().time() > deadline:
            raise Unavailable(f"the relay (pid {pid}) started for {socket_path} does not answer in {_SPAWN_PATIENCE} s")
        await asyncio.sleep(_SPAWN_POLL)
    if (await client.list()).pid != pid:
        # Ours comes up only now, finds the other, and ends. Left alone, it would serve if the other ended first.
        await asyncio.to_thread(os.waitpid, pid, 0)
    return client


async def _answers(client: RelayClient) -> bool:
    try:
        await client.list()
    except Unavailable:
        return False
    return True


async def _ended_by(client: Client, error: StatusError) -> bool:
    """Whether the connection ended with this error. A server that stops may say so before it closes."""
    if error.code == Code.UNAVAILABLE and not client.closed:
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                await client.wait_closed()
    return client.closed


def _spawn(socket_path: str, log: int | None) -> int:
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)
    output = 0 if log is None else log
    actions = [null, (os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    command = [sys.executable, "-m", "adaptor.relay.process", "--socket", socket_path]
    return os.posix_spawn(sys.executable, command, os.environ, file_actions=actions, setsid=True)


def _has_ended(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] != 0


def _raised(method: str, error: StatusError) -> AdaptorError:
    """What a status that the relay answered means to the adaptor."""
    match error.code:
        case Code.INVALID_ARGUMENT:
            return InvalidRequest(error.message)
        case Code.NOT_FOUND:
            return UnknownSandbox(error.message)
        case Code.FAILED_PRECONDITION:
            return Conflict(error.message)
        case Code.DEADLINE_EXCEEDED if method in {"Dial", "Bind"}:
            return GuestUnreachable(error.message)
        case Code.UNAVAILABLE if method == "Bind":
            return LinkLost(error.message)
        case Code.UNAVAILABLE | Code.DEADLINE_EXCEEDED | Code.CANCELLED:
            return Unavailable(error.message)
    return StartFailed(error.message) if method == "Bind" else error


def _hello(answer: relay_pb2.DialResponse) -> HelloResponse:
    try:
        return HelloResponse.FromString(answer.hello)
    except DecodeError as error:
        raise GuestUnreachable(f"the guest at {answer.address} answered Hello with what is no HelloResponse") from error


def _listing(answer: relay_pb2.ListResponse) -> Listing:
    sessions = tuple(
        Session(
            sandbox_id=each.sandbox_id,
            socket_path=each.socket_path,
            state=SessionState(each.state),
            address=each.address,
            certificate_sha256=each.certificate_sha256,
            shim_connected=each.shim_connected,
            bytes_to_guest=each.bytes_to_guest,
            bytes_from_guest=each.bytes_from_guest,
            requests=each.requests,
            reason=each.reason,
            resumes=each.resumes,
        )
        for each in answer.sessions
    )
    return Listing(sessions, answer.generation, answer.version, answer.pid)
