"""The loader of recordings and its two actors, `play` and `impersonate`, against each other and against our server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from adaptor.errors import Code, StatusError
from adaptor.protos import hypervisor_pb2
from adaptor.protos.agent_pb2 import CopyFileRequest, CreateContainerRequest, LinuxMemory, Process
from adaptor.protos.hypervisor_pb2 import CreateVMResponse, StartVMRequest, StartVMResponse, StopVMRequest
from adaptor.ttrpc.aio import Call, Handler, Server, Service
from adaptor.ttrpc.frames import HEADER
from tests.worlds import recording
from tests.worlds.recording import NAMES, Answer, Closed, Connection, Request, Streams, fill, impersonate, load, play

CONNECTIONS = [pytest.param(c, id=f"{name}-{c.name}") for name in NAMES for c in load(name).connections]
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Script], Awaitable[Callable[[], Awaitable[Streams]]]]


def agent_of(name: str) -> Connection:
    (connection,) = [c for c in load(name).connections if c.kind == "agent"]
    return connection


# -- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_session_is_its_hypervisor_calls_around_one_agent_connection(name: str) -> None:
    connections = load(name).connections
    assert [c.kind for c in connections[:3]] == ["hyp", "hyp", "agent"]
    assert [next(iter(c.requests.values())).method for c in connections[:3]] == ["CreateVM", "StartVM", "Check"]
    assert all(list(c.requests) == [1] for c in connections if c.kind == "hyp")
    times = [step.at for c in connections for step in c.steps[:1]]
    assert times == sorted(times)


def test_a_handed_over_connection_is_one_connection_with_each_request_once() -> None:
    agent = agent_of("r08-handover")
    assert list(agent.requests) == list(range(1, 79, 2))
    assert [step.stream_id for step in agent.steps if isinstance(step, Request)] == list(agent.requests)
    assert [c.name for c in load("r08-handover").connections] == ["hyp#1", "hyp#2", "agent#3", "hyp#4"]
    times = [step.at for step in agent.steps]
    assert times == sorted(times)


def test_an_agent_connection_cut_by_the_recorder_was_not_closed_by_the_shim() -> None:
    assert agent_of("r05-dropagent").steps[-1] == Closed(4.0495, by_shim=False)
    assert agent_of("r02-guestpull").steps[-1] == Closed(3.3256, by_shim=True)
    assert isinstance(agent_of("r07a-tty-exec").steps[-1], Answer | Request)  # still open when the recording stopped


def test_names_match_whatever_their_case_and_underscores() -> None:
    message = CreateContainerRequest()
    body = {"containerId": "a", "OCI": {"Process": {"OOMScoreAdj": "-998", "User": {}, "Args": ["x"]}}}
    assert list(fill(message, body)) == []
    assert message.container_id == "a"
    assert message.oci.process == Process(oom_score_adj=-998, args=["x"], user={})
    assert message.oci.process.HasField("user")


def test_a_field_whose_number_is_known_is_carried_though_we_do_not_declare_it() -> None:
    message = LinuxMemory()
    assert list(fill(message, {"Limit": "5", "Swap": "300"})) == []
    assert message.SerializeToString() == b"\x08\x05\x18\xac\x02"


def test_a_field_that_we_do_not_know_is_named() -> None:
    message = CreateContainerRequest()
    assert list(fill(message, {"OCI": {"Mounts": [{"colour": "red"}]}})) == ["OCI.Mounts[].colour"]


@pytest.mark.parametrize(
    ("text", "data"), [("aGVsbG8=", b"hello"), ("aGVsbG8g...", b"hello "), ("aGVsbG...(99)", b"hel")]
)
def test_bytes_that_were_cut_short_are_taken_as_far_as_they_go_and_named(text: str, data: bytes) -> None:
    message = CopyFileRequest()
    assert list(fill(message, {"data": text})) == ([] if data == b"hello" else ["data"])
    assert message.data == data


def test_a_recorded_status_is_an_answer_too() -> None:
    reader = recording._Reader(recording.Recording("made up"))
    reader.take({"t": 1, "ev": "conn-open", "conn": "hyp#1", "sid": None})
    asked = {"stream": 1, "flags": 0, "framelen": 0, "svc": "hypervisor.Hypervisor", "m": "StopVM", "timeout_s": 0}
    reader.take({"t": 1, "ev": "req", "conn": "hyp#1", "md": [], "body": {}, **asked})
    reader.take({"t": 1, "ev": "resp", "conn": "hyp#1", "stream": 1, "status": {"code": 5, "message": "no"}})
    (connection,) = reader.recording.connections
    answer = connection.steps[-1]
    assert isinstance(answer, Answer)
    assert isinstance(answer.outcome, StatusError)
    assert answer.outcome.code == Code.NOT_FOUND
    assert answer.frame.endswith(b"no")


# -- replaying --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Serves a script on a real socket; a fault of the script fails the test."""
    faults: list[Exception] = []
    servers: list[asyncio.Server] = []

    async def start(script: Script) -> Callable[[], Awaitable[Streams]]:
        async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await script(reader, writer)
            except Exception as fault:
                faults.append(fault)
            finally:
                writer.close()

        servers.append(await asyncio.start_unix_server(run, tmp_path / "s.sock"))
        return lambda: asyncio.open_unix_connection(tmp_path / "s.sock")

    yield start
    for server in servers:
        server.close()
        await server.wait_closed()
    assert faults == []


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_the_two_actors_play_every_recorded_connection_to_its_end(connection: Connection, serve: Serve) -> None:
    done = asyncio.Event()

    async def other_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await impersonate(connection, reader, writer)
        done.set()

    outcomes = await play(connection, await serve(other_end))
    await asyncio.wait_for(done.wait(), 10)
    assert outcomes.keys() == connection.answered
    recorded = {step.stream_id: step.outcome for step in connection.steps if isinstance(step, Answer)}
    assert outcomes == recorded


@pytest.mark.parametrize("name", NAMES)
async def test_our_server_takes_the_recorded_hypervisor_calls(name: str, tmp_path: Path) -> None:
    seen: list[str] = []

    async def create_vm(request: hypervisor_pb2.CreateVMRequest, call: Call) -> CreateVMResponse:
        assert len(request.annotations) == 9
        assert call.metadata == (("containerd-namespace-ttrpc", "k8s.io"),)
        assert call.timeout is None
        seen.append(f"create {request.id}")
        return CreateVMResponse(agent_socket_path="/run/peerpod/pods/x/agent.ttrpc")

    async def start_vm(request: StartVMRequest, call: Call) -> StartVMResponse:
        assert (call.metadata, call.timeout) == ((), 600.0)
        seen.append(f"start {request.id}")
        return StartVMResponse()

    async def stop_vm(request: StopVMRequest, call: Call) -> hypervisor_pb2.StopVMResponse:
        seen.append(f"stop {request.id}")
        return hypervisor_pb2.StopVMResponse()

    handlers: dict[str, Handler] = {"CreateVM": create_vm, "StartVM": start_vm, "StopVM": stop_vm}
    server = Server([Service(hypervisor_pb2.DESCRIPTOR.services_by_name["Hypervisor"], handlers)])
    await server.listen_unix(tmp_path / "hypervisor.sock")
    calls = [c for c in load(name).connections if c.kind == "hyp"]
    for connection in calls:
        (outcome,) = (
            await play(connection, lambda: asyncio.open_unix_connection(tmp_path / "hypervisor.sock"))
        ).values()
        assert not isinstance(outcome, StatusError), outcome
    await server.aclose()
    sandbox = agent_of(name).sandbox
    assert seen == [f"{verb} {sandbox}" for verb in ("create", "start", "stop")][: len(calls)]


async def test_answers_may_come_in_another_order_and_where_the_recording_has_none(serve: Serve) -> None:
    agent = agent_of("r05-dropagent")

    async def other_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in agent.requests:  # as long as nobody waits for an answer, all requests come
            await recording._read_frame(reader)
        for stream_id in reversed(agent.requests):
            writer.write(HEADER.pack(0, stream_id, 2, 0))

    outcomes = await play(agent, await serve(other_end), wait_for=lambda request: False)
    assert outcomes.keys() == agent.requests.keys()


@pytest.mark.parametrize(
    ("frame", "fault"),
    [
        (HEADER.pack(0, 3, 2, 0), "on stream 3, where nothing was asked"),
        (HEADER.pack(0, 1, 3, 0), "a frame of type 3"),
        (HEADER.pack(0, 1, 2, 0) * 2, "a second answer came on stream 1"),
        (b"", "before the other end closed"),
    ],
)
async def test_play_fails_on_what_is_no_answer(frame: bytes, fault: str, serve: Serve) -> None:
    async def other_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await recording._read_frame(reader)
        writer.write(frame)

    with pytest.raises(AssertionError, match=fault):
        await play(agent_of("r09"), await serve(other_end))


async def test_play_says_what_was_not_answered_in_time(serve: Serve) -> None:
    async def other_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    with pytest.raises(AssertionError, match=r"Check on stream 1 of agent#3 was not answered within 0\.05 s"):
        await play(agent_of("r09"), await serve(other_end), patience=0.05)


async def test_impersonate_fails_on_a_frame_that_was_not_recorded() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(HEADER.pack(0, 1, 1, 0))
    with pytest.raises(AssertionError, match=r"stream 1 \(Check\)"):
        await impersonate(agent_of("r09"), reader, None)  # type: ignore[arg-type] # nothing is to be written
