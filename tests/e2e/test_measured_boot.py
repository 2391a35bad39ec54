"""Real boots of a built image under OVMF with a TPM: what was computed is what is measured, and what was changed shows.

PODVM_IMAGE   the directory of an image; default: what `peerpods image build` leaves in the cache
"""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pefile
import pytest

from podvm_images.image import cpio, finished, gpt
from podvm_images.image.forms import ImageFault
from podvm_images.image.pe import Executable
from podvm_images.image.uki import unite
from tests.worlds import measured_vm

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peerpods/image/min-amd64"
IMAGE = Path(os.environ.get("PODVM_IMAGE") or CACHE)
# Any line that follows the firmware's last: by then kernel and stub have measured all they do.
STARTED = r"BdsDxe: starting Boot[^\n]*\n[^\n]*[A-Za-z]{3}[^\n]*\n"
REGISTERS_INIT = b"""#!/bin/busybox sh
/bin/busybox mount -t sysfs sysfs /sys
for n in 4 11 12; do
    /bin/busybox echo "PCR $n is $(/bin/busybox cat /sys/class/tpm/tpm0/pcr-sha256/$n)." >/dev/console
done
/bin/busybox echo "that is all" >/dev/console
/bin/busybox sleep 60
"""

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(bool(measured_vm.missing()), reason=f"not installed: {measured_vm.missing()}"),
    pytest.mark.skipif(not (IMAGE / "image.json").exists(), reason=f"no image in {IMAGE}: peerpods image build"),
]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A copy of the image's disk that may be changed."""
    return Path(shutil.copyfile(IMAGE / "podvm.raw", tmp_path / "disk.raw"))


def sections(uki: bytes) -> tuple[bytes, list[tuple[str, bytes]]]:
    """The stub that a UKI was made with, and what was put into it, in its order."""
    headers = pefile.PE(data=uki, fast_load=True)
    names = [each.Name.rstrip(b"\0").decode() for each in headers.sections]
    first = names.index(".osrel")
    added = headers.sections[first:]
    stub = bytearray(uki[: added[0].PointerToRawData])
    struct.pack_into("<H", stub, headers.FILE_HEADER.get_file_offset() + 2, first)
    table = added[0].get_file_offset()
    stub[table : table + 40 * len(added)] = bytes(40 * len(added))
    content = Executable.parse(uki).sections()
    return bytes(stub), [(name, content[name]) for name in names[first:]]


def rebuilt(disk: Path, name: str, more: bytes) -> None:
    """Put `more` behind the section `name` of the disk's UKI."""
    uki = (IMAGE / "podvm.efi").read_bytes()
    stub, parts = sections(uki)
    assert len(unite(stub, parts)) == len(uki)  # nothing was lost by taking it apart
    changed = disk.with_name("changed.efi")
    changed.write_bytes(unite(stub, [(each, content + (more if each == name else b"")) for each, content in parts]))
    _, partitions = gpt.read(disk.read_bytes()[: gpt.MIB])
    at = next(each.start for each in partitions if each.kind == gpt.ESP)
    subprocess.run(["mcopy", "-o", "-i", f"{disk}@@{at}", changed, "::/EFI/BOOT/BOOTX64.EFI"], check=True)


def told(boot: measured_vm.Boot, what: str) -> None:
    print(f"{what}: {boot.seconds:.1f} s of wall clock")


def verify(first: Path, second: Path) -> tuple[int, dict[str, object]]:
    command = [sys.executable, "-m", "adaptor", "image", "verify", "--json", str(first), str(second)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert not done.stderr
    return done.returncode, json.loads(done.stdout)


def test_what_the_build_wrote_down_is_what_its_image_measures() -> None:
    assert finished.read(IMAGE / "measurements.json") == finished.measured(IMAGE)


def test_the_tpm_holds_what_was_computed_when_the_image_has_booted(disk: Path, tmp_path: Path) -> None:
    computed = finished.measured(disk)
    boot = measured_vm.boot(disk, tmp_path, STARTED)
    told(boot, "the image")
    assert boot.registers == {4: computed.pcr4, 11: computed.pcr11, 12: computed.pcr12}
    assert boot.sha384 == {number: computed.sha384[f"pcr{number}"] for number in (4, 11, 12)}


def test_the_guest_reads_the_computed_values_in_its_own_tpm(disk: Path, tmp_path: Path) -> None:
    initrd = (IMAGE / "initrd").read_bytes()
    ours = cpio.archive({"init": cpio.file(REGISTERS_INIT, 0o755)})  # a later /init takes an earlier one's place
    rebuilt(disk, ".initrd", bytes(-len(initrd) % 4) + ours)
    computed = finished.measured(disk)
    boot = measured_vm.boot(disk, tmp_path, "that is all")
    told(boot, "the image with an init that shows registers")
    read = {
        int(number): value.lower() for number, value in re.findall(r"PCR (\d+) is ([0-9A-Fa-f]{64})\.", boot.console)
    }
    assert read == {4: computed.pcr4, 11: computed.pcr11, 12: computed.pcr12}
    assert read[11] != finished.measured(IMAGE).pcr11


def test_a_flipped_byte_in_the_root_refuses_to_boot(disk: Path, tmp_path: Path) -> None:
    _, partitions = gpt.read(disk.read_bytes()[: gpt.MIB])
    root = next(each for each in partitions if each.name == "podvm-root")
    with disk.open("r+b") as file:
        file.seek(root.start + 1024 + 20)  # erofs' superblock, which is read first
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(ImageFault, match=r"its root is damaged: 1 of its blocks .* \(block 0\)"):
        finished.measured(disk)
    boot = measured_vm.boot(disk, tmp_path, "podvm: ")
    told(boot, "the image with a flipped byte")
    assert boot.ended
    assert "dm-verity device has I/O error" in boot.console or "dm-verity device corrupted" in boot.console


def test_another_command_line_shows_in_pcr_11_and_verify_names_its_words(disk: Path, tmp_path: Path) -> None:
    rebuilt(disk, ".cmdline", b" podvm.shell=1")
    before, after = finished.measured(IMAGE), finished.measured(disk)
    boot = measured_vm.boot(disk, tmp_path, STARTED)
    told(boot, "the image with another command line")
    assert boot.registers == {4: after.pcr4, 11: after.pcr11, 12: after.pcr12}
    assert boot.registers[11] != before.pcr11
    status, answer = verify(IMAGE, disk)
    assert (status, answer["same"], answer["same_when_booted"]) == (1, False, False)
    assert "the kernel's command line: only the second has podvm.shell=1" in answer["differences"]  # type: ignore[operator]
