"""One relay hands over to the next: real processes, and pods that must not notice."""

import asyncio
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from adaptor.errors import Conflict, StatusError, Unavailable
from adaptor.protos.handover_pb2 import HandedOver, Ready
from adaptor.protos.relay_pb2 import DirectVolume
from adaptor.relay.client import SessionState
from adaptor.relay.handover import HandOverFailed, Line, reach
from tests.unit.relay.nodes import Impostor, Node
from tests.unit.relay.pods import Pod, Shim
from tests.unit.relay.test_links import CHECK, SERVING, Held
from tests.unit.relay.tunnel_ends import eventually
from tests.worlds.tunnel import PATIENCE, Guest, Pki, answer, call, server_context


async def test_a_running_pod_does_not_notice_its_relay_being_replaced(node: Node, running: Pod) -> None:
    running.guest.agent = held = Held()
    shim = await running.start(all_gpus=True)
    held.let.set()
    await shim.call(b"before")
    held.let.clear()
    calling = asyncio.create_task(shim.call(b"unanswered"))
    await eventually(lambda: held.heard == [1, 3])
    before = await running.session()
    await node.take_over()
    held.let.set()
    assert await calling == b"unanswered"
    await shim.call(b"after")
    assert held.heard == [1, 3, 5], "every call was carried out once"
    after = await running.becomes(SessionState.JOINED)
    assert after.requests == 3
    assert after.bytes_to_guest > before.bytes_to_guest
    assert (after.address, after.certificate_sha256, after.resumes) == (before.address, before.certificate_sha256, 1)
    assert oct(os.stat(running.path).st_mode)[-3:] == "600"
    assert os.listdir(node.directory).count("relay.sock.next") == 0


async def test_bulk_both_ways_is_handed_over_twice_in_a_row_and_loses_nothing(
    node: Node, guest: Guest, pki: Pki
) -> None:
    chance = random.Random(7)
    pods = [Pod(node.relay, guest, pki) for _ in range(5)]
    shims = [await pod.start() for pod in pods]
    running = True

    async def load(shim: Shim) -> int:
        calls = 0
        while running:
            await shim.call(chance.randbytes(chance.randrange(400_000)))
            calls += 1
        return calls

    loads = [asyncio.create_task(load(shim)) for shim in shims]
    for number in range(2):
        await asyncio.sleep(0.3)
        await node.take_over()
        async with asyncio.timeout(PATIENCE):
            for pod in pods:
                await pod.becomes(SessionState.JOINED)
        assert [each.resumes for each in await node.client.sessions()] == [number + 1] * len(pods)
    await asyncio.sleep(0.3)
    running = False
    assert min(await asyncio.gather(*loads)) > 2
    for pod in pods:
        pod.close()


async def test_a_shim_that_does_not_read_and_a_full_window_are_handed_over_whole(node: Node, running: Pod) -> None:
    """The most that a session can hold: 4 MiB for a VM that does not take them, and what its shim does not take."""
    pod = running
    answers = b"".join(answer(1 + 2 * n, bytes([n]) * 100_000) for n in range(60))

    def speaks_and_does_not_listen(agent: object) -> None:
        agent.sendall(answers)  # type: ignore[attr-defined]
        finish.wait(PATIENCE)

    finish = threading.Event()
    pod.guest.agent = speaks_and_does_not_listen
    await pod.open()
    shim = await pod.connect()
    await pod.dial()
    await pod.bind()
    requests = [call(1 + 2 * n, "WriteStdin", bytes([n]) * 100_000) for n in range(80)]
    sending = asyncio.create_task(shim.send(b"".join(requests)))
    await asyncio.sleep(0.5)
    assert not sending.done()
    await node.take_over()
    assert (await shim.receive(len(answers))) == answers
    finish.set()
    sending.cancel()


async def test_sessions_in_every_state_are_handed_over(node: Node, guest: Guest, pki: Pki) -> None:
    pods = {
        name: Pod(node.relay, guest, pki) for name in ("listening", "connected", "dialled", "bound", "gone", "lost")
    }
    for pod in pods.values():
        await pod.open()
    shims = {"connected": await pods["connected"].connect()}
    for name in ("dialled", "bound", "gone", "lost"):
        await pods[name].dial()
    for name in ("bound", "gone", "lost"):
        await pods[name].bind()
    for name in ("gone", "lost"):
        shims[name] = await pods[name].connect()
        await shims[name].call(b"x")
    shims["gone"].socket.close()
    await pods["gone"].becomes(SessionState.SHIM_GONE)
    pods["lost"].agent.unwrap()
    await pods["lost"].becomes(SessionState.LINK_LOST)
    before = {each.sandbox_id: (each.state, each.reason) for each in await node.client.sessions()}
    await node.take_over()
    await pods["bound"].becomes(SessionState.JOINED)
    assert {each.sandbox_id: (each.state, each.reason) for each in await node.client.sessions()} == before
    binds = len(guest.binds)
    for name in ("listening", "connected", "dialled", "bound"):
        pod = pods[name]
        await pod.open()
        await pod.dial()
        await pod.bind()
        await (shims.get(name) or await pod.connect()).call(name.encode())
    assert len(guest.binds) == binds + 3
    assert await (await pods["gone"].connect()).hears_the_end()
    for pod in pods.values():
        await pod.relay.close(pod.sandbox_id)
        assert not os.path.exists(pod.path)
        pod.close()


async def test_a_pod_whose_vm_is_away_is_handed_over_and_resumed_by_the_successor(node: Node, running: Pod) -> None:
    shim = await running.start()
    await shim.call(b"x")
    running.guest.greets = False
    running.guest.cut()
    await running.becomes(SessionState.RESUMING)
    await shim.send(CHECK)
    assert await shim.receive(len(SERVING)) == SERVING
    calling = asyncio.create_task(shim.call(b"kept"))
    await node.take_over()
    await shim_answers_check(shim, calling)
    running.guest.greets = True
    running.guest.cut()
    assert await calling == b"kept"
    assert running.agent.heard.count(b"kept") == 1


async def shim_answers_check(shim: Shim, calling: "asyncio.Task[bytes]") -> None:
    await asyncio.sleep(0.05)
    assert not calling.done()


async def test_dials_and_watches_are_cut_and_can_be_made_again(node: Node, running: Pod) -> None:
    await running.open()
    running.guest.greets = False
    dialling = asyncio.create_task(running.dial())
    await running.becomes(SessionState.DIALLING)
    watching = asyncio.create_task(node.client.watch((await node.client.list()).generation))
    await asyncio.sleep(0.05)
    await node.take_over()
    running.guest.greets = True
    running.guest.cut()
    for task in (dialling, watching):
        await asyncio.wait([task])
    if dialling.exception():
        await running.dial()
    await running.bind()
    await (await running.connect()).call(b"x")


async def test_a_bind_under_way_is_waited_for(node: Node, running: Pod) -> None:
    await running.open()
    await running.dial()
    running.guest.binds_as_told = False
    binding = asyncio.create_task(running.bind())
    await eventually(lambda: len(running.guest.binds) == 1)
    successor = node.successor()
    await eventually(lambda: "a successor asks for everything" in node.relay.log.read_text())
    running.guest.confirm()
    assert await asyncio.to_thread(node.relay.process.wait, PATIENCE) == 0
    await asyncio.wait([binding])
    assert await running.bind() == running.guest.answer, "the successor knows it"
    assert len(running.guest.binds) == 1
    await (await running.connect()).call(b"x")
    assert successor.poll() is None


async def test_a_bind_that_takes_longer_is_made_again_by_who_wants_it(node: Node, running: Pod) -> None:
    await running.open()
    await running.dial()
    running.guest.binds_as_told = False
    binding = asyncio.create_task(running.bind())
    await eventually(lambda: len(running.guest.binds) == 1)
    await node.take_over()
    running.guest.confirm()
    await asyncio.wait([binding])
    await running.dial()
    assert await running.bind() == running.guest.answer
    assert running.guest.binds.count(running.bind_request) == len(running.guest.binds)
    await (await running.connect()).call(b"bound once")
    assert len(running.guest.bound) == 1


async def test_who_watched_hears_of_the_new_relay(node: Node) -> None:
    before = await node.client.list()
    await node.take_over()
    after = await node.client.watch(before.generation)
    assert after.generation > before.generation
    assert after.pid != before.pid


async def test_calls_made_meanwhile_wait_for_the_successor(node: Node, guest: Guest, pki: Pki) -> None:
    pods = [Pod(node.relay, guest, pki) for _ in range(20)]
    taking = asyncio.create_task(node.take_over())
    for pod in pods:
        while True:
            with suppress(Unavailable):  # one that the old relay had begun
                await pod.open()
                break
        await asyncio.sleep(0.05)
    await taking
    assert {each.sandbox_id for each in await node.client.sessions()} == {pod.sandbox_id for pod in pods}


async def test_taking_over_from_nobody_is_serving(tmp_path: Path) -> None:
    path = str(tmp_path / "relay.sock")
    words = [sys.executable, "-m", "adaptor.relay.process", "--takeover", "--socket", path]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as relay:
        assert relay.stderr is not None
        await eventually(lambda: os.path.exists(path))
        relay.terminate()
        log = relay.stderr.read()
    assert b"no relay runs that could be taken over" in log
    assert b"the relay is serving" in log
    assert os.listdir(tmp_path) == []


async def test_of_two_successors_at_once_one_wins_and_the_other_says_why(node: Node, running: Pod) -> None:
    shim = await running.start()
    node.relay.process.send_signal(signal.SIGSTOP)
    first = node.successor()
    await eventually(lambda: os.path.exists(node.relay.socket_path + ".next"))
    second = node.successor()
    assert await asyncio.to_thread(second.wait, PATIENCE) == 1
    assert "or taking over, at this moment" in node.log(1).read_text()
    node.relay.process.send_signal(signal.SIGCONT)
    assert await asyncio.to_thread(node.relay.process.wait, PATIENCE) == 0
    await shim.call(b"x")
    assert (await node.client.list()).pid == first.pid


async def test_a_successor_started_in_place_of_none_is_refused_as_ever(node: Node) -> None:
    """Without --takeover the one that runs is left alone."""
    words = [sys.executable, "-m", "adaptor.relay.process", "--socket", node.relay.socket_path]
    assert subprocess.run(words, check=False, capture_output=True, timeout=PATIENCE).returncode == 1


@pytest.mark.parametrize("dies", ["at once", "after the relay's own", "before it is ready", "never ready"])
async def test_a_successor_that_fails_before_it_is_ready_changes_nothing(node: Node, running: Pod, dies: str) -> None:
    shim = await running.start()
    await shim.call(b"before")
    with Impostor(node) as impostor:
        asking = await impostor.ask()
        line = await impostor.line()
        calling = asyncio.create_task(shim.call(b"meanwhile"))
        if dies != "at once":
            await impostor.take(sessions=dies != "after the relay's own")
        if dies != "never ready":
            line.close()
        with pytest.raises(StatusError, match=r"the other relay (has gone|has broken it off|takes too long)"):
            await asking
        assert await calling == b"meanwhile"
    session = await running.session()
    assert (session.state, session.resumes) == (SessionState.JOINED, 0), "the link was never touched"
    assert "everything goes on here" in node.relay.log.read_text()
    await node.take_over()
    await shim.call(b"after")


async def test_nothing_is_read_from_a_shim_while_two_relays_hold_its_socket(node: Node, running: Pod) -> None:
    shim = await running.start()
    await shim.call(b"before")
    with Impostor(node) as impostor:
        asking = await impostor.ask()
        line = await impostor.line()
        await impostor.take()
        heard = len(running.agent.heard)
        await shim.send(call(3, "ReadStdout", b"x"))
        await asyncio.sleep(0.3)
        assert len(running.agent.heard) == heard
        line.send(Ready())
        await asyncio.to_thread(line.receive, HandedOver)
        assert await asyncio.to_thread(node.relay.process.wait, PATIENCE) == 0
        assert os.path.exists(running.path), "it ends without removing what is no longer its own"
        assert os.path.exists(node.relay.socket_path)
        await asyncio.wait([asking])
        assert isinstance(asking.exception(), StatusError)
    assert await shim.hears_the_end(), "the test's successor is none: with it the last copy of the socket is closed"


async def test_a_dial_outlives_a_hand_over_that_came_to_nothing(node: Node, running: Pod) -> None:
    await running.open()
    running.guest.greets = False
    dialling = asyncio.create_task(running.dial())
    await running.becomes(SessionState.DIALLING)
    with Impostor(node) as impostor:
        asking = await impostor.ask()
        (await impostor.line()).close()
        with pytest.raises(StatusError, match="the other relay"):
            await asking
    running.guest.greets = True
    running.guest.cut()
    await dialling
    await running.bind()


def test_the_last_word_is_sent_in_one_piece() -> None:
    """Or the successor, which serves once it has heard it, could be gone before the rest: and the old one would go on."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # which tells one send from two
    with one, other:
        Line(one, PATIENCE).send(HandedOver())
        assert other.recv(100) == bytes(4)
        with pytest.raises(BlockingIOError):
            other.recv(100, socket.MSG_DONTWAIT)


def test_another_users_program_is_handed_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        reach(path).close()
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(HandOverFailed, match=r"user \d+ may not take part in a hand-over"):
            reach(path)


async def settled(count: Callable[[], int]) -> int:
    """What it is when it has not changed for a while."""
    before = -1
    while (now := count()) != before:
        before = now
        await asyncio.sleep(0.3)
    return now


async def test_what_a_successor_cannot_take_stays_with_the_old_relay(node: Node, running: Pod) -> None:
    """As when it may not open so many descriptors."""
    shim = await running.start()
    node.relay.process.send_signal(signal.SIGSTOP)
    successor = node.successor()
    await eventually(lambda: os.path.exists(node.relay.socket_path + ".next"))
    have = await settled(lambda: len(os.listdir(f"/proc/{successor.pid}/fd")))  # it waits for the old one
    resource.prlimit(successor.pid, resource.RLIMIT_NOFILE, (have + 2, have + 2))
    node.relay.process.send_signal(signal.SIGCONT)
    assert await asyncio.to_thread(successor.wait, PATIENCE) == 1
    assert "the old relay keeps its pods" in node.log(0).read_text()
    await shim.call(b"x")
    assert (await node.client.list()).pid == node.relay.process.pid
    assert (await running.session()).resumes == 0


@pytest.mark.parametrize("victim", ["old", "new"])
@pytest.mark.parametrize("seed", range(6))
async def test_a_relay_killed_at_any_moment_of_it_leaves_one_that_serves_or_none(
    node: Node, running: Pod, victim: str, seed: int
) -> None:
    """Bytes are never torn: what the shim gets is a prefix of what it should get."""
    chance = random.Random(seed)
    shim = await running.start()
    await shim.call(b"before")
    mine = os.stat(node.relay.socket_path).st_ino
    successor = node.successor()
    # Both ends of its time: the new socket is there for milliseconds, and then in the old one's place.
    while not os.path.exists(node.relay.socket_path + ".next") and os.stat(node.relay.socket_path).st_ino == mine:
        await asyncio.sleep(0.001)
    await asyncio.sleep(chance.uniform(0, 0.012))
    (node.relay.process if victim == "old" else successor).kill()
    size = len(answer(3, b"x" * 1000))
    with suppress(BrokenPipeError, ConnectionResetError):
        await shim.send(call(3, "ReadStdout", b"x" * 1000))
    got = await shim.receive(size)
    assert got in (b"", answer(3, b"x" * 1000))
    if not got:
        with pytest.raises(Unavailable):
            await node.client.list()
    assert running.agent.heard.count(b"x" * 1000) == bool(got)


async def test_a_signal_during_the_hand_over_ends_the_old_relay_alone(node: Node, running: Pod) -> None:
    shim = await running.start()
    node.relay.process.send_signal(signal.SIGSTOP)
    node.successor()
    await eventually(lambda: os.path.exists(node.relay.socket_path + ".next"))
    node.relay.process.send_signal(signal.SIGCONT)
    await eventually(lambda: "everything is the successor's" in node.relay.log.read_text())
    with suppress(ProcessLookupError):
        node.relay.process.terminate()
    await shim.call(b"x")


async def test_a_stock_guests_pod_is_handed_over_too(node: Node, pki: Pki) -> None:
    certificate, trust = pki.upstream("podvm-web-0")
    with Guest(server_context(certificate, pki.ca.pem, alpn=False), certificate) as vm:
        pod = Pod(node.relay, vm, pki)
        await pod.open()
        await pod.dial(trust)
        await pod.relay.bind(pod.sandbox_id, b"", PATIENCE)
        shim = await pod.connect()
        await shim.call(b"before")
        await node.take_over()
        await pod.becomes(SessionState.JOINED)
        await shim.call(b"after")
        await pod.relay.close(pod.sandbox_id)
        pod.close()


async def test_a_successor_goes_on_telling_guests_of_their_volumes(node: Node, running: Pod) -> None:
    volumes = [DirectVolume(name="vol-0", path="/a", disk_id="vol-1", guest_path="/run/cloud-volumes/vol-0")]
    await running.relay.open(running.sandbox_id, running.path, volumes=volumes)
    await running.dial()
    await running.bind()
    shim = await running.connect()
    await shim.call(b"before")
    await node.take_over()
    await running.becomes(SessionState.JOINED)
    await running.relay.open(running.sandbox_id, running.path, volumes=volumes)
    with pytest.raises(Conflict):
        await running.relay.open(running.sandbox_id, running.path)
