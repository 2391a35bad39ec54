"""A stock guest's link: broken anywhere, however the bytes were cut, and every call comes to exactly one end."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from unittest.mock import patch

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptor import names
from adaptor.errors import Code, StatusError
from adaptor.protos import agent_pb2
from adaptor.protos.agent_pb2 import CopyFileRequest, SignalProcessRequest
from adaptor.protos.handover_pb2 import ReissueState
from adaptor.protos.ttrpc_pb2 import Request, Response
from adaptor.relay import reissue
from adaptor.relay.reissue import TABLE, Reissue, always, never
from adaptor.ttrpc import messages
from adaptor.ttrpc.frames import HEADER, MAX_PAYLOAD, MessageType

HEAD = HEADER.size
SMALL_LIMIT = 300  # stands for MAX_PAYLOAD where both sides of it are tried


def frame(payload: bytes, stream_id: int, kind: int = MessageType.REQUEST) -> bytes:
    return HEADER.pack(len(payload), stream_id, kind, 0) + payload


def call(method: str, stream_id: int, message: bytes = b"", service: str = names.AGENT_SERVICE) -> bytes:
    return frame(Request(service=service, method=method, payload=message).SerializeToString(), stream_id)


def answer(stream_id: int, message: bytes = b"") -> bytes:
    return frame(messages.encode_response(message), stream_id, MessageType.RESPONSE)


def frames_of(data: bytes) -> list[bytes]:
    """The frames of `data`, which must be whole."""
    found = []
    while data:
        assert len(data) >= HEAD, "half a header"
        end = HEAD + HEADER.unpack_from(data)[0]
        assert len(data) >= end, "half a frame"
        found.append(data[:end])
        data = data[end:]
    return found


def stream_of(whole: bytes) -> int:
    return int(HEADER.unpack_from(whole)[1])


def wrapped(carrier: Reissue, *chunks: bytes) -> bytes:
    """What the link gets, with the pieces in a buffer that is overwritten afterwards, as the pump's is."""
    views = [memoryview(bytearray(chunk)) for chunk in chunks]
    out = carrier.wrap(views)
    for view in views:
        view[:] = bytes(len(view))
    return out


def unwrapped(carrier: Reissue, data: bytes) -> bytes:
    view = memoryview(bytearray(data))
    out = b"".join(carrier.unwrap(view))
    view[:] = bytes(len(view))
    return out


def told(whole: bytes) -> tuple[int, bytes]:
    """Code and message of an answer."""
    response = Response.FromString(whole[HEAD:])
    return response.status.code, response.payload


def error_in(whole: bytes) -> StatusError:
    with pytest.raises(StatusError) as raised:
        messages.decode_response(whole[HEAD:])
    return raised.value


def resumed(*requests: bytes) -> tuple[list[bytes], list[bytes]]:
    """First frames and answers of the next link, when these had been sent whole and the link broke."""
    carrier = Reissue()
    for each in requests:
        wrapped(carrier, each)
    carrier.broke()
    first, answers = carrier.resume()
    return frames_of(first), frames_of(answers)


# -- the world of the fuzzer --------------------------------------------------------------------------


@dataclass
class World:
    """A shim that sends `requests`, a guest that carries out what it gets whole, and links that lose what is on them."""

    requests: Sequence[bytes]
    carrier: Reissue = field(default_factory=Reissue)
    linked: bool = True
    broke: bool = False  # ever
    sent: int = 0  # bytes of the shim's
    to_guest: bytearray = field(default_factory=bytearray)  # on the link
    at_guest: bytearray = field(default_factory=bytearray)  # the beginning of a frame
    last_stream: int = 0  # that this link has brought
    carried_out: list[int] = field(default_factory=list)
    open: list[int] = field(default_factory=list)  # to be answered on this link
    to_shim: bytearray = field(default_factory=bytearray)
    answers: dict[int, bytes] = field(default_factory=dict)
    given_whole: set[int] = field(default_factory=set)  # to a link

    def __post_init__(self) -> None:
        self.stream = b"".join(self.requests)
        self.by_id = {stream_of(each): each for each in self.requests}

    def send(self, size: int) -> None:
        out = wrapped(self.carrier, *(bytes([byte]) for byte in self.stream[self.sent : self.sent + size][:2]))
        rest = self.stream[self.sent + 2 : self.sent + size]
        out += wrapped(self.carrier, rest) if rest else b""
        before, self.sent = self.sent, min(self.sent + size, len(self.stream))
        assert self.linked or not out, "bytes for a link that is not there"
        self.to_guest += out
        end = 0
        for each in self.requests:
            end += len(each)
            if before < end <= self.sent and self.linked:
                self.given_whole.add(stream_of(each))

    def arrive(self, size: int) -> None:
        self.at_guest += self.to_guest[:size]
        del self.to_guest[:size]
        while len(self.at_guest) >= HEAD:
            end = HEAD + HEADER.unpack_from(self.at_guest)[0]
            if len(self.at_guest) < end:
                return
            whole = bytes(self.at_guest[:end])
            del self.at_guest[:end]
            stream_id = stream_of(whole)
            assert whole == self.by_id[stream_id], "not what the shim sent"
            assert stream_id > self.last_stream, "a ttrpc server refuses ids that do not rise"
            self.last_stream = stream_id
            if whole[8] == MessageType.REQUEST:
                self.open.append(stream_id)
                if len(whole) <= HEAD + SMALL_LIMIT:
                    self.carried_out.append(stream_id)

    def answer(self, which: int) -> None:
        if self.open:
            stream_id = self.open.pop(which % len(self.open))
            length = SMALL_LIMIT * 2 if which % 7 == 0 else which
            self.to_shim += answer(stream_id, stream_id.to_bytes(4, "big") + bytes(length))

    def deliver(self, size: int) -> None:
        self.heard(unwrapped(self.carrier, bytes(self.to_shim[:size])) if self.to_shim else b"")
        del self.to_shim[:size]

    def heard(self, data: bytes) -> None:
        for whole in frames_of(data):
            stream_id = stream_of(whole)
            assert stream_id not in self.answers, "two answers for one call"
            self.answers[stream_id] = whole

    def cut(self) -> None:
        self.carrier.broke()
        self.linked = False
        self.broke = True
        self.to_guest.clear()
        self.to_shim.clear()

    def resume(self) -> None:
        if self.linked:
            return
        # what the old link had brought to the guest is carried out; its answers find no link
        self.at_guest.clear()
        self.open.clear()
        self.last_stream = 0
        first, answers = self.carrier.resume()
        self.linked = True
        self.to_guest += first
        self.given_whole |= {stream_of(each) for each in self.requests if each in first}
        self.heard(answers)

    def hand_over(self) -> None:
        state = ReissueState.FromString(self.carrier.export().SerializeToString())
        self.cut()
        self.carrier = Reissue(state)

    def settle(self) -> None:
        """Whatever is under way comes to its end."""
        self.resume()
        self.send(len(self.stream))
        while self.to_guest or self.open or self.to_shim:
            self.arrive(1 << 20)
            self.answer(1)
            self.deliver(1 << 20)


SAFE = ["Check", "WaitProcess", "ReadStdout", "GetOOMEvent", "UpdateContainer"]
UNSAFE = ["ExecProcess", "CreateContainer", "WriteStdin", "Unheard"]


def service_of(method: str) -> str:
    return names.HEALTH_SERVICE if method == "Check" else names.AGENT_SERVICE


def numbered(kinds: Sequence[tuple[str, int]]) -> list[bytes]:
    """Frames with the odd ids that a shim gives; "data" and "garbage" are no calls."""
    made = []
    for number, (method, size) in enumerate(kinds):
        stream_id = 2 * number + 1
        if method == "data":
            made.append(frame(bytes(size), stream_id, MessageType.DATA))
        elif method == "garbage":
            made.append(frame(b"\xff" * (1 + size), stream_id))
        else:
            made.append(call(method, stream_id, bytes(size), service_of(method)))
    return made


calls = st.tuples(
    st.sampled_from([*SAFE, *UNSAFE, "garbage", "data"]), st.integers(0, 60) | st.integers(SMALL_LIMIT - 60, 700)
)
sizes = st.integers(1, 40) | st.integers(1, 2000)
actions = st.one_of(
    st.tuples(st.just("send"), sizes),
    st.tuples(st.just("send"), sizes),
    st.tuples(st.just("arrive"), sizes),
    st.tuples(st.just("answer"), st.integers(0, 200)),
    st.tuples(st.just("deliver"), sizes),
    st.tuples(st.sampled_from(["cut", "resume", "resume", "hand_over"]), st.none()),
)


@settings(max_examples=600, deadline=None)
@given(st.lists(calls, max_size=14).map(numbered), st.lists(actions, max_size=60))
def test_every_call_has_one_end_whatever_is_cut(requests: list[bytes], plan: list[tuple[str, int | None]]) -> None:
    with patch.object(reissue, "MAX_PAYLOAD", SMALL_LIMIT):
        world = World(requests)
        for verb, size in plan:
            getattr(world, verb)(*([] if size is None else [size]))
        world.settle()
    asked = {stream_of(each): each for each in requests if each[8] == MessageType.REQUEST}
    assert world.answers.keys() == asked.keys(), "a call without an answer"
    for stream_id, whole in asked.items():
        code, message = told(world.answers[stream_id])
        ours = code == Code.UNAVAILABLE
        assert code in (Code.OK, Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED)
        assert code != Code.OK or message[:4] == stream_id.to_bytes(4, "big")
        too_long = len(whole) > HEAD + SMALL_LIMIT
        safe = method_of(whole) in SAFE and not too_long
        assert not (ours and safe), "a safe call was failed"
        assert not ours or too_long or stream_id in world.given_whole, "a call that was never sent was failed"
        assert not ours or world.broke
        assert safe or world.carried_out.count(stream_id) <= 1, "an unsafe call was carried out twice"
        assert ours or too_long or world.carried_out.count(stream_id) >= 1
    assert world.carrier.export() == ReissueState()
    assert not world.carrier.full


def method_of(whole: bytes) -> str:
    try:
        return Request.FromString(whole[HEAD:]).method
    except DecodeError:
        return ""


# -- one thing at a time ------------------------------------------------------------------------------


def test_every_call_that_the_agent_knows_has_its_case() -> None:
    services = agent_pb2.DESCRIPTOR.services_by_name.values()
    known = {(service.full_name, method.name) for service in services for method in service.methods}
    assert known
    assert known <= TABLE.keys()
    assert len([service for service, _ in TABLE if service == names.AGENT_SERVICE]) == 42, (
        "those that we do not read too"
    )


@pytest.mark.parametrize(("service", "method"), [call for call, case in TABLE.items() if case.repeats is always])
def test_a_call_that_bears_it_is_sent_again(service: str, method: str) -> None:
    request = call(method, 5, b"\x0a\x01x", service)
    assert resumed(request) == ([request], [])


@pytest.mark.parametrize(("service", "method"), [call for call, case in TABLE.items() if case.repeats is never])
def test_a_call_that_does_not_bear_it_is_failed_in_words(service: str, method: str) -> None:
    first, [told] = resumed(call(method, 5, b"", service))
    error = error_in(told)
    assert (first, stream_of(told), error.code) == ([], 5, Code.UNAVAILABLE)
    assert error.message == (
        f"{method} was under way when the link to the pod's VM broke; it may or may not have been carried out"
    )


def test_calls_nobody_knows_and_bytes_nobody_can_read_are_failed() -> None:
    first, answers = resumed(call("Explode", 1), call("Check", 3), frame(b"\xff", 5), call("SignalProcess", 7, b"\xff"))
    assert first == []
    assert [stream_of(each) for each in answers] == [1, 3, 5, 7]
    assert [error_in(each).message.split(" was ")[0] for each in answers] == [
        "Explode", "Check", "A call", "SignalProcess",
    ]  # fmt: skip


@pytest.mark.parametrize(("signal", "again"), [(0, True), (9, True), (15, True), (1, False), (2, False), (10, False)])
def test_a_signal_is_sent_again_if_it_ends_a_process(signal: int, again: bool) -> None:
    message = SignalProcessRequest(container_id="c", signal=signal).SerializeToString()
    first, answers = resumed(call("SignalProcess", 1, message))
    assert (len(first), len(answers)) == (again, not again)


@pytest.mark.parametrize(
    ("offset", "size", "file_size", "again"),
    [
        (0, 10, 10, True),  # a small file
        (0, 0, 0, True),  # an empty one, a directory
        (0, 10, 25, True),
        (10, 10, 25, True),
        (20, 5, 25, False),  # the one that moves the file to its place
    ],
)
def test_a_part_of_a_file_is_written_again_unless_it_is_the_last_of_several(
    offset: int, size: int, file_size: int, again: bool
) -> None:
    part = CopyFileRequest(path="/run/x", offset=offset, data=bytes(size), file_size=file_size)
    first, answers = resumed(call("CopyFile", 1, part.SerializeToString()))
    assert (len(first), len(answers)) == (again, not again)


def test_what_came_while_there_was_no_link_is_sent_whatever_it_does() -> None:
    carrier = Reissue()
    before, meanwhile = call("ExecProcess", 1), call("ExecProcess", 3)
    wrapped(carrier, before)
    carrier.broke()
    assert wrapped(carrier, meanwhile) == b""
    first, answers = carrier.resume()
    assert first == meanwhile
    assert [stream_of(each) for each in frames_of(answers)] == [1]
    carrier.broke()
    assert frames_of(carrier.resume()[1]), "it went over a link now"


def test_a_call_that_the_link_got_in_part_goes_whole_to_the_next() -> None:
    carrier = Reissue()
    whole = call("ExecProcess", 1, b"x" * 50)
    assert wrapped(carrier, whole[:30]) == whole[:30]
    carrier.broke()
    assert carrier.resume() == (whole[:30], b"")
    assert wrapped(carrier, whole[30:]) == whole[30:]


def test_half_an_answer_is_kept_from_the_shim_and_forgotten_with_its_link() -> None:
    carrier = Reissue()
    request = call("StatsContainer", 1)
    wrapped(carrier, request)
    assert unwrapped(carrier, answer(1, b"x" * 90)[:50]) == b""
    carrier.broke()
    assert carrier.resume() == (request, b"")
    assert unwrapped(carrier, answer(1, b"second")) == answer(1, b"second")


def test_a_call_longer_than_ttrpc_allows_passes_and_is_not_sent_again() -> None:
    carrier = Reissue()
    long, behind = frame(bytes(MAX_PAYLOAD + 1), 1), call("Check", 3, service=names.HEALTH_SERVICE)
    middle = len(long) // 2
    assert wrapped(carrier, long[:middle]) == long[:middle]
    assert len(carrier.export().unanswered[0]) == HEAD
    carrier.broke()
    first, answers = carrier.resume()
    assert first == b""
    assert "not kept" in error_in(answers).message
    assert wrapped(carrier, long[middle:], behind) == behind, "the rest of it is of no use to the new link"


def test_an_answer_longer_than_ttrpc_allows_becomes_an_error() -> None:
    carrier = Reissue()
    wrapped(carrier, call("GetMetrics", 1))
    long = frame(bytes(MAX_PAYLOAD + 1), 1, MessageType.RESPONSE)
    told = unwrapped(carrier, long[:4]) + unwrapped(carrier, long[4:5000])
    assert error_in(told).code == Code.RESOURCE_EXHAUSTED
    assert unwrapped(carrier, long[5000:] + answer(3)) == answer(3)
    carrier.broke()
    assert carrier.resume() == (b"", b"")


def test_an_answer_of_the_greatest_length_passes_however_it_is_cut() -> None:
    carrier = Reissue()
    long = frame(bytes(MAX_PAYLOAD), 1, MessageType.RESPONSE)
    told = b"".join(unwrapped(carrier, long[at : at + 50_000]) for at in range(0, len(long), 50_000))
    assert told == long


def test_it_takes_no_more_when_too_much_is_unanswered_and_goes_on_when_it_is_answered() -> None:
    carrier = Reissue()
    wrapped(carrier, call("ReadStdout", 1, bytes(MAX_PAYLOAD - 100)))
    wrapped(carrier, call("ReadStdout", 3, bytes(MAX_PAYLOAD - 100)))
    fullness = [carrier.full]
    wrapped(carrier, call("ReadStdout", 5, bytes(300)))
    fullness.append(carrier.full)
    carrier.broke()
    carrier.resume()
    fullness.append(carrier.full)
    unwrapped(carrier, answer(3))
    fullness.append(carrier.full)
    assert fullness == [False, True, True, False]


def test_what_is_failed_makes_room() -> None:
    carrier = Reissue()
    wrapped(carrier, call("WriteStdin", 1, bytes(MAX_PAYLOAD - 100)))
    wrapped(carrier, call("WriteStdin", 3, bytes(MAX_PAYLOAD - 100)), call("WriteStdin", 5, bytes(300)))
    fullness = [carrier.full]
    carrier.broke()
    carrier.resume()
    assert [*fullness, carrier.full] == [True, False]


def test_another_process_goes_on_with_what_was_exported() -> None:
    carrier = Reissue()
    read, executed, created = call("ReadStdout", 1), call("ExecProcess", 3), call("CreateContainer", 5)
    wrapped(carrier, read, executed)
    carrier.broke()
    wrapped(carrier, created, call("Check", 7)[:3])
    successor = Reissue(ReissueState.FromString(carrier.export().SerializeToString()))
    assert successor.export() == carrier.export()
    assert wrapped(successor, call("Check", 7)[3:9]) == b"", "no link has been begun"
    first, answers = successor.resume()
    assert first == read + created + call("Check", 7)[:9]
    assert [stream_of(each) for each in frames_of(answers)] == [3]
