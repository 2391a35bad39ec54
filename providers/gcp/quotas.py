"""A region's quotas, as headroom for the configured machine types (pure)."""

from collections.abc import Mapping
from typing import Any, Final

from providers.base import Headroom
from providers.gcp.config import GcpConfig
from providers.gcp.requests import family

# A region's metrics for vCPUs by family; families that are not here have quotas of their own elsewhere (Cloud Quotas).
_CPUS: Final[Mapping[str, str]] = {
    "n1": "CPUS",
    "e2": "CPUS",
    "f1": "CPUS",
    "g1": "CPUS",
    "custom": "CPUS",
    "n2": "N2_CPUS",
    "n2d": "N2D_CPUS",
    "t2d": "T2D_CPUS",
    "t2a": "T2A_CPUS",
    "c2": "C2_CPUS",
    "c2d": "C2D_CPUS",
    "c3": "C3_CPUS",
    "c3d": "C3D_CPUS",
    "a2": "A2_CPUS",
    "m1": "M1_CPUS",
    "m2": "M2_CPUS",
    "m3": "M3_CPUS",
}
_GPUS: Final[Mapping[str, str]] = {
    "nvidia-tesla-t4": "NVIDIA_T4_GPUS",
    "nvidia-tesla-v100": "NVIDIA_V100_GPUS",
    "nvidia-tesla-p4": "NVIDIA_P4_GPUS",
    "nvidia-tesla-p100": "NVIDIA_P100_GPUS",
    "nvidia-l4": "NVIDIA_L4_GPUS",
    "nvidia-tesla-a100": "NVIDIA_A100_GPUS",
    "nvidia-a100-80gb": "NVIDIA_A100_80GB_GPUS",
    "nvidia-h100-80gb": "NVIDIA_H100_GPUS",
}
# What every VM counts against, whatever its type.
_EVERY: Final[Mapping[str, str]] = {"INSTANCES": "VM", "SSD_TOTAL_GB": "GB", "DISKS_TOTAL_GB": "GB"}


def headroom(region: Mapping[str, Any], config: GcpConfig) -> list[Headroom]:
    """The limits of a regions.get answer that the configured types meet, in its order."""
    types: dict[str, list[str]] = {}
    for name in config.allowed_types:
        types.setdefault(_CPUS.get(family(name), ""), []).append(name)
        if config.spot:
            types.setdefault("PREEMPTIBLE_CPUS", []).append(name)
    if config.gpu_type:
        attached = [name for name in config.allowed_types if family(name) == "n1"]
        types.setdefault(_GPUS.get(config.gpu_type, ""), []).extend(attached)
    units = {
        **dict.fromkeys(_CPUS.values(), "vCPU"),
        "PREEMPTIBLE_CPUS": "vCPU",
        **dict.fromkeys(_GPUS.values(), "GPU"),
        **_EVERY,
    }
    if config.public_ip:
        units["IN_USE_ADDRESSES"] = "address"
    if config.reserve_address:
        units["STATIC_ADDRESSES"] = "address"
    wanted = {*types, *(units.keys() - {*_CPUS.values(), *_GPUS.values(), "PREEMPTIBLE_CPUS"})}
    return [
        Headroom(
            name=each["metric"],
            limit=float(each.get("limit", 0.0)),
            used=float(each.get("usage", 0.0)),
            unit=units[each["metric"]],
            types=tuple(types.get(each["metric"], config.allowed_types)),
        )
        for each in region.get("quotas", [])
        if each.get("metric") in wanted and each.get("metric") in units
    ]
