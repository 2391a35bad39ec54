"""The recorded agent connections of the kata shim, through the real relay program and the real guest."""

import asyncio
import os
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest
from google.protobuf.unknown_fields import UnknownFieldSet

from adaptor import names
from adaptor.pki import NodePki
from adaptor.protos import ttrpc_pb2
from adaptor.protos.agent_pb2 import CreateContainerRequest, CreateSandboxRequest
from adaptor.relay.client import RelayClient, Session, SessionState, ensure_relay
from adaptor.ttrpc.frames import HEADER, Frame, MessageType, encode
from tests.worlds.cable import UNCUT
from tests.worlds.carried import Carried, carried
from tests.worlds.recording import NAMES, Answer, Connection, Recording, Request, Step, impersonate, load, play
from tests.worlds.wire import PATIENCE, Wire


class Start(Protocol):
    """Starts a recorded sandbox; the end of the context is its StopVM."""

    def __call__(self, recording: Recording, *, all_gpus: bool = False) -> AbstractAsyncContextManager[Carried]: ...


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shorter than a test's own, for there are agent sockets below it."""
    return tmp_path_factory.mktemp("relay")


@pytest.fixture(scope="module")
def pki(directory: Path) -> NodePki:
    return NodePki.load(directory / "pki")


@pytest.fixture(scope="module")
def relay_socket(directory: Path) -> Iterator[str]:
    """One relay process for all sessions here, started as an adaptor starts it."""
    path = str(directory / "relay.sock")

    async def start(log: int) -> int:
        client = await ensure_relay(path, log=log)
        return (await client.list()).pid

    with (directory / "relay.log").open("wb") as log:
        pid = asyncio.run(start(log.fileno()))
    yield path
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < deadline, f"the relay (pid {pid}) does not end on SIGTERM"
        time.sleep(0.01)
    assert ended == (pid, 0), "its exit status"


@pytest.fixture
def start(relay_socket: str, directory: Path, pki: NodePki) -> Start:
    @asynccontextmanager
    async def started(recording: Recording, *, all_gpus: bool = False) -> AsyncIterator[Carried]:
        sandbox = recording.agent.sandbox
        assert sandbox is not None
        relay, where = RelayClient(relay_socket), Path(tempfile.mkdtemp(dir=directory))
        async with carried(relay, sandbox, where, pki, all_gpus=all_gpus) as pod:
            yield pod
        assert sandbox not in {each.sandbox_id for each in await relay.sessions()}
        assert not (where / names.AGENT_SOCKET).exists()

    return started


def open_calls(connection: Connection) -> list[str]:
    """Methods that the recording never answers."""
    return [request.method for n, request in connection.requests.items() if n not in connection.answered]


def frames(kind: type[Request | Answer], connection: Connection) -> list[bytes]:
    return [step.frame for step in connection.steps if isinstance(step, kind)]


def as_the_agent_hears(connection: Connection) -> Connection:
    """What the VM passes on: the pod's name servers are not to become its own (`podvm_images.guest.rewrite`)."""
    steps: list[Step] = []
    for step in connection.steps:
        if isinstance(step, Request) and isinstance(step.message, CreateSandboxRequest):
            without = CreateSandboxRequest()
            without.CopyFrom(step.message)
            del without.dns[:]
            steps.append(replace(step, message=without))
        else:
            steps.append(step)
    return replace(connection, steps=steps)


def check_unchanged(pod: Carried, session: Session, connection: Connection) -> None:
    """Shim and agent got exactly the other's bytes, frame by frame in order; and the relay counted them."""
    sent, answered = frames(Request, connection), frames(Answer, connection)
    assert pod.at_agent == frames(Request, as_the_agent_hears(connection))
    assert pod.at_shim == answered
    assert session.requests == len(sent)
    assert session.bytes_to_guest == sum(map(len, sent))
    assert session.bytes_from_guest == sum(map(len, answered))


async def test_r02_a_pod_from_its_first_check_to_the_shims_goodbye(start: Start) -> None:
    recording = load("r02-guestpull")
    async with start(recording) as pod:
        await pod.replay(recording.agent.steps)
        session = await pod.session()
    assert (session.state, session.reason) == (SessionState.SHIM_GONE, "the shim's connection: closed by its peer")
    check_unchanged(pod, session, recording.agent)
    assert open_calls(recording.agent) == ["GetOOMEvent"], "which the shim leaves behind"


async def test_r05_the_shim_hears_that_the_agent_hung_up_after_all_answers(start: Start) -> None:
    recording = load("r05-dropagent")
    *before, hung_up = recording.agent.steps
    async with start(recording) as pod:
        await pod.replay(before)
        assert (await pod.session()).state is SessionState.JOINED
        await pod.replay([hung_up])
        session = await pod.session()
    assert (session.state, session.reason) == (SessionState.LINK_LOST, "the link: closed in order by the other end")
    check_unchanged(pod, session, recording.agent)
    assert open_calls(recording.agent) == ["GetOOMEvent", "WaitProcess", "ReadStderr", "ReadStdout"]


async def test_r07a_long_polls_are_overtaken_and_stdin_comes_without_metadata(start: Start) -> None:
    recording = load("r07a-tty-exec")
    async with start(recording) as pod:
        await pod.replay(recording.agent.steps)
        session = await pod.session()
    assert session.state is SessionState.JOINED
    assert session.shim_connected, "the recording ends with the pod running"
    check_unchanged(pod, session, recording.agent)
    answered = [step.stream_id for step in recording.agent.steps if isinstance(step, Answer)]
    assert answered != sorted(answered)
    assert {r.method for r in recording.agent.requests.values() if not r.metadata} == {"WriteStdin"}


async def test_r08_the_adaptor_is_replaced_while_calls_are_open(start: Start, relay_socket: str) -> None:
    """In the recording the process with the agent connection was replaced, and silent for 12 s. Here that connection is
    the relay's and only the adaptor goes; the silence lasts as long as that takes."""
    recording = load("r08-handover")
    (replaced,) = (note.at for note in recording.notes if note.event == "ADOPTED")
    before = [step for step in recording.agent.steps if step.at < replaced]
    check, *after = recording.agent.steps[len(before) :]
    assert isinstance(check, Request)
    async with start(recording) as pod:
        await pod.replay(before)
        assert pod.shim is not None
        await pod.shim.send(check.frame)
        pod.relay = RelayClient(relay_socket)
        found = await pod.session()
        assert (found.state, found.shim_connected) == (SessionState.JOINED, True)
        pod.at_agent.append(await pod.agent.receive())
        await pod.replay(after)
        session = await pod.session()
    assert session.state is SessionState.SHIM_GONE
    check_unchanged(pod, session, recording.agent)
    waited = [step.stream_id for step in before if isinstance(step, Request)]
    late = [step.stream_id for step in after if isinstance(step, Answer) and step.stream_id in waited]
    assert [recording.agent.requests[n].method for n in late] == ["ReadStdout", "ReadStderr", "WaitProcess"]


async def test_r09_a_new_config_map_is_copied_without_metadata(start: Start) -> None:
    recording = load("r09")
    async with start(recording) as pod:
        await pod.replay(recording.agent.steps)
        session = await pod.session()
    assert session.state is SessionState.SHIM_GONE
    check_unchanged(pod, session, recording.agent)
    bare = [r.method for r in recording.agent.requests.values() if not r.metadata]
    assert bare == ["CopyFile", "CopyFile", "CopyFile", "GetMetrics"]


@pytest.mark.parametrize("name", NAMES)
async def test_with_all_gpus_only_create_container_differs_and_only_by_the_annotation(name: str, start: Start) -> None:
    recording = load(name)
    async with start(recording, all_gpus=True) as pod:
        await pod.replay(recording.agent.steps)
        assert (await pod.session()).requests == len(recording.agent.requests)
    assert pod.at_shim == frames(Answer, recording.agent)
    containers = 0
    for request, got in zip(as_the_agent_hears(recording.agent).requests.values(), pod.at_agent, strict=True):
        if request.method == "CreateContainer":
            assert got != request.frame
            assert without_annotation(got) == request.frame
            containers += 1
        else:
            assert got == request.frame
    assert containers == 2, "the pause container and the application's"


def without_annotation(frame: bytes) -> bytes:
    """The same CreateContainer without what names every GPU; its fields that we do not know must still be there."""
    envelope = ttrpc_pb2.Request.FromString(frame[HEADER.size :])
    message = CreateContainerRequest.FromString(envelope.payload)
    assert message.oci.annotations.pop(names.CDI_PEER_PODS) == names.CDI_ALL_GPUS
    envelope.payload = message.SerializeToString(deterministic=True)
    payload = envelope.SerializeToString(deterministic=True)
    _, stream_id, kind, flags = HEADER.unpack_from(frame)
    return HEADER.pack(len(payload), stream_id, kind, flags) + payload


def test_the_recordings_have_a_field_that_our_protos_lack() -> None:
    """Or the test before this one would say nothing of such fields."""
    (_, container) = (r.message for r in load("r02-guestpull").requests if r.method == "CreateContainer")
    assert isinstance(container, CreateContainerRequest)
    unknown = UnknownFieldSet(container.oci.linux.resources.memory)
    assert (len(unknown), unknown[0].field_number) == (1, 3)


async def test_five_pods_at_once_with_both_ends_at_their_own_pace(start: Start) -> None:
    """Here requests and answers meet on the way, and one pod's frames come between another's."""

    async def pod_of(recording: Recording) -> None:
        async with start(recording) as pod:
            outcomes, _ = await asyncio.gather(
                play(recording.agent, pod.connect),
                impersonate(as_the_agent_hears(recording.agent), pod.agent.reader, pod.agent.writer),
            )
            expected = {step.stream_id: step.outcome for step in recording.agent.steps if isinstance(step, Answer)}
            assert outcomes == expected

    await asyncio.gather(*(pod_of(load(name)) for name in NAMES))


async def test_links_that_are_cut_at_any_byte_lose_nothing_between_the_real_relay_and_the_real_guest(
    start: Start,
) -> None:
    rng = random.Random(1)
    async with start(load("r02-guestpull")) as pod:
        calls, answers = traffic(rng, MessageType.REQUEST), traffic(rng, MessageType.RESPONSE)
        lasts = [int(len(calls) ** rng.random()) for _ in range(20)]
        pod.cable.lasts = lambda: lasts.pop() if lasts else UNCUT
        shim, _ = await pod.connect()
        assert pod.shim is not None
        await pod.shim.send(calls[: HEADER.size])
        pod.cable.cut()
        async with asyncio.timeout(2 * PATIENCE):
            heard, got, *_ = await asyncio.gather(
                pod.agent.reader.readexactly(len(calls)),
                shim.readexactly(len(answers)),
                chatter(pod.shim, calls[HEADER.size :]),
                chatter(pod.agent, answers),
            )
        assert (heard, got) == (calls, answers)
        assert pod.cable.cuts > 5
        assert (await pod.session()).state is SessionState.JOINED


def traffic(rng: random.Random, kind: MessageType) -> bytes:
    frames = (Frame(2 * n + 1, kind, 0, rng.randbytes(int(2 ** rng.uniform(0, 19)))) for n in range(60))
    return b"".join(encode(frame) for frame in frames)


async def chatter(end: Wire, data: bytes) -> None:
    for at in range(0, len(data), 10_000):
        await end.send(data[at : at + 10_000])
