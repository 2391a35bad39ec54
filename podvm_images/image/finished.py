"""A finished image, in whichever form, measured: every part of it is read and checked against the one that names it.

disk ─► EFI partition ─► UKI ─► command line ─► root hash ─► hashes ─► every block of the root
"""

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from podvm_images.image import forms, gpt, manifest, measurements, verity
from podvm_images.image.fat import Fat
from podvm_images.image.forms import ImageFault
from podvm_images.image.gpt import Partition
from podvm_images.image.measurements import Image

_BOOT: Final = ("EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/BOOTAA64.EFI")  # UEFI specification 3.5.1.1
_MOST_SHOWN: Final = 5  # damaged blocks that are listed by number
_LARGEST_ESP: Final = 1 << 30  # bytes: it is read as a whole


def read(path: Path) -> Image:
    """Of an image, or of a measurements.json, which is believed. Raises: ImageFault, OSError."""
    if path.is_file() and forms.recognise(path) == "json":
        try:
            return measurements.parse(path.read_text("utf-8"), str(path))
        except ValueError as error:
            raise ImageFault(str(error)) from None
    return measured(path)


def measured(path: Path) -> Image:
    """`path`: a directory that a build made, a disk in a form that forms.py knows, or a UKI. Raises: ImageFault, OSError."""
    if path.is_dir():
        return _directory(path)
    form = forms.recognise(path)
    try:
        if form == "efi":
            return measurements.of_uki(path.read_bytes())
        with (
            tempfile.TemporaryDirectory(prefix="peerpods-measure-") as work,
            forms.opened(path, form, Path(work)) as disk,
        ):
            return _disk(disk.file, disk.size)
    except ImageFault as error:
        raise ImageFault(f"{path}: {error}") from None
    except ValueError as error:
        raise ImageFault(f"{path}: {error}") from error


def _directory(path: Path) -> Image:
    """The disk's measurements, when every file beside it is what the disk holds: a direct boot takes those."""
    try:
        made = manifest.parse((path / manifest.FILE).read_text("utf-8"), str(path / manifest.FILE))
    except FileNotFoundError:
        raise ImageFault(
            f"{path} has no {manifest.FILE}: it is no directory that `peerpods image build` made"
        ) from None
    except ValueError as error:
        raise ImageFault(str(error)) from None
    image = measured(path / made.disk)
    inside = {
        made.disk: image.disk,
        made.uki: image.uki,
        made.root: image.root,
        made.verity: image.verity,
        made.kernel: image.sections[".linux"].sha256,
        made.initrd: image.sections[".initrd"].sha256 if ".initrd" in image.sections else "",
    }
    faults = [
        f"{name} is another one than in the disk" for name, digest in inside.items() if _file(path / name) != digest
    ]
    faults += [
        f"{manifest.FILE} has another hash of {name}"
        for name, digest in made.hashes
        if inside.get(name, digest) != digest
    ]
    for name, said, found in (
        ("command line", made.command_line, image.command_line),
        ("root hash", made.root_hash, image.root_hash),
        ("kernel version", made.kernel_version, image.kernel_version),
    ):
        if said != found:
            faults.append(f"{manifest.FILE} has the {name} {said!r}, the disk {found!r}")
    if faults:
        raise ImageFault(f"{path}: its parts do not belong together: {'; '.join(faults)}")
    return image


def _disk(file: BinaryIO, size: int) -> Image:
    """Raises: ValueError."""
    file.seek(0)
    whole, partitions = gpt.read(file.read(gpt.MIB))
    if size < whole:
        raise ImageFault(f"its partition table speaks of {whole} bytes, and {size} are there: it is truncated")
    for each in partitions:
        if each.size <= 0 or each.start + each.size > size:
            raise ImageFault(f"its partition {each.name} reaches beyond its end: it is damaged")
    image = measurements.of_uki(_uki(file, partitions))
    root, tree = _root(file, _named(partitions, "podvm-root"), _named(partitions, "podvm-verity"), image.command_line)
    return replace(image, root=root, verity=tree, disk=_sha256(file, 0, size))


def _uki(file: BinaryIO, partitions: list[Partition]) -> bytes:
    boot = next((each for each in partitions if each.kind == gpt.ESP), None)
    if boot is None or boot.size > _LARGEST_ESP:
        raise ImageFault("it has no EFI partition that could be read: nothing would boot from it")
    file.seek(boot.start)
    volume = Fat.parse(file.read(boot.size))
    faults = []
    for name in _BOOT:
        try:
            return volume.read(name)
        except ValueError as error:
            faults.append(str(error))
    raise ImageFault(f"its EFI partition gives no UKI: {'; '.join(faults)}")


def _named(partitions: list[Partition], name: str) -> Partition:
    found = next((each for each in partitions if each.name == name), None)
    if found is None:
        raise ImageFault(f"it has no partition {name}: this is no disk image of ours")
    return found


def _root(file: BinaryIO, data: Partition, hashes: Partition, line: str) -> tuple[str, str]:
    """Hashes of root file system and verity file, when they are those that the command line names. Raises: ImageFault."""
    wanted, salt, blocks = _parameters(line)
    if not 0 < blocks * verity.BLOCK <= data.size:
        raise ImageFault(f"its command line speaks of {blocks} blocks of root, and the partition has {data.size} bytes")
    digest = hashlib.sha256()
    top, levels = verity.tree(_blocks(file, data.start, blocks, digest), salt)
    length = verity.BLOCK + sum(len(level) for level in levels)  # behind one block that describes them
    if length > hashes.size:
        raise ImageFault(f"its hashes need {length} bytes, and the partition podvm-verity has {hashes.size}")
    file.seek(hashes.start)
    stored = file.read(length)
    computed = b"".join(reversed(levels))
    if top.hex() != wanted:
        raise ImageFault(_where(stored[verity.BLOCK :], computed, levels, salt, wanted))
    if stored[verity.BLOCK :] != computed:
        raise ImageFault("its hashes (partition podvm-verity) are damaged, its root is not: it would not boot")
    return digest.hexdigest(), hashlib.sha256(stored).hexdigest()


def _where(stored: bytes, computed: bytes, levels: list[bytes], salt: bytes, wanted: str) -> str:
    """Why the root is not the one that the command line names: where, if its hashes can be believed."""
    if not levels or hashlib.sha256(salt + stored[: verity.BLOCK]).hexdigest() != wanted:
        return f"its root and hashes are not those that its command line names (podvm.roothash={wanted}): it would not boot"
    size = len(levels[0])
    one, other = stored[-size:], computed[-size:]
    bad = [at // 32 for at in range(0, size, 32) if one[at : at + 32] != other[at : at + 32]]
    shown = ", ".join(map(str, bad[:_MOST_SHOWN])) + (
        f" and {len(bad) - _MOST_SHOWN} more" if len(bad) > _MOST_SHOWN else ""
    )
    return f"its root is damaged: {len(bad)} of its blocks of {verity.BLOCK} bytes are not as hashed (block {shown})"


def _parameters(line: str) -> tuple[str, bytes, int]:
    """(root hash, salt, data blocks). Raises: ImageFault."""
    wanted, salt, blocks = (measurements.parameter(line, f"podvm.{name}") for name in ("roothash", "salt", "blocks"))
    try:
        if len(bytes.fromhex(wanted)) != hashlib.sha256().digest_size:
            raise ValueError
        return wanted, bytes.fromhex(salt), int(blocks)
    except ValueError:
        raise ImageFault(
            "its command line names no root (podvm.roothash=, podvm.salt=, podvm.blocks=): no image of ours"
        ) from None


def _blocks(file: BinaryIO, start: int, blocks: int, digest: "hashlib._Hash") -> Iterator[bytes]:
    file.seek(start)
    for _ in range(blocks):
        block = file.read(verity.BLOCK)
        digest.update(block)
        yield block


def _file(path: Path) -> str:
    """Its hash; "" when it is not there."""
    try:
        with path.open("rb") as file:
            return _sha256(file, 0, path.stat().st_size)
    except FileNotFoundError:
        return ""


def _sha256(file: BinaryIO, start: int, size: int) -> str:
    digest = hashlib.sha256()
    file.seek(start)
    while size > 0 and (chunk := file.read(min(gpt.MIB, size))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()
