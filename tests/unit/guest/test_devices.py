"""Finding a disk on each cloud's machines, on trees laid out as their kernels and udev rules lay out /sys and /dev."""

from pathlib import Path

import pytest

from adaptor.protos.guest_pb2 import Volume
from podvm_images.guest import devices


class Machine:
    """`root`, and the disks in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def disk(self, name: str, scsi: str = "", partitions: int = 0, **facts: str | bytes) -> str:
        """A disk, with facts by their path in sysfs, `_` for `/` of `device/...`."""
        directory = self.root / "sys/block" / name
        if scsi:
            target = self.root / "sys/devices/vmbus/host" / scsi
            target.mkdir(parents=True)
            directory.mkdir(parents=True)
            (directory / "device").symlink_to(target)
        else:
            (directory / "device").mkdir(parents=True)
        for number in range(1, partitions + 1):
            (directory / f"{name}{number}").mkdir()
            (directory / f"{name}{number}" / "partition").write_text(str(number))
        for fact, value in facts.items():
            path = directory / fact.replace("device_", "device/")
            path.write_bytes(value) if isinstance(value, bytes) else path.write_text(value + "\n")
        device = self.root / "dev" / name
        device.parent.mkdir(exist_ok=True)
        device.write_text("")
        return str(device)

    def link(self, name: str, disk: str) -> None:
        path = self.root / "dev/disk" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(disk)

    def find(self, serial: str = "", lun: int | None = None) -> str | None:
        return devices.find(Volume(name="vol-0", disk="the disk", serial=serial, lun=lun), self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# -- by serial or name --------------------------------------------------------------------------------


@pytest.mark.parametrize("serial", ["vol0123", "vol-0123"])
def test_aws_nvme_serials_name_the_volume_with_or_without_udev(machine: Machine, serial: str) -> None:
    machine.disk("nvme0n1", device_serial="vol0999")
    data = machine.disk("nvme1n1", device_serial="vol0123              ")
    assert machine.find(serial) == data
    machine.link("by-id/nvme-Amazon_Elastic_Block_Store_vol0123", data)
    assert machine.find(serial) == data


@pytest.mark.parametrize("name", ["google-data-1", "scsi-0Google_PersistentDisk_data-1"])
def test_gcp_device_names_are_udevs_links(machine: Machine, name: str) -> None:
    data = machine.disk("sdb", scsi="0:0:2:0")
    assert machine.find("data-1") is None
    machine.link(f"by-id/{name}", data)
    assert machine.find("data-1") == data


def test_gcp_scsi_disks_tell_their_name_without_udev(machine: Machine) -> None:
    machine.disk("sda", scsi="0:0:1:0", device_vpd_pg83=b"\0\x83\0\x20\2\1\0\x1cGoogle  PersistentDisk  data-10")
    data = machine.disk("sdb", scsi="0:0:2:0", device_vpd_pg83=b"\0\x83\0\x1f\2\1\0\x1bGoogle  PersistentDisk  data-1")
    assert machine.find("data-1") == data


def test_virtio_disks_have_serials_too(machine: Machine) -> None:
    machine.disk("vda", serial="root")
    data = machine.disk("vdb", serial="data-1")
    assert machine.find("data-1") == data


def test_a_serial_is_never_half_of_another(machine: Machine) -> None:
    machine.disk("nvme0n1", device_serial="vol01234")
    assert machine.find("vol0123") is None


# -- by LUN -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["azure/scsi1/lun3", "azure/data/by-lun/3"])
def test_azure_luns_are_udevs_links(machine: Machine, name: str) -> None:
    data = machine.disk("sdc", scsi="1:0:0:3")
    machine.disk("sdd", scsi="1:0:0:0")
    machine.link(name, data)
    assert machine.find(lun=3) == data


def test_without_udev_azures_scsi_address_tells_the_lun_and_boot_disks_are_left_alone(machine: Machine) -> None:
    machine.disk("sda", scsi="0:0:0:0", partitions=3)
    machine.disk("sdb", scsi="0:0:0:1", partitions=1)
    first, second = machine.disk("sdc", scsi="1:0:0:0"), machine.disk("sdd", scsi="1:0:0:1")
    assert machine.find(lun=0) == first
    assert machine.find(lun=1) == second
    assert machine.find(lun=2) is None


def test_azures_nvme_namespaces_are_the_luns_from_two_on_of_the_remote_disks(machine: Machine) -> None:
    remote, local = "MSFT NVMe Accelerator v1.0", "Microsoft NVMe Direct Disk v2"
    machine.disk("nvme0n1", device_model=remote, nsid="1", partitions=2)
    data = machine.disk("nvme0n2", device_model=remote, nsid="2")
    machine.disk("nvme1n2", device_model=local, nsid="2")
    assert machine.find(lun=0) == data
    assert machine.find(lun=1) is None


# -- never by guessing ----------------------------------------------------------------------------------


def test_two_disks_of_one_description_are_none(machine: Machine) -> None:
    machine.disk("nvme1n1", device_serial="vol0123")
    machine.disk("nvme2n1", device_serial="vol0123")
    with pytest.raises(devices.Ambiguous, match="all look like the disk the disk"):
        machine.find("vol0123")


def test_a_disk_without_a_description_is_not_found_however_alone_it_is(machine: Machine) -> None:
    machine.disk("vdb")
    assert machine.find() is None


def test_a_link_that_is_there_before_its_device_counts_once_that_has_come(machine: Machine) -> None:
    machine.link("by-id/google-data-1", "../../sdb")
    assert machine.find("data-1") is None
    data = machine.disk("sdb", scsi="0:0:2:0")
    assert machine.find("data-1") == data


def test_a_machine_without_disks_has_none(machine: Machine) -> None:
    assert machine.find("x") is None
    assert machine.find(lun=0) is None
