"""The launch measurement of an SNP VM: firmware and vCPUs, and kernel, initrd and command line where QEMU gives them.

The sums are the package sev-snp-measure's, which is needed for nothing else.
"""

import importlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

VMMS: Final = {"qemu": "QEMU", "aws": "ec2", "gcp": "gce"}  # ours -> the package's
_PACKAGE: Final = "sev-snp-measure"


class SnpFault(ValueError):
    """A measurement that cannot be computed."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What an SNP VM is launched with. `features`: SEV_FEATURES of the VMSA; Linux's default is 1 (SNP active)."""

    firmware: Path
    vcpus: int
    vcpu_type: str  # QEMU's name: EPYC-Milan, EPYC-Genoa, ...
    vmm: str = "qemu"
    features: int = 1

    def __str__(self) -> str:
        return f"{self.firmware.name}, {self.vcpus} x {self.vcpu_type}, {self.vmm}"


@dataclass(frozen=True, slots=True)
class Direct:
    """What QEMU is given with kernel-hashes=on; without it the firmware finds the UKI on the disk, unmeasured by SNP."""

    kernel: Path
    initrd: Path
    command_line: str


def launch(machine: Machine, direct: Direct | None = None) -> str:
    """The measurement in hex (48 bytes). Raises: SnpFault."""
    guest, types, modes, vmms = (_module(name) for name in ("guest", "vcpu_types", "sev_mode", "vmm_types"))
    signature = types.CPU_SIGS.get(machine.vcpu_type)
    if signature is None:
        raise SnpFault(f"no vCPU type {machine.vcpu_type!r} is known: {', '.join(sorted(types.CPU_SIGS))}")
    if not 1 <= machine.vcpus <= 512:
        raise SnpFault(f"{machine.vcpus} vCPUs cannot be: an SNP VM has 1 to 512")
    if not machine.firmware.is_file():
        raise SnpFault(f"there is no firmware file {machine.firmware}")
    given = (str(direct.kernel), str(direct.initrd), direct.command_line) if direct else (None, None, None)
    try:
        digest: bytes = guest.calc_launch_digest(
            modes.SevMode.SEV_SNP, machine.vcpus, signature, str(machine.firmware), *given, machine.features,
            vmm_type=vmms.VMMType[VMMS[machine.vmm]],
        )  # fmt: skip
    except (
        AssertionError,
        ValueError,
        RuntimeError,
        struct.error,
        LookupError,
    ) as error:  # as the package judges files
        raise SnpFault(f"{machine.firmware} cannot be what starts this VM: {error!r}") from None
    return digest.hex()


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"sevsnpmeasure.{name}")
    except ModuleNotFoundError:
        raise SnpFault(f"SNP's launch measurement needs the package {_PACKAGE}: pip install {_PACKAGE}") from None
