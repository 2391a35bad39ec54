"""The tunnels' numbers, and what they leave of a path's MTU."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptor.errors import Unavailable
from adaptor.podnet.vxlan import LAST_VNI, inner_mtu, numbers, wireguard_mtu

_NEAR_THE_END = st.integers(LAST_VNI - 12, LAST_VNI)


@given(st.integers(1, 16), _NEAR_THE_END, st.integers(0, LAST_VNI + 5), st.sets(_NEAR_THE_END))
def test_no_number_is_given_that_is_taken_or_outside_or_twice(
    count: int, first: int, after: int, taken: set[int]
) -> None:
    free = set(range(first, LAST_VNI + 1)) - taken
    if len(free) < count:
        with pytest.raises(Unavailable, match=f"{LAST_VNI - first + 1} from {first} to {LAST_VNI} are in use"):
            numbers(count, first=first, after=after, taken=taken)
        return
    given_ = numbers(count, first=first, after=after, taken=taken)
    assert len(given_) == len(set(given_)) == count
    assert set(given_) <= free


def test_a_number_that_is_free_again_is_not_the_next_one() -> None:
    assert numbers(1, first=100, after=100, taken=set()) == (101,)
    assert numbers(3, first=100, after=101, taken={103}) == (102, 104, 105)


def test_after_the_last_number_comes_the_first() -> None:
    assert numbers(2, first=100, after=LAST_VNI - 1, taken=set()) == (LAST_VNI, 100)
    assert numbers(1, first=100, after=LAST_VNI, taken={100}) == (101,)


def test_a_raised_first_vni_is_where_numbers_go_on() -> None:
    assert numbers(1, first=1000, after=200, taken={150, 200}) == (1000,)


def test_overheads_are_those_of_the_headers() -> None:
    assert inner_mtu(1500, 4) == 1450
    assert inner_mtu(1500, 6) == 1430
    assert inner_mtu(9001, 4) == 8951
    assert wireguard_mtu(1500, 4) == 1440
    assert wireguard_mtu(1500, 6) == 1408, "not 1420, of which it would make 1424"
    assert inner_mtu(1500, 4, encrypted=True) == 1370
    assert inner_mtu(1500, 6, encrypted=True) == 1338
