"""Kubernetes quantities, as an admin types them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptor.catalog.quantities import mebibytes, vcpus
from adaptor.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "count"), [("4", 4), ("500m", 1), ("1500m", 2), ("1.5", 2), ("1k", 1000), ("+2", 2), (" 2 ", 2), (".5", 1)]
)
def test_cpus_are_rounded_up(text: str, count: int) -> None:
    assert vcpus(text) == count


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("8Gi", 8192),
        ("512Mi", 512),
        ("1G", 954),
        ("1", 1),
        ("1048577", 2),
        ("1Ti", 1 << 20),
        ("1e9", 954),
        ("2048Ki", 2),
    ],
)
def test_memory_is_in_mebibytes(text: str, mib: int) -> None:
    assert mebibytes(text) == mib


@pytest.mark.parametrize(
    "text", ["", "four", "4 Gi", "8gb", "8GiB", "0x10", "1e", "--1", "1,5", "٤", "nan", "inf", "9" * 50]
)
def test_what_is_no_quantity_is_refused_with_how_to_write_it(text: str) -> None:
    for parse in (vcpus, mebibytes):
        with pytest.raises(InvalidRequest, match="is no quantity; write it as Kubernetes does"):
            parse(text)


@pytest.mark.parametrize(("text", "problem"), [("-1", "more than 0"), ("0", "more than 0"), ("1E", "more than any")])
def test_absurd_sizes_are_refused(text: str, problem: str) -> None:
    for parse in (vcpus, mebibytes):
        with pytest.raises(InvalidRequest, match=problem):
            parse(text)


@given(st.text(max_size=12) | st.from_regex(r"[+-]?[0-9.]{1,5}(e-?[0-9]{1,3}|[KMGTPEkmnu]?i?)", fullmatch=True))
def test_no_text_does_worse_than_a_refusal(text: str) -> None:
    for parse in (vcpus, mebibytes):
        try:
            assert parse(text) >= 1
        except InvalidRequest:
            pass
