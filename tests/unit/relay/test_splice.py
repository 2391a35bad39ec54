"""The splice against a naive model: any frames, cut anywhere."""

from collections.abc import Iterable, Sequence

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptor.errors import Code, StatusError
from adaptor.protos.handover_pb2 import SpliceState
from adaptor.protos.ttrpc_pb2 import Request, Response
from adaptor.relay.splice import Answer, Rules, Splice, Watch
from adaptor.ttrpc import messages
from adaptor.ttrpc.frames import HEADER, MAX_PAYLOAD, Frame, FrameReader, MessageType, Oversize, encode

SERVICE = "grpc.AgentService"
REFUSAL = StatusError(Code.UNAVAILABLE, "not now")

RULES: Rules = {
    (SERVICE, "Grow"): lambda message: message * 2 + b"!",
    (SERVICE, "Ask"): lambda message: Answer(message[:8]),
    (SERVICE, "Refuse"): lambda message: Answer(error=REFUSAL),
    (SERVICE, "Look"): lambda message: None,
}


def frame(payload: bytes, kind: int = MessageType.REQUEST, stream_id: int = 1, flags: int = 0) -> bytes:
    return HEADER.pack(len(payload), stream_id, kind, flags) + payload


def call(method: str, message: bytes = b"", stream_id: int = 1, service: str = SERVICE) -> bytes:
    request = Request(service=service, method=method, payload=message, timeout_nano=5)
    request.metadata.add(key="containerd-namespace-ttrpc", value="k8s.io")
    return frame(request.SerializeToString(), stream_id=stream_id)


def answer(stream_id: int, message: bytes) -> bytes:
    return frame(Response(payload=message).SerializeToString(), MessageType.RESPONSE, stream_id)


def fields_in_another_order(method: str, message: bytes) -> bytes:
    """Protobuf allows any order; nobody's encoder writes this one."""
    return Request(payload=message).SerializeToString() + Request(service=SERVICE, method=method).SerializeToString()


def cut(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    """`data` in chunks of these sizes, over and over."""
    chunks, at, wanted = [], 0, list(sizes)
    while at < len(data):
        for size in wanted:
            if at < len(data):
                chunks.append(data[at : at + size])
                at += size
    return chunks


def fed(chunk: bytes) -> memoryview:
    """The chunk as the pump gives it: in a buffer that is overwritten afterwards."""
    return memoryview(bytearray(chunk))


def requests(splice: Splice, chunks: Iterable[bytes]) -> bytes:
    out = bytearray()
    for chunk in chunks:
        data = fed(chunk)
        pieces = splice.requests(data)
        assert all(len(piece) for piece in pieces), "an empty piece"
        out += b"".join(pieces)
        data[:] = bytes(len(data))
    return bytes(out)


def modelled(frames: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """What the VM must get and what the shim must be answered, worked out one whole frame at a time."""
    to_vm, answers = bytearray(), []
    for whole in frames:
        length, stream_id, kind, flags = HEADER.unpack_from(whole)
        try:
            request = Request.FromString(whole[HEADER.size :])
        except DecodeError:
            request = Request()
        rule = RULES.get((request.service, request.method))
        verdict = rule(request.payload) if rule and kind == MessageType.REQUEST and length <= MAX_PAYLOAD else None
        if isinstance(verdict, Answer):
            payload = messages.encode_failure(REFUSAL) if verdict.error else messages.encode_response(verdict.message)
            answers.append(frame(payload, MessageType.RESPONSE, stream_id))
        elif isinstance(verdict, bytes):
            request.payload = verdict
            to_vm += frame(request.SerializeToString(), stream_id=stream_id, flags=flags)
        else:
            to_vm += whole
    return bytes(to_vm), answers


message_bytes = st.one_of(st.binary(max_size=40), st.integers(0, 70_000).map(bytes))
streams = st.integers(0, 1 << 15)
ours = st.sampled_from(["Grow", "Ask", "Refuse", "Look"])
plain = st.sampled_from(["ReadStdout", "GrowX", "Gro", "M" * 127])
others = plain | st.sampled_from(["", "M" * 200])  # no one-byte length there
request_frames = st.one_of(
    st.builds(call, ours, message_bytes, streams),
    st.builds(call, others, message_bytes, streams),
    st.builds(call, ours, message_bytes, streams, st.sampled_from(["grpc.Health", "", "s" * 300])),
    st.builds(lambda method, message: frame(fields_in_another_order(method, message)), ours, message_bytes),
    st.builds(frame, st.binary(max_size=60), st.sampled_from([0, 1, 2, 3, 200]), streams, st.integers(0, 7)),
)
chunk_sizes = st.lists(st.integers(1, 400), min_size=1, max_size=8) | st.just([1]) | st.just([1 << 18])


@settings(max_examples=400, deadline=None)
@given(st.lists(request_frames, max_size=12), chunk_sizes)
def test_requests_come_out_as_the_model_says_however_they_are_cut(frames: list[bytes], sizes: list[int]) -> None:
    splice = Splice(RULES)
    to_vm, answers = modelled(frames)
    assert requests(splice, cut(b"".join(frames), sizes)) == to_vm
    assert splice.take_answers() == b"".join(answers)
    assert splice.requests_seen == sum(whole[8] == MessageType.REQUEST for whole in frames)


@settings(max_examples=100, deadline=None)
@given(st.lists(request_frames, max_size=8), chunk_sizes)
def test_without_rules_every_byte_passes_at_once_but_a_cut_header(frames: list[bytes], sizes: list[int]) -> None:
    splice = Splice({})
    passed = withheld = 0
    for chunk in cut(b"".join(frames), sizes):
        passed += sum(len(piece) for piece in splice.requests(fed(chunk)))
        withheld += len(chunk)
        assert 0 <= withheld - passed < HEADER.size
    assert withheld == passed


@settings(max_examples=100, deadline=None)
@given(st.lists(st.builds(call, plain, message_bytes, streams), max_size=8), chunk_sizes)
def test_a_call_no_rule_names_is_withheld_only_until_its_method_is_there(frames: list[bytes], sizes: list[int]) -> None:
    splice = Splice(RULES)
    passed = seen = 0
    for chunk in cut(b"".join(frames), sizes):
        passed += sum(len(piece) for piece in splice.requests(fed(chunk)))
        seen += len(chunk)
        assert seen - passed < HEADER.size + 258


response_frames = st.builds(lambda stream, size: answer((1 << 16) + stream, bytes(size)), streams, st.integers(0, 900))
steps = st.lists(st.tuples(st.booleans(), st.integers(1, 300)), min_size=1, max_size=60)


@settings(max_examples=400, deadline=None)
@given(st.lists(request_frames, max_size=10), st.lists(response_frames, max_size=10), steps)
def test_answers_go_between_responses_and_never_into_one(
    asked: list[bytes], responded: list[bytes], plan: list[tuple[bool, int]]
) -> None:
    splice = Splice(RULES)
    upward, downward, to_shim = b"".join(asked), b"".join(responded), bytearray()
    for is_request, size in [*plan, (True, len(upward)), (False, len(downward))]:
        if is_request and upward:
            requests(splice, [upward[:size]])
            upward = upward[size:]
            to_shim += splice.take_answers()
        elif not is_request and downward:
            to_shim += b"".join(bytes(piece) for piece in splice.responses(fed(downward[:size])))
            downward = downward[size:]
    to_shim += splice.take_answers()
    frames = [encode(each) for each in whole_frames(bytes(to_shim))]
    _, answers = modelled(asked)
    assert [each for each in frames if each in responded] == responded
    assert [each for each in frames if each not in responded] == answers
    assert b"".join(frames) == to_shim, "something is cut in two"


def whole_frames(data: bytes) -> list[Frame]:
    frames = FrameReader().feed(data)
    assert not any(isinstance(each, Oversize) for each in frames)
    return [each for each in frames if isinstance(each, Frame)]


def test_untouched_frames_pass_as_the_very_same_memory() -> None:
    data = fed(call("ReadStdout", b"x" * 100) + call("CopyFile", b"y" * 5000))
    assert [piece is data for piece in Splice(RULES).requests(data)] == [True]
    responses = Splice(RULES).responses(data)
    assert [isinstance(piece, memoryview) and piece.obj is data.obj for piece in responses] == [True]


def test_a_frame_larger_than_any_buffer_passes_in_pieces_of_the_same_memory() -> None:
    splice = Splice(RULES)
    body = call("CopyFile", bytes(3 << 20))
    for chunk in cut(body, [1 << 18]):
        data = fed(chunk)
        assert [piece is data for piece in splice.requests(data)] == [True]


def test_a_rewritten_request_keeps_what_this_program_does_not_know() -> None:
    known = Request(service=SERVICE, method="Grow", payload=b"ab", timeout_nano=7)
    known.metadata.add(key="k", value="v")
    unknown = b"\xaa\x06\x03new"  # field 101, a string
    out = requests(Splice(RULES), [frame(known.SerializeToString() + unknown, stream_id=9, flags=0)])
    request = Request.FromString(out[HEADER.size :])
    assert out.endswith(unknown)
    assert (request.payload, request.timeout_nano, request.metadata[0].value) == (b"abab!", 7, "v")
    assert HEADER.unpack_from(out)[1] == 9


def test_an_oversize_frame_of_a_call_with_a_rule_passes_untouched_and_the_next_is_seen() -> None:
    splice = Splice(RULES)
    large = call("Grow", bytes(MAX_PAYLOAD))
    assert HEADER.unpack_from(large)[0] > MAX_PAYLOAD
    out = requests(splice, cut(large + call("Grow", b"x"), [100_000]))
    assert out == large + modelled([call("Grow", b"x")])[0]


def test_a_frame_that_grows_over_the_limit_is_answered_with_the_reason() -> None:
    splice = Splice(RULES)
    assert requests(splice, cut(call("Grow", bytes(3 << 20), stream_id=11), [1 << 18])) == b""
    (frame_out,) = whole_frames(splice.take_answers())
    assert frame_out.stream_id == 11
    with pytest.raises(StatusError, match=r"Grow has 6291.* over ttrpc's limit.*make the container's spec") as refused:
        messages.decode_response(frame_out.payload)
    assert refused.value.code == Code.RESOURCE_EXHAUSTED


def test_the_largest_frame_with_a_rule_is_still_rewritten() -> None:
    rules: Rules = {(SERVICE, "Swap"): lambda message: b"small"}
    overhead = len(call("Swap", bytes(MAX_PAYLOAD))) - HEADER.size - MAX_PAYLOAD
    whole = call("Swap", bytes(MAX_PAYLOAD - overhead))
    assert HEADER.unpack_from(whole)[0] == MAX_PAYLOAD
    out = requests(Splice(rules), cut(whole, [1 << 18]))
    assert Request.FromString(out[HEADER.size :]).payload == b"small"


def test_answers_wait_for_the_end_of_the_long_response_under_way_and_are_handed_out_once() -> None:
    splice = Splice(RULES)
    response = answer(5, b"r" * 300_000)
    splice.responses(fed(response[:70]))
    requests(splice, [call("Ask", b"now", 7)])
    assert splice.take_answers() == b""
    pieces = [bytes(piece) for piece in splice.responses(fed(response[70:] + response[:200_000] * 2))]
    assert b"".join(pieces) == response[70:] + answer(7, b"now") + response[:200_000] * 2
    assert splice.take_answers() == b""


def test_a_response_that_is_cut_is_held_until_it_is_whole() -> None:
    splice = Splice(RULES)
    first, second = answer(5, b"r" * 50), answer(7, b"s" * 50)
    assert out_of(splice, first + second[:7]) == first
    assert out_of(splice, second[7:30]) == b""
    requests(splice, [call("Ask", b"now", 9)])
    assert splice.take_answers() == answer(9, b"now"), "the shim has whole frames: an answer may follow them"
    assert out_of(splice, second[30:]) == second


def test_a_watched_request_is_answered_from_here_and_the_late_answer_is_dropped() -> None:
    splice = Splice({(SERVICE, "Check"): lambda message: Watch(b"well")})
    asked = call("Check", stream_id=3)
    assert requests(splice, [asked]) == asked
    splice.answer_watched()
    assert splice.take_answers() == answer(3, b"well")
    between = answer(5, b"another")
    assert out_of(splice, between + answer(3, b"well, late") + between) == between * 2
    assert out_of(splice, answer(3, b"once only")) == answer(3, b"once only")


def test_a_watched_request_that_was_answered_is_not_answered_again() -> None:
    splice = Splice({(SERVICE, "Check"): lambda message: Watch(b"well")})
    requests(splice, [call("Check", stream_id=3)])
    assert out_of(splice, answer(3, b"fine")) == answer(3, b"fine")
    splice.answer_watched()
    assert splice.take_answers() == b""


@settings(max_examples=300, deadline=None)
@given(st.lists(request_frames, max_size=8), st.lists(response_frames, max_size=8), steps, st.integers(0, 60))
def test_a_splice_that_was_handed_over_goes_on_as_the_first_would_have(
    asked: list[bytes], responded: list[bytes], plan: list[tuple[bool, int]], moved_after: int
) -> None:
    def run(move: int | None) -> tuple[bytes, bytes]:
        splice, to_vm, to_shim = Splice(RULES), b"", b""
        upward, downward = b"".join(asked), b"".join(responded)
        for number, (is_request, size) in enumerate([*plan, (True, len(upward)), (False, len(downward))]):
            if number == move:
                state = SpliceState.FromString(splice.export().SerializeToString())
                splice = Splice(RULES)
                splice.restore(state)
            if is_request:
                to_vm += requests(splice, [upward[:size]]) if upward else b""
                upward = upward[size:]
            else:
                to_shim += out_of(splice, downward[:size])
                downward = downward[size:]
            to_shim += splice.take_answers()
        return to_vm, to_shim

    assert run(moved_after) == run(None)


def out_of(splice: Splice, responses: bytes) -> bytes:
    return b"".join(bytes(piece) for piece in splice.responses(fed(responses)))
