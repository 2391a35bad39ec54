"""A whole image in small: a FAT partition written by hand, a root of a few blocks and its hashes, a UKI, a disk of these."""

import hashlib
import struct
import uuid
from pathlib import Path

from podvm_images.image import gpt, manifest, measurements, verity
from podvm_images.image.manifest import Manifest
from tests.unit.image.efi import executable

SALT = hashlib.sha256(b"salt").digest()
NAMES = uuid.uuid5(uuid.NAMESPACE_URL, "small image")
KERNEL = executable([(".text", b"kernel" * 300)])
SECTOR, CLUSTERS = 512, 4200  # just above FAT12


def fat16(content: bytes, *, path: tuple[str, str, str] = ("EFI", "BOOT", "BOOTX64 EFI")) -> bytes:
    """A file system with one file, one sector a cluster; its clusters lie backwards, so that order matters."""
    needed = -(-len(content) // SECTOR)
    chain = list(range(4 + needed - 1, 3, -1)) if needed else []
    table = [0xFFF8, 0xFFFF, 0xFFFF, 0xFFFF] + [0] * (CLUSTERS - 2)
    for here, there in zip(chain, [*chain[1:], 0xFFFF], strict=False):
        table[here] = there
    fat = struct.pack(f"<{len(table)}H", *table)
    sectors = -(-len(fat) // SECTOR)
    fat += bytes(sectors * SECTOR - len(fat))
    boot = bytearray(SECTOR)
    whole = 1 + 2 * sectors + 1 + CLUSTERS
    struct.pack_into("<HBHBHHBH", boot, 11, SECTOR, 1, 1, 2, 16, whole, 0xF8, sectors)
    boot[510:] = b"\x55\xaa"
    clusters = bytearray(CLUSTERS * SECTOR)
    clusters[0:32] = entry(path[1], 0x10, 3, 0)
    clusters[SECTOR : SECTOR + 32] = entry(path[2], 0x20, chain[0] if chain else 0, len(content))
    for number, cluster in enumerate(chain):
        piece = content[number * SECTOR :][:SECTOR]
        clusters[(cluster - 2) * SECTOR : (cluster - 2) * SECTOR + len(piece)] = piece
    root = entry("ESP", 0x08, 0, 0) + entry(path[0], 0x10, 2, 0)
    return bytes(boot) + fat + fat + root + bytes(SECTOR - len(root)) + bytes(clusters)


def entry(name: str, attributes: int, cluster: int, size: int) -> bytes:
    return struct.pack("<11sB14xHI", name.ljust(11).encode(), attributes, cluster, size)


def small(directory: Path, *, root: bytes = b"", initrd: bytes = b"cpio" * 99, line: str = "quiet") -> Path:
    """An image's directory, as a build leaves it, of about 5 MB."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "root.erofs").write_bytes(root or b"".join(bytes([n]) * verity.BLOCK for n in range(200)))
    found = verity.write(directory / "root.erofs", directory / "root.verity", SALT, NAMES)
    text = f"{line} podvm.roothash={found.root_hash} podvm.salt={found.salt} podvm.blocks={found.blocks}"
    uki = executable(
        [
            (".osrel", b"ID=podvm\n"),
            (".cmdline", text.encode()),
            (".uname", b"6.12"),
            (".linux", KERNEL),
            (".initrd", initrd),
        ]
    )
    for name, content in (("podvm.efi", uki), ("vmlinuz", KERNEL), ("initrd", initrd), ("esp", fat16(uki))):
        (directory / name).write_bytes(content)
    parts = {"esp": "esp", "podvm-root": "root.erofs", "podvm-verity": "root.verity"}
    kinds = (gpt.ESP, gpt.ROOT["amd64"], gpt.VERITY["amd64"])
    contents = [(directory / file).read_bytes() for file in parts.values()]
    placed, size = gpt.place(
        [
            (name, kind, uuid.uuid5(NAMES, name), len(data))
            for name, kind, data in zip(parts, kinds, contents, strict=True)
        ]
    )
    begin, end = gpt.write(size, NAMES, placed)
    disk = bytearray(size)
    disk[: len(begin)], disk[size - len(end) :] = begin, end
    for partition, data in zip(placed, contents, strict=True):
        disk[partition.start : partition.start + len(data)] = data
    (directory / "podvm.raw").write_bytes(disk)
    (directory / "esp").unlink()
    hashes = tuple(sorted((each.name, hashlib.sha256(each.read_bytes()).hexdigest()) for each in directory.iterdir()))
    made = Manifest("amd64", "min", False, True, "6.12", text, found.root_hash, hashes=hashes)
    (directory / manifest.FILE).write_text(manifest.to_json(made), "utf-8")
    return directory


def partition(disk: bytes | bytearray, name: str) -> gpt.Partition:
    return next(each for each in gpt.read(bytes(disk[: gpt.MIB]))[1] if each.name == name)


def image_of(directory: Path) -> measurements.Image:
    return measurements.of_uki((directory / "podvm.efi").read_bytes())
