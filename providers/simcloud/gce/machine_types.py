"""Machine types, accelerators and disk types, and where they are sold.

After Google's pages on machine families, "GPU locations" and "Available regions and zones"
(docs.cloud.google.com/compute/docs/{general-purpose-machines,accelerator-optimized-machines,regions-zones}), from memory
and not compared line by line. Zones are near to us-central1's; in other regions every zone has everything.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

ARM: Final = "ARM64"
X86: Final = "X86_64"
HOME: Final = "us-central1"

# region -> the letters of its zones; Google has some forty more.
REGIONS: Final[Mapping[str, str]] = {
    "us-central1": "abcf",
    "us-east1": "bcd",
    "us-east4": "abc",
    "us-east5": "abc",
    "us-west1": "abc",
    "europe-west1": "bcd",
    "europe-west3": "abc",
    "europe-west4": "abc",
    "asia-southeast1": "abc",
}
_PD: Final = ("pd-standard", "pd-balanced", "pd-ssd")
_HYPERDISK: Final = ("hyperdisk-balanced",)
# Disk types: the least and most GiB of one disk.
DISK_TYPES: Final[Mapping[str, tuple[int, int]]] = {
    "pd-standard": (10, 65536),
    "pd-balanced": (10, 65536),
    "pd-ssd": (10, 65536),
    "hyperdisk-balanced": (4, 65536),
}
LOCAL_SSD: Final = "local-ssd"
LOCAL_SSD_GIB: Final = 375


@dataclass(frozen=True, slots=True)
class Family:
    """What the types of one series have in common."""

    platforms: tuple[str, ...]  # the CPUs, as Google shows them; the last is what one gets
    zones: str  # letters of us-central1's zones
    disks: tuple[str, ...] = _PD
    architecture: str = X86
    quota: str = "CPUS"  # the region's metric; empty: none that the region shows
    gvnic: bool = False  # the image must bring a driver for Google's own network card
    spot: bool = True
    migrates: bool = True  # whether it can be moved to another host while it runs


FAMILIES: Final[Mapping[str, Family]] = {
    "e2": Family(("Intel Broadwell",), "abcf"),
    "n1": Family(("Intel Skylake", "Intel Broadwell", "Intel Haswell"), "abcf"),
    "n2": Family(("Intel Cascade Lake",), "abcf", quota="N2_CPUS"),
    "n2d": Family(("AMD Rome", "AMD Milan"), "abcf", quota="N2D_CPUS"),
    "c2d": Family(("AMD Milan",), "abcf", quota="C2D_CPUS"),
    "t2d": Family(("AMD Milan",), "abcf", quota="T2D_CPUS"),
    "t2a": Family(("Ampere Altra",), "abf", architecture=ARM, quota="T2A_CPUS", gvnic=True),
    "c3": Family(("Intel Sapphire Rapids",), "abcf", ("pd-balanced", "pd-ssd", *_HYPERDISK), quota="", gvnic=True),
    "c3d": Family(("AMD Genoa",), "abc", ("pd-balanced", "pd-ssd", *_HYPERDISK), quota="", gvnic=True),
    "c4d": Family(("AMD Turin",), "abc", _HYPERDISK, quota="", gvnic=True),
    "c4a": Family(("Google Axion",), "abcf", _HYPERDISK, ARM, quota="", gvnic=True),
    "g2": Family(("Intel Cascade Lake",), "abcf", ("pd-balanced", "pd-ssd"), gvnic=True, migrates=False),
    "a2": Family(("Intel Cascade Lake",), "abcf", quota="A2_CPUS", migrates=False),
    "a3": Family(
        ("Intel Sapphire Rapids",), "ac", ("pd-balanced", "pd-ssd", *_HYPERDISK), quota="", gvnic=True, migrates=False
    ),
}


@dataclass(frozen=True, slots=True)
class MachineType:
    """One type. GPUs here are built in; those of N1 are asked for beside the type."""

    name: str
    vcpus: int
    memory_mib: int
    gpus: int = 0
    gpu: str = ""
    only: str = ""  # zones' letters where the type has fewer than its family
    shared: bool = False  # a part of a core

    @property
    def series(self) -> str:
        return self.name.partition("-")[0]

    @property
    def platform(self) -> str:
        """The CPU that one gets without asking."""
        return self.family.platforms[-1]

    @property
    def family(self) -> Family:
        return FAMILIES[self.series]


def _row(pattern: str, per_vcpu: int, *sizes: int, **rest: Any) -> list[MachineType]:
    return [MachineType(f"{pattern}-{n}", n, n * per_vcpu, **rest) for n in sizes]


_GIB: Final = 1024
TYPES: Final[Mapping[str, MachineType]] = {
    each.name: each
    for each in (
        MachineType("e2-micro", 2, _GIB, shared=True),
        MachineType("e2-small", 2, 2 * _GIB, shared=True),
        MachineType("e2-medium", 2, 4 * _GIB, shared=True),
        *_row("e2-standard", 4 * _GIB, 2, 4, 8, 16, 32),
        *_row("e2-highmem", 8 * _GIB, 2, 4),
        *_row("e2-highcpu", _GIB, 2, 4),
        *_row("n1-standard", 3840, 1, 2, 4, 8, 16, 32, 64, 96),
        *_row("n2-standard", 4 * _GIB, 2, 4, 8),
        *_row("n2d-standard", 4 * _GIB, 2, 4, 8, 16, 32),
        *_row("n2d-highmem", 8 * _GIB, 2, 4, 8),
        *_row("n2d-highcpu", _GIB, 2, 4, 8),
        *_row("c2d-standard", 4 * _GIB, 2, 4, 8),
        *_row("t2d-standard", 4 * _GIB, 1, 2, 4),
        *_row("t2a-standard", 4 * _GIB, 1, 2, 4, 8),
        *_row("c3-standard", 4 * _GIB, 4, 8, 22, 44),
        *_row("c3-highcpu", 2 * _GIB, 4, 8),
        *_row("c3d-standard", 4 * _GIB, 4, 8, 16),
        MachineType("c4d-standard-2", 2, 7 * _GIB),
        MachineType("c4d-standard-4", 4, 15 * _GIB),
        MachineType("c4d-standard-8", 8, 31 * _GIB),
        *_row("c4a-standard", 4 * _GIB, 1, 2, 4),
        MachineType("g2-standard-4", 4, 16 * _GIB, 1, "nvidia-l4"),
        MachineType("g2-standard-8", 8, 32 * _GIB, 1, "nvidia-l4"),
        MachineType("g2-standard-24", 24, 96 * _GIB, 2, "nvidia-l4"),
        MachineType("a2-highgpu-1g", 12, 85 * _GIB, 1, "nvidia-tesla-a100"),
        MachineType("a2-highgpu-2g", 24, 170 * _GIB, 2, "nvidia-tesla-a100"),
        MachineType("a2-ultragpu-1g", 12, 170 * _GIB, 1, "nvidia-a100-80gb", "ac"),
        MachineType("a3-highgpu-1g", 26, 234 * _GIB, 1, "nvidia-h100-80gb"),
    )
}


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A GPU. `counts` are those that an N1 machine takes, with the most vCPUs for each; empty: built in only."""

    description: str
    zones: str
    counts: Mapping[int, int]
    quota: str


ACCELERATORS: Final[Mapping[str, Accelerator]] = {
    "nvidia-tesla-t4": Accelerator("NVIDIA T4", "abcf", {1: 48, 2: 48, 4: 96}, "NVIDIA_T4_GPUS"),
    "nvidia-tesla-p4": Accelerator("NVIDIA Tesla P4", "ac", {1: 24, 2: 48, 4: 96}, "NVIDIA_P4_GPUS"),
    "nvidia-tesla-v100": Accelerator("NVIDIA V100", "abcf", {1: 12, 2: 24, 4: 48, 8: 96}, "NVIDIA_V100_GPUS"),
    "nvidia-l4": Accelerator("NVIDIA L4", "abcf", {}, "NVIDIA_L4_GPUS"),
    "nvidia-tesla-a100": Accelerator("NVIDIA A100 40GB", "abcf", {}, "NVIDIA_A100_GPUS"),
    "nvidia-a100-80gb": Accelerator("NVIDIA A100 80GB", "ac", {}, "NVIDIA_A100_80GB_GPUS"),
    "nvidia-h100-80gb": Accelerator("NVIDIA H100 80GB", "ac", {}, ""),
}


def zones_of(region: str) -> tuple[str, ...]:
    """The zones' names; empty for a region that is not known."""
    return tuple(f"{region}-{letter}" for letter in REGIONS.get(region, ""))


def sold_in(zone: str) -> dict[str, MachineType]:
    """The types that this zone has."""
    return {name: kind for name, kind in TYPES.items() if _has(zone, kind.only or kind.family.zones)}


def accelerators_in(zone: str) -> dict[str, Accelerator]:
    """The GPUs that this zone has."""
    return {name: kind for name, kind in ACCELERATORS.items() if _has(zone, kind.zones)}


def _has(zone: str, letters: str) -> bool:
    region, _, letter = zone.rpartition("-")
    return region != HOME or letter in letters
