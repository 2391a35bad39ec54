"""Which machine type gives its guest which TEE. The API does not say it of a type, so here is a table.

As Google's pages had it on 2026-11-21:
- "Supported configurations" of Confidential VM (cloud.google.com/confidential-computing/confidential-vm/docs/
  supported-configurations): families, live migration, disks by NVMe only, at most 40 of them;
- "Confidential Compute" of Managed Service for Apache Spark (docs.cloud.google.com/dataproc/docs/concepts/
  configuring-clusters/confidential-compute), which prints the same list of types.

SEV-SNP and TDX are sold in some places only. Those are from memory of the first page's older editions, and grow: a
place that is not here is a warning of the preflight, never a refusal. To Google a zone without the TEE is one that has
no room left (Capacity), so the next offering is tried.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from providers.base import Tee


@dataclass(frozen=True, slots=True)
class Rule:
    """Machine types, and what confidential VMs of them take."""

    types: str  # a pattern
    tee: Tee
    platform: str  # as Zone.availableCpuPlatforms spells it: a zone without it has none; empty = whichever
    places: frozenset[str] = frozenset()  # regions and zones known to have it; empty = wherever the type is sold


_SNP_REGIONS: Final = frozenset({"asia-southeast1", "europe-west3", "europe-west4", "us-central1"})
_TDX_REGIONS: Final = frozenset({"asia-southeast1", "europe-west4", "us-central1", "us-east4", "us-east5", "us-west1"})
_TDX_GPU_ZONES: Final = frozenset({"europe-west4-c", "us-central1-a", "us-east5-a"})

# Strongest first: what has attestation of its own before what has not.
_RULES: Final = (
    Rule(r"n2d-(standard|highmem|highcpu)-\d+", Tee.SNP, "AMD Milan", _SNP_REGIONS),
    Rule(r"c3-standard-\d+", Tee.TDX, "Intel Sapphire Rapids", _TDX_REGIONS),
    Rule(r"a3-highgpu-1g", Tee.TDX, "Intel Sapphire Rapids", _TDX_GPU_ZONES),
    Rule(r"n2d-(standard|highmem|highcpu)-\d+", Tee.SEV, ""),  # on Rome too
    Rule(r"c2d-(standard|highmem|highcpu)-\d+", Tee.SEV, "AMD Milan"),
    Rule(r"c3d-(standard|highmem|highcpu)-\d+", Tee.SEV, "AMD Genoa"),
    Rule(r"c4d-(standard|highmem|highcpu)-\d+", Tee.SEV, "AMD Turin"),
)

BY_SETTING: Final[Mapping[str, Tee]] = {"sev": Tee.SEV, "sev_snp": Tee.SNP, "tdx": Tee.TDX}
API_NAMES: Final[Mapping[Tee, str]] = {Tee.SEV: "SEV", Tee.SNP: "SEV_SNP", Tee.TDX: "TDX"}
# What an image must declare to boot so.
IMAGE_FEATURES: Final[Mapping[Tee, str]] = {
    Tee.SEV: "SEV_CAPABLE",
    Tee.SNP: "SEV_SNP_CAPABLE",
    Tee.TDX: "TDX_CAPABLE",
}
DISKS_LIMIT: Final = 40  # of a confidential VM


def of(machine_type: str) -> tuple[Tee, ...]:
    """The TEEs that this type can give, strongest first; empty when it gives none."""
    return tuple(rule.tee for rule in _RULES if re.fullmatch(rule.types, machine_type))


def strongest(machine_type: str) -> Tee:
    """What a confidential VM of this type gets by default; SNP for a type that gives none, so that it is refused."""
    return next(iter(of(machine_type)), Tee.SNP)


def platform(machine_type: str, tee: Tee) -> str:
    """The CPU platform that a VM of this type needs for this TEE."""
    return next((rule.platform for rule in _RULES if rule.tee is tee and re.fullmatch(rule.types, machine_type)), "")


def known_in(machine_type: str, tee: Tee, zone: str) -> bool:
    """Whether the zone is known to have it; False is a doubt, not a denial."""
    rules = [rule for rule in _RULES if rule.tee is tee and re.fullmatch(rule.types, machine_type)]
    return any(not rule.places or {zone, zone.rpartition("-")[0]} & rule.places for rule in rules)
