"""frames: golden bytes, the limit, and reads of one byte."""

import pytest

from adaptor.errors import Code, StatusError
from adaptor.ttrpc.frames import HEADER, MAX_PAYLOAD, Frame, FrameReader, MessageType, Oversize, encode

GOLDEN = bytes.fromhex("00000005 00000007 02 00") + b"hello"


def test_a_frame_is_its_length_stream_type_and_flags_in_network_order_then_the_payload() -> None:
    assert encode(Frame(7, MessageType.RESPONSE, 0, b"hello")) == GOLDEN


def test_an_empty_payload_makes_a_frame_of_a_header_only() -> None:
    assert encode(Frame(1, MessageType.REQUEST, 0, b"")) == bytes.fromhex("00000000 00000001 01 00")


def test_one_byte_reads_give_the_frame_with_its_last_byte_and_not_before() -> None:
    reader = FrameReader()
    for byte in GOLDEN[:-1]:
        assert reader.feed(bytes([byte])) == []
        assert not reader.idle
    assert reader.feed(GOLDEN[-1:]) == [Frame(7, MessageType.RESPONSE, 0, b"hello")]
    assert reader.idle


def test_one_read_may_hold_many_frames_and_the_start_of_another() -> None:
    reader = FrameReader()
    assert [frame.stream_id for frame in reader.feed(GOLDEN * 3 + GOLDEN[:4])] == [7, 7, 7]
    assert len(reader.feed(GOLDEN[4:])) == 1


def test_types_and_flags_of_a_later_version_are_handed_on_as_they_are() -> None:
    assert FrameReader().feed(HEADER.pack(0, 2, 9, 0xFF)) == [Frame(2, 9, 0xFF, b"")]


def test_the_largest_payload_passes_and_one_byte_more_is_refused_before_it_is_sent() -> None:
    assert FrameReader().feed(encode(Frame(1, 1, 0, bytes(MAX_PAYLOAD)))) == [Frame(1, 1, 0, bytes(MAX_PAYLOAD))]
    with pytest.raises(StatusError, match="4194305 bytes") as caught:
        encode(Frame(1, 1, 0, bytes(MAX_PAYLOAD + 1)))
    assert caught.value.code == Code.RESOURCE_EXHAUSTED


def test_an_oversize_payload_is_announced_once_dropped_as_it_comes_and_the_next_frame_is_intact() -> None:
    reader = FrameReader()
    length = MAX_PAYLOAD + 100_000
    assert reader.feed(HEADER.pack(length, 5, 1, 0) + b"x" * 10) == [Oversize(5, 1, length)]
    left = length - 10
    while left:
        step = min(left, 65536)
        assert reader.feed(bytes(step)) == []
        assert not reader.idle or step == left
        assert len(reader._buffer) == 0
        left -= step
    assert reader.idle
    assert reader.feed(GOLDEN) == [Frame(7, 2, 0, b"hello")]


def test_an_oversize_payload_may_end_in_the_middle_of_a_read() -> None:
    length = MAX_PAYLOAD + 1
    data = HEADER.pack(length, 5, 1, 0) + bytes(length) + GOLDEN
    assert FrameReader().feed(data) == [Oversize(5, 1, length), Frame(7, 2, 0, b"hello")]
