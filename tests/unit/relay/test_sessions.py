"""One sandbox's life in the relay: a real relay process, real sockets, and a VM behind real TLS."""

import asyncio
import os
import socket
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest

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
    UnknownSandbox,
)
from adaptor.protos.agent_pb2 import CreateContainerRequest
from adaptor.protos.ttrpc_pb2 import Response
from adaptor.relay.client import SessionState
from adaptor.ttrpc.frames import HEADER
from tests.unit.relay.pods import Pod, RunningRelay
from tests.unit.relay.tunnel_ends import eventually
from tests.worlds.bound import Agent
from tests.worlds.tunnel import PATIENCE, Guest, Pki, answer, call, echo, issue, read_exactly, server_context


async def test_the_agent_socket_is_private_and_there_when_open_answers(pod: Pod) -> None:
    await pod.open()
    found = os.stat(pod.path)
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(pod.path)).st_mode) == 0o700
    await pod.connect()
    assert (await pod.session()).state is SessionState.LISTENING


async def test_opening_again_changes_nothing_and_elsewhere_is_a_conflict(pod: Pod) -> None:
    await pod.open()
    inode = os.stat(pod.path).st_ino
    await pod.open()
    assert os.stat(pod.path).st_ino == inode
    with pytest.raises(Conflict, match=f"{pod.sandbox_id} is open already, at {pod.path}"):
        await pod.relay.open(pod.sandbox_id, pod.path + "2")
    with pytest.raises(Conflict, match="other rewrites"):
        await pod.open(all_gpus=True)


@pytest.mark.parametrize("path", ["agent.ttrpc", "/run/a:b", "/" + "p" * 107, ""])
async def test_a_path_the_shim_cannot_dial_is_refused(pod: Pod, path: str) -> None:
    with pytest.raises(InvalidRequest, match="the path must be absolute, without ':', of 107 bytes at most"):
        await pod.relay.open(pod.sandbox_id, path)
    with pytest.raises(InvalidRequest, match="needs a sandbox_id"):
        await pod.relay.open("", pod.path)


async def test_a_socket_left_by_a_dead_relay_is_replaced_but_nothing_else_is(pod: Pod) -> None:
    os.mkdir(os.path.dirname(pod.path))
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(pod.path)
        dead.listen()
        with pytest.raises(AdaptorError, match="something serves it already"):
            await pod.open()
    await pod.open()
    await pod.connect()
    await pod.relay.close(pod.sandbox_id)
    Path(pod.path).parent.mkdir(exist_ok=True)
    Path(pod.path).write_text("somebody's")
    with pytest.raises(AdaptorError, match="it is not a socket"):
        await pod.open()
    assert Path(pod.path).read_text() == "somebody's"


async def test_a_directory_that_cannot_be_made_is_named(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AdaptorError, match=f"the directory of {tmp_path}/file/d/s can not be made: Not a directory"):
        await pod.relay.open(pod.sandbox_id, f"{tmp_path}/file/d/s")


async def test_calls_flow_from_shim_to_agent_and_are_counted(pod: Pod) -> None:
    shim = await pod.start()
    assert pod.guest.binds == [pod.bind_request]
    for size in (0, 1, 100, 70_000, 1 << 20, (4 << 20) - 200):
        await shim.call(bytes(size))
    session = await pod.session()
    assert (session.state, session.shim_connected, session.requests) == (SessionState.JOINED, True, 6)
    assert session.address == f"127.0.0.1:{pod.guest.port}"
    assert min(session.bytes_to_guest, session.bytes_from_guest) > 5 << 20


async def test_what_the_shim_sends_early_waits_for_bind(pod: Pod) -> None:
    await pod.open()
    shim = await pod.connect()
    calling = asyncio.create_task(shim.call(b"early"))
    await pod.dial()
    assert not pod.guest.binds
    assert not calling.done()
    await pod.bind()
    assert await calling == b"early"


async def test_a_frame_over_the_limit_passes_for_the_agent_to_judge(pod: Pod) -> None:
    received = bytearray()

    def swallow(link: Agent) -> None:
        received.extend(read_exactly(link, len(large)) or b"")
        link.sendall(judged)

    large, judged = call(1, "CopyFile", bytes(5 << 20)), answer(1, b"too large")
    pod.guest.agent = swallow
    shim = await pod.start()
    await shim.send(large)
    assert await shim.receive(len(judged)) == judged
    assert received == large


async def test_with_gpus_each_container_is_given_every_gpu(pod: Pod) -> None:
    shim = await pod.start(all_gpus=True)
    await shim.send(call(1, "CreateContainer", CreateContainerRequest(container_id="c1").SerializeToString()))
    length, stream, *_ = HEADER.unpack(await shim.receive(HEADER.size))
    echoed = CreateContainerRequest.FromString(Response.FromString(await shim.receive(length)).payload)
    assert stream == 1
    assert echoed.container_id == "c1"
    assert dict(echoed.oci.annotations) == {names.CDI_PEER_PODS: names.CDI_ALL_GPUS}


async def test_calls_out_of_order_are_refused_with_what_is_missing(pod: Pod) -> None:
    with pytest.raises(UnknownSandbox, match="no session of sandbox"):
        await pod.dial()
    with pytest.raises(UnknownSandbox, match="Open makes one"):
        await pod.bind()
    await pod.open()
    with pytest.raises(Conflict, match="is LISTENING"):
        await pod.bind()


async def test_dialling_a_dialled_session_gives_the_same_answer_and_dials_nothing(pod: Pod) -> None:
    await pod.open()
    first = await pod.dial()
    assert await pod.dial() == first
    await pod.bind()
    assert await pod.dial() == first
    assert pod.guest.accepted == 1
    assert first.certificate == pod.pki.guest.der
    assert (await pod.session()).certificate_sha256 == first.certificate_sha256


async def test_two_dials_at_once_reach_the_vm_once(pod: Pod) -> None:
    await pod.open()
    first, second = await asyncio.gather(pod.dial(), pod.dial())
    assert first == second
    assert pod.guest.accepted == 1


async def test_a_dial_that_fails_leaves_the_session_to_be_dialled_again(pod: Pod) -> None:
    await pod.open()
    with pytest.raises(GuestUnreachable, match="its certificate has changed"):
        await pod.dial(pod.pki.own(pinned=bytes(32)))
    session = await pod.becomes(SessionState.LISTENING)
    assert "its certificate has changed" in session.reason
    await pod.dial()


async def test_giving_up_a_dial_stops_it(pod: Pod) -> None:
    await pod.open()
    pod.guest.greets = False
    dialling = asyncio.create_task(pod.dial())
    await pod.becomes(SessionState.DIALLING)
    dialling.cancel()
    assert (await pod.becomes(SessionState.LISTENING)).reason == "the caller went away"
    pod.guest.greets = True
    await pod.dial()


async def test_closing_a_session_ends_its_dial_with_a_reason(pod: Pod) -> None:
    await pod.open()
    pod.guest.greets = False
    dialling = asyncio.create_task(pod.dial())
    await pod.becomes(SessionState.DIALLING)
    await pod.relay.close(pod.sandbox_id)
    with pytest.raises(Conflict, match=f"the session of sandbox {pod.sandbox_id} is closed"):
        await dialling


async def test_binding_again_is_no_second_bind(pod: Pod) -> None:
    await pod.open()
    await pod.dial()
    answers = [*await asyncio.gather(pod.bind(), pod.bind(), pod.bind()), await pod.bind()]
    assert len(pod.guest.binds) == 1
    assert answers == [pod.guest.answer] * 4, "each is told what the VM said"
    await (await pod.connect()).call(b"still fine")


async def test_a_bind_nobody_waits_for_any_more_is_carried_through(pod: Pod) -> None:
    await pod.open()
    await pod.dial()
    pod.guest.binds_as_told = False
    binding = asyncio.create_task(pod.bind())
    await eventually(lambda: len(pod.guest.binds) == 1)
    binding.cancel()
    await asyncio.wait([binding])
    pod.guest.confirm()
    await pod.becomes(SessionState.JOINED)
    assert await pod.bind() == pod.guest.answer
    await (await pod.connect()).call(b"bound")


async def test_a_guests_refusal_is_told_in_its_own_words_and_may_be_followed_by_another_try(pod: Pod) -> None:
    await pod.open()
    await pod.dial()
    pod.guest.refusal = StatusError(Code.INTERNAL, "kata-agent did not start: no space left on /run")
    with pytest.raises(StartFailed, match="kata-agent did not start: no space left on /run"):
        await pod.bind()
    pod.guest.refusal = StatusError(Code.FAILED_PRECONDITION, "this VM is another pod's")
    with pytest.raises(Conflict, match="this VM is another pod's"):
        await pod.bind()
    pod.guest.refusal = None
    await pod.bind()
    await (await pod.connect()).call(b"bound")


async def test_a_link_that_ends_after_a_refused_bind_can_be_dialled_again(pod: Pod) -> None:
    await pod.open()
    await pod.dial()
    pod.guest.refusal = StatusError(Code.INTERNAL, "no")
    with pytest.raises(StartFailed):
        await pod.bind()
    pod.guest.close()
    await pod.becomes(SessionState.LISTENING)


async def test_a_bind_that_is_never_confirmed_is_over_for_good(pod: Pod) -> None:
    await pod.open()
    shim = await pod.connect()
    await pod.dial()
    pod.guest.binds_as_told = False
    with pytest.raises(LinkLost, match=r"did not confirm it: no answer in time, within 0\.1 s"):
        await pod.bind(timeout=0.1)
    assert await shim.hears_the_end()
    session = await pod.becomes(SessionState.LINK_LOST)
    assert "did not confirm it" in session.reason
    with pytest.raises(Conflict, match=r"LINK_LOST \(the VM at 127.0.0.1.*did not confirm"):
        await pod.bind()
    assert len(pod.guest.binds) == 1


async def test_a_bind_whose_link_breaks_is_asked_again_of_the_same_vm(pod: Pod) -> None:
    await pod.open()
    await pod.dial()
    pod.guest.binds_as_told = False
    binding = asyncio.create_task(pod.bind())
    await eventually(lambda: len(pod.guest.binds) == 1)
    pod.guest.cut()
    await eventually(lambda: len(pod.guest.binds) == 2)
    pod.guest.confirm()
    await binding
    assert pod.guest.binds == [pod.bind_request, pod.bind_request]
    await (await pod.connect()).call(b"bound once")


async def test_a_bind_whose_vm_goes_away_is_over_when_its_time_is(pod: Pod) -> None:
    await pod.open()
    await pod.dial()
    pod.guest.binds_as_told = False
    binding = asyncio.create_task(pod.bind(timeout=1.0))
    await eventually(lambda: len(pod.guest.binds) == 1)
    pod.guest.close()
    with pytest.raises(LinkLost, match="did not confirm it: no guest answered at"):
        await binding
    await pod.becomes(SessionState.LINK_LOST)


async def test_a_bind_never_goes_to_another_vm(pod: Pod) -> None:
    """Which may have the address by now: what Bind carries is for this pod's VM alone."""
    await pod.open()
    with Guest(server_context(pod.pki.guest, pod.pki.ca.pem), pod.pki.guest) as first:
        good, pod.guest = pod.guest, first
        await pod.dial()
        first.binds_as_told = False
        binding = asyncio.create_task(pod.bind())
        await eventually(lambda: len(first.binds) == 1)
    pod.guest = good
    stranger = issue("another VM")
    listener = socket.create_server(("127.0.0.1", first.port))
    with Guest(server_context(stranger, pod.pki.ca.pem), stranger, listener) as other:
        with pytest.raises(LinkLost, match="its certificate has changed"):
            await binding
        assert not other.hellos
        assert not other.binds


async def test_bind_without_what_the_guest_needs_is_refused_and_repeatable(pod: Pod) -> None:
    await pod.open()
    await pod.dial()
    for bind, timeout in [(b"", 1.0), (b"pod", 0.0)]:
        with pytest.raises(InvalidRequest, match="Bind needs a timeout"):
            await pod.relay.bind(pod.sandbox_id, bind, timeout)
    await pod.bind()


async def test_a_shim_that_closes_ends_the_session_and_the_link(pod: Pod) -> None:
    ended = threading.Event()

    def agent(link: Agent) -> None:
        echo(link)
        ended.set()

    pod.guest.agent = agent
    shim = await pod.start()
    await shim.call(b"x")
    shim.socket.close()
    session = await pod.becomes(SessionState.SHIM_GONE)
    assert session.reason == "the shim's connection: closed by its peer"
    assert not session.shim_connected
    assert await asyncio.to_thread(ended.wait, PATIENCE)


async def test_a_vm_that_ends_is_reported_after_its_last_words_are_delivered(pod: Pod) -> None:
    def last_words(link: Agent) -> None:
        read_exactly(link, 1)
        link.sendall(b"w" * 1_000_000)

    pod.guest.agent = last_words
    shim = await pod.start()
    await shim.send(call(1, "ReadStdout", b""))
    assert await shim.receive(2_000_000) == b"w" * 1_000_000
    session = await pod.becomes(SessionState.LINK_LOST)
    assert session.reason == "the link: closed in order by the other end"


async def test_a_second_connection_is_closed_and_the_first_not_touched(pod: Pod) -> None:
    shim = await pod.start()
    await shim.call(b"one")
    assert await (await pod.connect()).hears_the_end()
    await shim.call(b"two")


async def test_a_second_connection_before_bind_is_closed_only_if_the_first_still_lives(pod: Pod) -> None:
    await pod.open()
    first = await pod.connect()
    await eventually_connected(pod)
    assert await (await pod.connect()).hears_the_end()
    first.socket.close()
    second = await pod.connect()
    await pod.dial()
    await pod.bind()
    await second.call(b"the shim's")


async def eventually_connected(pod: Pod) -> None:
    async with asyncio.timeout(PATIENCE):
        while not (await pod.session()).shim_connected:
            await asyncio.sleep(0.002)


async def test_a_shim_that_came_and_went_before_bind_is_gone_when_it_is_joined(pod: Pod) -> None:
    await pod.open()
    shim = await pod.connect()
    await shim.send(call(1, "ReadStdout", b"x"))
    shim.socket.close()
    await pod.dial()
    await pod.bind()
    await pod.becomes(SessionState.SHIM_GONE)


async def test_who_connects_when_it_is_over_is_told_at_once(pod: Pod) -> None:
    shim = await pod.start()
    shim.socket.close()
    await pod.becomes(SessionState.SHIM_GONE)
    assert await (await pod.connect()).hears_the_end()


async def test_a_link_that_ends_before_bind_can_be_dialled_again(pod: Pod) -> None:
    with Guest(server_context(pod.pki.guest, pod.pki.ca.pem), pod.pki.guest) as first:
        good, pod.guest = pod.guest, first
        await pod.open()
        await pod.dial()
    session = await pod.becomes(SessionState.LISTENING)
    assert session.reason.startswith("the link: ")
    assert session.address == ""
    pod.guest = good
    await pod.dial()
    await pod.bind()
    await (await pod.connect()).call(b"the second VM")


async def test_a_link_that_ends_before_the_shim_connects_is_lost(pod: Pod) -> None:
    pod.guest.agent = lambda link: None
    await pod.open()
    await pod.dial()
    await pod.bind()
    await pod.becomes(SessionState.LINK_LOST)
    assert await (await pod.connect()).hears_the_end()


async def test_an_agent_that_speaks_before_it_is_asked_is_none(pod: Pod) -> None:
    pod.guest.agent = lambda agent: agent.sendall(b"hello?")
    await pod.open()
    await pod.dial()
    await pod.bind()
    assert "spoke before it was asked" in (await pod.becomes(SessionState.LINK_LOST)).reason


async def test_closing_removes_everything_and_the_sandbox_may_be_opened_again(pod: Pod) -> None:
    shim = await pod.start()
    await pod.relay.close(pod.sandbox_id)
    assert await shim.hears_the_end()
    assert not os.path.exists(os.path.dirname(pod.path))
    assert pod.sandbox_id not in {each.sandbox_id for each in await pod.relay.sessions()}
    await pod.relay.close(pod.sandbox_id)
    await pod.open()
    await pod.connect()


@pytest.mark.parametrize("stage", ["dialled", "binding", "bound"])
async def test_closing_before_the_shim_has_come_ends_the_link(pod: Pod, stage: str) -> None:
    await pod.open()
    await pod.dial()
    pod.guest.binds_as_told = stage != "binding"
    binding = asyncio.create_task(pod.bind()) if stage != "dialled" else None
    await eventually(lambda: len(pod.guest.binds) == (binding is not None))
    if stage == "bound":
        await pod.becomes(SessionState.JOINED)
    assert pod.guest.links == 1
    await pod.relay.close(pod.sandbox_id)
    pod.guest.confirm()
    await eventually(lambda: pod.guest.links == 0)
    if stage == "binding" and binding:
        with pytest.raises(Conflict, match=f"the session of sandbox {pod.sandbox_id} is closed"):
            await binding
    elif binding:
        await binding


async def test_closing_leaves_what_others_put_beside_the_socket(pod: Pod) -> None:
    await pod.open()
    (Path(pod.path).parent / "note").write_text("kept")
    await pod.relay.close(pod.sandbox_id)
    assert os.listdir(os.path.dirname(pod.path)) == ["note"]


async def test_an_upstream_vm_is_joined_without_bind(relay: RunningRelay, pki: Pki) -> None:
    certificate, trust = pki.upstream("podvm-web-0")
    with Guest(server_context(certificate, pki.ca.pem, alpn=False), certificate) as vm:
        pod = Pod(relay, vm, pki)
        await pod.open()
        assert (await pod.dial(trust)).hello.protocol == 0
        with pytest.raises(InvalidRequest, match="which an upstream guest can not take"):
            await pod.bind()
        await pod.relay.bind(pod.sandbox_id, b"", PATIENCE)
        await (await pod.connect()).call(b"agent")
        assert not vm.hellos
        await pod.relay.close(pod.sandbox_id)
        pod.close()


async def test_watch_returns_at_a_change_and_at_once_to_who_knows_nothing(pod: Pod) -> None:
    listing = await pod.relay.watch(0)
    watching = asyncio.create_task(pod.relay.watch(listing.generation))
    await asyncio.sleep(0.05)
    assert not watching.done()
    await pod.open()
    changed = await watching
    assert changed.generation > listing.generation
    assert pod.sandbox_id in {each.sandbox_id for each in changed.sessions}


async def test_a_hundred_sandboxes_do_not_disturb_each_other(relay: RunningRelay, guest: Guest, pki: Pki) -> None:
    pods = [Pod(relay, guest, pki) for _ in range(100)]

    async def live(pod: Pod, number: int) -> None:
        shim = await pod.start()
        for size in (1, 100, 40_000):
            await shim.call(number.to_bytes(4, "big") * size)
        if number % 3 == 0:
            shim.socket.close()
            await pod.becomes(SessionState.SHIM_GONE)

    await asyncio.gather(*(live(pod, number) for number, pod in enumerate(pods)))
    states = [each.state for each in await relay.client.sessions()]
    assert states.count(SessionState.JOINED) == 66
    assert states.count(SessionState.SHIM_GONE) == 34
    await asyncio.gather(*(pod.relay.close(pod.sandbox_id) for pod in pods))
    for pod in pods:
        pod.close()
    assert await relay.client.sessions() == ()
