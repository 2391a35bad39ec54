"""Our encoding of every frame that the kata shim was recorded to send."""

import pytest

from adaptor.ttrpc.connection import ServerConnection
from adaptor.ttrpc.frames import HEADER
from tests.worlds.recording import NAMES, Connection, Request, load

RECORDED = [pytest.param(request, id=f"{name}-{n}") for name in NAMES for n, request in enumerate(load(name).requests)]
CONNECTIONS = [pytest.param(c, id=f"{name}-{c.name}") for name in NAMES for c in load(name).connections]


def test_every_recording_is_there() -> None:
    assert NAMES == ("r02-guestpull", "r05-dropagent", "r07a-tty-exec", "r08-handover", "r09")
    assert len(RECORDED) == 32 + 19 + 74 + (46 - 4) + 27  # r08 lists four unanswered calls a second time


@pytest.mark.parametrize("request_", RECORDED)
def test_a_recorded_request_has_the_recorded_length_when_we_encode_it(request_: Request) -> None:
    assert not request_.dropped
    assert len(request_.frame) - HEADER.size + request_.rewritten == request_.recorded_length


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_our_server_reads_every_recorded_request_as_it_was_recorded(connection: Connection) -> None:
    server = ServerConnection()
    got = server.receive(b"".join(request.frame for request in connection.requests.values()))
    assert server.data_to_send() == b""  # nothing was refused
    for received, sent in zip(got, connection.requests.values(), strict=True):
        assert received[:3] == (sent.stream_id, sent.service, sent.method)
        assert received.timeout == pytest.approx(sent.timeout)
        assert received.metadata == sent.metadata
        assert type(sent.message).FromString(received.payload) == sent.message
