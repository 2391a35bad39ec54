"""What a worker may call and what it may not: Hello, Bind, and agents that do not come, over real TLS."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from adaptor import names
from adaptor.errors import Code
from adaptor.pki import NodePki
from adaptor.ttrpc.frames import HEADER, MAX_PAYLOAD
from podvm_images.guest.agent import Agent
from tests.unit.guest.peers import DEADLINE, Dial, GuestWorld, guest, pod, raw_frame, refusal, until

INITDATA = b"""version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"aa.toml" = "aa"\n"""


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
        worker.bound()
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
        (pod(network=b"{}"), Code.INVALID_ARGUMENT, "the pod's network plan cannot be used: the whole: expected"),
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
        await world.agent.start()  # too late
        for each in (worker, await dial(world)):
            assert (await refusal(each.bind(pod()))).message == error.message
            assert (await refusal(each.bind(pod(pod_name="other")))).code == Code.FAILED_PRECONDITION
        assert world.agent.connections == 0


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


async def test_what_a_dead_agent_said_is_told_even_if_nobody_has_read_it_yet(tmp_path: Path) -> None:
    agent = Agent(str(tmp_path / "agent.sock"), (sys.executable, "-c", "raise SystemExit('no /sys mounted')"))
    agent._start()
    assert agent._process is not None
    agent._process.wait()
    error = await refusal(agent.connect(DEADLINE))
    assert error.message.endswith("ended with status 1 before it could be reached; its last output: no /sys mounted")


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
