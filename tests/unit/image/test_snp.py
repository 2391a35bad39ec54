"""SNP's launch measurement, by the package sev-snp-measure."""

import importlib.util
import sys
from pathlib import Path

import pytest

from podvm_images.image.snp import Direct, Machine, SnpFault, launch

HERE = importlib.util.find_spec("sevsnpmeasure") is not None
needs_package = pytest.mark.skipif(not HERE, reason="sev-snp-measure is not installed (pip install sev-snp-measure)")
OVMF = Path("/usr/share/ovmf/OVMF.fd")
needs_firmware = pytest.mark.skipif(not OVMF.exists(), reason=f"no firmware {OVMF} (package ovmf)")


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "sevsnpmeasure"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sevsnpmeasure", None)
    with pytest.raises(SnpFault, match="needs the package sev-snp-measure: pip install sev-snp-measure"):
        launch(Machine(OVMF, 2, "EPYC-Milan"))


@needs_package
@pytest.mark.parametrize(
    ("machine", "why"),
    [
        (Machine(OVMF, 2, "Pentium"), "no vCPU type 'Pentium' is known: EPYC, "),
        (Machine(OVMF, 0, "EPYC-Milan"), "0 vCPUs cannot be"),
        (Machine(Path("/nowhere/OVMF.fd"), 1, "EPYC-Milan"), "there is no firmware file /nowhere/OVMF.fd"),
        (Machine(Path(__file__), 1, "EPYC-Milan"), r"test_snp\.py cannot be what starts this VM"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(machine: Machine, why: str) -> None:
    with pytest.raises(SnpFault, match=why):
        launch(machine)


@needs_package
@needs_firmware
def test_each_number_of_vcpus_and_each_cloud_has_another_measurement() -> None:
    machines = [Machine(OVMF, 2, "EPYC-Milan"), Machine(OVMF, 4, "EPYC-Milan"), Machine(OVMF, 2, "EPYC-Milan", "aws")]
    digests = {launch(machine) for machine in machines}
    assert len(digests) == 3
    assert all(len(bytes.fromhex(each)) == 48 for each in digests)


@needs_package
@needs_firmware
def test_a_firmware_without_room_for_the_kernels_hashes_cannot_start_directly(tmp_path: Path) -> None:
    direct = Direct(tmp_path / "kernel", tmp_path / "initrd", "quiet")
    direct.kernel.write_bytes(b"kernel")
    direct.initrd.write_bytes(b"initrd")
    with pytest.raises(SnpFault, match="SNP_KERNEL_HASHES"):
        launch(Machine(OVMF, 2, "EPYC-Milan"), direct)
