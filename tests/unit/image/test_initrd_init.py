"""The initrd's /init, run by this machine's shell on a machine of files: what it would do, and what it says before it gives up."""

import subprocess
from pathlib import Path

import pytest

INIT = Path(__file__).parents[3] / "podvm_images/image/files/initrd/init"
HASH, SALT = "ab" * 32, "cd" * 32
COMMAND_LINE = f"console=ttyS0 quiet podvm.roothash={HASH} podvm.salt={SALT} podvm.blocks=7000 panic=-1"

# Stands in for busybox and dmsetup: notes what it is asked for, and ends as `fails` wants it.
_STUB = """#!/bin/sh
name=${0##*/}
[ "$name" = busybox ] && { name=$1; shift; }
case $name in
    echo) echo "$@"; exit ;;
    tr) cat; exit ;;
esac
echo "$name $*" >>"$ROOM/deeds"
[ "$name" = insmod ] && case "$1" in *hv_*) exit 1 ;; esac
[ "$name" = poweroff ] && kill $PPID
case "$name $*" in $FAILS*) [ "$FAILS" ] && { echo "it broke" >&2; exit 1; } ;; esac
exit 0
"""


class Machine:
    """`partitions`: device number -> name."""

    def __init__(self, room: Path) -> None:
        self.room = room
        for folder in ("sys/class/block", "dev", "proc", "run", "new/sbin", "lib/initmod", "bin"):
            (room / folder).mkdir(parents=True)
        (room / "new/sbin/init").touch()
        (room / "dev/console").touch()
        (room / "lib/initmod/order").write_text("dm_mod\nhv_vmbus\nerofs\n")
        for name in ("busybox", "dmsetup"):
            (room / "bin" / name).write_text(_STUB)
            (room / "bin" / name).chmod(0o755)
        self.give("254:2", "podvm-root")
        self.give("254:3", "podvm-verity")

    def give(self, number: str, name: str) -> None:
        device = self.room / "sys/class/block" / f"disk{number}"
        device.mkdir()
        major, minor = number.split(":")
        (device / "uevent").write_text(f"MAJOR={major}\nMINOR={minor}\nDEVTYPE=partition\nPARTNAME={name}\n")

    def boot(self, command_line: str = COMMAND_LINE, fails: str = "") -> list[str]:
        """What it did, in order; its console is `said`."""
        (self.room / "proc/cmdline").write_text(command_line + "\n")
        script = (
            INIT.read_text()
            .replace("PATIENCE=300", "PATIENCE=3")
            .replace("export PATH=/sbin:", f"PATH={self.room}/bin:")
        )
        for path in ("/bin/busybox", "/sys/class", "/proc/cmdline", "/dev/console", "/lib/initmod", "/run/", "/new/"):
            script = script.replace(path, f"{self.room}{path}")
        environment = {"ROOM": str(self.room), "FAILS": fails}
        subprocess.run(["/bin/sh", "-c", script], env=environment, timeout=20, check=False)
        self.said = (self.room / "dev/console").read_text()
        return [line.replace(str(self.room), "") for line in (self.room / "deeds").read_text().splitlines()]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_root_is_checked_by_the_hash_of_the_command_line_and_handed_over_to(machine: Machine) -> None:
    deeds = machine.boot()
    table = f"0 56000 verity 1 254:2 254:3 4096 4096 7000 1 sha256 {HASH} {SALT} 1 panic_on_corruption"
    made = f"dmsetup create podvm-root --readonly --noudevrules --noudevsync --table {table}"
    assert deeds.index(made) < deeds.index("mount -t erofs -o ro /dev/mapper/podvm-root /new")
    assert deeds[-5:-1] == [f"mount -o move /{each} /new/{each}" for each in ("dev", "proc", "sys", "run")]
    assert deeds[-1] == "switch_root -c /dev/console /new /sbin/init"


def test_modules_are_loaded_in_the_order_given_and_one_that_has_no_hardware_is_no_fault(machine: Machine) -> None:
    modules = [deed for deed in machine.boot() if deed.startswith("insmod")]
    assert modules == [f"insmod /lib/initmod/{name}.ko" for name in ("dm_mod", "hv_vmbus", "erofs")]


@pytest.mark.parametrize(
    ("command_line", "said"),
    [
        (COMMAND_LINE.replace(HASH, HASH[:-1]), "podvm.roothash is no SHA-256"),
        (COMMAND_LINE.replace(HASH, "0; sh"), "podvm.roothash is no SHA-256"),
        (COMMAND_LINE.replace(SALT, "-"), "podvm.salt is no hex"),
        (COMMAND_LINE.replace("7000", "0x10"), "podvm.blocks is no number"),
        ("console=ttyS0", "podvm.roothash is no SHA-256"),
    ],
)
def test_without_a_hash_it_mounts_nothing_and_powers_off(machine: Machine, command_line: str, said: str) -> None:
    deeds = machine.boot(command_line)
    assert said in machine.said.splitlines()[-1]
    assert deeds[-1] == "poweroff -f"
    assert not [deed for deed in deeds if deed.startswith(("dmsetup", "insmod", "switch_root"))]


def test_the_last_of_two_values_counts_as_it_does_for_the_kernel(machine: Machine) -> None:
    deeds = machine.boot(COMMAND_LINE.replace("podvm.roothash", f"podvm.roothash={'ee' * 32} podvm.roothash"))
    assert any(HASH in deed for deed in deeds)
    assert not any("ee" * 32 in deed for deed in deeds)


def test_a_second_disk_with_our_partitions_names_ends_it(machine: Machine) -> None:
    machine.give("8:2", "podvm-root")
    deeds = machine.boot()
    assert "two partitions are called podvm-root" in machine.said.splitlines()[-1]
    assert deeds[-1] == "poweroff -f"


def test_a_disk_that_does_not_come_is_told_with_the_drivers_that_failed(machine: Machine) -> None:
    (machine.room / "sys/class/block/disk254:3/uevent").write_text("MAJOR=254\nMINOR=3\n")
    deeds = machine.boot()
    assert "no partitions podvm-root and podvm-verity" in machine.said.splitlines()[-1]
    assert machine.said.rstrip().endswith("hv_vmbus")
    assert deeds[-1] == "poweroff -f"


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("dmsetup", "dm-verity does not take the root partition: it broke"),
        ("mount -t erofs", "the root file system cannot be mounted: it broke"),
        ("mount -o move", "cannot be moved"),
    ],
)
def test_whatever_fails_is_the_last_line_and_there_is_no_shell(machine: Machine, fails: str, said: str) -> None:
    deeds = machine.boot(fails=fails)
    assert said in machine.said.splitlines()[-1]
    assert deeds[-1] == "poweroff -f"
    assert not [deed for deed in deeds if deed.startswith(("sh", "switch_root"))]
