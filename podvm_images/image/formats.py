"""A raw disk in the forms that clouds take it in, each the same bytes for the same disk."""

import gzip
import io
import shutil
import tarfile
import uuid
from pathlib import Path
from typing import IO, Final

from podvm_images.image import vhd

GIB: Final = 1 << 30
_NAMES: Final = uuid.UUID("5a1f0c52-6d53-4c3e-9f0e-6f3f1a5cf0d7")  # whence a disk's id follows from its hash


def azure(raw: Path, target: Path, *, made_at: int, digest: str) -> None:
    """A fixed VHD; `digest` is the raw disk's. Raises: OSError, ValueError for a disk that has no whole MiB."""
    footer = vhd.footer(raw.stat().st_size, made_at, uuid.uuid5(_NAMES, digest))
    shutil.copyfile(raw, target)
    with target.open("ab") as file:
        file.write(footer)


def google(raw: Path, target: Path, *, made_at: int) -> None:
    """A gzipped tar archive of one file, disk.raw. Raises: OSError, ValueError for a disk that has no whole GiB."""
    size = raw.stat().st_size
    if size % GIB:
        raise ValueError(f"Compute Engine takes disks of whole GiB; this one has {size} bytes")
    archive(raw, target, made_at=made_at)


def archive(raw: Path, target: Path, *, made_at: int) -> None:
    """As `google`, whatever the disk's size."""
    size = raw.stat().st_size
    member = tarfile.TarInfo("disk.raw")
    member.size, member.mtime, member.mode = size, made_at, 0o644
    with (
        raw.open("rb") as disk,
        target.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        tar.addfile(member, _unbroken(disk, size))


def _unbroken(disk: IO[bytes], size: int) -> IO[bytes]:
    """`disk`, unless it shrinks while it is read: tarfile would say no more than that the file is short."""
    disk.seek(0, io.SEEK_END)
    if disk.tell() != size:
        raise ValueError(f"{disk.name} changed its size while it was being packed")
    disk.seek(0)
    return disk
