"""The pump between a real unix socket and a real TLS link."""

import array
import asyncio
import ctypes
import ctypes.util
import fcntl
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from adaptor.errors import Code, StatusError
from adaptor.relay import pump as pump_module
from adaptor.relay import tls
from adaptor.relay.pump import End, Pump, Side
from adaptor.relay.splice import Answer, Rules, Splice
from adaptor.ttrpc import messages
from adaptor.ttrpc.frames import Frame, MessageType, encode
from tests.unit.relay.tunnel_ends import Plain, Through, Tunnel, eventually
from tests.worlds.tunnel import PATIENCE, answer, call, cut

Make = Callable[..., Awaitable[Tunnel]]

MIB = 1 << 20
# What sockets and the pump hold between two ends of which one does not read: unix and TCP buffers with their
# automatic growth, and one pump buffer. What a pump without back-pressure takes has no bound at all.
HELD = 16 * MIB
RULES: Rules = {
    ("grpc.Health", "Check"): lambda message: Answer(b"serving"),
    ("grpc.AgentService", "Refuse"): lambda message: Answer(error=StatusError(Code.UNAVAILABLE, "no")),
}


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def send(end: socket.socket, data: bytes) -> None:
    if isinstance(end, ssl.SSLSocket):
        await tls.write_all(end, data)
    else:
        await asyncio.get_running_loop().sock_sendall(end, data)


async def push_until_stuck(end: socket.socket, what: bytes = bytes(1 << 16)) -> int:
    """Send `what` over and over until nothing has been taken for 50 turns of the loop; returns how many bytes went.

    TLS may have begun with more: the next bytes to send must be those that come next in `what`, to its end.
    """
    taken, idle = 0, 0
    while idle < 50:
        assert taken < 4 * HELD, "there is no back-pressure"
        try:
            taken += end.send(what[taken % len(what) :])
            idle = 0
        except (BlockingIOError, ssl.SSLWantWriteError):
            idle += 1
        await asyncio.sleep(0.002)
    return taken


@pytest.mark.parametrize("chunk", [1, 7, 1000, 1 << 16, 5 * MIB])
async def test_bytes_arrive_whole_and_in_order_both_ways_whatever_their_chunks(tunnel: Make, chunk: int) -> None:
    joined = await tunnel()
    joined.start()
    data = noise(min(chunk * 400, 5 * MIB))

    async def pushed(end: socket.socket) -> None:
        for at in range(0, len(data), chunk):
            await send(end, data[at : at + chunk])

    got = await asyncio.gather(
        joined.from_shim(len(data)), joined.from_vm(len(data)), pushed(joined.shim), pushed(joined.vm)
    )
    assert got[0] == data
    assert got[1] == data
    assert (joined.pump.bytes_to_link, joined.pump.bytes_from_link) == (len(data), len(data))


async def test_what_arrived_before_the_start_is_not_lost(tunnel: Make) -> None:
    joined = await tunnel()
    await send(joined.vm, b"ab")
    while True:  # one byte taken, one left in OpenSSL, of which no readiness event will tell
        try:
            assert joined.link.recv(1) == b"a"
            break
        except ssl.SSLWantReadError:
            await asyncio.sleep(0)
    await send(joined.shim, b"c")
    joined.start()
    assert (await joined.from_vm(1), await joined.from_shim(1)) == (b"b", b"c")


async def test_a_vm_that_does_not_read_stops_the_shim_and_loses_nothing(tunnel: Make) -> None:
    joined = await tunnel()
    joined.start()
    taken = await push_until_stuck(joined.shim)
    assert taken < HELD
    assert len(joined.pump._link_out) <= len(pump_module._BUFFER)
    await send(joined.vm, b"the other way is free")
    assert await joined.from_vm(21) == b"the other way is free"
    tail = bytes(1 << 16) + b"and on"
    got, _ = await asyncio.gather(joined.from_shim(taken + len(tail)), send(joined.shim, tail))
    assert got == bytes(taken) + tail


async def test_a_shim_that_does_not_read_stops_the_vm_and_loses_nothing(tunnel: Make) -> None:
    joined = await tunnel()
    joined.start()
    taken = await push_until_stuck(joined.vm)
    assert taken < HELD
    assert len(joined.pump._unix_out) <= len(pump_module._BUFFER)
    await send(joined.shim, b"the other way is free")
    assert await joined.from_shim(21) == b"the other way is free"
    tail = bytes(1 << 16) + b"and on"
    got, _ = await asyncio.gather(joined.from_vm(taken + len(tail)), send(joined.vm, tail))
    assert got == bytes(taken) + tail


async def test_a_shim_that_closes_is_reported_after_its_last_bytes_are_sent(tunnel: Make) -> None:
    joined = await tunnel()
    joined.start()
    await send(joined.shim, b"last words")
    joined.shim.close()
    assert await joined.from_shim(10) == b"last words"
    await joined.vm_hears_an_orderly_end()
    assert (await joined.end()).side is Side.UNIX


async def test_a_shim_that_only_stops_sending_still_gets_the_answers_under_way(tunnel: Make) -> None:
    joined = await tunnel()
    early = asyncio.create_task(send(joined.vm, noise(2 * MIB)))
    await send(joined.shim, b"question")
    joined.shim.shutdown(socket.SHUT_WR)
    joined.start()
    assert await joined.from_vm(2 * MIB) == noise(2 * MIB)
    assert await joined.from_shim(8) == b"question"
    await joined.vm_hears_an_orderly_end()
    await early
    await send(joined.vm, noise(MIB))
    assert await joined.from_vm(MIB) == noise(MIB)
    joined.vm.close()
    assert await joined.from_vm(1) == b"", "the socket stays open after the link has ended"
    assert (await joined.end()).side is Side.UNIX


async def test_answers_nobody_is_left_to_read_do_not_break_the_goodbye(tunnel: Make) -> None:
    joined = await tunnel()
    await send(joined.vm, b"late answer" * 1000)
    await send(joined.shim, b"bye")
    joined.shim.close()
    joined.start()
    assert await joined.from_shim(3) == b"bye"
    await joined.vm_hears_an_orderly_end()


async def test_a_shim_that_closes_without_reading_its_answers_is_reported(tunnel: Make) -> None:
    joined = await tunnel()
    joined.start()
    await push_until_stuck(joined.vm)
    joined.shim.close()
    assert (await joined.end()).side is Side.UNIX
    await joined.vm_hears_an_orderly_end()


async def test_a_vm_that_does_not_close_its_side_does_not_keep_the_link_open(
    tunnel: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump_module, "_LINGER", 0.05)
    joined = await tunnel()
    joined.start()
    joined.shim.close()
    await joined.vm_hears_an_orderly_end()
    await eventually(lambda: refuses_to_be_told(joined.vm))


def refuses_to_be_told(end: socket.socket) -> bool:
    try:
        end.send(b"x")
    except (ConnectionError, ssl.SSLZeroReturnError):
        return True
    return False


async def test_a_vm_that_closes_is_reported_after_its_last_bytes_are_delivered(tunnel: Make) -> None:
    joined = await tunnel()
    joined.start()
    await send(joined.vm, b"last words")
    with pytest.raises(ssl.SSLWantReadError):  # close_notify has gone out; the other's has not come
        joined.vm.unwrap()
    assert await joined.from_vm(100) == b"last words"
    assert await joined.end() == End(Side.LINK, "closed in order by the other end")


async def test_a_link_that_ends_while_the_shim_is_slow_costs_it_nothing(tunnel: Make) -> None:
    joined = await tunnel()
    joined.start()
    taken = await push_until_stuck(joined.vm)
    tail = bytes(1 << 16) + noise(MIB)
    rest = asyncio.create_task(send(joined.vm, tail))
    begin = await joined.from_vm(taken // 2)  # until the VM could send all it has, and then it ends
    while not rest.done():
        begin += await joined.from_vm(1000)
    joined.vm.close()
    assert begin + await joined.from_vm(taken + 2 * len(tail)) == bytes(taken) + tail
    assert "without a goodbye" in (await joined.end()).reason


async def test_bytes_of_a_link_that_was_cut_reach_a_shim_that_reads_later(tunnel: Make) -> None:
    joined = await tunnel()
    joined.start()
    await send(joined.vm, noise(2 * MIB))
    joined.vm.close()
    assert await joined.from_vm(3 * MIB) == noise(2 * MIB)
    end = await joined.end()
    assert end.side is Side.LINK
    assert "without a goodbye" in end.reason


async def test_a_link_that_is_reset_says_so(tunnel: Make) -> None:
    joined = await tunnel()
    joined.start()
    cut(joined.vm)
    assert await joined.from_vm(1) == b""
    end = await joined.end()
    assert end.side is Side.LINK
    assert end.reason.startswith("broken: ")
    assert "reset" in end.reason.lower()


@pytest.mark.parametrize("size", [100, 16 << 10, 50_000])
async def test_what_came_in_front_of_a_reset_still_reaches_the_shim(tunnel: Make, size: int) -> None:
    joined = await tunnel()
    await send(joined.vm, noise(size))
    await eventually(lambda: all_arrived(joined.vm))
    cut(joined.vm)
    joined.start()
    assert await joined.from_vm(size) == noise(size)
    assert await joined.from_vm(1) == b""
    assert (await joined.end()).side is Side.LINK


def all_arrived(end: socket.socket) -> bool:
    """Whether the other machine has everything that `end` has sent."""
    siocoutq = 0x5411
    waiting = array.array("i", [0])
    fcntl.ioctl(end.fileno(), siocoutq, waiting)
    return waiting[0] == 0


async def test_an_end_that_is_read_with_more_than_the_shim_takes_waits_for_it(tunnel: Make) -> None:
    joined = await tunnel()
    whole_records = noise(15 * (16 << 10))  # after a shorter one a batch ends, and would not read the link's end
    await send(joined.vm, whole_records)
    joined.vm.close()
    joined.start()
    assert joined.pump._link_end is not None
    assert joined.pump._unix_out, "the shim's socket takes all of it: nothing is tested"
    assert await joined.from_vm(2 * len(whole_records)) == whole_records
    assert (await joined.end()).side is Side.LINK


async def test_a_request_that_cannot_be_sent_does_not_cost_the_answers_that_are_there(tunnel: Make) -> None:
    joined = await tunnel()
    joined.link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * MIB)  # or the kernel may have no room for all of it
    joined.start()
    await send(joined.vm, noise(600_000))  # more than the shim's socket holds, so some of it is not read yet
    await eventually(lambda: all_arrived(joined.vm))
    cut(joined.vm)
    await send(joined.shim, b"to nobody")
    await eventually(lambda: joined.pump._link_deaf)
    assert await joined.from_vm(600_000) == noise(600_000)
    assert (await joined.end()).side is Side.LINK


async def test_a_link_that_breaks_under_a_request_is_noticed(tunnel: Make) -> None:
    joined = await tunnel()
    await push_until_stuck(joined.shim)
    cut(joined.vm)
    joined.start()
    assert (await joined.end()).side is Side.LINK
    assert await joined.from_vm(1) == b""


async def test_an_agent_that_dies_leaves_its_last_answers_to_the_worker(tunnel: Make) -> None:
    """The guest's end: requests still come in for an agent that is gone, and must not undo what it has answered."""
    joined = await tunnel()
    joined.vm.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)  # so that the answers wait at the pump's end
    requests = asyncio.create_task(send(joined.vm, noise(2 * MIB)))
    joined.start()

    async def answer_and_die() -> None:
        await send(joined.shim, noise(MIB))
        joined.shim.close()

    got, *_ = await asyncio.gather(joined.from_shim(MIB), answer_and_die(), joined.end())
    assert got == noise(MIB)
    await requests


@pytest.mark.parametrize("side", Side)
async def test_a_side_that_does_not_read_costs_no_cpu(tunnel: Make, side: Side) -> None:
    joined = await tunnel()
    joined.start()
    await push_until_stuck(joined.shim if side is Side.LINK else joined.vm)
    before = time.process_time()
    await asyncio.sleep(0.3)
    assert time.process_time() - before < 0.15


async def test_closing_says_goodbye_and_reports_nothing(tunnel: Make) -> None:
    joined = await tunnel()
    joined.start()
    joined.pump.close()
    joined.pump.close()
    await joined.vm_hears_an_orderly_end()
    assert await joined.from_vm(1) == b""
    assert not joined.ended.done()


async def test_an_answer_from_here_reaches_the_shim_and_not_the_vm(tunnel: Make) -> None:
    joined = await tunnel(Splice(RULES))
    joined.start()
    asked = call(1, "Check", b"", "grpc.Health")
    passed = call(3, "ReadStdout", b"x")
    await send(joined.shim, asked + passed)
    assert await joined.from_shim(len(passed)) == passed
    expected = answer(1, b"serving")
    assert await joined.from_vm(len(expected)) == expected
    assert joined.pump._splice is not None
    assert joined.pump._splice.requests_seen == 2


async def test_an_answer_waits_until_the_long_response_under_way_is_whole(tunnel: Make) -> None:
    joined = await tunnel(Splice(RULES))
    joined.start()
    response = answer(3, noise(300_000))
    await send(joined.vm, response[:50_000])
    assert await joined.from_vm(50_000) == response[:50_000]
    await send(joined.shim, call(5, "Check", b"", "grpc.Health") + call(7, "Refuse", b""))
    await send(joined.shim, (mark := call(9, "ReadStdout", b"")))
    assert await joined.from_shim(len(mark)) == mark, "both calls before it have been seen"
    await send(joined.vm, response[50_000:])
    failure = encode(Frame(7, MessageType.RESPONSE, 0, messages.encode_failure(StatusError(14, "no"))))
    expected = response[50_000:] + answer(5, b"serving") + failure
    assert await joined.from_vm(len(expected)) == expected


async def test_an_answer_does_not_wait_for_a_response_that_is_cut(tunnel: Make) -> None:
    joined = await tunnel(Splice(RULES))
    joined.start()
    response = answer(3, noise(100_000))
    await send(joined.vm, response[:50_000])
    await send(joined.shim, call(5, "Check", b"", "grpc.Health"))
    expected = answer(5, b"serving")
    assert await joined.from_vm(len(expected)) == expected
    await send(joined.vm, response[50_000:])
    assert await joined.from_vm(len(response)) == response


@pytest.mark.parametrize("side", Side)
async def test_who_does_not_read_its_answers_is_not_read_either(tunnel: Make, side: Side) -> None:
    joined = await tunnel(Splice({("grpc.AgentService", "Big"): lambda message: Answer(bytes(1000))}), side)
    joined.start()
    asker: socket.socket = joined.shim if side is Side.UNIX else joined.vm
    asked, reply = call(1, "Big", b""), answer(1, bytes(1000))
    replies = await push_until_stuck(asker, asked * 100) // len(asked)
    expected = len(reply) * replies
    got = await (joined.from_vm(expected) if side is Side.UNIX else joined.from_shim(expected))
    assert got == reply * replies


@pytest.mark.parametrize("side", Side)
async def test_requests_are_read_on_when_the_answers_in_their_way_have_gone(tunnel: Make, side: Side) -> None:
    joined = await tunnel(Splice({("grpc.AgentService", "Big"): lambda message: Answer(bytes(1000))}), side)
    joined.start()
    asker, responder = (joined.shim, joined.vm) if side is Side.UNIX else (joined.vm, joined.shim)
    receive = joined.from_vm if side is Side.UNIX else joined.from_shim
    asked, reply, response = call(1, "Big", b""), answer(1, bytes(1000)), answer(9, b"r" * 300_000)
    await send(responder, response[:50])
    assert await receive(50) == response[:50]
    taken = await push_until_stuck(asker, asked * 100)  # every answer waits for the rest of that response
    rest = (asked * 100)[taken % (100 * len(asked)) :]
    await send(responder, response[50:])
    expected = response[50:] + reply * ((taken + len(rest)) // len(asked))
    got, _ = await asyncio.gather(receive(len(expected)), send(asker, rest))
    assert got == expected


async def test_at_the_guests_end_requests_are_what_the_link_brings(tunnel: Make) -> None:
    joined = await tunnel(Splice({("grpc.AgentService", "Double"): lambda message: message * 2}), Side.LINK)
    joined.start()
    await send(joined.vm, call(1, "Double", b"ab"))
    expected = call(1, "Double", b"abab")
    assert await joined.from_vm(len(expected)) == expected
    await send(joined.shim, answer(1, b"done") + call(3, "Double", b"not a request of this side"))
    same = answer(1, b"done") + call(3, "Double", b"not a request of this side")
    assert await joined.from_shim(len(same)) == same


def request_new_keys(link: ssl.SSLSocket) -> None:
    """Have `link` send a KeyUpdate that asks for one in return, before its next bytes; Python itself has no way to."""
    library = ctypes.CDLL(ctypes.util.find_library("ssl"))
    inner = link._sslobj  # type: ignore[attr-defined]
    pointer = ctypes.c_void_p.from_address(id(inner) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p))
    assert library.SSL_key_update(pointer, 1) == 1


@pytest.mark.skipif(not ctypes.util.find_library("ssl"), reason="OpenSSL is not a shared library here")
async def test_traffic_goes_on_through_changes_of_keys(tunnel: Make) -> None:
    joined = await tunnel()
    joined.start()
    for turn in range(4):
        request_new_keys(joined.vm)
        await asyncio.gather(
            send(joined.vm, noise(MIB, turn)), send(joined.shim, noise(MIB, -turn)), *received(joined, turn)
        )


def received(joined: Tunnel, turn: int) -> list[Awaitable[None]]:
    async def same(data: Awaitable[bytes], expected: bytes) -> None:
        assert await data == expected

    return [same(joined.from_vm(MIB), noise(MIB, turn)), same(joined.from_shim(MIB), noise(MIB, -turn))]


class ContraryLink:
    """A link, without TLS, that asks for what TLS may ask for and OpenSSL seldom does."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.fileno = connection.fileno
        self.close = connection.close
        self._has_received = False

    def send(self, data: bytes) -> int:
        try:
            self._connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            raise ssl.SSLWantReadError from None
        return self._connection.send(data)

    def recv_into(self, buffer: memoryview) -> int:
        if not self._has_received:
            self._has_received = True
            raise ssl.SSLWantWriteError
        try:
            return self._connection.recv_into(buffer)
        except BlockingIOError:
            raise ssl.SSLWantReadError from None

    def unwrap(self) -> None:
        raise ssl.SSLError


async def test_tls_that_must_receive_to_send_and_send_to_receive_is_given_what_it_asks_for() -> None:
    shim, unix = socket.socketpair()
    near, far = socket.socketpair()
    for end in (shim, unix, near, far):
        end.setblocking(False)
    joined = Pump(unix, Plain(), Through(), lambda end: None, lambda end: None)
    joined.attach(cast(ssl.SSLSocket, ContraryLink(near)))
    loop = asyncio.get_running_loop()
    with shim, far:
        await loop.sock_sendall(shim, b"question")
        await eventually(lambda: bool(joined._link_out))
        await loop.sock_sendall(far, b"key")
        async with asyncio.timeout(PATIENCE):
            assert await loop.sock_recv(shim, 10) == b"key"
            assert await loop.sock_recv(far, 10) == b"question"
        joined.close()
