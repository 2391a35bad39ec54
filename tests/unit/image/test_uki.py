"""UKIs put together, and read back."""

import pefile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podvm_images.image.measure import measure
from podvm_images.image.pe import Executable
from podvm_images.image.uki import unite
from tests.unit.image.efi import ALIGNMENT, executable

STUB = executable([(".text", b"stub" * 500), (".sbat", b"sbat,1\n")], checksum=7)
KERNEL = executable([(".text", b"kernel")])
PARTS = [
    (".osrel", b"ID=podvm\n"),
    (".cmdline", b"roothash=00"),
    (".uname", b"6.12"),
    (".initrd", b"i" * 5000),
    (".linux", KERNEL),
]


def test_a_united_image_has_the_stubs_sections_and_ours() -> None:
    image = Executable.parse(unite(STUB, PARTS))
    assert dict(image.sections()) == {".text": b"stub" * 500, ".sbat": b"sbat,1\n", **dict(PARTS)}
    assert len(measure(image).pcr11) == 64


def test_its_headers_tell_the_truth() -> None:
    parsed = pefile.PE(data=unite(STUB, PARTS), fast_load=True)
    assert parsed.FILE_HEADER.NumberOfSections == 7
    assert parsed.OPTIONAL_HEADER.CheckSum == 0
    end = 0
    for section in sorted(parsed.sections, key=lambda each: each.VirtualAddress):
        assert section.VirtualAddress % parsed.OPTIONAL_HEADER.SectionAlignment == 0
        assert section.PointerToRawData % ALIGNMENT == 0
        assert section.VirtualAddress >= end
        end = section.VirtualAddress + section.Misc_VirtualSize
    assert parsed.OPTIONAL_HEADER.SizeOfImage >= end


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=6))
def test_any_contents_come_back_as_they_were(contents: list[bytes]) -> None:
    parts = [(f".p{number}", content) for number, content in enumerate(contents)]
    found = Executable.parse(unite(STUB, parts)).sections()
    assert [found[name] for name, _ in parts] == contents


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([(".text", b"x")], "there is a section .text already"),
        ([(".a", b"x"), (".a", b"y")], "there is a section .a already"),
        ([(".toolong8", b"x")], "cannot be a section's name"),
        ([("linux", b"x")], "cannot be a section's name"),
        ([(".linux", b"")], "the section .linux is empty"),
        ([(f".s{n}", b"x") for n in range(40)], r"room for \d+ sections more, not 40"),
    ],
)
def test_what_makes_no_sense_is_refused(parts: list[tuple[str, bytes]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        unite(STUB, parts)


def test_a_stub_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="the stub is no EFI executable"):
        unite(b"#!/bin/sh\n", PARTS)
