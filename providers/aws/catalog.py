"""EC2's own description of its instance types, as offerings. The API tells all we need: no table to keep."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Final

from providers.aws.config import AwsConfig
from providers.base import Offering, Purchase, Tee
from providers.errors import InvalidSpec

SNP_FEATURE: Final = "amd-sev-snp"  # as ProcessorInfo.SupportedFeatures spells it
# Of the on-demand price, for SNP, however the instance is paid for: AWS's page on AMD SEV-SNP, read in 2025.
SNP_SURCHARGE: Final = 0.10

# A type may list several (i386 too on old x86 families); the first of ours that it has is what an image must be.
_ARCHITECTURES: Final = ("x86_64", "arm64")


def is_pattern(name: str) -> bool:
    """Whether a configured type has wildcards."""
    return "*" in name or "?" in name


def described(answer: Mapping[str, Any]) -> Iterator[tuple[Offering, bool]]:
    """A DescribeInstanceTypes answer as offerings of no zone, each type with every TEE it gives; and whether EC2 has
    it as spot capacity."""
    for shape in answer["InstanceTypes"]:
        spot = "spot" in shape.get("SupportedUsageClasses", ["on-demand"])
        yield from ((offer, spot) for offer in _offerings(shape))


def placed(
    kinds: Sequence[tuple[Offering, bool]], sold: Collection[tuple[str, str]], zones: Sequence[str], config: AwsConfig
) -> tuple[Offering, ...]:
    """Each in every zone that sells it, in every way to pay that the settings allow."""
    there = frozenset(sold)
    return tuple(
        replace(kind, zone=zone, purchase=purchase)
        for zone in zones
        for kind, spot in dict.fromkeys(kinds)
        if (kind.instance_type, zone) in there
        for purchase in (Purchase.ON_DEMAND, Purchase.SPOT)
        if purchase is Purchase.ON_DEMAND or (spot and config.spot)
    )


def allowed(found: Sequence[Offering], config: AwsConfig) -> tuple[Offering, ...]:
    """Those the settings let be launched: the default first, and the others in the settings' order of types and zones.

    A type that no zone sells, or that cannot be confidential where that is asked for, is left out; raises InvalidSpec
    when that happens to the default, which every pod without wishes would get, or to a name with wildcards that
    matches nothing.
    """
    _check_default([offer for offer in found if offer.instance_type == config.instance_type], config)
    for pattern in config.instance_types:
        if is_pattern(pattern) and not any(fnmatchcase(offer.instance_type, pattern) for offer in found):
            raise InvalidSpec(f"aws.instance_types: {pattern} matches no instance type sold in these zones")
    kept = [offer for offer in found if offer.tee is config.tee or not config.confidential]
    zones = {zone: position for position, zone in enumerate(dict.fromkeys(offer.zone for offer in found))}
    return tuple(sorted((offer for offer in kept if config.allows(offer.instance_type)), key=_order(config, zones)))


def priced(
    offers: Sequence[Offering], on_demand: Mapping[str, float], spot: Mapping[tuple[str, str], float]
) -> tuple[Offering, ...]:
    """With the prices that are known, in USD per hour."""

    def price(offer: Offering) -> float | None:
        base = on_demand.get(offer.instance_type)
        surcharge = 0.0
        if offer.tee is Tee.SNP:
            if base is None:
                return None
            surcharge = base * SNP_SURCHARGE
        paid = spot.get((offer.instance_type, offer.zone)) if offer.purchase is Purchase.SPOT else base
        return None if paid is None else round(paid + surcharge, 6)

    return tuple(replace(offer, price=price(offer)) for offer in offers)


def _check_default(default: Sequence[Offering], config: AwsConfig) -> None:
    if not default:
        raise InvalidSpec(
            f"{config.instance_type} is not sold in the zones of {', '.join(config.subnet_ids) or 'the subnet'}:"
            " choose another aws.instance_type or other aws.subnet_ids"
        )
    if config.tee not in {offer.tee for offer in default}:
        raise InvalidSpec(
            f"{config.instance_type} does not give its guest {config.tee}: choose another aws.instance_type"
            " (m6a, c6a and r6a do), or set aws.confidential = false"
        )


def _order(config: AwsConfig, zones: Mapping[str, int]) -> Any:
    def rank(offer: Offering) -> tuple[Any, ...]:
        position = next(i for i, each in enumerate(config.allowed_types) if fnmatchcase(offer.instance_type, each))
        return (
            position,
            offer.instance_type,  # several, where the settings' name has wildcards
            offer.purchase is not Purchase.ON_DEMAND,
            offer.tee is not config.tee,
            zones[offer.zone],
        )

    return rank


def _offerings(shape: Mapping[str, Any]) -> Iterator[Offering]:
    processor = shape.get("ProcessorInfo", {})
    gpus = shape.get("GpuInfo", {}).get("Gpus", [])
    # AMD SEV-SNP is the only TEE that EC2 gives a guest; what the type lacks, RunInstances refuses.
    snp = SNP_FEATURE in processor.get("SupportedFeatures", [])
    for tee in (Tee.NONE, Tee.SNP) if snp else (Tee.NONE,):
        yield Offering(
            instance_type=shape["InstanceType"],
            vcpus=shape["VCpuInfo"]["DefaultVCpus"],
            memory_mib=shape["MemoryInfo"]["SizeInMiB"],
            gpus=sum(gpu.get("Count", 0) for gpu in gpus),  # whole ones: g6f's slices have Count 0
            gpu_model=gpus[0].get("Name", "") if gpus else "",
            architecture=_architecture(processor.get("SupportedArchitectures", [])),
            tee=tee,
        )


def _architecture(supported: Collection[str]) -> str:
    ours = [name for name in _ARCHITECTURES if name in supported]
    return (ours or sorted(supported) or ["x86_64"])[0]
