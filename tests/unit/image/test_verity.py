"""dm-verity's hashes: as the kernel will compute them, and different for every byte."""

import hashlib
import re
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from podvm_images.image import verity

SALT = bytes(range(32))
NAME = uuid.UUID(int=7)
KNOWN = {
    1: "92ea1e47067122ebfda9be6ac31c3d14f5dd420709ff94282dfbd46b2d747a0a",
    130: "77fb4154c532c2d395bd3aabb42a2fe7a9cd45a5eb57c3a093f7dbc1aa4411b1",
}


def content(blocks: int) -> bytes:
    return b"".join(hashlib.sha256(b"%d" % number).digest() * 128 for number in range(blocks))


@pytest.mark.parametrize("blocks", [1, 128, 129, 300])
def test_the_tree_is_the_one_that_veritysetup_writes(tmp_path: Path, blocks: int) -> None:
    program = shutil.which("veritysetup", path="/usr/sbin:/sbin:/usr/bin")
    if program is None:
        pytest.skip("veritysetup is not installed (package cryptsetup-bin)")
    data, ours, theirs = (tmp_path / name for name in ("data", "ours", "theirs"))
    data.write_bytes(content(blocks))
    found = verity.write(data, ours, SALT, NAME)
    words = [program, "format", "--salt", SALT.hex(), "--uuid", str(NAME), "--hash", "sha256", str(data), str(theirs)]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    told = re.search(r"Root hash:\s+(\w+)", said)
    assert told is not None
    assert found == verity.Verity(told[1], SALT.hex(), blocks)
    assert ours.read_bytes() == theirs.read_bytes()


def test_one_level_and_two_give_known_roots(tmp_path: Path) -> None:
    """Computed by veritysetup 2.6.1."""
    for blocks, root in KNOWN.items():
        (tmp_path / "data").write_bytes(content(blocks))
        assert verity.write(tmp_path / "data", tmp_path / "hashes", SALT, NAME).root_hash == root


def test_one_flipped_bit_gives_another_root(tmp_path: Path) -> None:
    data = bytearray(content(130))
    (tmp_path / "data").write_bytes(data)
    before = verity.write(tmp_path / "data", tmp_path / "hashes", SALT, NAME)
    data[129 * verity.BLOCK + 17] ^= 1
    (tmp_path / "data").write_bytes(data)
    assert verity.write(tmp_path / "data", tmp_path / "hashes", SALT, NAME).root_hash != before.root_hash


@pytest.mark.parametrize("size", [0, 1, 4095, 4097])
def test_only_whole_blocks_can_be_covered(tmp_path: Path, size: int) -> None:
    (tmp_path / "data").write_bytes(bytes(size))
    with pytest.raises(ValueError, match="whole blocks"):
        verity.write(tmp_path / "data", tmp_path / "hashes", SALT, NAME)
