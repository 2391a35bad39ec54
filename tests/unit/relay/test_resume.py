"""Two pumps with records between them, as relay and guest have, over real TLS links that break."""

import asyncio
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator

import pytest

from adaptor.relay.pump import End, Pump, Side
from adaptor.relay.records import WINDOW, Records
from adaptor.relay.splice import Splice, Watch
from adaptor.ttrpc.frames import HEADER
from tests.unit.relay.tunnel_ends import eventually, link_pair
from tests.worlds.tunnel import PATIENCE, Pki, answer, call

SERVING = b"serving"


class Pair:
    """shim ── relay's pump ── TLS ── guest's pump ── agent; `relink` gives both a new link, after what was lost."""

    def __init__(self, pki: Pki) -> None:
        self.pki = pki
        self.broken: list[End] = []
        self.ends: list[End] = []
        self.shim, unix = socket.socketpair()
        self.agent, agent_side = socket.socketpair()
        for each in (self.shim, unix, self.agent, agent_side):
            each.setblocking(False)
        self.near, self.far = Records(), Records()
        rules = {("grpc.Health", "Check"): lambda message: Watch(SERVING)}
        self.relay = Pump(unix, self.near, Splice(rules), self.ends.append, self.broken.append)
        self.guest = Pump(agent_side, self.far, Splice({}), self.ends.append, self.broken.append, Side.LINK)
        self.links: tuple[ssl.SSLSocket, ssl.SSLSocket] | None = None

    async def relink(self) -> None:
        link, vm = await link_pair(self.pki)
        self.guest.detach()
        taken = self.far.received
        self.guest.attach(vm, self.far.resume(self.near.received))
        self.relay.attach(link, self.near.resume(taken))
        self.links = link, vm

    def break_link(self, how: random.Random) -> None:
        """Cut at one end, or at both."""
        assert self.links is not None
        link, vm = self.links
        match how.randrange(3):
            case 0:
                cut_below(vm)
            case 1:
                cut_below(link)
            case _:
                cut_below(vm)
                cut_below(link)

    def close(self) -> None:
        self.relay.close()
        self.guest.close()
        self.shim.close()
        self.agent.close()


def cut_below(link: ssl.SSLSocket) -> None:
    """As when the network fails: neither program has done anything."""
    if link.fileno() >= 0:
        with socket.socket(fileno=socket.dup(link.fileno())) as below:
            below.shutdown(socket.SHUT_RDWR)


@pytest.fixture
async def pair(pki: Pki) -> AsyncIterator[Pair]:
    made = Pair(pki)
    await made.relink()
    yield made
    made.close()


async def send(end: socket.socket, data: bytes) -> None:
    async with asyncio.timeout(PATIENCE):
        await asyncio.get_running_loop().sock_sendall(end, data)


async def receive(end: socket.socket, size: int) -> bytes:
    data = bytearray()
    async with asyncio.timeout(PATIENCE):
        while len(data) < size and (piece := await asyncio.get_running_loop().sock_recv(end, size - len(data))):
            data += piece
    return bytes(data)


@pytest.mark.parametrize("seed", range(6))
async def test_bulk_both_ways_survives_any_number_of_breaks(pair: Pair, seed: int) -> None:
    how = random.Random(seed)
    asked = b"".join(call(n, "CopyFile", how.randbytes(how.choice((10, 5000, 300_000)))) for n in range(1, 200, 2))
    told = b"".join(answer(n, how.randbytes(how.choice((10, 5000, 30_000, 400_000)))) for n in range(1, 200, 2))
    sending = asyncio.gather(send(pair.shim, asked), send(pair.agent, told))
    receiving = asyncio.gather(receive(pair.agent, len(asked)), receive(pair.shim, len(told)))
    breaks = 0
    while not receiving.done():
        await asyncio.sleep(how.random() * 0.03)
        pair.break_link(how)
        if how.random() < 0.8:
            await eventually(lambda: bool(pair.broken) or receiving.done())
        pair.broken.clear()
        await pair.relink()
        breaks += 1
    await sending
    assert list(await receiving) == [asked, told]
    assert breaks > 1, "nothing was tested"
    assert not pair.ends


async def test_what_is_asked_while_there_is_no_link_arrives_when_there_is_one(pair: Pair) -> None:
    pair.break_link(random.Random(1))
    await eventually(lambda: bool(pair.broken))
    pair.relay.detach()
    pair.guest.detach()
    asked, told = call(1, "ExecProcess", b"once"), answer(3, b"late")
    await asyncio.gather(send(pair.shim, asked), send(pair.agent, told))
    await pair.relink()
    assert await receive(pair.agent, len(asked)) == asked
    assert await receive(pair.shim, len(told)) == told


async def test_a_check_under_way_is_answered_when_the_link_breaks_and_its_late_answer_is_dropped(pair: Pair) -> None:
    check = call(1, "Check", b"", "grpc.Health")
    await send(pair.shim, check)
    assert await receive(pair.agent, len(check)) == check
    pair.relay.detach()
    pair.relay.answer_watched()
    expected = answer(1, SERVING)
    assert await receive(pair.shim, len(expected)) == expected
    await send(pair.agent, answer(1, b"too late") + (other := answer(3, b"wanted")))
    await pair.relink()
    assert await receive(pair.shim, len(other)) == other


async def test_without_a_link_the_shim_is_read_until_the_window_is_full_and_no_further(pair: Pair) -> None:
    pair.relay.detach()
    whole = b"".join(call(n, "CopyFile", bytes(1 << 20)) for n in range(1, 41, 2))
    sending = asyncio.ensure_future(send(pair.shim, whole))
    await eventually(lambda: pair.near.full)
    await asyncio.sleep(0.05)
    assert not sending.done()
    assert len(pair.near.export().unconfirmed) < WINDOW + (1 << 20)
    receiving = asyncio.ensure_future(receive(pair.agent, len(whole)))
    await pair.relink()
    assert await receiving == whole
    await sending


async def test_a_shim_that_hangs_up_without_a_link_is_noticed(pair: Pair) -> None:
    pair.relay.detach()
    pair.shim.close()
    await eventually(lambda: bool(pair.ends))
    assert pair.ends[0].side is Side.UNIX


async def test_giving_up_still_delivers_what_had_come(pair: Pair) -> None:
    told = answer(1, bytes(3 << 20))
    sending = asyncio.ensure_future(send(pair.agent, told))
    await eventually(lambda: pair.near.received > 400_000)
    pair.relay.give_up("no more")
    got = await receive(pair.shim, 4 << 20)
    assert got == told[: len(got)]
    assert len(got) > 200_000
    assert pair.ends == [End(Side.LINK, "no more")]
    sending.cancel()


async def test_a_frozen_pump_touches_neither_side_and_goes_on_as_if_nothing_had_been(pair: Pair) -> None:
    pair.relay.freeze()
    asked, told = call(1, "ReadStdout", b"x"), answer(1, b"y")
    await asyncio.gather(send(pair.shim, asked), send(pair.agent, told))
    await asyncio.sleep(0.05)
    assert (pair.near.sent, pair.near.received) == (0, 0)
    pair.relay.thaw()
    assert await receive(pair.agent, len(asked)) == asked
    assert await receive(pair.shim, len(told)) == told


async def test_another_process_goes_on_where_a_frozen_pump_stood(pair: Pair) -> None:
    check, long = call(1, "Check", b"", "grpc.Health"), call(3, "CopyFile", bytes(100_000))
    await send(pair.shim, check + long[:50_000])
    await receive(pair.agent, len(check) + 1000)
    pair.relay.freeze()
    state, records = pair.relay.export(), pair.near.export()
    rules = {("grpc.Health", "Check"): lambda message: Watch(SERVING)}
    cut_below(pair.links[0] if pair.links else pytest.fail("no link"))
    pair.near = Records(records)
    old, shim = pair.relay, socket.socket(fileno=socket.dup(pair.relay._unix.fileno()))
    shim.setblocking(False)
    pair.relay = Pump(shim, pair.near, Splice(rules), pair.ends.append, pair.broken.append)
    pair.relay.restore(state)
    pair.relay.start()
    pair.relay.answer_watched()
    expected = answer(1, SERVING)
    assert await receive(pair.shim, len(expected)) == expected
    await send(pair.shim, long[50_000:])
    await pair.relink()
    rest = await receive(pair.agent, len(long) - 1000)
    assert rest == long[1000:]
    assert HEADER.unpack_from(long)[1] == 3
    old._unix.detach()
    old._drop_link()


async def test_an_orderly_end_is_an_end_and_no_break(pair: Pair) -> None:
    pair.guest.close()
    await eventually(lambda: bool(pair.ends))
    assert pair.ends == [End(Side.LINK, "closed in order by the other end")]
    assert not pair.broken
    assert await receive(pair.shim, 1) == b""


async def test_a_reset_is_a_break(pair: Pair) -> None:
    assert pair.links is not None
    pair.links[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.guest.detach()
    await eventually(lambda: bool(pair.broken))
    assert not pair.ends
