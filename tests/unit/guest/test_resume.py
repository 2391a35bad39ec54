"""A bound VM and its links: the next one takes over where the last one broke, and Bind may be repeated until then."""

import asyncio
import contextlib
import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from adaptor import names
from adaptor.errors import Code
from adaptor.pki import NodePki
from adaptor.protos.guest_pb2 import ResumeRequest
from adaptor.relay import records
from adaptor.ttrpc.frames import MessageType
from tests.unit.guest.peers import (
    DEADLINE,
    SANDBOX,
    Dial,
    GuestWorld,
    Streams,
    Worker,
    client,
    guest,
    pod,
    raw_frame,
    refusal,
    until,
)

CHECK = (names.HEALTH_SERVICE, "Check")
# What the pump takes of the agent in one go, at most.
ONE_READ = 256 << 10
# What the agent's own end holds at most: its socket's buffer, and asyncio's.
HELD = 1 << 20


async def bound(world: GuestWorld, dial: Dial) -> tuple[Worker, Streams]:
    """A worker's link that the agent has answered on, and the streams to go on with on the next one."""
    worker = await dial(world)
    await worker.bind(pod())
    assert await worker.call(*CHECK, b"first") == b"first"
    assert worker.streams is not None
    return worker, worker.streams


def kept(world: GuestWorld) -> records.Records:
    """The guest's own books."""
    assert world.control._binding is not None
    return world.control._binding.bound.result().forwarder._records


def cut(worker: Worker) -> None:
    """As a machine does that lost power and is back: by reset."""
    worker.link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    worker.close()


# -- the next link ----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [cut, Worker.close], ids=["reset", "killed"])
async def test_after_a_cut_the_agent_is_still_there_and_a_new_link_goes_on(
    world: GuestWorld, dial: Dial, end: Callable[[Worker], None]
) -> None:
    worker, streams = await bound(world, dial)
    end(worker)
    worker = await dial(world)
    await worker.resume(streams)
    assert await worker.call(*CHECK, b"second") == b"second"
    assert world.agent.connections == 1
    assert [stream for stream, _, _ in world.agent.calls] == [1, 3]  # no call came twice


async def test_a_call_that_was_under_way_is_carried_out_once_and_answered_on_the_next_link(
    world: GuestWorld, dial: Dial
) -> None:
    worker, streams = await bound(world, dial)
    call = worker.begin(*CHECK, b"under way")
    await worker.flush()
    await until(lambda: len(world.agent.calls) == 2)  # answered as well, into a link that nobody reads any more
    cut(worker)
    worker = await dial(world)
    await worker.resume(streams)
    assert await worker.answer(call) == b"under way"
    assert len(world.agent.calls) == 2


async def test_a_call_of_which_the_link_brought_a_part_is_sent_the_rest_of(world: GuestWorld, dial: Dial) -> None:
    worker, streams = await bound(world, dial)
    call = worker.begin(*CHECK, b"x" * 1000)
    before = kept(world).received
    await worker.send_raw(streams.pack(streams.calls.data_to_send())[:500])
    await until(lambda: kept(world).received == before + 492)  # without the record's head
    cut(worker)
    worker = await dial(world)
    await worker.resume(streams)
    assert await worker.answer(call) == b"x" * 1000


async def test_links_may_be_resumed_many_times_and_none_is_kept(world: GuestWorld, dial: Dial) -> None:
    worker, streams = await bound(world, dial)
    before = len(os.listdir("/proc/self/fd"))
    for turn in range(20):
        newer = await dial(world)
        await newer.resume(streams)
        message = b"%d" % turn
        assert await newer.call(*CHECK, message) == message
        worker.close()
        worker = newer
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert len(world.agent.calls) == 21


async def test_the_newest_link_wins_and_nothing_of_an_older_one_is_taken_any_more(
    world: GuestWorld, dial: Dial
) -> None:
    older, streams = await bound(world, dial)
    newer = await dial(world)
    await newer.resume(streams)
    # The model of the older link would count what it sends: it must not, for it does not arrive.
    late = raw_frame(99, MessageType.REQUEST, b"late")
    with contextlib.suppress(OSError):
        await older.send_raw(struct.pack(">II", 0, len(late)) + late)
    assert await newer.call(*CHECK, b"newer") == b"newer"
    with pytest.raises(OSError, match=r"(?i)eof|reset"):  # and no goodbye: the pod is not over
        await older.receive_raw()
    assert [stream for stream, _, _ in world.agent.calls] == [1, 3]


async def test_what_an_older_link_still_brings_after_the_resume_does_not_arrive_twice(
    world: GuestWorld, dial: Dial
) -> None:
    """The older link's bytes wait in the guest's kernel while Resume is answered."""
    older, streams = await bound(world, dial)
    newer = await dial(world)
    call = older.begin(*CHECK, b"once")
    record = streams.pack(streams.calls.data_to_send())
    older.link.send(record)  # and in the same turn of the loop, so that the guest sees both at once:
    resume = newer.begin(
        names.GUEST_SERVICE, "Resume", ResumeRequest(sandbox_id=SANDBOX, received=len(streams.received))
    )
    await newer.flush()
    await newer.resumed(resume, streams)
    assert await newer.answer(call) == b"once"
    assert len(world.agent.calls) == 2


async def test_a_resume_needs_no_hello_and_comes_after_one_too(world: GuestWorld, dial: Dial) -> None:
    _, streams = await bound(world, dial)
    worker = await dial(world)
    assert (await worker.hello()).bound
    await worker.resume(streams)
    assert await worker.call(*CHECK, b"on") == b"on"


async def test_a_link_that_asks_to_resume_and_vanishes_leaves_the_agent_to_the_next(
    world: GuestWorld, dial: Dial
) -> None:
    worker, streams = await bound(world, dial)
    for _ in range(5):
        vanishing = await dial(world)
        vanishing.begin(
            names.GUEST_SERVICE, "Resume", ResumeRequest(sandbox_id=SANDBOX, received=len(streams.received))
        )
        await vanishing.flush()
        cut(vanishing)
    worker = await dial(world)
    await worker.resume(streams)
    assert await worker.call(*CHECK, b"on") == b"on"


async def test_a_call_of_ours_among_the_agents_is_refused_and_the_link_goes_on(world: GuestWorld, dial: Dial) -> None:
    worker, streams = await bound(world, dial)
    error = await refusal(worker.call(names.GUEST_SERVICE, "Resume", ResumeRequest(sandbox_id=SANDBOX)))
    assert (error.code, error.message) == (
        Code.FAILED_PRECONDITION, "this link is the agent's: the VM is bound already",
    )  # fmt: skip
    assert await worker.call(*CHECK, b"on") == b"on"
    assert len(streams.received) > 0


# -- resumes that are refused -----------------------------------------------------------------------


async def refused(worker: Worker, sandbox: str = SANDBOX, received: int = 0) -> str:
    """Why this Resume is refused."""
    request = ResumeRequest(sandbox_id=sandbox, received=received)
    error = await refusal(worker.call(names.GUEST_SERVICE, "Resume", request))
    assert error.code == Code.FAILED_PRECONDITION
    return error.message


async def test_a_free_vm_has_nothing_to_resume_and_can_still_be_bound(world: GuestWorld, dial: Dial) -> None:
    worker = await dial(world)
    assert await refused(worker) == "this VM is not bound to a pod yet"
    await worker.bind(pod())
    assert await worker.call(*CHECK, b"on") == b"on"


async def test_a_refused_resume_tells_why_and_leaves_the_agents_link_as_it_is(world: GuestWorld, dial: Dial) -> None:
    worker, streams = await bound(world, dial)
    other = await dial(world)
    assert await refused(other, "beef" * 16) == (
        f"this VM is bound to pod shop/web-0 (sandbox {SANDBOX}), not to sandbox '{'beef' * 16}'"
    )
    assert len(await refused(other, "beef" * 1000)) < 500
    await worker.call(*CHECK, b"confirms what came before it")
    for claim in (0, len(streams.received) + 1):
        assert f"the other end says that it has {claim} bytes" in await refused(other, received=claim)
    error = await refusal(other.call(names.GUEST_SERVICE, "Resume", b"\xff\xff"))
    assert error.code == Code.INVALID_ARGUMENT
    assert await worker.call(*CHECK, b"on") == b"on"


async def test_a_guest_that_started_anew_after_bind_says_that_the_agent_is_lost(
    tmp_path: Path, pki: NodePki, dial: Dial
) -> None:
    async with guest(tmp_path, pki.ca_pem) as world:
        await bound(world, dial)
    async with guest(tmp_path, pki.ca_pem) as world:
        why = await refused(await dial(world))
        assert why == (
            f"this VM was bound to pod shop/web-0 (sandbox {SANDBOX}), and its guest program has started anew since:"
            " the agent is lost"
        )


async def test_a_vm_whose_bind_is_under_way_or_failed_says_so(tmp_path: Path, pki: NodePki, dial: Dial) -> None:
    async with guest(tmp_path, pki.ca_pem, agent=False) as world:
        worker, other = await dial(world), await dial(world)
        bind = worker.begin(names.GUEST_SERVICE, "Bind", pod(), timeout=1.0)
        await worker.flush()
        await until(lambda: "bound" in world.files())
        assert "still being bound" in await refused(other)
        failed = await refusal(worker.answer(bind))
        assert await refused(other) == (
            f"this VM could not be bound to pod shop/web-0 (sandbox {SANDBOX}): {failed.message}"
        )


@pytest.mark.parametrize("attached", [True, False])
async def test_an_agent_that_has_ended_cannot_be_resumed_and_it_is_told_since_when(
    world: GuestWorld, dial: Dial, caplog: pytest.LogCaptureFixture, attached: bool
) -> None:
    worker, streams = await bound(world, dial)
    if not attached:
        cut(worker)
        await until(lambda: "the link broke" in caplog.text)
    await world.agent.stop()
    if attached:
        assert await worker.dropped()
    why = await refused(await dial(world), received=len(streams.received))
    assert re.fullmatch(r"this VM has no agent any more: it hung up \d s ago \(closed by its peer\)", why)


async def test_a_link_that_its_worker_ended_in_order_is_not_resumed(world: GuestWorld, dial: Dial) -> None:
    worker, streams = await bound(world, dial)
    worker.say_goodbye()
    await world.agent.left_alone()
    why = await refused(await dial(world), received=len(streams.received))
    assert re.fullmatch(
        r"this VM has no agent any more: its worker ended the link \d s ago \(closed in order by the other end\)", why
    )


async def test_nobody_but_the_workers_node_may_resume(world: GuestWorld, dial: Dial, stranger: NodePki) -> None:
    worker, streams = await bound(world, dial)
    with pytest.raises(OSError, match=r"(?i)closed|alert|reset|eof"):
        await (await dial(world, client(stranger.worker))).resume(streams)
    assert await worker.call(*CHECK, b"on") == b"on"


# -- Bind again -------------------------------------------------------------------------------------


async def under_way(world: GuestWorld, dial: Dial) -> tuple[Worker, int]:
    """A link, and the Bind on it that waits for the agent."""
    worker = await dial(world)
    bind = worker.begin(names.GUEST_SERVICE, "Bind", pod())
    await worker.flush()
    await until(lambda: "bound" in world.files())
    return worker, bind


async def test_the_same_bind_twice_on_one_link_is_answered_twice(tmp_path: Path, pki: NodePki, dial: Dial) -> None:
    async with guest(tmp_path, pki.ca_pem, agent=False) as world:
        worker, first = await under_way(world, dial)
        second = worker.begin(names.GUEST_SERVICE, "Bind", pod())
        await worker.flush()
        await worker.hello()  # they wait, and the link is served meanwhile
        await world.agent.start()
        assert await worker.answer(first) == await worker.answer(second) == b""
        worker.bound()
        assert await worker.call(*CHECK, b"on") == b"on"
        assert world.agent.connections == 1


async def test_a_bind_whose_link_is_gone_goes_on_and_its_repeat_gets_the_agent(
    tmp_path: Path, pki: NodePki, dial: Dial
) -> None:
    async with guest(tmp_path, pki.ca_pem, agent=False) as world:
        first, _ = await under_way(world, dial)
        cut(first)
        second = await dial(world)
        assert (await refusal(second.bind(pod(pod_name="other")))).code == Code.FAILED_PRECONDITION
        bind = second.begin(names.GUEST_SERVICE, "Bind", pod())
        await second.flush()
        await second.hello()
        await world.agent.start()
        await second.answer(bind)
        second.bound()
        assert await second.call(*CHECK, b"on") == b"on"
        assert world.agent.connections == 1


async def test_a_bind_that_nobody_repeats_connects_the_agent_all_the_same(
    tmp_path: Path, pki: NodePki, dial: Dial
) -> None:
    async with guest(tmp_path, pki.ca_pem, agent=False) as world:
        first, _ = await under_way(world, dial)
        cut(first)
        await world.agent.start()
        await until(lambda: world.agent.connections == 1)
        second = await dial(world)
        await second.bind(pod())
        assert await second.call(*CHECK, b"on") == b"on"


@pytest.mark.parametrize("said", [b"", b"\0\0\0\0\0\0\0"], ids=["nothing", "part of a record's head"])
async def test_a_bind_whose_answer_got_lost_is_answered_again_on_the_next_link(
    world: GuestWorld, dial: Dial, said: bytes
) -> None:
    first = await dial(world)
    await first.bind(pod())
    await first.send_raw(said)
    await until(lambda: kept(world)._partial == said)
    second = await dial(world)  # the first may not even be known to be dead
    await second.bind(pod())
    assert await second.call(*CHECK, b"on") == b"on"
    with pytest.raises(OSError, match=r"(?i)eof|reset"):
        await first.receive_raw()
    assert world.agent.connections == 1


async def test_of_two_links_that_wait_for_the_same_bind_the_newer_gets_the_agent(
    tmp_path: Path, pki: NodePki, dial: Dial
) -> None:
    async with guest(tmp_path, pki.ca_pem, agent=False) as world:
        older, _ = await under_way(world, dial)
        newer = await dial(world)
        bind = newer.begin(names.GUEST_SERVICE, "Bind", pod())
        await newer.flush()
        await newer.hello()  # so the guest has heard it
        await older.hello()  # who speaks last is not who asked last
        await world.agent.start()
        await newer.answer(bind)
        newer.bound()
        assert await older.dropped()
        assert await newer.call(*CHECK, b"on") == b"on"


async def test_once_the_agent_was_talked_to_the_same_bind_is_refused_and_nothing_changes(
    world: GuestWorld, dial: Dial
) -> None:
    worker, streams = await bound(world, dial)
    other = await dial(world)
    error = await refusal(other.bind(pod()))
    assert (error.code, error.message) == (
        Code.FAILED_PRECONDITION,
        "this VM's agent has been talked to since Bind: its link can only be resumed",
    )
    assert await worker.call(*CHECK, b"on") == b"on"
    await other.resume(streams)  # and the refused link may do just that
    assert await other.call(*CHECK, b"on") == b"on"


async def test_the_same_bind_after_the_agent_ended_hears_that_it_did(world: GuestWorld, dial: Dial) -> None:
    worker = await dial(world)
    await worker.bind(pod())
    await world.agent.stop()
    assert await worker.dropped()
    error = await refusal((await dial(world)).bind(pod()))
    assert error.code == Code.FAILED_PRECONDITION
    assert "no agent any more: it hung up" in error.message


# -- what is kept, and for how long -----------------------------------------------------------------


class Flood:
    """An agent that never stops talking, once it was spoken to."""

    def __init__(self) -> None:
        self.said = 0
        self.ended = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        answer = raw_frame(1, MessageType.RESPONSE, bytes(1 << 16))
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(answer)
                await writer.drain()
                self.said += len(answer)
        self.ended = True

    async def is_stuck(self) -> None:
        """Wait until it has not got a word out for 50 turns of the loop."""
        said, idle = -1, 0
        while idle < 50:
            idle = idle + 1 if said == self.said else 0
            said = self.said
            assert said < 2 * records.WINDOW, "nothing holds it back"
            await asyncio.sleep(0.002)


@pytest.fixture
async def flooded(tmp_path: Path, pki: NodePki) -> AsyncIterator[tuple[GuestWorld, Flood]]:
    flood = Flood()
    server = await asyncio.start_unix_server(flood.serve, tmp_path / "agent.sock")
    async with guest(tmp_path, pki.ca_pem, agent=False) as world:
        yield world, flood
    async with asyncio.timeout(DEADLINE):
        await until(lambda: flood.ended)
    server.close()


@pytest.mark.parametrize("silent", [True, False], ids=["silent link", "no link"])
async def test_an_agent_that_nobody_reads_is_kept_waiting_and_goes_on_on_the_next_link(
    flooded: tuple[GuestWorld, Flood], dial: Dial, caplog: pytest.LogCaptureFixture, silent: bool
) -> None:
    world, flood = flooded
    worker = await dial(world)
    await worker.bind(pod())
    assert worker.streams is not None
    streams = worker.streams
    await worker.send(raw_frame(1, MessageType.REQUEST, b"go"))
    await flood.is_stuck()
    if not silent:
        cut(worker)
        await until(lambda: "the link broke" in caplog.text)
        await flood.is_stuck()
    unconfirmed = len(kept(world)._unconfirmed)
    assert unconfirmed <= records.WINDOW + ONE_READ
    assert silent or unconfirmed >= records.WINDOW
    assert flood.said < records.WINDOW + HELD
    worker = await dial(world)
    await worker.resume(streams)
    wanted = flood.said + records.WINDOW
    while len(streams.received) < wanted:
        assert await worker.receive()
        await worker.send(b"")  # tells what has come
    answer = raw_frame(1, MessageType.RESPONSE, bytes(1 << 16))
    assert streams.received.startswith(answer * (wanted // len(answer)))


async def test_when_the_service_ends_the_agents_link_ends_in_order(world: GuestWorld, dial: Dial) -> None:
    worker, _ = await bound(world, dial)
    world.task.cancel()
    with pytest.raises(ConnectionAbortedError):  # what read_exactly calls an orderly end
        await worker.receive_raw()
    await world.agent.left_alone()


async def test_when_the_service_ends_a_bind_under_way_ends_with_it(tmp_path: Path, pki: NodePki, dial: Dial) -> None:
    async with guest(tmp_path, pki.ca_pem, agent=False) as world:
        worker, _ = await under_way(world, dial)
        world.task.cancel()
        await asyncio.wait([world.task])
        assert await worker.dropped()
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "bind"]
