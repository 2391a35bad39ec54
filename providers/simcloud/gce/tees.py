"""Which machine types give a guest which trusted execution environment, and in which zones.

After docs.cloud.google.com/confidential-computing/confidential-vm/docs/supported-configurations (machine types, CPUs
and zones) and the list by technology at docs.cloud.google.com/dataproc/docs/concepts/configuring-clusters/
confidential-compute; zones beyond those lists are from memory. The provider has a table of its own: each checks the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SEV: Final = "SEV"
SNP: Final = "SEV_SNP"
TDX: Final = "TDX"
# What an image says of itself in guestOsFeatures.
IMAGE_FEATURE: Final[Mapping[str, str]] = {SEV: "SEV_CAPABLE", SNP: "SEV_SNP_CAPABLE", TDX: "TDX_CAPABLE"}


@dataclass(frozen=True, slots=True)
class _Where:
    """Types by the beginning of their names, and zones: regions not named here have none."""

    types: tuple[str, ...]
    zones: Mapping[str, str]  # region -> letters
    migrates: bool = False


_TRUTH: Final[Mapping[str, tuple[_Where, ...]]] = {
    SEV: (
        _Where(
            ("n2d-",),
            {
                "us-central1": "abcf",
                "us-east1": "bcd",
                "us-east4": "abc",
                "us-east5": "abc",
                "us-west1": "abc",
                "europe-west1": "bcd",
                "europe-west3": "abc",
                "europe-west4": "abc",
                "asia-southeast1": "abc",
            },
            migrates=True,
        ),
        _Where(
            ("c2d-",),
            {
                "us-central1": "abcf",
                "us-east1": "bcd",
                "us-east4": "abc",
                "europe-west1": "bcd",
                "europe-west4": "abc",
                "asia-southeast1": "abc",
            },
        ),
        _Where(
            ("c3d-",),
            {"us-central1": "abc", "us-east4": "abc", "europe-west1": "bcd", "europe-west4": "abc"},
        ),
        _Where(("c4d-",), {"us-central1": "abc", "us-east1": "bcd", "europe-west4": "abc"}),
    ),
    SNP: (
        _Where(
            ("n2d-",), {"us-central1": "abc", "europe-west3": "abc", "europe-west4": "abc", "asia-southeast1": "abc"}
        ),
    ),
    TDX: (
        _Where(
            ("c3-standard-",), {"us-central1": "abc", "europe-west4": "abc", "asia-southeast1": "abc", "us-east4": "ac"}
        ),
        _Where(("a3-highgpu-1g",), {"us-central1": "a", "europe-west4": "c", "us-east5": "a"}),
    ),
}


def families(tee: str) -> str:
    """The beginnings of the names of the types that have it, for a sentence."""
    return ", ".join(prefix.rstrip("-") for where in _TRUTH[tee] for prefix in where.types)


def has(tee: str, machine_type: str) -> bool:
    """Whether the type has it in any zone."""
    return any(machine_type.startswith(where.types) for where in _TRUTH[tee])


def has_in(tee: str, machine_type: str, zone: str) -> bool:
    """Whether the type has it in this zone."""
    region, _, letter = zone.rpartition("-")
    return any(machine_type.startswith(w.types) and letter in w.zones.get(region, "") for w in _TRUTH[tee])


def migrates(tee: str, machine_type: str) -> bool:
    """Whether such a machine can be moved to another host while it runs."""
    return any(machine_type.startswith(where.types) and where.migrates for where in _TRUTH[tee])
