"""What instance types cost here: near to Amazon's prices in us-east-1, from what a type has (pure).

Fitted to m6a.large, c6a.large and g5.xlarge as listed in 2025; other types are near enough to be told apart.
"""

from typing import Any, Final

from providers.simcloud.ec2 import catalog

_VCPU: Final = 0.0333  # USD per hour
_GIB: Final = 0.0025
_GPU: Final = 0.833
_SPOT: Final = 0.35  # of the price on demand, in the first zone; each further zone is a little dearer
_ZONE: Final = 0.02


def on_demand(kind: dict[str, Any]) -> float:
    """A type as DescribeInstanceTypes shows it; USD per hour."""
    gpus: int = sum(each.get("Count", 0) for each in kind.get("GpuInfo", {}).get("Gpus", []))
    gib: float = kind["MemoryInfo"]["SizeInMiB"] / 1024
    vcpus: int = kind["VCpuInfo"]["DefaultVCpus"]
    return round(vcpus * _VCPU + gib * _GIB + gpus * _GPU, 4)


def spot(name: str, region: str, zone: str) -> float:
    """USD per hour in this zone. Raises Refused for a type that the region lacks."""
    part = _SPOT + _ZONE * (ord(zone[-1]) - ord("a"))
    return round(on_demand(dict(catalog.shape(name, region))) * part, 4)
