"""Which form an image has, by its content, and the raw disk in it."""

import shutil
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Final, Literal

from podvm_images.image import vhd

Form = Literal["raw", "vhd", "sparse-vhd", "qcow2", "tar", "efi", "json"]
_CHUNK: Final = 1 << 20
_GPT_AT: Final = 512
_VHD: Final = b"conectix"
_FIXED: Final = (2).to_bytes(4, "big")
_DISK_TYPE: Final = slice(60, 64)  # in a VHD's footer
_UNKNOWN: Final = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"KDMV": "VMDK",
    b"vhdxfile": "VHDX",
}
# What qemu-img calls them.
_CONVERTED: Final = {"qcow2": "qcow2", "sparse-vhd": "vpc"}
_QCOW2: Final = struct.Struct(">4xIQ56xQ")  # version, offset of the backing file's name, incompatible features
_EXTERNAL_DATA: Final = 4


class ImageFault(ValueError):
    """An image that cannot be measured: no image, one of an unknown form, or damaged."""


@dataclass(frozen=True, slots=True)
class Disk:
    """`size`: of the raw disk in `file`, which begins with it."""

    file: BinaryIO
    size: int


def recognise(path: Path) -> Form:
    """Raises: ImageFault, OSError."""
    with path.open("rb") as file:
        head = file.read(_GPT_AT + 8)
        size = path.stat().st_size
        file.seek(max(0, size - vhd.FOOTER_BYTES))
        foot = file.read(vhd.FOOTER_BYTES)
    if foot.startswith(_VHD):
        return "vhd" if foot[_DISK_TYPE] == _FIXED else "sparse-vhd"
    if head[_GPT_AT:] == b"EFI PART":
        return "raw"
    simple: tuple[tuple[bytes, Form], ...] = (
        (b"QFI\xfb", "qcow2"), (b"\x1f\x8b", "tar"), (b"MZ", "efi"), (b"{", "json"), (_VHD, "sparse-vhd"),
    )  # fmt: skip
    for magic, form in simple:
        if head.startswith(magic):
            return form
    for magic, name in _UNKNOWN.items():
        if head.startswith(magic):
            raise ImageFault(f"{path} is {name}: unpack or convert it to a raw disk first")
    raise ImageFault(
        f"{path} is no image: neither disk (raw, VHD, qcow2, tar.gz) nor UKI"
        + (", it is empty" if not size else ", or its beginning is damaged")
    )


@contextmanager
def opened(path: Path, form: Form, work: Path) -> Iterator[Disk]:
    """The raw disk; `work`: an empty directory for one that must be unpacked. Raises: ImageFault, OSError."""
    size = path.stat().st_size
    if form == "tar":
        _unpack(path, work / "disk.raw")
    elif form in _CONVERTED:
        _convert(path, _CONVERTED[form], work / "disk.raw")
    elif form not in ("raw", "vhd"):
        raise ImageFault("it is no image, but says what one is" if form == "json" else "it is no disk")
    raw = path if form in ("raw", "vhd") else work / "disk.raw"
    with raw.open("rb") as file:
        yield Disk(file, size - vhd.FOOTER_BYTES if form == "vhd" else raw.stat().st_size)


def _unpack(path: Path, target: Path) -> None:
    """disk.raw out of Compute Engine's archive; its holes stay holes."""
    try:
        with tarfile.open(path, "r|gz") as archive, target.open("wb") as out:
            for member in archive:
                content = archive.extractfile(member) if member.name == "disk.raw" else None
                if content is not None:
                    _copy(content, out, member.size)
                    return
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ImageFault(f"its archive is damaged or truncated: {error}") from None
    raise ImageFault("there is no disk.raw in it: this is no image for Compute Engine")


def _copy(content: IO[bytes], out: BinaryIO, size: int) -> None:
    while chunk := content.read(_CHUNK):  # tarfile complains when there is less than `size`
        if chunk.count(0) == len(chunk):
            out.seek(len(chunk), 1)
        else:
            out.write(chunk)
    out.truncate(size)


def _convert(path: Path, form: str, target: Path) -> None:
    with path.open("rb") as file:
        head = file.read(_QCOW2.size)
    if form == "qcow2" and len(head) == _QCOW2.size and any(_elsewhere(*_QCOW2.unpack(head))):
        raise ImageFault("it leans on another file (a backing or a data file): what it holds is not all in it")
    program = shutil.which("qemu-img")
    if program is None:
        raise ImageFault("it must be converted, and qemu-img is not installed (Debian's package qemu-utils)")
    command = [program, "convert", "-f", form, "-O", "raw", str(path.absolute()), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ImageFault(f"qemu-img cannot read it: {' '.join(done.stderr.split())}")


def _elsewhere(version: int, backing: int, features: int) -> tuple[bool, bool]:
    """Whether a qcow2 has a backing file, or its data in another file."""
    return backing != 0, version >= 3 and bool(features & _EXTERNAL_DATA)
