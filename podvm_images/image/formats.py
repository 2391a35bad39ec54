"""A raw disk in the forms that clouds and hypervisors take it in, each the same bytes for the same disk.

A form appears under its name when it is whole: whatever goes wrong before leaves nothing behind.
"""

import errno
import functools
import gzip
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from podvm_images.image import gpt, sparse, vhd

GIB: Final = 1 << 30
# What stands as time in every form, seconds since 1970: a disk's own time would say nothing that its hash does not.
MADE_AT: Final = 1_760_000_000
FORMS: Final = {"qcow2": "podvm.qcow2", "vhd": "podvm.vhd", "gcp": "podvm.tar.gz"}  # form: the file's name
DIRECT: Final = "direct"  # kernel and initrd, for hypervisors that load them themselves
_NAMES: Final = uuid.UUID("5a1f0c52-6d53-4c3e-9f0e-6f3f1a5cf0d7")  # whence a disk's id follows from its hash
_COPIED: Final = 4 << 20  # bytes at a time

Progress = Callable[[str, int, int], None]  # what is being done, bytes done, of so many


class FormatFault(ValueError):
    """A form that cannot be made: why, and what to do."""


def silent(what: str, done: int, total: int) -> None:
    """A Progress for nobody."""


def azure(raw: Path, target: Path, *, digest: str, progress: Progress = silent) -> None:
    """A fixed VHD; `digest` is the raw disk's. Raises: FormatFault, for a disk that has no whole MiB too."""
    size = raw.stat().st_size
    try:
        footer = vhd.footer(size, MADE_AT, uuid.uuid5(_NAMES, digest))
    except ValueError as error:
        raise FormatFault(f"{raw}: {error}") from None
    with raw.open("rb") as disk, _appearing(target, size) as file:
        for start, end in sparse.extents(disk, 0, size):
            file.seek(start)
            _copy(disk, file, start, end, functools.partial(_told, progress, "copying the disk", size))
        file.seek(size)
        file.write(footer)
    progress("copying the disk", size, size)


def google(raw: Path, target: Path, *, progress: Progress = silent) -> None:
    """A gzipped tar archive of one file, disk.raw, which has whole GiB. Raises: FormatFault."""
    size = raw.stat().st_size
    whole = -(-size // GIB) * GIB
    with raw.open("rb") as disk, _appearing(target, size) as file:
        try:
            begin, end = gpt.grown(disk.read(gpt.MIB), whole)
        except gpt.DiskFault as error:
            raise FormatFault(f"{raw}: {error}") from None
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0) as packed:
            middle = list(sparse.extents(disk, gpt.MIB, size - len(end)))
            kept = [(0, gpt.MIB), *middle, (whole - len(end), whole)]
            packed.write(sparse.header("disk.raw", kept, whole, MADE_AT))
            packed.write(begin + bytes(gpt.MIB - len(begin)))
            for start, stop in middle:
                _copy(disk, packed, start, stop, functools.partial(_told, progress, "packing the disk", size))
            packed.write(end)
            packed.write(sparse.trailer(sum(stop - start for start, stop in kept)))
    progress("packing the disk", size, size)


def qemu(raw: Path, target: Path, *, progress: Progress = silent) -> None:
    """A compressed qcow2, by qemu-img. Raises: FormatFault."""
    size = raw.stat().st_size
    progress("converting the disk", 0, size)
    # One piece after the other: several at once come to lie in another order each time.
    command = ["qemu-img", "convert", "-m", "1", "-c", "-f", "raw", "-O", "qcow2"]
    with _appearing(target, size) as file:
        try:
            call = [*command, str(raw), file.name]
            done = subprocess.run(call, capture_output=True, text=True, errors="replace", check=False)
        except FileNotFoundError:
            raise FormatFault("qemu-img is missing: apt-get install qemu-utils") from None
        if done.returncode:
            full = OSError(errno.ENOSPC, "") if os.strerror(errno.ENOSPC) in done.stderr else None
            raise full or FormatFault(f"qemu-img could not convert {raw}: {done.stderr.strip()}")
    progress("converting the disk", size, size)


def direct(sources: tuple[Path, ...], target: Path, *, progress: Progress = silent) -> None:
    """Copies of kernel and initrd in another directory. Raises: FormatFault."""
    for source in sources:
        if source.parent.resolve() == target.resolve():
            raise FormatFault(f"{source} is there already: name another directory for the copies")
        size, what = source.stat().st_size, f"copying {source.name}"
        with source.open("rb") as given, _appearing(target / source.name, size) as file:
            _copy(given, file, 0, size, functools.partial(_told, progress, what, size))


def _told(progress: Progress, what: str, total: int, done: int) -> None:
    progress(what, done, total)


def _copy(
    source: IO[bytes], target: IO[bytes] | gzip.GzipFile, start: int, end: int, tell: Callable[[int], None]
) -> None:
    source.seek(start)
    while start < end:
        data = source.read(min(_COPIED, end - start))
        if not data:
            raise FormatFault(f"{source.name} became shorter while it was read: make the image anew")
        target.write(data)
        start += len(data)
        tell(start)


@contextmanager
def _appearing(target: Path, needed: int) -> Iterator[IO[bytes]]:
    """A file that takes its name when the block ends well, and is removed when it does not. Raises: FormatFault."""
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except OSError as error:
        raise _explained(error, target, needed) from error
    finally:
        draft.unlink(missing_ok=True)


def _explained(error: OSError, target: Path, needed: int) -> FormatFault:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return FormatFault(f"cannot write {target}: {error.strerror or error}")
    room = shutil.disk_usage(target.parent).free >> 20
    return FormatFault(
        f"no space for {target}: up to {(needed >> 20) + 1} MiB are needed and {room} MiB are free. Nothing was left"
        " behind; make room, or name another directory with --output"
    )
