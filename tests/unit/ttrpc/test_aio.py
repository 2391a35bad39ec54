"""aio: client and server over real unix sockets, every rule from both ends."""

import asyncio
import os
from pathlib import Path

import pytest
import uvloop
from google.protobuf.any_pb2 import Any

from adaptor.errors import Code, Conflict, InvalidRequest, NoCapacity, StatusError, UnknownSandbox
from adaptor.protos.hypervisor_pb2 import (
    CreateVMRequest,
    CreateVMResponse,
    StartVMRequest,
    StartVMResponse,
    StopVMResponse,
    VersionRequest,
)
from adaptor.ttrpc import messages
from adaptor.ttrpc.aio import Call, Client, Limits, Peer, Server, Service
from adaptor.ttrpc.frames import MAX_PAYLOAD, MessageType
from tests.unit.ttrpc.rawpeer import SERVICE, RawPeer, call, frame
from tests.unit.ttrpc.sides import DESCRIPTOR, Scripted, Serve, Stall, create, echo, failure, started

# -- calls that go well -----------------------------------------------------------------------------------------------


async def test_a_call_carries_message_metadata_deadline_and_the_callers_credentials(serve: Serve) -> None:
    seen: list[tuple[CreateVMRequest, Call]] = []

    async def create_vm(request: CreateVMRequest, call: Call) -> CreateVMResponse:
        seen.append((request, call))
        return CreateVMResponse(agent_socket_path="/run/agent.ttrpc")

    _, path = await serve(CreateVM=create_vm)
    request = CreateVMRequest(id="a", annotations={"k": "v"}, network_namespace_path="/run/netns/x")
    async with await Client.connect_unix(path) as client:
        answer = await client.call(SERVICE, "CreateVM", request, CreateVMResponse, 30, [("a", "1"), ("a", "2")])
    assert answer == CreateVMResponse(agent_socket_path="/run/agent.ttrpc")
    ((got, context),) = seen
    assert got == request
    assert context.timeout is not None
    assert 29 < context.timeout <= 30
    peer = Peer(os.getpid(), os.getuid(), os.getgid())
    assert context == Call(SERVICE, "CreateVM", (("a", "1"), ("a", "2")), context.timeout, peer)


async def test_calls_of_one_connection_run_beside_each_other_and_are_answered_as_they_finish(serve: Serve) -> None:
    stall = Stall()
    _, path = await serve(CreateVM=stall, StartVM=started)
    async with await Client.connect_unix(path) as client:
        waiting = [asyncio.create_task(create(client, str(n))) for n in range(50)]
        for _ in waiting:
            await stall.begun.acquire()
        await client.call(SERVICE, "StartVM", StartVMRequest(), StartVMResponse)  # the last call is answered first
        assert not any(task.done() for task in waiting)
        stall.go.set()
        assert await asyncio.gather(*waiting) == [f"/{n}" for n in range(50)]
    assert stall.peak == 50


async def test_one_socket_serves_many_connections_and_services(tmp_path: Path) -> None:
    server = Server([Service(DESCRIPTOR, {"CreateVM": echo})])
    await server.listen_unix(tmp_path / "a.sock")
    await server.listen_unix(tmp_path / "b.sock")
    clients = [await Client.connect_unix(tmp_path / f"{name}.sock") for name in "aabb"]
    assert await asyncio.gather(*(create(c, str(n)) for n, c in enumerate(clients))) == ["/0", "/1", "/2", "/3"]
    for client in clients:
        await client.aclose()
    await server.aclose()


async def test_requests_that_arrive_one_byte_at_a_time_are_served(serve: Serve) -> None:
    _, path = await serve(CreateVM=echo)
    async with await RawPeer.connect(path) as peer:
        for byte in call(1, "x") + call(3, "y"):
            peer.send(bytes([byte]))
            await asyncio.sleep(0)  # lets the loop read it alone
        assert {(await peer.answer())[0] for _ in range(2)} == {1, 3}


def test_both_ends_work_on_uvloop(tmp_path: Path) -> None:
    async def scenario() -> None:
        stall = Stall()
        server = Server([Service(DESCRIPTOR, {"CreateVM": stall, "StartVM": started})], Limits(calls=1))
        await server.listen_unix(tmp_path / "s.sock")
        client = await Client.connect_unix(tmp_path / "s.sock")
        first = asyncio.create_task(create(client, "1"))
        await stall.begun.acquire()
        second = asyncio.create_task(create(client, "2"))
        stall.go.set()
        assert (await first, await second) == ("/1", "/2")
        assert (await failure(create(client, "x" * MAX_PAYLOAD))).code == Code.RESOURCE_EXHAUSTED
        stall.go.clear()
        assert (await failure(create(client, "3", timeout=0.01))).code == Code.DEADLINE_EXCEEDED
        await client.aclose()
        await server.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


# -- calls that fail --------------------------------------------------------------------------------------------------


async def test_a_handlers_status_arrives_with_code_message_and_details(serve: Serve) -> None:
    detail = Any(type_url="type.googleapis.com/x", value=b"\1\2").SerializeToString()

    async def create_vm(request: CreateVMRequest, call: Call) -> CreateVMResponse:
        raise StatusError(Code.ABORTED, "not now", (detail,))

    _, path = await serve(CreateVM=create_vm)
    async with await Client.connect_unix(path) as client:
        error = await failure(create(client))
    assert (error.code, error.message, error.details) == (Code.ABORTED, "not now", (detail,))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("m"), Code.INVALID_ARGUMENT),
        (UnknownSandbox("m"), Code.NOT_FOUND),
        (Conflict("m"), Code.FAILED_PRECONDITION),
        (NoCapacity("m"), Code.RESOURCE_EXHAUSTED),
    ],
    ids=str,
)
async def test_the_programs_own_errors_travel_as_their_status(serve: Serve, error: Exception, code: Code) -> None:
    async def create_vm(request: CreateVMRequest, call: Call) -> CreateVMResponse:
        raise error

    _, path = await serve(CreateVM=create_vm)
    async with await Client.connect_unix(path) as client:
        got = await failure(create(client))
    assert (got.code, got.message) == (code, "m")


async def test_an_unforeseen_error_is_internal_names_the_call_and_is_logged_with_its_trace(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def create_vm(request: CreateVMRequest, call: Call) -> CreateVMResponse:
        raise KeyError("hunter2")

    _, path = await serve(CreateVM=create_vm)
    async with await Client.connect_unix(path) as client:
        error = await failure(create(client))
    assert error.code == Code.INTERNAL
    assert "hypervisor.Hypervisor/CreateVM" in error.message
    assert "hunter2" not in error.message
    (record,) = [r for r in caplog.records if r.levelname == "ERROR"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


@pytest.mark.parametrize("answer", [StopVMResponse(), None], ids=["another message", "nothing"])
async def test_a_handler_that_answers_with_something_else_is_an_internal_error(serve: Serve, answer: object) -> None:
    async def create_vm(request: CreateVMRequest, call: Call) -> object:
        return answer

    _, path = await serve(CreateVM=create_vm)  # type: ignore[arg-type] # the mistake under test
    async with await Client.connect_unix(path) as client:
        assert (await failure(create(client))).code == Code.INTERNAL


async def test_unknown_services_and_methods_are_unimplemented_by_name(serve: Serve) -> None:
    _, path = await serve(CreateVM=echo)
    async with await Client.connect_unix(path) as client:
        for service, method, named in [
            ("grpc.Health", "Check", "grpc.Health"),
            (SERVICE, "Explode", "Explode"),
            (SERVICE, "Version", "Version"),  # declared, without a handler
        ]:
            error = await failure(client.call(service, method, VersionRequest(), CreateVMResponse))
            assert error.code == Code.UNIMPLEMENTED
            assert named in error.message


async def test_a_call_with_an_endless_name_is_refused_in_a_short_text(serve: Serve) -> None:
    _, path = await serve(CreateVM=echo)
    async with await Client.connect_unix(path) as client:
        for service, method in [("s" * 3_000_000, "m"), (SERVICE, "m" * 3_000_000)]:
            error = await failure(client.call(service, method, VersionRequest(), CreateVMResponse))
            assert error.code == Code.UNIMPLEMENTED
            assert len(error.message) < 1000


async def test_undecodable_envelopes_and_messages_are_invalid_and_the_connection_goes_on(serve: Serve) -> None:
    _, path = await serve(CreateVM=echo)
    async with await RawPeer.connect(path) as peer:
        peer.send(frame(1, MessageType.REQUEST, b"\xff\xff"))
        peer.send(frame(3, MessageType.REQUEST, messages.encode_request(SERVICE, "CreateVM", b"\xff", None, ())))
        peer.send(call(5, "x"))
        assert await peer.refusal() == (1, Code.INVALID_ARGUMENT)
        stream_id, error = await peer.answer()
        assert stream_id == 3
        assert isinstance(error, StatusError)
        assert "hypervisor.CreateVMRequest" in error.message
        assert (await peer.answer())[0] == 5


async def test_bad_stream_ids_data_and_streaming_are_refused_and_the_connection_goes_on(serve: Serve) -> None:
    _, path = await serve(CreateVM=echo)
    async with await RawPeer.connect(path) as peer:
        peer.send(call(7) + call(7) + call(3) + call(4))
        refused = [await peer.refusal() for _ in range(3)]  # these need no handler, so they come first
        assert refused == [(7, Code.INVALID_ARGUMENT), (3, Code.INVALID_ARGUMENT), (4, Code.INVALID_ARGUMENT)]
        assert await peer.answer() == (7, CreateVMResponse(agent_socket_path="/a").SerializeToString())
        peer.send(frame(9, MessageType.DATA, b"x") + call(11, flags=2) + frame(13, 99, b"?") + call(15))
        assert await peer.refusal() == (9, Code.INVALID_ARGUMENT)
        assert await peer.refusal() == (11, Code.UNIMPLEMENTED)
        assert (await peer.answer())[0] == 15


async def test_an_answer_that_is_no_message_of_the_wanted_type_is_internal(scripted: Scripted) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await RawPeer(reader, writer).receive()
        writer.write(frame(1, 2, messages.encode_response(b"\xff")))
        await reader.read()

    error = await failure(create(await scripted(script)))
    assert error.code == Code.INTERNAL
    assert "hypervisor.CreateVMResponse" in error.message


# -- the 4 MiB limit --------------------------------------------------------------------------------------------------


async def test_a_request_over_the_limit_fails_at_home_and_the_connection_goes_on(serve: Serve) -> None:
    _, path = await serve(CreateVM=echo)
    async with await Client.connect_unix(path) as client:
        assert (await failure(create(client, "x" * MAX_PAYLOAD))).code == Code.RESOURCE_EXHAUSTED
        assert await create(client, "b") == "/b"


async def test_a_request_over_the_limit_that_arrives_is_refused_and_the_connection_goes_on(serve: Serve) -> None:
    _, path = await serve(CreateVM=echo)
    async with await RawPeer.connect(path) as peer:
        peer.send(frame(1, 1, bytes(5 << 20)) + call(3))
        assert await peer.refusal() == (1, Code.RESOURCE_EXHAUSTED)
        assert (await peer.answer())[0] == 3


async def test_an_answer_over_the_limit_is_refused_at_home_and_the_connection_goes_on(serve: Serve) -> None:
    async def create_vm(request: CreateVMRequest, call: Call) -> CreateVMResponse:
        return CreateVMResponse(agent_socket_path="x" * (MAX_PAYLOAD if request.id == "large" else 1_000_000))

    _, path = await serve(CreateVM=create_vm)
    async with await Client.connect_unix(path) as client:
        assert (await failure(create(client, "large"))).code == Code.RESOURCE_EXHAUSTED
        assert len(await create(client)) == 1_000_000


async def test_an_answer_over_the_limit_that_arrives_fails_its_own_call_only(scripted: Scripted) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer)
        await peer.receive()
        await peer.receive()
        writer.write(frame(1, 2, bytes(5 << 20)) + frame(3, 2, b""))
        await reader.read()

    client = await scripted(script)
    large, small = await asyncio.gather(create(client), create(client), return_exceptions=True)
    assert isinstance(large, StatusError)
    assert large.code == Code.RESOURCE_EXHAUSTED
    assert small == ""


# -- deadlines and calls given up -------------------------------------------------------------------------------------


async def test_a_handler_past_its_deadline_is_cancelled_and_answered_deadline_exceeded(serve: Serve) -> None:
    stall = Stall()
    _, path = await serve(CreateVM=stall)
    async with await RawPeer.connect(path) as peer:
        peer.send(call(1, timeout=0.02))
        assert await peer.refusal() == (1, Code.DEADLINE_EXCEEDED)
        await stall.cancelled.acquire()


async def test_a_deadline_is_answered_on_time_and_once_by_a_handler_that_resists(serve: Serve) -> None:
    release = asyncio.Event()

    async def create_vm(request: CreateVMRequest, call: Call) -> CreateVMResponse:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await release.wait()
        return CreateVMResponse()

    _, path = await serve(CreateVM=create_vm)
    async with await RawPeer.connect(path) as peer:
        peer.send(call(1, timeout=0.02))
        assert await peer.refusal() == (1, Code.DEADLINE_EXCEEDED)
        release.set()
        peer.send(frame(3, 1, b"\xff"))
        assert (await peer.answer())[0] == 3  # and not a second answer on 1


async def test_a_call_that_arrives_with_no_time_left_is_not_begun(serve: Serve) -> None:
    stall = Stall()
    _, path = await serve(CreateVM=stall)
    async with await RawPeer.connect(path) as peer:
        peer.send(call(1, timeout=-1))
        assert await peer.refusal() == (1, Code.DEADLINE_EXCEEDED)
    assert stall.peak == 0


async def test_a_client_keeps_its_deadline_itself_sends_what_is_left_and_drops_the_late_answer(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="peerpods.ttrpc")
    late = asyncio.Event()
    timeouts: list[float | None] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer)
        timeouts.append(messages.decode_request((await peer.receive())[2]).timeout)
        await late.wait()
        timeouts.append(messages.decode_request((await peer.receive())[2]).timeout)
        writer.write(frame(1, 2, b"") + frame(3, 2, b""))
        await reader.read()

    client = await scripted(script)
    error = await failure(create(client, timeout=0.05))
    assert error.code == Code.DEADLINE_EXCEEDED
    assert "hypervisor.Hypervisor/CreateVM" in error.message
    assert "0.05 s" in error.message
    late.set()
    assert await create(client) == ""
    assert timeouts[1] is None
    assert timeouts[0] is not None
    assert 0 < timeouts[0] <= 0.05
    assert [r.levelname for r in caplog.records if "nobody waits" in r.getMessage()] == ["DEBUG"]


async def test_a_call_without_time_is_not_sent(scripted: Scripted) -> None:
    received: list[tuple[int, int, bytes]] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await RawPeer(reader, writer).receive())
        writer.write(frame(1, 2, b""))
        await reader.read()

    client = await scripted(script)
    assert (await failure(create(client, "late", timeout=0))).code == Code.DEADLINE_EXCEEDED
    assert await create(client, "in time") == ""
    ((_, _, envelope),) = received
    assert b"in time" in envelope


async def test_a_cancelled_call_leaves_the_connection_usable(serve: Serve) -> None:
    stall = Stall()
    _, path = await serve(CreateVM=stall, StartVM=started)
    async with await Client.connect_unix(path) as client:
        task = asyncio.create_task(create(client))
        await stall.begun.acquire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not client._link._calls
        stall.go.set()  # its answer comes now, and nobody waits
        await client.call(SERVICE, "StartVM", StartVMRequest(), StartVMResponse)
        assert not client._link._calls
