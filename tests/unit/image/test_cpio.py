"""Initrds, read back by a reader of the format's own description, and by cpio itself where it is installed."""

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from podvm_images.image import cpio

TREE = {
    "init": cpio.file(b"#!/bin/sh\n", 0o755),
    "lib/modules/a.ko": cpio.file(b"\x7fELF" * 100),
    "bin": cpio.link("usr/bin"),
    "dev/console": cpio.character_device(5, 1),
    "empty": cpio.file(b""),
}


def read(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    found: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    position = 0
    while True:
        assert data[position : position + 6] == b"070701"
        fields = [int(data[position + 6 + 8 * n : position + 14 + 8 * n], 16) for n in range(13)]
        _, mode, uid, gid, _, mtime, size, _, _, major, minor, name_size, check = fields
        assert (uid, gid, mtime, check) == (0, 0, 0, 0)
        name = data[position + 110 : position + 110 + name_size - 1].decode()
        position = -(-(position + 110 + name_size) // 4) * 4
        if name == "TRAILER!!!":
            assert not data[position:].strip(b"\0")
            return found
        found[name] = (mode, data[position : position + size], (major, minor))
        position = -(-(position + size) // 4) * 4


def test_what_was_put_in_is_read_back_with_its_parents() -> None:
    found = read(cpio.archive(TREE))
    assert list(found) == sorted([*TREE, "lib", "lib/modules", "dev"])
    assert found["init"] == (stat.S_IFREG | 0o755, b"#!/bin/sh\n", (0, 0))
    assert found["bin"] == (stat.S_IFLNK | 0o777, b"usr/bin", (0, 0))
    assert found["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    assert found["lib"] == (stat.S_IFDIR | 0o755, b"", (0, 0))


def test_the_same_files_give_the_same_bytes_in_whatever_order_they_came() -> None:
    assert cpio.archive(TREE) == cpio.archive(dict(reversed(TREE.items())))


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed: the format's own reader is above")
def test_cpio_itself_reads_it(tmp_path: Path) -> None:
    listed = subprocess.run(["cpio", "-t"], input=cpio.archive(TREE), capture_output=True, check=True, cwd=tmp_path)
    assert set(TREE) <= set(listed.stdout.decode().split())


@pytest.mark.parametrize("path", ["/etc", "../x", "a/../b", "", "a//b", "a/"])
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="cannot be a path in an initrd"):
        cpio.archive({path: cpio.file(b"x")})


def test_nothing_lies_below_a_file() -> None:
    with pytest.raises(ValueError, match=r"'bin/sh' lies below 'bin', which is no directory"):
        cpio.archive({"bin": cpio.link("usr/bin"), "bin/sh": cpio.file(b"x")})
