"""The guest's links, over real TLS: from the handshake to the agent."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from adaptor import __version__, names
from adaptor.errors import Code
from adaptor.pki import NodePki
from adaptor.protos.agent_pb2 import CheckRequest
from adaptor.relay import tls
from adaptor.ttrpc.frames import HEADER, MAX_PAYLOAD
from podvm_images.guest import service
from tests.unit.guest.peers import (
    DEADLINE,
    TOKEN,
    GuestWorld,
    Worker,
    client,
    guest,
    pod,
    raw_frame,
    refusal,
    until,
)

INITDATA = b"""version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"aa.toml" = "aa"\n"""
AUTH = b'{"auths": {"registry.example": {"auth": "c2VjcmV0LXBhc3N3b3Jk"}}}'


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> NodePki:
    return NodePki.load(tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> NodePki:
    """Another node, whose CA this VM was not launched with."""
    return NodePki.load(tmp_path_factory.mktemp("stranger"))


@pytest.fixture
async def world(tmp_path: Path, pki: NodePki) -> AsyncIterator[GuestWorld]:
    async with guest(tmp_path, pki.ca_pem) as started:
        yield started


Dial = Callable[..., Any]


@pytest.fixture
async def dial(pki: NodePki) -> AsyncIterator[Dial]:
    """Dial as the node's worker, or with another context; links are closed when the test ends."""
    workers: list[Worker] = []

    async def dialled(world: GuestWorld, context: ssl.SSLContext | None = None) -> Worker:
        worker = await Worker.dial(world.port, context or client(pki.worker))
        workers.append(worker)
        return worker

    yield dialled
    for worker in workers:
        worker.close()


def custom(pki: NodePki | None, alpn: list[str], version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client that a relay is not; without `pki` it has no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(alpn)
    if pki is not None:
        context.load_cert_chain(*_files(pki))
    return context


def _files(pki: NodePki) -> tuple[str, str]:
    certificate, key = os.memfd_create("certificate"), os.memfd_create("key")
    os.write(certificate, pki.worker.certificate)
    os.write(key, pki.worker.key)
    return f"/proc/self/fd/{certificate}", f"/proc/self/fd/{key}"


# -- the way it should go ---------------------------------------------------------------------------


async def test_hello_proves_the_launch_token_for_this_very_certificate(world: GuestWorld, dial: Dial) -> None:
    worker = await dial(world)
    nonce = os.urandom(32)
    answer = await worker.hello(nonce)
    message = names.LAUNCH_PROOF_LABEL + nonce + hashlib.sha256(worker.certificate).digest()
    assert answer.proof == hmac.new(TOKEN, message, hashlib.sha256).digest()
    assert (answer.protocol, answer.version, answer.bound) == (names.GUEST_PROTOCOL, __version__, False)


async def test_after_bind_the_same_link_is_the_agents(world: GuestWorld, dial: Dial) -> None:
    worker = await dial(world)
    await worker.hello()
    await worker.bind(pod(initdata=INITDATA, registry_auth=AUTH, scratch_space=True))
    assert world.files() == {
        "aa.toml", "auth.json", "bound", "initdata", "initdata.digest", "scratch-space.marker",
    }  # fmt: skip
    check = CheckRequest(service="grpc.Health").SerializeToString()
    assert await worker.call(names.HEALTH_SERVICE, "Check", check) == check
    assert world.agent.calls == [(1, names.HEALTH_SERVICE, "Check")]  # stream ids have started anew


async def test_large_messages_pass_both_ways_unchanged(world: GuestWorld, dial: Dial) -> None:
    worker = await dial(world)
    await worker.bind(pod())
    data = os.urandom(3 << 20)
    assert await worker.call(names.AGENT_SERVICE, "CopyFile", data) == data


async def test_a_vm_may_be_bound_without_a_hello_on_that_link(world: GuestWorld, dial: Dial) -> None:
    first, second = await dial(world), await dial(world)
    await first.hello()
    await second.bind(pod())
    assert world.agent.connections == 1


async def test_the_agent_is_not_touched_before_bind(world: GuestWorld, dial: Dial) -> None:
    worker = await dial(world)
    for _ in range(3):
        await worker.hello()
    assert world.agent.connections == 0


async def test_a_warm_vm_may_wait_for_its_pod_longer_than_strangers_may_be_silent(
    tmp_path: Path, pki: NodePki, dial: Dial
) -> None:
    async with guest(tmp_path, pki.ca_pem, patience=0.3) as world:
        warm = await dial(world)
        await warm.hello()
        later = await dial(world)
        assert await later.dropped()  # patience is over
        await warm.bind(pod())
        assert world.agent.connections == 1


async def test_when_the_agent_hangs_up_the_link_ends(world: GuestWorld, dial: Dial) -> None:
    worker = await dial(world)
    await worker.bind(pod())
    await world.agent.stop()
    assert await worker.dropped()


async def test_when_the_link_ends_the_agent_is_hung_up_on(world: GuestWorld, dial: Dial) -> None:
    worker = await dial(world)
    await worker.bind(pod())
    assert await worker.call(names.HEALTH_SERVICE, "Check") == b""
    worker.close()
    await world.agent.left_alone()


async def test_ending_the_service_closes_every_link(world: GuestWorld, dial: Dial) -> None:
    waiting, bound = await dial(world), await dial(world)
    await waiting.hello()
    await bound.bind(pod())
    world.task.cancel()
    assert await waiting.dropped()
    assert await bound.dropped()
    with pytest.raises(ConnectionRefusedError):
        await dial(world)


# -- who is let in ----------------------------------------------------------------------------------


async def let_in(world: GuestWorld, dial: Dial, context: ssl.SSLContext) -> bool:
    """Whether a call of this client is answered. With TLS 1.3 a client learns only afterwards that it was refused."""
    try:
        worker = await dial(world, context)
        await worker.hello()
    except OSError:
        return False
    return True


async def test_only_a_client_of_the_workers_ca_with_our_alpn_over_tls_13_is_let_in(
    world: GuestWorld, dial: Dial, pki: NodePki, stranger: NodePki
) -> None:
    ours = [names.GUEST_ALPN]
    assert not await let_in(world, dial, client(stranger.worker))
    assert not await let_in(world, dial, custom(None, ours))
    assert not await let_in(world, dial, custom(pki, ["h2", "http/1.1"]))
    assert not await let_in(world, dial, custom(pki, []))
    assert not await let_in(world, dial, custom(pki, ours, ssl.TLSVersion.TLSv1_2))
    assert await let_in(world, dial, custom(pki, ours))  # none of the others did any harm


async def test_the_guests_own_certificate_lets_nobody_in(world: GuestWorld, dial: Dial) -> None:
    context = tls.own_client(world.me.certificate, world.me.key)
    assert not await let_in(world, dial, context)


async def test_what_is_no_tls_at_all_is_dropped_and_the_guest_serves_on(world: GuestWorld, dial: Dial) -> None:
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, raw_frame(1, 1, b"x"), b"\x16\x03\x01\xff\xff"):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(noise)
        writer.write_eof()
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(DEADLINE):
                await reader.read()  # an alert, or nothing
        writer.close()
    worker = await dial(world)
    assert (await worker.hello()).protocol == names.GUEST_PROTOCOL


async def test_a_peer_that_says_nothing_is_dropped(tmp_path: Path, pki: NodePki, dial: Dial) -> None:
    async with guest(tmp_path, pki.ca_pem, patience=0.2) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)  # not even a handshake
        async with asyncio.timeout(DEADLINE):
            assert await reader.read() == b""
        writer.close()
        assert await (await dial(world)).dropped()  # a handshake, and nothing else
        assert (await (await dial(world)).hello()).protocol == names.GUEST_PROTOCOL


@pytest.mark.parametrize(
    "dribble",
    [
        HEADER.pack(20, 1, 1, 0)[:4],
        HEADER.pack(20, 1, 1, 0),
        HEADER.pack(20, 1, 1, 0) + b"\x0a",
        HEADER.pack(MAX_PAYLOAD + 1, 1, 1, 0) + b"x" * 100,
        raw_frame(1, 77, b"of a type nobody knows") * 3,
        raw_frame(1, 2, b"an answer to nothing") * 3,
    ],
    ids=["half-a-header", "header-only", "half-a-call", "half-an-oversize-call", "unknown-frames", "stray-answers"],
)
async def test_a_peer_that_never_finishes_a_call_is_dropped(
    tmp_path: Path, pki: NodePki, dial: Dial, dribble: bytes
) -> None:
    async with guest(tmp_path, pki.ca_pem, patience=0.2) as world:
        slow = await dial(world)
        await slow.send(dribble)
        assert await slow.dropped()


async def test_strangers_cannot_lock_the_worker_out(world: GuestWorld, dial: Dial) -> None:
    strangers = [
        await asyncio.open_connection("127.0.0.1", world.port) for _ in range(service.MOST_LINKS + 5)
    ]  # silent, each holding a link
    worker = await dial(world)
    assert (await worker.hello()).protocol == names.GUEST_PROTOCOL
    async with asyncio.timeout(DEADLINE):
        assert await strangers[0][0].read() == b""  # the oldest has made room
    for _, writer in strangers:
        writer.close()


async def test_even_workers_get_only_so_many_links(world: GuestWorld, dial: Dial) -> None:
    workers = [await dial(world) for _ in range(service.MOST_LINKS)]
    for worker in workers:
        await worker.hello()
    with pytest.raises(OSError):
        await (await dial(world)).hello()
    await workers[0].bind(pod())  # a joined link does not count any more
    assert (await (await dial(world)).hello()).bound


# -- what is refused --------------------------------------------------------------------------------


async def test_another_protocol_and_a_short_nonce_are_refused_and_the_link_lives_on(
    world: GuestWorld, dial: Dial
) -> None:
    worker = await dial(world)
    error = await refusal(worker.hello(protocol=2))
    assert (error.code, "worker speaks guest protocol 2" in error.message) == (Code.FAILED_PRECONDITION, True)
    error = await refusal(worker.hello(nonce=b"x" * 15))
    assert (error.code, error.message) == (Code.INVALID_ARGUMENT, "the nonce has 15 bytes; it must have 16 or more")
    assert (await worker.hello()).protocol == names.GUEST_PROTOCOL


async def test_an_agent_call_before_bind_is_refused_and_never_reaches_the_agent(world: GuestWorld, dial: Dial) -> None:
    worker = await dial(world)
    error = await refusal(worker.call(names.AGENT_SERVICE, "CreateSandbox"))
    assert error.code == Code.FAILED_PRECONDITION
    assert error.message == "grpc.AgentService/CreateSandbox cannot be served: this VM is not bound to a pod yet"
    await worker.bind(pod())
    assert await worker.call(names.HEALTH_SERVICE, "Check") == b""
    assert world.agent.calls == [(1, names.HEALTH_SERVICE, "Check")]


async def test_an_unknown_method_of_ours_is_unimplemented(world: GuestWorld, dial: Dial) -> None:
    worker = await dial(world)
    assert (await refusal(worker.call(names.GUEST_SERVICE, "Unbind"))).code == Code.UNIMPLEMENTED


async def test_a_second_bind_on_another_link_is_refused(world: GuestWorld, dial: Dial) -> None:
    first, second = await dial(world), await dial(world)
    await second.hello()
    await first.bind(pod())
    for other in (second, await dial(world)):
        error = await refusal(other.bind(pod(pod_name="other")))
        assert error.code == Code.FAILED_PRECONDITION
        assert error.message.startswith(f"this VM is bound to pod shop/web-0 (sandbox {'f00d' * 16}) already")
        assert (await other.hello()).bound
        error = await refusal(other.call(names.HEALTH_SERVICE, "Check"))
        assert error.code == Code.FAILED_PRECONDITION
        assert "over another link" in error.message
    assert await first.call(names.HEALTH_SERVICE, "Check") == b""
    assert world.agent.connections == 1


async def test_a_second_bind_on_the_bound_link_is_refused_and_the_agent_never_sees_it(
    world: GuestWorld, dial: Dial
) -> None:
    worker = await dial(world)
    await worker.bind(pod())
    for method in ("Bind", "Hello"):
        error = await refusal(worker.call(names.GUEST_SERVICE, method, pod()))
        assert (error.code, error.message) == (
            Code.FAILED_PRECONDITION, "this link is the agent's: the VM is bound already",
        )  # fmt: skip
    assert await worker.call(names.HEALTH_SERVICE, "Check") == b""
    assert world.agent.calls == [(5, names.HEALTH_SERVICE, "Check")]


async def test_of_binds_at_the_same_moment_one_wins(world: GuestWorld, dial: Dial) -> None:
    workers = [await dial(world) for _ in range(4)]
    binds = [worker.bind(pod(pod_name=f"web-{n}")) for n, worker in enumerate(workers)]
    outcomes = await asyncio.gather(*binds, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert [getattr(error, "code", error) for error in refused] == [Code.FAILED_PRECONDITION] * 3
    assert world.agent.connections == 1


async def test_while_bind_waits_for_the_agent_its_link_is_answered_but_nothing_gets_through(
    tmp_path: Path, pki: NodePki, dial: Dial
) -> None:
    async with guest(tmp_path, pki.ca_pem, agent=False) as world:
        worker = await dial(world)
        bind = worker.begin(names.GUEST_SERVICE, "Bind", pod())
        again = worker.begin(names.GUEST_SERVICE, "Bind", pod(pod_name="other"))
        early = worker.begin(names.AGENT_SERVICE, "CreateSandbox")
        await worker.flush()
        assert (await refusal(worker.answer(again))).code == Code.FAILED_PRECONDITION
        assert (await refusal(worker.answer(early))).code == Code.FAILED_PRECONDITION
        await world.agent.start()
        await worker.answer(bind)
        check = raw_frame(1, 1, b"\x0a\x0bgrpc.Health\x12\x05Check")
        await worker.send(check)
        await worker.receive()
        assert world.agent.calls == [(1, names.HEALTH_SERVICE, "Check")]


async def test_a_second_bind_after_a_restart_of_the_guest_is_refused(tmp_path: Path, pki: NodePki, dial: Dial) -> None:
    async with guest(tmp_path, pki.ca_pem) as world:
        await (await dial(world)).bind(pod())
    async with guest(tmp_path, pki.ca_pem) as world:
        worker = await dial(world)
        assert (await worker.hello()).bound
        error = await refusal(worker.bind(pod()))
        assert error.code == Code.FAILED_PRECONDITION
        assert "pod shop/web-0" in error.message
        assert world.agent.connections == 0


@pytest.mark.parametrize(
    ("request_", "code", "complaint"),
    [
        (pod(initdata=b"=="), Code.INVALID_ARGUMENT, "initdata is not TOML"),
        (pod(initdata=INITDATA.replace(b"sha256", b"crc32")), Code.INVALID_ARGUMENT, "algorithm is 'crc32'"),
        (pod(registry_auth=b"x"), Code.INVALID_ARGUMENT, "registry_auth"),
        (pod(sandbox_id=""), Code.INVALID_ARGUMENT, "sandbox_id"),
        (pod(network=b"{}"), Code.UNIMPLEMENTED, "network"),
        (b"\xff\xff", Code.INVALID_ARGUMENT, "no BindRequest"),
    ],
)
async def test_a_refused_bind_writes_nothing_and_may_be_corrected_on_the_same_link(
    world: GuestWorld, dial: Dial, request_: Any, code: Code, complaint: str
) -> None:
    worker = await dial(world)
    error = await refusal(worker.bind(request_))
    assert (error.code, complaint in error.message) == (code, True), error.message
    assert world.files() == set()
    assert world.agent.connections == 0
    assert not (await worker.hello()).bound
    await worker.bind(pod(initdata=INITDATA))
    assert "initdata" in world.files()


async def test_a_run_directory_that_cannot_be_written_is_told_and_the_vm_stays_free(
    world: GuestWorld, dial: Dial
) -> None:
    world.run_dir.write_text("a file where the directory should be")
    worker = await dial(world)
    error = await refusal(worker.bind(pod()))
    assert error.code == Code.INTERNAL
    assert "cannot write what Bind brought" in error.message
    world.run_dir.unlink()
    await worker.bind(pod())


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (raw_frame(2, 1, b""), Code.INVALID_ARGUMENT),
        (raw_frame(1, 1, b"\xff\xff\xff"), Code.INVALID_ARGUMENT),
        (raw_frame(1, 3, b"data"), Code.INVALID_ARGUMENT),
        (raw_frame(1, 1, b"", flags=2), Code.UNIMPLEMENTED),
        (HEADER.pack(MAX_PAYLOAD + 1, 1, 1, 0) + b"x" * (MAX_PAYLOAD + 1), Code.RESOURCE_EXHAUSTED),
    ],
    ids=["even-stream", "no-request", "stray-data", "streaming", "oversize"],
)
async def test_a_malformed_frame_is_answered_with_its_status_and_the_link_lives_on(
    world: GuestWorld, dial: Dial, frames: bytes, code: Code
) -> None:
    worker = await dial(world)
    await worker.send(frames)
    answer = await worker.receive()
    stream = HEADER.unpack_from(frames)[1]
    assert HEADER.unpack_from(answer)[1:3] == (stream, 2)
    assert answer[HEADER.size :].startswith(bytes((0x0A, answer[HEADER.size + 1], 0x08, code)))
    worker.begin(names.GUEST_SERVICE, "Hello")  # takes stream 1, which this link has used
    assert (await worker.hello()).protocol == names.GUEST_PROTOCOL


# -- agents that fail -------------------------------------------------------------------------------


async def test_an_agent_that_never_comes_is_told_before_the_caller_gives_up(
    tmp_path: Path, pki: NodePki, dial: Dial
) -> None:
    async with guest(tmp_path, pki.ca_pem, agent=False) as world:
        worker = await dial(world)
        error = await refusal(worker.bind(pod(), timeout=0.5))
        assert error.code == Code.DEADLINE_EXCEEDED
        assert error.message == (
            f"the pod VM's agent did not listen on {world.agent.path} within 0.45 s (No such file or directory)"
        )
        assert (await worker.hello()).bound  # its secrets are here: the VM is spent
        assert (await refusal(worker.bind(pod()))).code == Code.FAILED_PRECONDITION


async def test_an_agent_that_listens_late_is_waited_for(tmp_path: Path, pki: NodePki, dial: Dial) -> None:
    async with guest(tmp_path, pki.ca_pem, agent=False) as world:
        worker = await dial(world)
        bind = worker.begin(names.GUEST_SERVICE, "Bind", pod())
        await worker.flush()
        await until(lambda: "bound" in world.files())
        await world.agent.start()
        await worker.answer(bind)
        assert world.agent.connections == 1


async def test_an_agent_that_dies_is_told_with_what_it_said_last(tmp_path: Path, pki: NodePki, dial: Dial) -> None:
    dying = (sys.executable, "-c", "import sys; print('x' * 9999); print('no /sys mounted', flush=True); sys.exit(3)")
    async with guest(tmp_path, pki.ca_pem, command=dying) as world:
        worker = await dial(world)
        error = await refusal(worker.bind(pod()))
        assert error.code == Code.INTERNAL
        assert "agent ended with status 3 before it could be reached; its last output: " in error.message
        assert error.message.endswith("no /sys mounted")
        assert len(error.message) < 1500


async def test_an_agent_that_is_killed_is_told_so(tmp_path: Path, pki: NodePki, dial: Dial) -> None:
    dying = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    async with guest(tmp_path, pki.ca_pem, command=dying) as world:
        worker = await dial(world)
        error = await refusal(worker.bind(pod()))
        assert error.message == "the pod VM's agent was killed by signal 9 before it could be reached"


async def test_an_agent_that_cannot_be_started_is_told(tmp_path: Path, pki: NodePki, dial: Dial) -> None:
    async with guest(tmp_path, pki.ca_pem, command=("/nonexistent/agent",)) as world:
        worker = await dial(world)
        error = await refusal(worker.bind(pod()))
        assert error.code == Code.INTERNAL
        assert "/nonexistent/agent" in error.message


async def test_a_started_agent_is_ended_with_the_guest(tmp_path: Path, pki: NodePki, dial: Dial) -> None:
    listening = (
        "import socket, sys, signal\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1] + '.ended', 'w'), sys.exit(0)))\n"
        "c, _ = s.accept()\n"
        "while data := c.recv(4096): c.sendall(data)\n"
        "signal.pause()\n"
    )
    command = (sys.executable, "-c", listening, str(tmp_path / "agent.sock"))
    async with guest(tmp_path, pki.ca_pem, command=command) as world:
        worker = await dial(world)
        await worker.bind(pod())
        call = raw_frame(1, 1, b"an agent that answers with what it was sent")
        await worker.send(call)
        assert await worker.receive() == call
    assert (tmp_path / "agent.sock.ended").exists()


async def test_a_worker_that_vanishes_during_bind_leaves_a_spent_vm_that_still_serves(
    tmp_path: Path, pki: NodePki, dial: Dial
) -> None:
    async with guest(tmp_path, pki.ca_pem, agent=False) as world:
        worker = await dial(world)
        worker.begin(names.GUEST_SERVICE, "Bind", pod())
        await worker.flush()
        await until(lambda: "bound" in world.files())
        worker.close()
        other = await dial(world)
        assert (await other.hello()).bound
        assert (await refusal(other.bind(pod()))).code == Code.FAILED_PRECONDITION
        await world.agent.start()
        assert (await other.hello()).bound
        assert world.agent.connections == 0


# -- secrets ----------------------------------------------------------------------------------------


async def test_no_secret_is_ever_logged(
    tmp_path: Path, pki: NodePki, dial: Dial, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with guest(tmp_path, pki.ca_pem) as world:
        worker = await dial(world)
        await worker.hello()
        await refusal(worker.bind(pod(registry_auth=AUTH, initdata=b"=")))
        await refusal(worker.bind(pod(registry_auth=AUTH[1:])))
        await worker.bind(pod(registry_auth=AUTH, initdata=INITDATA + b'"mine" = "hunter2"\n'))
        await worker.call(names.HEALTH_SERVICE, "Check")
        worker.close()
        await world.agent.left_alone()
    lines = "\n".join(str(record.msg) for record in caplog.records)
    assert "bound to a pod" in lines
    assert "mine" in lines  # an ignored entry's name, not its value
    for secret in (
        "c2VjcmV0LXBhc3N3b3Jk",
        "hunter2",
        "PRIVATE KEY",
        base64.b64encode(TOKEN).decode(),
        TOKEN.hex(),
        repr(TOKEN),
    ):
        assert secret not in lines
