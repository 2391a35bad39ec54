"""Properties of the protocol over generated input. PEERPODS_NIGHTLY=1 makes it 100,000 cases and more."""

import asyncio
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptor.errors import Code, StatusError
from adaptor.protos.hypervisor_pb2 import CreateVMRequest, CreateVMResponse
from adaptor.ttrpc import frames, messages
from adaptor.ttrpc.aio import Client, Server, Service
from adaptor.ttrpc.connection import ClientConnection, ProtocolError, RequestReceived, ServerConnection
from adaptor.ttrpc.frames import HEADER, MAX_PAYLOAD, Frame, FrameReader, Oversize
from tests.unit.ttrpc.rawpeer import SERVICE, RawPeer, call, frame
from tests.unit.ttrpc.sides import DESCRIPTOR, create, echo

NIGHTLY: Final = os.environ.get("PEERPODS_NIGHTLY") == "1"


def cases(ordinary: int, nightly: int) -> settings:
    """The same cases at every ordinary run, so that it never fails by chance; new ones every night."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]  # the machine may be busy
    count = nightly if NIGHTLY else ordinary
    return settings(
        max_examples=count, deadline=None, derandomize=not NIGHTLY, database=None, suppress_health_check=slow
    )


STREAM_IDS = st.one_of(st.integers(0, 12), st.integers(0, (1 << 32) - 1))
TYPES = st.one_of(st.integers(0, 4), st.integers(0, 255))
FLAGS = st.one_of(st.just(0), st.integers(0, 255))
# Text as protobuf takes it: any Unicode but surrogates.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ENVELOPES = st.builds(
    messages.encode_request,
    TEXT,
    TEXT,
    st.binary(max_size=40),
    st.one_of(st.none(), st.floats(-1, 1e6)),
    st.lists(st.tuples(TEXT, TEXT), max_size=3),
)
PAYLOADS = st.one_of(st.binary(max_size=60), ENVELOPES)
WHOLE = st.builds(Frame, STREAM_IDS, TYPES, FLAGS, PAYLOADS).map(frames.encode)
GARBAGE = st.binary(max_size=60)
STREAMS = st.one_of(
    GARBAGE,
    st.lists(WHOLE, max_size=6).map(b"".join),
    st.tuples(st.lists(WHOLE, max_size=4).map(b"".join), GARBAGE).map(b"".join),
)
CUTS = st.lists(st.integers(0, 400), max_size=12)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(edges):
        yield data[start:end]


def feed(reader: FrameReader, parts: Iterator[bytes]) -> list[Frame | Oversize]:
    return [found for part in parts for found in reader.feed(part)]


# -- frames -----------------------------------------------------------------------------------------------------------


@cases(500, 20_000)
@given(st.builds(Frame, STREAM_IDS, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=200)))
def test_a_frame_survives_encoding_and_decoding(original: Frame) -> None:
    assert FrameReader().feed(frames.encode(original)) == [original]


@cases(600, 25_000)
@given(STREAMS, CUTS)
def test_how_the_bytes_are_cut_into_reads_changes_nothing(data: bytes, cuts: list[int]) -> None:
    whole, cut, single = FrameReader(), FrameReader(), FrameReader()
    expected = whole.feed(data)
    assert feed(cut, pieces(data, cuts)) == expected
    assert feed(single, (data[i : i + 1] for i in range(len(data)))) == expected
    assert cut.idle == single.idle == whole.idle


@cases(60, 2_000)
@given(st.lists(st.one_of(st.integers(0, 300), st.integers(MAX_PAYLOAD - 2, MAX_PAYLOAD + 300_000)), max_size=3), CUTS)
def test_frames_around_the_limit_come_out_whole_or_as_oversize_and_never_stay_in_memory(
    lengths: list[int], cuts: list[int]
) -> None:
    data = b"".join(HEADER.pack(length, 2 * n + 1, 1, 0) + bytes(length) for n, length in enumerate(lengths))
    reader = FrameReader()
    found: list[Frame | Oversize] = []
    for part in pieces(data, [cut * 30_011 for cut in cuts]):
        found += reader.feed(part)
        assert len(reader._buffer) <= MAX_PAYLOAD + HEADER.size
    assert [frame.stream_id for frame in found] == [2 * n + 1 for n in range(len(lengths))]
    assert [isinstance(frame, Oversize) for frame in found] == [length > MAX_PAYLOAD for length in lengths]
    assert reader.idle


# -- messages ---------------------------------------------------------------------------------------------------------


@cases(400, 15_000)
@given(TEXT, TEXT, st.binary(max_size=50), st.one_of(st.none(), st.floats(1e-9, 1e9)), st.lists(st.tuples(TEXT, TEXT)))
def test_a_request_survives_encoding_and_decoding(
    service: str, method: str, payload: bytes, timeout: float | None, metadata: list[tuple[str, str]]
) -> None:
    got = messages.decode_request(messages.encode_request(service, method, payload, timeout, metadata))
    assert (got.service, got.method, got.payload, got.metadata) == (service, method, payload, tuple(metadata))
    assert (got.timeout is None) == (timeout is None)
    if got.timeout is not None and timeout is not None:
        assert abs(got.timeout - timeout) <= max(1e-9, timeout * 1e-12)


@cases(300, 10_000)
@given(st.integers(1, (1 << 31) - 1), st.text(max_size=50))
def test_a_failure_survives_encoding_and_decoding(code: int, message: str) -> None:
    (got,) = ClientConnection().receive(frame(1, 2, messages.encode_failure(StatusError(code, message))))
    assert got.error is not None
    assert got.error.code == code
    assert got.error.message == message.encode("utf-8", "replace").decode()


# -- connections ------------------------------------------------------------------------------------------------------


def end(connection: ServerConnection | ClientConnection) -> bool:
    """Whether the stream may end here: the one error that a connection may raise."""
    try:
        connection.receive_eof()
    except ProtocolError:
        return False
    return True


@cases(600, 25_000)
@given(STREAMS, CUTS)
def test_a_server_takes_any_bytes_and_gives_the_same_calls_and_answers_however_they_are_cut(
    data: bytes, cuts: list[int]
) -> None:
    whole, cut = ServerConnection(), ServerConnection()
    expected = whole.receive(data)
    assert [request for part in pieces(data, cuts) for request in cut.receive(part)] == expected
    answer = whole.data_to_send()
    assert cut.data_to_send() == answer
    assert end(whole) == end(cut)
    refusals = ClientConnection().receive(answer)
    assert all(r.error is not None and r.error.code != Code.OK for r in refusals)
    taken = [request.stream_id for request in expected]
    assert taken == sorted(set(taken))
    assert all(stream_id % 2 for stream_id in taken)


@cases(400, 15_000)
@given(STREAMS, CUTS)
def test_a_client_takes_any_bytes_and_gives_the_same_answers_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    whole, cut = ClientConnection(), ClientConnection()
    expected = [(r.stream_id, r.payload, r.error and r.error.code) for r in whole.receive(data)]
    got = [r for part in pieces(data, cuts) for r in cut.receive(part)]
    assert [(r.stream_id, r.payload, r.error and r.error.code) for r in got] == expected
    assert end(whole) == end(cut)


@cases(500, 20_000)
@given(
    st.lists(st.builds(Frame, st.integers(0, 1000), TYPES, FLAGS, PAYLOADS).map(frames.encode), max_size=6),
    st.sampled_from([b"", b"", b"", b"", HEADER.pack(MAX_PAYLOAD + 1, 1001, 1, 0) + bytes(MAX_PAYLOAD + 1)]),
)
def test_no_frame_however_wrong_costs_the_good_one_behind_it(wrong: list[bytes], oversize: bytes) -> None:
    server = ServerConnection()
    calls = server.receive(b"".join(wrong) + oversize + call(1003, "good"))
    good = RequestReceived(1003, SERVICE, "CreateVM", CreateVMRequest(id="good").SerializeToString(), None, ())
    assert calls[-1][:6] == good[:6]
    server.data_to_send()
    server.respond(1003, b"x")
    assert ClientConnection().receive(server.data_to_send()) == [(1003, b"x", None)]


# -- over a real socket -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One socket path for all cases: each case serves it anew."""
    return tmp_path_factory.mktemp("fuzz") / "s.sock"


async def _survives(path: Path, streams: list[tuple[bytes, list[int]]]) -> None:
    server = Server([Service(DESCRIPTOR, {"CreateVM": echo})])
    await server.listen_unix(path)
    for data, cuts in streams:
        async with asyncio.timeout(10), await RawPeer.connect(path) as peer:
            for part in pieces(data, cuts):
                peer.send(part)
                await asyncio.sleep(0)
            peer.writer.write_eof()
            await peer.reader.read()  # until the server has seen our end
        async with await Client.connect_unix(path) as client:
            assert await create(client, "still here", timeout=10) == "/still here"
    await server.aclose()
    assert not server.links


@cases(40, 1_500)
@given(st.lists(st.tuples(STREAMS, CUTS), min_size=4, max_size=4))
def test_a_live_server_outlives_any_garbage(path: Path, streams: list[tuple[bytes, list[int]]]) -> None:
    asyncio.run(_survives(path, streams))


async def _answered_with(path: Path, data: bytes) -> Code | int:
    """The status code of a call that a server answers with `data` before it hangs up."""

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await RawPeer(reader, writer).receive()
        writer.write(data)
        writer.close()

    path.unlink(missing_ok=True)
    listener = await asyncio.start_unix_server(run, path)
    try:
        async with await Client.connect_unix(path) as client:
            await client.call(SERVICE, "CreateVM", CreateVMRequest(), CreateVMResponse, timeout=10)
    except StatusError as error:
        return error.code
    finally:
        listener.close()
        await listener.wait_closed()
    return Code.OK


@cases(80, 3_000)
@given(STREAMS)
def test_a_client_answered_with_garbage_gets_an_answer_or_a_status_at_once(path: Path, data: bytes) -> None:
    assert asyncio.run(_answered_with(path, data)) != Code.DEADLINE_EXCEEDED
