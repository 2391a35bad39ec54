"""Instance types as this region has them, from moto's copy of Amazon's own data."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES

from providers.simcloud.ec2.errors import Refused

SNP: Final = "amd-sev-snp"


@cache
def zones_of(region: str) -> Mapping[str, frozenset[str]]:
    """Instance type -> the zones of `region` that sell it."""
    sold: dict[str, set[str]] = {}
    for offer in INSTANCE_TYPE_OFFERINGS["availability-zone"].get(region, ()):
        sold.setdefault(offer["InstanceType"], set()).add(offer["Location"])
    return {name: frozenset(zones) for name, zones in sold.items()}


def shape(name: str, region: str) -> Mapping[str, Any]:
    """A type as DescribeInstanceTypes shows it. Raises Refused, as RunInstances does, for one the region lacks."""
    if name not in INSTANCE_TYPES or name not in zones_of(region):
        raise Refused("InvalidParameterValue", f"Invalid value '{name}' for InstanceType.")
    found: Mapping[str, Any] = INSTANCE_TYPES[name]
    return found


def features(kind: Mapping[str, Any]) -> list[str]:
    """ProcessorInfo.SupportedFeatures: `amd-sev-snp` and the like."""
    return list(kind["ProcessorInfo"].get("SupportedFeatures", ()))


def vcpus(name: str) -> int:
    return int(INSTANCE_TYPES[name]["VCpuInfo"]["DefaultVCpus"])
