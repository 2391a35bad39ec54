"""Records: two ends, and a link between them that breaks anywhere."""

import struct
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptor.protos.handover_pb2 import RecordsState
from adaptor.relay.carrier import CarrierFault
from adaptor.relay.records import WINDOW, Records


class End:
    """One end, with what its unix peer has sent and got."""

    def __init__(self) -> None:
        self.records = Records()
        self.sent = bytearray()
        self.got = bytearray()
        self.on_the_way = bytearray()  # what the link has taken and not delivered

    def send(self, data: bytes) -> None:
        self.sent += data
        self.on_the_way += self.records.wrap([data[:1], data[1:]])

    def receive(self, link: bytes) -> None:
        for piece in self.records.unwrap(memoryview(bytearray(link))):
            assert len(piece), "an empty piece"
            self.got += piece
        if self.records.owes:
            self.on_the_way += self.records.acknowledge()

    def move(self) -> None:
        """To another process."""
        self.records = Records(RecordsState.FromString(self.records.export().SerializeToString()))


def relink(one: End, other: End) -> None:
    """Break the link, losing what is on its way, and resume."""
    told, told_back = one.records.received, other.records.received
    other.on_the_way[:] = other.records.resume(told)
    one.on_the_way[:] = one.records.resume(told_back)


def deliver(sender: End, receiver: End, size: int) -> None:
    data = bytes(sender.on_the_way[:size])
    del sender.on_the_way[:size]
    if data:
        receiver.receive(data)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.booleans(), st.integers(1, 400_000)),
        st.tuples(st.just("deliver"), st.booleans(), st.integers(1, 500_000)),
        st.tuples(st.just("deliver"), st.booleans(), st.integers(1, 20)),
        st.tuples(st.just("cut"), st.booleans(), st.just(0)),
        st.tuples(st.just("move"), st.booleans(), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_every_byte_arrives_once_and_in_order_however_often_the_link_breaks(
    plan: Iterable[tuple[str, bool, int]],
) -> None:
    ends = End(), End()
    for number, (what, first, size) in enumerate(plan):
        one, other = ends if first else ends[::-1]
        match what:
            case "send":
                one.send(bytes([number % 256]) * size)
            case "deliver":
                deliver(one, other, size)
            case "cut":
                relink(one, other)
            case "move":
                one.move()
                relink(one, other)
    relink(*ends)
    for _ in range(2):  # the second brings acknowledgements
        deliver(ends[0], ends[1], 1 << 30)
        deliver(ends[1], ends[0], 1 << 30)
    assert ends[1].got == ends[0].sent
    assert ends[0].got == ends[1].sent


def test_what_was_taken_is_told_with_the_next_data_and_need_not_be_kept() -> None:
    asker, answerer = End(), End()
    asker.send(b"question")
    deliver(asker, answerer, 100)
    answerer.send(b"answer")
    deliver(answerer, asker, 100)
    assert asker.records.export().unconfirmed == b""
    assert answerer.records.export().unconfirmed == b"answer"


def test_who_only_listens_says_so_now_and_then() -> None:
    sender, listener = End(), End()
    for _ in range(100):
        sender.send(bytes(100_000))
        deliver(sender, listener, 1 << 20)
        deliver(listener, sender, 1 << 20)
        assert not sender.records.full
    assert len(sender.records.export().unconfirmed) <= 400_000


def test_no_more_is_taken_than_fits_until_the_other_end_has_it() -> None:
    sender, silent = End(), End()
    sender.send(bytes(WINDOW - 1))
    before = sender.records.full
    sender.send(b"x")
    at_the_limit = sender.records.full
    deliver(sender, silent, 1 << 30)
    deliver(silent, sender, 1 << 30)
    assert (before, at_the_limit, sender.records.full) == (False, True, False)


def test_the_answer_to_resume_may_get_lost_and_resume_be_repeated() -> None:
    one, other = End(), End()
    one.send(b"abcdef")
    deliver(one, other, 11)
    other.send(b"xyz")
    for _ in range(3):
        other.on_the_way[:] = other.records.resume(one.records.received)
    relink(one, other)
    deliver(one, other, 100)
    deliver(other, one, 100)
    assert bytes(other.got) == b"abcdef"
    assert bytes(one.got) == b"xyz"


@pytest.mark.parametrize("claimed", [0, 2, 11, 1 << 63])
def test_an_end_that_lost_what_it_had_cannot_resume(claimed: int) -> None:
    records = Records(RecordsState(sent=10, received=0, unconfirmed=b"3456789"))
    with pytest.raises(CarrierFault, match=f"has {claimed} bytes, and what is kept here are bytes 3 to 10"):
        records.resume(claimed)
    assert records.resume(3) == struct.pack(">II", 0, 7) + b"3456789"


def test_an_end_that_confirms_what_was_never_sent_is_told_apart() -> None:
    records = Records()
    records.wrap([b"four"])
    with pytest.raises(CarrierFault, match="took 5 bytes, of 4"):
        records.unwrap(memoryview(struct.pack(">II", 5, 0)))
