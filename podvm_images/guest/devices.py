"""Which block device of this VM is the disk that the worker means: by its serial or name, or by its LUN.

    AWS     serial   NVMe serial, in sysfs
    GCP     serial   the device name: NVMe and SCSI disks by udev's links, SCSI also by its identification page
    Azure   lun      udev's links; SCSI: the address H:C:T:L; NVMe: namespace lun + 2 of the remote disks' controller

Never by order of arrival: a guess could give, or format, another disk. Two that answer the same description are none.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from adaptor.protos.guest_pb2 import Volume

# What names it in sysfs: Azure's controller of remote disks is told from that of the local ones by its model.
_AZURE_REMOTE: Final = "MSFT NVMe Accelerator"
_AZURE_FIRST: Final = 2  # namespace 1 is the disk that the VM booted from
_SCSI_ADDRESS: Final = re.compile(r"(\d+):(\d+):(\d+):(\d+)")
_NOT_A_SERIAL: Final = re.compile(r"[^A-Za-z0-9._-]")


class Ambiguous(Exception):
    """More than one device answers the description."""


def find(volume: Volume, root: Path = Path("/")) -> str | None:
    """The device's path below `root`; None while there is none. Raises Ambiguous."""
    if volume.serial:
        found = {*_links_by_serial(root, volume.serial), *_by_serial(root, volume.serial)}
    elif volume.HasField("lun"):
        found = (
            {*_links_by_lun(root, volume.lun)} or {*_nvme_by_lun(root, volume.lun)} or {*_scsi_by_lun(root, volume.lun)}
        )
    else:
        found = set()
    if len(found) > 1:
        raise Ambiguous(f"{' and '.join(sorted(found))} all look like the disk {volume.disk}")
    return next((device for device in found if os.path.exists(device)), None)


def _links_by_serial(root: Path, serial: str) -> Iterator[str]:
    bare = serial.replace("-", "")
    for name in (
        f"google-{serial}",
        f"scsi-0Google_PersistentDisk_{serial}",
        f"nvme-Amazon_Elastic_Block_Store_{bare}",
        f"virtio-{serial}",
    ):
        yield from _target(root, root / "dev/disk/by-id" / name)


def _by_serial(root: Path, serial: str) -> Iterator[str]:
    for disk in _disks(root):
        told = _text(disk / "device/serial") or _text(disk / "serial")
        if (told and told.replace("-", "") == serial.replace("-", "")) or serial in _identification(disk):
            yield _device(root, disk)


def _links_by_lun(root: Path, lun: int) -> Iterator[str]:
    for name in (f"data/by-lun/{lun}", f"scsi1/lun{lun}"):
        yield from _target(root, root / "dev/disk/azure" / name)


def _nvme_by_lun(root: Path, lun: int) -> Iterator[str]:
    for disk in _disks(root):
        if _text(disk / "device/model").startswith(_AZURE_REMOTE) and _text(disk / "nsid") == str(lun + _AZURE_FIRST):
            yield _device(root, disk)


def _scsi_by_lun(root: Path, lun: int) -> Iterator[str]:
    """Data disks have a host of their own on Azure; those of the boot disk's host have other numbers."""
    booted = {host for host, _, disk in _scsi(root) if any(disk.glob(f"{disk.name}*/partition"))}
    for host, number, disk in _scsi(root):
        if number == lun and host not in booted:
            yield _device(root, disk)


def _scsi(root: Path) -> Iterator[tuple[int, int, Path]]:
    for disk in _disks(root):
        with suppress(OSError):
            if address := _SCSI_ADDRESS.fullmatch(os.path.basename(os.readlink(disk / "device"))):
                yield int(address[1]), int(address[4]), disk


def _identification(disk: Path) -> list[str]:
    """The words of a SCSI disk's device identification page (0x83)."""
    try:
        page = (disk / "device/vpd_pg83").read_bytes()
    except OSError:
        return []
    return _NOT_A_SERIAL.split(page.decode("latin-1"))


def _disks(root: Path) -> list[Path]:
    try:
        return sorted((root / "sys/block").iterdir())
    except OSError:
        return []


def _device(root: Path, disk: Path) -> str:
    return str(root / "dev" / disk.name)


def _target(root: Path, link: Path) -> Iterator[str]:
    if os.path.lexists(link):
        yield str(root / "dev" / os.path.basename(os.path.realpath(link)))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""
