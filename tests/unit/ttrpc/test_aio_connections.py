"""aio: connections that end, are too much, or are closed on purpose."""

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from adaptor.errors import Code
from adaptor.protos.hypervisor_pb2 import CreateVMRequest, CreateVMResponse
from adaptor.ttrpc.aio import Call, Client, Limits
from tests.unit.ttrpc.rawpeer import RawPeer, call, frame
from tests.unit.ttrpc.sides import Scripted, Serve, Stall, create, echo, failure, until

# -- connections that end ---------------------------------------------------------------------------------------------


async def test_a_client_that_goes_cancels_the_handlers_it_waited_for(serve: Serve) -> None:
    stall = Stall()
    server, path = await serve(CreateVM=stall)
    async with await RawPeer.connect(path) as peer:
        peer.send(call(1) + call(3, timeout=600))
        await stall.begun.acquire()
        await stall.begun.acquire()
    await stall.cancelled.acquire()
    await stall.cancelled.acquire()
    await server.aclose()
    assert not server.links


async def test_a_client_that_breaks_off_inside_a_frame_is_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    _, path = await serve(CreateVM=echo)
    async with await RawPeer.connect(path) as peer:
        peer.send(call(1)[:-1])
        peer.writer.write_eof()
        assert await peer.reader.read() == b""
    assert [r.levelname for r in caplog.records] == ["WARNING"]


async def test_a_connection_that_is_lost_fails_its_calls_with_unavailable(scripted: Scripted) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await RawPeer(reader, writer).receive()

    client = await scripted(script)
    before = client.closed
    error = await failure(create(client))
    assert error.code == Code.UNAVAILABLE
    assert "scripted0.sock" in error.message
    assert "closed by the server" in error.message
    await client.wait_closed()
    assert (before, client.closed) == (False, True)
    assert (await failure(create(client))).code == Code.UNAVAILABLE


async def test_an_answer_that_breaks_off_is_a_lost_connection(scripted: Scripted) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await RawPeer(reader, writer).receive()
        writer.write(frame(1, 2, b"\x12\x03\x0a\x01a")[:-1])

    error = await failure(create(await scripted(script)))
    assert error.code == Code.UNAVAILABLE
    assert "in the middle of an answer" in error.message


async def test_a_client_that_is_closed_fails_its_calls_and_takes_no_more(serve: Serve) -> None:
    stall = Stall()
    _, path = await serve(CreateVM=stall)
    client = await Client.connect_unix(path)
    task = asyncio.create_task(create(client))
    await stall.begun.acquire()
    await client.aclose()
    await client.aclose()
    assert client.closed
    assert "closed by this side" in (await failure(task)).message
    assert (await failure(create(client))).code == Code.UNAVAILABLE


async def test_connecting_where_nothing_listens_is_unavailable_and_names_the_path(tmp_path: Path) -> None:
    error = await failure(Client.connect_unix(tmp_path / "absent.sock"))
    assert error.code == Code.UNAVAILABLE
    assert "absent.sock" in error.message


# -- clients that ask for more than they take -------------------------------------------------------------------------


async def test_a_client_that_does_not_read_is_not_read_either_until_it_does(serve: Serve) -> None:
    size, calls, begun = 64 << 10, 2000, 0

    async def create_vm(request: CreateVMRequest, call: Call) -> CreateVMResponse:
        nonlocal begun
        begun += 1
        return CreateVMResponse(agent_socket_path="x" * size)

    limits = Limits(calls=8, unsent_bytes=1 << 20)
    server, path = await serve(limits, CreateVM=create_vm)
    async with await RawPeer.connect(path) as peer:
        # 125 MiB of answers are asked for, and nobody reads.
        peer.send(b"".join(call(2 * n + 1, "a" * 1000) for n in range(calls)))
        await until(lambda: any(link._unread for link in server.links))
        (link,) = server.links
        for _ in range(1000):  # turns of the loop in which a server that did not stop would go on
            await asyncio.sleep(0)
        assert not link._transport.is_reading()
        assert link._transport.get_write_buffer_size() <= limits.unsent_bytes + (limits.calls + 1) * (size + 100)
        assert begun < calls
        assert [(await peer.answer())[0] for _ in range(calls)] == [2 * n + 1 for n in range(calls)]
    assert begun == calls


async def test_no_more_calls_run_at_once_than_the_limit_and_none_is_lost(serve: Serve) -> None:
    stall = Stall()
    server, path = await serve(Limits(calls=3), CreateVM=stall)
    async with await RawPeer.connect(path) as peer:
        peer.send(b"".join(call(2 * n + 1, str(n)) for n in range(20)))
        for _ in range(3):
            await stall.begun.acquire()
        (link,) = server.links
        assert not link._transport.is_reading()
        stall.go.set()
        assert sorted([(await peer.answer())[0] for _ in range(20)]) == list(range(1, 40, 2))
        assert link._transport.is_reading()
    assert stall.peak == 3


async def test_unanswered_requests_hold_no_more_bytes_than_the_limit(serve: Serve) -> None:
    stall = Stall()
    _, path = await serve(Limits(request_bytes=2_000_000), CreateVM=stall)
    async with await RawPeer.connect(path) as peer:
        peer.send(b"".join(call(2 * n + 1, "x" * 900_000) for n in range(10)))
        for _ in range(3):
            await stall.begun.acquire()
        stall.go.set()
        assert len([await peer.answer() for _ in range(10)]) == 10
    assert stall.peak == 3


async def test_a_call_that_waits_for_its_turn_still_has_its_deadline(serve: Serve) -> None:
    stall = Stall()
    _, path = await serve(Limits(calls=1), CreateVM=stall)
    async with await RawPeer.connect(path) as peer:
        peer.send(call(1, timeout=0.05) + call(3, timeout=0.05))
        assert [await peer.refusal() for _ in range(2)] == [(1, Code.DEADLINE_EXCEEDED), (3, Code.DEADLINE_EXCEEDED)]
    assert stall.peak == 1


async def test_a_client_that_is_not_being_read_is_noticed_when_it_goes(serve: Serve) -> None:
    stall = Stall()
    server, path = await serve(Limits(calls=1), CreateVM=stall)
    async with await RawPeer.connect(path) as peer:
        peer.send(call(1) + call(3))
        await stall.begun.acquire()
        (link,) = server.links
        assert not link._transport.is_reading()
    await stall.cancelled.acquire()
    assert stall.peak == 1


async def test_garbage_on_one_connection_does_not_touch_the_others(serve: Serve) -> None:
    _, path = await serve(CreateVM=echo)
    async with await Client.connect_unix(path) as client, await RawPeer.connect(path) as peer:
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await create(client) == "/a"


async def test_a_client_waits_to_send_while_the_server_does_not_read(scripted: Scripted) -> None:
    read = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read.wait()
        peer = RawPeer(reader, writer)
        for stream_id in (1, 3):
            assert (await peer.receive())[0] == stream_id
            writer.write(frame(stream_id, 2, b""))
        await reader.read()

    client = await scripted(script)
    large = asyncio.create_task(create(client, "x" * 4_000_000))
    await until(lambda: not client._link.writable.is_set())
    assert (await failure(create(client, timeout=0.02))).code == Code.DEADLINE_EXCEEDED  # without taking a stream id
    read.set()
    assert await large == ""
    assert await create(client) == ""


# -- a server that closes ---------------------------------------------------------------------------------------------


async def test_a_closing_server_lets_handlers_finish_refuses_new_calls_and_then_hangs_up(serve: Serve) -> None:
    stall = Stall()
    server, path = await serve(CreateVM=stall)
    client = await Client.connect_unix(path)
    running = asyncio.create_task(create(client))
    await stall.begun.acquire()
    closing = asyncio.create_task(server.aclose(grace=30))
    await asyncio.sleep(0)
    refused = await failure(create(client))
    assert refused.code == Code.UNAVAILABLE
    assert "stopping" in refused.message
    assert (await failure(Client.connect_unix(path))).code == Code.UNAVAILABLE
    assert not path.exists()
    stall.go.set()
    assert await running == "/a"
    await closing
    await client.wait_closed()
    await server.aclose()  # again: nothing left to do
    await client.aclose()


async def test_a_client_that_connects_while_the_server_closes_is_hung_up_on(serve: Serve) -> None:
    # Turns of the loop, from not accepted yet to fully connected. After two, asyncio of Python 3.11 has accepted but made
    # no transport, and loses the socket in an assertion of its own: then the client waits until this process ends.
    for turns in (0, 1, 3, 4, 5):
        server, path = await serve(CreateVM=echo)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.setblocking(False)
            for _ in range(turns):
                await asyncio.sleep(0)
            await server.aclose()
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.get_running_loop().sock_recv(client, 1) == b""


async def test_handlers_that_outlast_the_grace_are_cancelled_and_answered_unavailable(serve: Serve) -> None:
    stall = Stall()
    server, path = await serve(Limits(calls=1), CreateVM=stall)
    async with await Client.connect_unix(path) as client:
        running = [asyncio.create_task(create(client)) for _ in range(2)]  # the second is not even begun
        await stall.begun.acquire()
        await server.aclose(grace=0.01)
        assert [(await failure(task)).code for task in running] == [Code.UNAVAILABLE] * 2
    assert stall.peak == 1


async def test_a_handler_that_was_cancelled_from_inside_is_answered_cancelled(serve: Serve) -> None:
    async def create_vm(request: CreateVMRequest, call: Call) -> CreateVMResponse:
        raise asyncio.CancelledError

    _, path = await serve(CreateVM=create_vm)
    async with await Client.connect_unix(path) as client:
        assert (await failure(create(client))).code == Code.CANCELLED


async def test_closing_waits_for_handlers_whose_client_has_gone(serve: Serve) -> None:
    cleaned = asyncio.Event()
    release = asyncio.Event()

    async def create_vm(request: CreateVMRequest, call: Call) -> CreateVMResponse:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await release.wait()
            cleaned.set()
        raise AssertionError

    begun, cleaning = asyncio.Event(), asyncio.Event()
    server, path = await serve(CreateVM=create_vm)
    async with await RawPeer.connect(path) as peer:
        peer.send(call(1))
        await begun.wait()
    await cleaning.wait()
    closing = asyncio.create_task(server.aclose(grace=30))
    await asyncio.sleep(0)
    assert not closing.done()
    release.set()
    await closing
    assert cleaned.is_set()


async def test_a_client_that_does_not_read_cannot_hold_up_a_closing_server(serve: Serve) -> None:
    async def create_vm(request: CreateVMRequest, call: Call) -> CreateVMResponse:
        return CreateVMResponse(agent_socket_path="x" * 4_000_000)

    server, path = await serve(CreateVM=create_vm)
    async with await RawPeer.connect(path) as peer:
        peer.send(call(1))
        await until(lambda: any(link._transport.get_write_buffer_size() for link in server.links))
        async with asyncio.timeout(10):
            await server.aclose(grace=5)
        assert not server.links


async def test_a_cancellation_that_meets_the_end_of_the_connection_is_not_swallowed(serve: Serve) -> None:
    _, path = await serve(CreateVM=echo)
    client = await Client.connect_unix(path)
    closing = asyncio.create_task(client.aclose())
    await asyncio.sleep(0)  # it waits for the end now
    client._link.gone.set()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await client.aclose()
