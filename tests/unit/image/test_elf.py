"""What a program needs to run, read from programs of this machine, and from damaged ones."""

import sys
from pathlib import Path

import pytest

from podvm_images.image import elf

SHELL = Path("/bin/sh").resolve()


def test_a_program_names_its_libraries_and_its_loader() -> None:
    found = elf.needed(SHELL.read_bytes())
    assert "libc.so.6" in found
    assert any(name.startswith("/lib") and "ld-" in name for name in found)


def test_what_is_no_program_needs_nothing() -> None:
    assert elf.needed(b"#!/bin/sh\n") == []
    assert elf.needed(b"") == []


@pytest.mark.parametrize("length", [20, 64, 300])
def test_a_truncated_program_is_called_damaged(length: int) -> None:
    with pytest.raises(ValueError, match="damaged"):
        elf.needed(SHELL.read_bytes()[:length])


def test_a_program_is_for_one_machine() -> None:
    content = Path(sys.executable).resolve().read_bytes()
    assert sum(elf.is_for(content, machine) for machine in (62, 183)) == 1
    assert not elf.is_for(b"text", 62)
