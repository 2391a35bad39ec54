"""The adaptor's calls while one relay makes way for the next: made again, and never carried out in vain."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from google.protobuf.message import Message

from adaptor.errors import Code, Conflict, GuestUnreachable, LinkLost, StatusError, Unavailable
from adaptor.protos import relay_pb2
from adaptor.relay.client import Identity, OwnGuest, RelayClient
from adaptor.ttrpc.aio import Call, Server, Service

Answer = Callable[[Message], Awaitable[Message]]


class Succession:
    """A relay's socket behind which one server follows another, as in a hand-over: the socket stays."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.requests: list[Message] = []
        self.answer: Answer = self.nothing
        self._server: Server | None = None

    async def nothing(self, request: Message) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def serve(self) -> None:
        methods = ("Open", "Dial", "Bind", "Close", "List", "Watch")
        service = Service(relay_pb2.DESCRIPTOR.services_by_name["Relay"], dict.fromkeys(methods, self._handle))
        self._server = Server([service])
        await self._server.listen_unix(self.path)

    async def end(self) -> None:
        """The process goes, and its socket with it; calls under way hear that the server stops, or nothing."""
        if self._server:
            await self._server.aclose()
            self._server = None

    async def kill(self) -> None:
        """As SIGKILL does: connections break without a word, and the socket's file stays."""
        assert self._server
        for link in list(self._server.links):
            link._transport.abort()
        await self.end()

    async def until_called(self, times: int = 1) -> None:
        while len(self.requests) < times:
            await asyncio.sleep(0.005)

    async def _handle(self, request: Message, call: Call) -> Message:
        self.requests.append(request)
        return await self.answer(request)


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Succession]:
    succession = Succession(tmp_path / "relay.sock")
    await succession.serve()
    yield succession
    await succession.end()


@pytest.fixture
def client(relay: Succession) -> RelayClient:
    return RelayClient(relay.path)


def dial(client: RelayClient, timeout: float = 30.0) -> "asyncio.Task[object]":
    trust = OwnGuest(b"nonce")
    identity = Identity(b"certificate", b"key")
    return asyncio.create_task(client.dial("a", ["10.0.0.5"], 15150, timeout, identity, trust, 45.0))


async def dialled(request: Message) -> Message:
    return relay_pb2.DialResponse(address="10.0.0.5:15150", certificate=b"der")


@pytest.mark.parametrize("end", [Succession.end, Succession.kill], ids=["in order", "killed"])
async def test_a_call_under_way_is_made_again_with_the_next_relay(
    relay: Succession, client: RelayClient, end: Callable[[Succession], Awaitable[None]]
) -> None:
    call = dial(client)
    await relay.until_called()
    await end(relay)
    relay.answer = dialled
    await asyncio.sleep(0.3)
    await relay.serve()
    assert (await call).address == "10.0.0.5:15150"  # type: ignore[attr-defined]
    assert len(relay.requests) == 2


async def test_what_is_made_again_has_only_the_time_that_is_left(relay: Succession, client: RelayClient) -> None:
    call = dial(client, 30.0)
    await relay.until_called()
    await asyncio.sleep(0.5)
    await relay.end()
    relay.answer = dialled
    await relay.serve()
    await call
    first, second = (request.timeout for request in relay.requests)  # type: ignore[attr-defined]
    assert first == 30.0
    assert 29.0 < second <= 29.5


async def test_a_bind_that_a_stopping_relay_drops_is_not_a_lost_link(relay: Succession, client: RelayClient) -> None:
    call = asyncio.create_task(client.bind("a", b"bind", 30.0))
    await relay.until_called()
    await relay.end()

    async def bound(request: Message) -> Message:
        return relay_pb2.BindResponse(answer=b"the VM's")

    relay.answer = bound
    await relay.serve()
    assert await call == b"the VM's"
    assert len(relay.requests) == 2


async def test_what_the_relay_itself_answers_is_not_asked_again(relay: Succession, client: RelayClient) -> None:
    async def lost(request: Message) -> Message:
        raise LinkLost("the VM did not confirm it")

    relay.answer = lost
    with pytest.raises(LinkLost, match="did not confirm"):
        await client.bind("a", b"bind", 30.0)
    assert len(relay.requests) == 1


@pytest.mark.parametrize(
    ("code", "error"), [(Code.FAILED_PRECONDITION, Conflict), (Code.DEADLINE_EXCEEDED, GuestUnreachable)]
)
async def test_the_next_relays_refusal_is_the_answer(
    relay: Succession, client: RelayClient, code: Code, error: type[Exception]
) -> None:
    call = dial(client)
    await relay.until_called()
    await relay.end()

    async def refuse(request: Message) -> Message:
        raise StatusError(code, "no")

    relay.answer = refuse
    await relay.serve()
    with pytest.raises(error, match="no"):
        await call


async def test_a_relay_without_a_successor_is_given_up_after_two_seconds(
    relay: Succession, client: RelayClient
) -> None:
    call = dial(client)
    await relay.until_called()
    began = time.monotonic()
    await relay.end()
    with pytest.raises(Unavailable, match="the relay went away during Dial"):
        await call
    assert 1.5 < time.monotonic() - began < 4


async def test_a_relay_that_is_not_there_at_all_is_not_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer"):
        await RelayClient(str(tmp_path / "nobody.sock")).list()
    assert time.monotonic() - began < 1


async def test_a_relay_that_drops_every_call_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptor.relay.client._PATIENCE", 0.5)
    path = str(tmp_path / "relay.sock")
    drops = 0

    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal drops
        drops += 1
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_unix_server(drop, path)
    try:
        with pytest.raises(Unavailable, match="went away during List"):
            await RelayClient(path).list()
    finally:
        server.close()
        await server.wait_closed()
    assert 2 <= drops <= 100


async def test_a_watch_outlives_the_relay_that_it_began_with(relay: Succession, client: RelayClient) -> None:
    watching = asyncio.create_task(client.watch(7))
    await relay.until_called()
    await relay.end()

    async def listing(request: Message) -> Message:
        return relay_pb2.ListResponse(generation=8, pid=os.getpid())

    relay.answer = listing
    await relay.serve()
    assert (await watching).generation == 8


async def test_closing_a_client_ends_its_calls_for_good(relay: Succession, client: RelayClient) -> None:
    call = dial(client)
    await relay.until_called()
    await client.aclose()
    with pytest.raises(Unavailable):
        await call
    assert len(relay.requests) == 1


async def test_the_relay_is_told_for_how_long_to_resume_a_link(relay: Succession, client: RelayClient) -> None:
    relay.answer = dialled
    await dial(client)
    assert relay.requests[0].link_grace == 45.0  # type: ignore[attr-defined]


VOLUMES = [relay_pb2.DirectVolume(name="vol-0", path="/a", disk_id="vol-1")]


async def test_a_relay_that_knows_of_volumes_is_told_of_them(relay: Succession, client: RelayClient) -> None:
    async def opened(request: Message) -> Message:
        return relay_pb2.OpenResponse(volumes=1, answers=True)

    relay.answer = opened
    await client.open("a", "/a.sock", volumes=VOLUMES)
    assert list(relay.requests[0].rewrites.volumes) == VOLUMES  # type: ignore[attr-defined]


async def test_a_relay_of_an_older_version_gets_no_pod_with_volumes(relay: Succession, client: RelayClient) -> None:
    async def opened(request: Message) -> Message:
        return relay_pb2.OpenResponse(answers=True)

    relay.answer = opened
    await client.open("a", "/a.sock")
    with pytest.raises(Unavailable, match=r"older version, which cannot give a pod its volumes.*--takeover"):
        await client.open("b", "/b.sock", volumes=VOLUMES)


async def test_a_relay_that_drops_what_vms_answer_gets_no_pod(relay: Succession, client: RelayClient) -> None:
    async def opened(request: Message) -> Message:
        return relay_pb2.OpenResponse()

    relay.answer = opened
    with pytest.raises(Unavailable, match=r"older version, which cannot tell what a VM answers.*--takeover"):
        await client.open("a", "/a.sock")
