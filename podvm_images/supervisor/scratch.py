"""Space for the pod's images beside the VM's memory, where Bind asked for it (scratch-space.marker).

    disk  │ESP│root│verity│      room that the disk has besides      │
                          └► a partition that only the kernel knows ─► LUKS2, integrity, a key that nobody keeps ─► ext4

The disk's owner reads and changes ciphertext only, and what he changed is an error when it is read. A disk that is no
larger than the image has no room: then images stay in memory, which is told.

`python -m podvm_images.supervisor.scratch` does it once, and ends when it is done.
"""

import array
import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from podvm_images.supervisor import kernel, services
from podvm_images.supervisor.console import say
from podvm_images.supervisor.loop import Loop

LOOK: Final = 0.05
TARGET: Final = "/run/kata-containers/image"  # where the data hub unpacks images, if initdata does not say otherwise
MIB: Final = 1 << 20
LEAST: Final = 64 * MIB  # below that it is not worth it
_NAME: Final = "podvm-scratch"
_MAPPED: Final = f"/dev/mapper/{_NAME}"
_SECTOR: Final = 512
# linux/blkpg.h
_BLKPG, _ADD = 0x1269, 1
_PARTITION: Final = struct.Struct("=qqi64s64s4x")
_CALL: Final = struct.Struct("=iii4xQ")
_COMMAND: Final = (sys.executable, "-S", "-m", "podvm_images.supervisor.scratch")


class NoRoom(Exception):
    """There is no scratch space to be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Room:
    """What no partition of the disk has; bytes, at whole MiB. `number` is free for a partition."""

    disk: str
    start: int
    size: int
    number: int


class Scratch:
    """Waits for Bind, and has it done. Tells that it is ready, or will not be, by services.SCRATCH_READY."""

    def __init__(self, loop: Loop, run: Callable[[Sequence[str], Callable[[int], None]], None]) -> None:
        self._loop = loop
        self._run = run

    def look(self) -> None:
        """Now and then, until the VM is some pod's."""
        if not os.path.exists(services.BOUND):
            self._loop.after(LOOK, self.look)
        elif os.path.exists(services.SCRATCH_MARKER):
            try:
                self._run(_COMMAND, lambda status: None)
            except OSError as error:
                say(f"scratch space cannot be made: {error}")


def main() -> int:
    """Make it, and let the agent begin either way: with images in memory it may still do."""
    try:
        room = find()
        device = add_partition(room)
        encrypt(device)
        say(f"scratch space: {room.size // MIB} MiB of {room.disk}, encrypted, at {TARGET}")
        return 0
    except (OSError, NoRoom, subprocess.SubprocessError) as error:
        say(f"there is no scratch space, images stay in memory: {_words(error)}")
        return 1
    finally:
        os.makedirs(os.path.dirname(services.SCRATCH_READY), exist_ok=True)
        Path(services.SCRATCH_READY).touch()


def find(blocks: Path = Path("/sys/class/block")) -> Room:
    """Behind the last partition of the disk that this VM's root is on. Raises: NoRoom."""
    for uevent in blocks.glob("*/uevent"):
        if "PARTNAME=podvm-root\n" in uevent.read_text():
            return _behind(uevent.resolve().parent.parent)
    raise NoRoom("this VM's root is on no disk")


def _behind(disk: Path) -> Room:
    parts = [path.parent for path in disk.glob("*/partition")]
    end = max((_number(part / "start") + _number(part / "size")) * _SECTOR for part in parts)
    start = -(-end // MIB) * MIB
    size = (
        _number(disk / "size") * _SECTOR // MIB * MIB - MIB - start
    )  # the last MiB may hold the partition table's copy
    if _number(disk / "ro"):
        raise NoRoom(f"the disk {disk.name} is read-only")
    if size < LEAST:
        raise NoRoom(
            f"the disk {disk.name} has {max(0, size) // MIB} MiB behind its last partition, and {LEAST // MIB} are the "
            "least: give the VM a disk that is larger than its image"
        )
    return Room(disk.name, start, size, max(_number(part / "partition") for part in parts) + 1)


def add_partition(room: Room) -> str:
    """The device. The disk's table is not written. Raises: OSError."""
    data = array.array("B", _PARTITION.pack(room.start, room.size, room.number, b"", b""))
    descriptor = os.open(f"/dev/{room.disk}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _BLKPG, _CALL.pack(_ADD, 0, _PARTITION.size, data.buffer_info()[0]))
    finally:
        os.close(descriptor)
    return f"/dev/{room.disk}{'p' if room.disk[-1].isdigit() else ''}{room.number}"


def encrypt(device: str) -> None:
    """An ext4 on it, under a key that is forgotten here. Raises: OSError, SubprocessError."""
    key = os.urandom(64)
    # Nothing is guessed here: a slow derivation from the key would only cost time. Nothing is wiped: that takes minutes.
    made = ["--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512", "--integrity", "hmac-sha256"]
    cheap = ["--integrity-no-wipe", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-"]
    _do(["cryptsetup", "luksFormat", "--batch-mode", *made, *cheap, device], key)
    _do(["cryptsetup", "open", "--type", "luks", "--integrity-no-journal", "--key-file", "-", device, _NAME], key)
    # What was never written fails its check: file systems read the page around what they write first.
    with open(_MAPPED, "r+b", buffering=0) as mapped:
        mapped.write(bytes(MIB))
        mapped.seek(-MIB, os.SEEK_END)
        mapped.write(bytes(MIB))
    # Hence whole blocks only, and no copies of the superblock, which are smaller. Nothing here outlives the VM.
    features, options = "^has_journal,^resize_inode,sparse_super2", "nodiscard,lazy_itable_init=0,num_backup_sb=0"
    _do(["mkfs.ext4", "-q", "-F", "-m0", "-b", "4096", "-O", features, "-E", options, _MAPPED])
    os.makedirs(TARGET, mode=0o700, exist_ok=True)
    kernel.mount(_MAPPED, TARGET, "ext4", kernel.NODEV)


def _do(command: Sequence[str], key: bytes = b"") -> None:
    subprocess.run(command, input=key, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=120)


def _number(path: Path) -> int:
    return int(path.read_text())


def _words(error: Exception) -> str:
    said = getattr(error, "stderr", None)
    return f"{error}: {said.decode('utf-8', 'replace').strip()}" if said else str(error)


if __name__ == "__main__":
    sys.exit(main())
