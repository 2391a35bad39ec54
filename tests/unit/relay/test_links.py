"""Links of running pods that break: a real relay process, real sockets and TLS, and a VM that lives on."""

import asyncio
import fcntl
import random
import socket
import struct
import termios
import threading

import pytest

from adaptor import names
from adaptor.errors import Code, StatusError
from adaptor.protos.agent_pb2 import HealthCheckResponse
from adaptor.protos.ttrpc_pb2 import Request
from adaptor.relay.client import SessionState
from adaptor.ttrpc.frames import HEADER
from tests.unit.relay.pods import Pod, Shim
from tests.unit.relay.tunnel_ends import eventually
from tests.worlds.bound import Agent
from tests.worlds.cable import UNCUT, Cable, black_hole
from tests.worlds.tunnel import PATIENCE, Guest, answer, call, issue, read_frame, server_context

SERVING = answer(1, HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString())
CHECK = call(1, "Check", b"", names.HEALTH_SERVICE)


class Held:
    """An agent that answers when it is let; `heard`: the stream ids of the requests that it got."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.let = threading.Event()

    def __call__(self, agent: Agent) -> None:
        while frame := read_frame(agent):
            self.heard.append(frame.stream_id)
            self.let.wait(PATIENCE)
            agent.sendall(answer(frame.stream_id, Request.FromString(frame.payload).payload))


async def away(pod: Pod) -> None:
    """Cut the link, and let no new one come."""
    pod.guest.greets = False
    pod.guest.cut()
    await pod.becomes(SessionState.RESUMING)


async def back(pod: Pod) -> None:
    pod.guest.greets = True
    pod.guest.cut()  # whoever waits for a greeting tries again
    await pod.becomes(SessionState.JOINED)


@pytest.mark.parametrize("reset", [True, False])
async def test_a_call_whose_link_breaks_is_answered_once_and_carried_out_once(pod: Pod, reset: bool) -> None:
    pod.guest.agent = held = Held()
    shim = await pod.start()
    calling = asyncio.create_task(shim.call(b"precious"))
    await eventually(lambda: held.heard == [1])
    pod.agent.cut(reset=reset)
    await eventually(lambda: len(pod.guest.resumes) == 1)
    held.let.set()
    assert await calling == b"precious"
    assert await shim.call(b"next") == b"next"
    assert held.heard == [1, 3]
    session = await pod.session()
    assert (session.state, session.resumes, session.reason) == (SessionState.JOINED, 1, "")


async def test_what_the_shim_sends_meanwhile_arrives_when_the_vm_is_back(pod: Pod) -> None:
    shim = await pod.start()
    await shim.call(b"before")
    await away(pod)
    session = await pod.session()
    assert session.reason.startswith("the link: ")
    assert session.shim_connected
    calling = asyncio.create_task(shim.call(bytes(3 << 20)))
    await asyncio.sleep(0.1)
    assert not calling.done()
    await back(pod)
    await calling


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("resets", [True, False])
async def test_bulk_both_ways_survives_cuts_at_any_byte(pod: Pod, seed: int, resets: bool) -> None:
    chance = random.Random(seed)
    cuts = iter([chance.choice([chance.randrange(1, 6_000), chance.randrange(6_000, 900_000)]) for _ in range(25)])
    requests = [call(1 + 2 * n, "WriteStdin", chance.randbytes(chance.randrange(300_000))) for n in range(100)]
    expected = b"".join(answer(1 + 2 * n, sent(each)) for n, each in enumerate(requests))
    async with Cable(pod.guest.port) as cable:
        cable.lasts, cable.resets = lambda: next(cuts, UNCUT), resets
        pod.port = cable.port
        shim = await pod.start()
        got, _ = await asyncio.gather(received(shim, len(expected)), shim.send(b"".join(requests)))
        assert cable.cuts >= 10
    assert got == expected
    assert pod.agent.heard == b"".join(requests), "every call was carried out once, and in order"
    assert (await pod.session()).resumes == pod.agent.links - 1


def sent(request: bytes) -> bytes:
    return Request.FromString(request[HEADER.size :]).payload


async def received(shim: Shim, size: int) -> bytes:
    """As `Shim.receive`, without its patience for one call."""
    data = bytearray()
    while len(data) < size:
        data += await shim.receive(min(size - len(data), 1 << 20))
    return bytes(data)


async def test_a_health_check_is_answered_from_here_while_the_vm_is_away(pod: Pod) -> None:
    shim = await pod.start()
    await away(pod)
    for _ in range(3):
        await shim.send(CHECK)
        assert await shim.receive(len(SERVING)) == SERVING
    await back(pod)
    await shim.call(b"x")
    assert pod.agent.heard.count(b"Check") == 0
    await shim.send(call(1, "Check", b"echo", names.HEALTH_SERVICE))
    assert await shim.receive(len(answer(1, b"echo"))) == answer(1, b"echo"), "the agent's own answer again"


async def test_a_health_check_that_went_into_the_dead_link_is_answered_from_here_and_only_once(pod: Pod) -> None:
    pod.guest.agent = held = Held()
    shim = await pod.start()
    await shim.send(CHECK)
    await eventually(lambda: held.heard == [1])
    await away(pod)
    assert await shim.receive(len(SERVING)) == SERVING
    held.let.set()
    await back(pod)
    await shim.send(call(3, "ReadStdout", b"x"))
    assert await shim.receive(len(answer(3, b"x"))) == answer(3, b"x"), "the late answer must not come"


async def test_a_vm_that_stays_away_is_given_up_when_the_grace_is_over(pod: Pod) -> None:
    pod.link_grace = 1.0
    shim = await pod.start()
    await shim.call(b"x")
    pod.guest.close()
    session = await pod.becomes(SessionState.LINK_LOST)
    assert session.reason.startswith(
        f"the VM at 127.0.0.1:{pod.guest.port} could not be reached for 1 s after its link broke (the link: "
    )
    assert "last attempt: 127.0.0.1: Connection refused). Check that the VM is alive" in session.reason
    assert await shim.hears_the_end()


async def test_a_vm_that_refuses_to_resume_is_given_up_at_once_with_its_reason(pod: Pod) -> None:
    shim = await pod.start()
    pod.guest.resume_refusal = StatusError(Code.FAILED_PRECONDITION, "the agent has been started anew")
    pod.guest.cut()
    session = await pod.becomes(SessionState.LINK_LOST)
    assert session.reason.endswith("cannot be resumed: the agent has been started anew")
    assert await shim.hears_the_end()
    assert len(pod.guest.resumes) == 1


async def test_a_vm_that_has_lost_what_it_had_is_not_resumed(pod: Pod) -> None:
    shim = await pod.start()
    await shim.call(b"x")
    pod.agent.heard.clear()
    pod.guest.cut()
    assert "it is not the program that the last link was with" in (await pod.becomes(SessionState.LINK_LOST)).reason
    assert await shim.hears_the_end()


async def test_another_vm_at_the_address_gets_nothing_and_ends_it(pod: Pod) -> None:
    stranger = issue("another VM")
    with Guest(server_context(stranger, pod.pki.ca.pem), stranger) as other:
        async with Cable(pod.guest.port) as cable:
            pod.port = cable.port
            shim = await pod.start()
            cable.to = other.port
            cable.cut()
            assert "its certificate has changed" in (await pod.becomes(SessionState.LINK_LOST)).reason
            assert await shim.hears_the_end()
        assert not other.hellos
        assert not other.resumes


async def test_a_resume_that_is_cut_is_asked_again(pod: Pod) -> None:
    shim = await pod.start()
    await shim.call(b"x")
    pod.guest.resumes_as_told = False
    pod.guest.cut()
    await eventually(lambda: len(pod.guest.resumes) == 1)
    pod.guest.cut()
    await eventually(lambda: len(pod.guest.resumes) == 2)
    pod.guest.resumes_as_told = True
    pod.guest.cut()
    await shim.call(b"y")
    assert (await pod.session()).resumes == 1


async def test_a_shim_that_goes_while_its_vm_is_away_ends_it_and_the_dialling(pod: Pod) -> None:
    shim = await pod.start()
    await away(pod)
    shim.socket.close()
    await pod.becomes(SessionState.SHIM_GONE)
    pod.guest.cut()
    await asyncio.sleep(0.2)  # a connection that the kernel had accepted is counted late
    dialled = pod.guest.accepted
    await asyncio.sleep(0.5)
    assert pod.guest.accepted == dialled


async def test_closing_ends_the_dialling(pod: Pod) -> None:
    shim = await pod.start()
    await away(pod)
    await pod.relay.close(pod.sandbox_id)
    assert await shim.hears_the_end()
    pod.guest.cut()
    await asyncio.sleep(0.3)  # a connection made before the end may not have been accepted yet
    dialled = pod.guest.accepted
    await asyncio.sleep(0.5)
    assert pod.guest.accepted == dialled


async def test_an_agent_that_ended_while_its_link_was_broken_is_heard_out(pod: Pod) -> None:
    ended = threading.Event()

    def last_words(agent: Agent) -> None:
        agent.recv(1)
        ended.wait(PATIENCE)
        agent.sendall(b"w" * 1_000_000)

    pod.guest.agent = last_words
    shim = await pod.start()
    await shim.send(call(1, "ReadStdout", b""))
    await eventually(lambda: len(pod.agent.heard) > 0)
    await away(pod)
    ended.set()
    pod.guest.greets = True
    pod.guest.cut()
    assert await shim.receive(2_000_000) == b"w" * 1_000_000
    assert (await pod.becomes(SessionState.LINK_LOST)).reason == "the link: closed in order by the other end"


@pytest.mark.parametrize("connects", ["before it is back", "when it is back"])
async def test_a_link_that_breaks_before_the_shim_connects_is_resumed(pod: Pod, connects: str) -> None:
    await pod.open()
    await pod.dial()
    await pod.bind()
    await away(pod)
    if connects == "before it is back":
        shim = await pod.connect()
        await shim.send(CHECK)
        assert await shim.receive(len(SERVING)) == SERVING
        await back(pod)
    else:
        await back(pod)
        shim = await pod.connect()
    await shim.call(b"first")
    assert pod.agent.heard.count(b"first") == 1


async def test_a_bind_is_fine_with_a_pod_that_is_being_resumed(pod: Pod) -> None:
    await pod.start()
    await away(pod)
    await pod.bind()
    await pod.dial()
    assert len(pod.guest.binds) == 1


async def test_a_vm_behind_a_dead_cable_is_noticed_in_time_and_resumed(pod: Pod) -> None:
    """Packets vanish and nobody says so. The shim gives a Health.Check 30 s; here all is real time."""
    loop = asyncio.get_running_loop()
    shim = await pod.start()
    await shim.call(b"x")
    with black_hole(*pod.guest.sockets):
        began = loop.time()
        await shim.send(CHECK)
        async with asyncio.timeout(20):
            assert await received(shim, len(SERVING)) == SERVING
        assert 5 < loop.time() - began < 15
        assert "no answer from the other end's machine" in (await pod.session()).reason
        calling = asyncio.create_task(shim.call(b"meanwhile"))
    await calling
    assert (await pod.session()).resumes == 1


async def test_an_idle_link_behind_a_dead_cable_is_noticed_too(pod: Pod) -> None:
    await pod.start()
    await eventually(lambda: not any(map(unacknowledged, pod.guest.sockets)))
    with black_hole(*pod.guest.sockets):
        async with asyncio.timeout(20):
            await pod.becomes(SessionState.RESUMING)
    await pod.becomes(SessionState.JOINED)


def unacknowledged(connection: socket.socket) -> int:
    """Bytes that the kernel would send again: they would come through, as only one direction is dead here."""
    try:
        connection.getpeername()
    except OSError:  # a listener
        return 0
    (size,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    return int(size)
