"""connection: both roles, byte for byte, without a socket."""

import pytest

from adaptor.errors import Code, StatusError
from adaptor.ttrpc import frames, messages
from adaptor.ttrpc.connection import ClientConnection, ProtocolError, RequestReceived, ServerConnection
from adaptor.ttrpc.frames import HEADER, MAX_PAYLOAD, Frame, FrameReader, MessageType

# The frame of test_messages' request, on the connection's first stream.
GOLDEN_REQUEST = bytes.fromhex("00000032 00000001 01 00") + (
    b"\x0a\x15hypervisor.Hypervisor\x12\x06StopVM\x1a\x03\x0a\x01a\x20\x80\xe4\x97\xd0\x12\x2a\x06\x0a\x01k\x12\x01v"
)
GOLDEN_ANSWER = bytes.fromhex("00000000 00000001 02 00")


def request(stream_id: int, flags: int = 0, type: int = MessageType.REQUEST, envelope: bytes | None = None) -> bytes:
    if envelope is None:
        envelope = messages.encode_request("s", "m", b"", None, ())
    return frames.encode(Frame(stream_id, type, flags, envelope))


def answers(connection: ServerConnection) -> list[tuple[int, int]]:
    """(stream id, status code) of everything that the server sends now."""
    sent = ClientConnection().receive(connection.data_to_send())
    return [(answer.stream_id, answer.error.code if answer.error else Code.OK) for answer in sent]


def test_client_and_server_speak_the_golden_bytes() -> None:
    client, server = ClientConnection(), ServerConnection()
    stream_id = client.request("hypervisor.Hypervisor", "StopVM", b"\x0a\x01a", 5.0, [("k", "v")])
    sent = client.data_to_send()
    assert (stream_id, sent) == (1, GOLDEN_REQUEST)
    assert server.receive(sent) == [
        RequestReceived(1, "hypervisor.Hypervisor", "StopVM", b"\x0a\x01a", 5.0, (("k", "v"),), 50)
    ]
    server.respond(1, b"")
    answer = server.data_to_send()
    assert answer == GOLDEN_ANSWER
    assert client.receive(answer) == [(1, b"", None)]


def test_what_was_handed_out_to_be_sent_is_not_handed_out_again() -> None:
    client = ClientConnection()
    client.request("s", "m", b"")
    assert client.data_to_send()
    assert client.data_to_send() == b""


def test_a_clients_stream_ids_are_odd_and_rise() -> None:
    client = ClientConnection()
    assert [client.request("s", "m", b"") for _ in range(4)] == [1, 3, 5, 7]


def test_a_client_that_has_used_every_stream_id_says_so() -> None:
    client = ClientConnection()
    client._next_stream = (1 << 32) - 1
    assert client.request("s", "m", b"") == (1 << 32) - 1
    with pytest.raises(StatusError, match="open a new one"):
        client.request("s", "m", b"")


def test_calls_may_be_answered_in_any_order_and_only_once() -> None:
    server = ServerConnection()
    server.receive(request(1) + request(3) + request(5))
    server.respond(5, b"")
    server.fail(1, Code.NOT_FOUND, "gone")
    server.respond(1, b"")
    server.respond(3, b"")
    server.fail(5, Code.INTERNAL, "too late")
    server.respond(99, b"")
    assert answers(server) == [(5, Code.OK), (1, Code.NOT_FOUND), (3, Code.OK)]


@pytest.mark.parametrize("stream_id", [0, 2, 4, 1, 7])
def test_even_repeated_and_falling_stream_ids_are_refused_on_themselves(stream_id: int) -> None:
    server = ServerConnection()
    server.receive(request(7))
    assert server.receive(request(stream_id)) == []
    assert answers(server) == [(stream_id, Code.INVALID_ARGUMENT)]
    assert [r.stream_id for r in server.receive(request(9))] == [9]
    server.respond(7, b"")
    assert answers(server) == [(7, Code.OK)]  # the call that was open on it is answered all the same


def test_stream_ids_may_leave_gaps() -> None:
    server = ServerConnection()
    assert [r.stream_id for r in server.receive(request(5) + request(1001) + request((1 << 32) - 1))] == [
        5,
        1001,
        (1 << 32) - 1,
    ]


@pytest.mark.parametrize("flags", [frames.REMOTE_OPEN, frames.REMOTE_CLOSED, 0xFF])
def test_a_streaming_call_is_refused_and_the_connection_goes_on(flags: int) -> None:
    server = ServerConnection()
    assert server.receive(request(1, flags)) == []
    assert answers(server) == [(1, Code.UNIMPLEMENTED)]
    assert len(server.receive(request(3))) == 1


def test_a_data_frame_is_refused_on_its_stream() -> None:
    server = ServerConnection()
    assert server.receive(request(1, frames.NO_DATA | frames.REMOTE_CLOSED, MessageType.DATA)) == []
    assert answers(server) == [(1, Code.INVALID_ARGUMENT)]
    assert len(server.receive(request(1))) == 1  # data takes no stream id


@pytest.mark.parametrize("type", [MessageType.RESPONSE, 0, 4, 255])
def test_frames_of_a_type_that_no_client_sends_are_ignored(type: int) -> None:
    server = ServerConnection()
    assert server.receive(request(1, type=type)) == []
    assert server.data_to_send() == b""
    assert len(server.receive(request(1))) == 1


def test_an_undecodable_request_is_refused_and_its_stream_id_is_spent() -> None:
    server = ServerConnection()
    assert server.receive(request(3, envelope=b"\xff")) == []
    assert answers(server) == [(3, Code.INVALID_ARGUMENT)]
    assert server.receive(request(3)) == []
    assert answers(server) == [(3, Code.INVALID_ARGUMENT)]


def test_an_oversize_request_is_refused_before_it_has_all_arrived_and_the_next_call_is_served() -> None:
    server = ServerConnection()
    length = 5 << 20
    assert server.receive(HEADER.pack(length, 1, 1, 0)) == []
    assert answers(server) == [(1, Code.RESOURCE_EXHAUSTED)]
    assert [r.stream_id for r in server.receive(bytes(length) + request(3))] == [3]


def test_an_answer_over_the_limit_becomes_resource_exhausted() -> None:
    server = ServerConnection()
    server.receive(request(1) + request(3) + request(5))
    server.respond(1, bytes(MAX_PAYLOAD))  # the envelope takes five bytes more
    server.respond(3, bytes(MAX_PAYLOAD - 5))
    server.fail(5, Code.INTERNAL, "x" * (MAX_PAYLOAD + 1))
    assert answers(server) == [(1, Code.RESOURCE_EXHAUSTED), (3, Code.OK), (5, Code.RESOURCE_EXHAUSTED)]


def test_a_request_over_the_limit_fails_where_it_is_made_and_takes_no_stream_id() -> None:
    client = ClientConnection()
    with pytest.raises(StatusError, match="over ttrpc's limit") as caught:
        client.request("s", "m", bytes(MAX_PAYLOAD))
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    assert client.data_to_send() == b""
    assert client.request("s", "m", b"") == 1


def test_an_oversize_answer_fails_its_own_call_only() -> None:
    client = ClientConnection()
    length = 5 << 20
    (lost,) = client.receive(HEADER.pack(length, 1, 2, 0) + bytes(length // 2))
    assert lost.stream_id == 1
    assert lost.error is not None
    assert lost.error.code == Code.RESOURCE_EXHAUSTED
    assert client.receive(bytes(length // 2) + frames.encode(Frame(3, 2, 0, b""))) == [(3, b"", None)]


@pytest.mark.parametrize("type", [MessageType.REQUEST, MessageType.DATA, 0, 77])
def test_a_frame_that_is_no_answer_fails_the_call_on_its_stream(type: int) -> None:
    (got,) = ClientConnection().receive(frames.encode(Frame(1, type, 0, b"")))
    assert got.error is not None
    assert got.error.code == Code.INTERNAL
    assert f"type {int(type)}" in got.error.message


def test_an_undecodable_answer_fails_the_call_on_its_stream() -> None:
    (got,) = ClientConnection().receive(frames.encode(Frame(1, 2, 0, b"\xff")))
    assert got.error is not None
    assert got.error.code == Code.INTERNAL


@pytest.mark.parametrize("role", [ServerConnection, ClientConnection])
@pytest.mark.parametrize("data", [GOLDEN_ANSWER[:3], HEADER.pack(9, 1, 1, 0) + b"x", HEADER.pack(5 << 20, 1, 1, 0)])
def test_a_stream_that_ends_inside_a_frame_is_a_protocol_error(
    role: type[ServerConnection | ClientConnection], data: bytes
) -> None:
    connection = role()
    connection.receive_eof()  # between frames it may end
    connection.receive(data)
    with pytest.raises(ProtocolError, match="middle of a frame"):
        connection.receive_eof()


def test_a_server_that_is_fed_single_bytes_answers_the_same() -> None:
    whole, single = ServerConnection(), ServerConnection()
    data = request(1) + request(2) + request(3, envelope=b"\xff") + request(5, type=3) + request(7)
    expected = whole.receive(data)
    assert [r for byte in data for r in single.receive(bytes([byte]))] == expected
    assert single.data_to_send() == whole.data_to_send()
    assert len(FrameReader().feed(data)) == 5
