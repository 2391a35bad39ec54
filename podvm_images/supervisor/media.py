"""A disk with user-data, as local hypervisors and libvirt give it: ISO 9660 or FAT, labelled `cidata`."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from adaptor import names
from podvm_images.supervisor import kernel, services
from podvm_images.supervisor.console import say
from podvm_images.supervisor.loop import Loop

LABEL: Final = b"CIDATA"
LOOK: Final = 0.2  # seconds between two looks for new disks, until somebody has bound this VM
_TARGET: Final = os.path.dirname(names.CIDATA_USER_DATA)
_FLAGS: Final = kernel.RDONLY | kernel.NOSUID | kernel.NODEV | kernel.NOEXEC
# File system -> where its label is: offset of a word that it must have, the word, offset of the label, its length.
_LABELS: Final = {
    "iso9660": ((32769, b"CD001", 32808, 32),),
    "vfat": ((54, b"FAT", 43, 11), (82, b"FAT32", 71, 11)),
}
_HEAD: Final = 32840


class Media:
    """Mounts the first such disk at /media/cidata, where the guest looks."""

    def __init__(
        self, loop: Loop, disks: Path = Path("/sys/class/block"), mount: Callable[..., None] = kernel.mount
    ) -> None:
        self._loop = loop
        self._disks = disks
        self._mount = mount
        self._seen: set[str] = set()

    def look(self) -> None:
        """Now, and as long as there is none and the VM is nobody's."""
        for name in self._new():
            kind = kind_of(_head(f"/dev/{name}"))
            if kind and self._mounted(f"/dev/{name}", kind):
                return
        if not os.path.exists(services.BOUND):
            self._loop.after(LOOK, self.look)

    def _new(self) -> Iterator[str]:
        for disk in sorted(self._disks.iterdir()) if self._disks.is_dir() else []:
            if disk.name not in self._seen and not disk.name.startswith(("dm-", "loop", "ram")):
                self._seen.add(disk.name)
                yield disk.name

    def _mounted(self, device: str, kind: str) -> bool:
        try:
            self._mount(device, _TARGET, kind, _FLAGS)
        except OSError as error:
            say(f"{device} is labelled cidata, and cannot be mounted ({kind}): {error}")
            return False
        say(f"user-data may be on {device} ({kind})")
        return True


def kind_of(head: bytes) -> str:
    """The file system that a disk which begins so has, if its label is cidata; else empty."""
    for kind, places in _LABELS.items():
        for at, word, label, length in places:
            if head[at : at + len(word)] == word and head[label : label + length].strip().upper() == LABEL:
                return kind
    return ""


def _head(device: str) -> bytes:
    try:
        with open(device, "rb", buffering=0) as disk:
            return disk.read(_HEAD)
    except OSError:  # an empty drive
        return b""
