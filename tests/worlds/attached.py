"""A VM's /sys and /dev with real block devices in it: files behind loop devices, which the kernel makes file systems on.

The devices are this machine's, so they are made in private namespaces only, and taken away at the end.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from adaptor.demo import enter
from adaptor.protos.guest_pb2 import Volume

MIB = 1 << 20


class Attached:
    """`root` is what `Volumes` takes for the VM's; `volumes` is where they are mounted."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "vm"
        self.volumes = directory / "cloud-volumes"
        self._directory = directory
        self.loops: list[str] = []

    def device(self, size: int = 64 * MIB) -> str:
        """A blank block device that no VM has yet."""
        file = self._directory / f"disk-{len(self.loops)}"
        with file.open("wb") as disk:
            disk.truncate(size)
        loop = subprocess.run(["losetup", "--find", "--show", str(file)], check=True, capture_output=True, text=True)
        self.loops.append(loop.stdout.strip())
        return self.loops[-1]

    def attach(self, device: str, serial: str) -> str:
        """The device shows up in the VM, by this serial; returns its path there."""
        name = os.path.basename(device)
        facts = self.root / "sys/block" / name
        facts.mkdir(parents=True)
        (facts / "serial").write_text(serial + "\n")
        (self.root / "dev").mkdir(exist_ok=True)
        (self.root / "dev" / name).symlink_to(device)
        return str(self.root / "dev" / name)

    def disk(self, serial: str, size: int = 64 * MIB) -> str:
        device = self.device(size)
        self.attach(device, serial)
        return device

    def mounted(self, name: str) -> bool:
        return os.path.ismount(self.volumes / name)


@contextmanager
def attached(directory: Path) -> Iterator[Attached]:
    """Skips where the kernel gives no loop devices here."""
    if not os.environ.get(enter.PRIVATE):
        pytest.skip("mounts disks of its own: run by `make test`, or `python -m adaptor.demo.enter pytest ...`")
    vm = Attached(directory)
    try:
        try:
            vm.disk("probe")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"this machine gives no loop devices: {error}")
        yield vm
    finally:
        if vm.volumes.exists():
            for name in os.listdir(vm.volumes):
                while os.path.ismount(vm.volumes / name):
                    subprocess.run(["umount", str(vm.volumes / name)], check=True)
        for loop in vm.loops:
            with suppress(subprocess.CalledProcessError):
                subprocess.run(["losetup", "--detach", loop], check=True)


def volume(name: str = "vol-0", serial: str = "", **fields: object) -> Volume:
    """As Bind brings it; its serial is its name."""
    return Volume(**{"name": name, "disk": f"disk {name}", "serial": serial or name, "fs_type": "ext4", **fields})  # type: ignore[arg-type]
