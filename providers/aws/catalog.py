"""EC2's own description of its instance types, as offerings. The API tells all we need: no table to keep."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from providers.aws.config import AwsConfig
from providers.base import Offering, Tee
from providers.errors import InvalidSpec

SNP_FEATURE: Final = "amd-sev-snp"  # as ProcessorInfo.SupportedFeatures spells it

# A type may list several (i386 too on old x86 families); the first of ours that it has is what an image must be.
_ARCHITECTURES: Final = ("x86_64", "arm64")


def described(answer: Mapping[str, Any], *, zone: str, sold: Collection[str]) -> Iterator[Offering]:
    """A DescribeInstanceTypes answer as offerings in `zone`, each type with every TEE it gives; without those the zone
    does not sell."""
    for shape in answer["InstanceTypes"]:
        if shape["InstanceType"] in sold:
            yield from _offerings(shape, zone)


def allowed(found: Sequence[Offering], config: AwsConfig) -> tuple[Offering, ...]:
    """Those the settings let be launched, the default first and the others in the settings' order.

    A listed type that the zone does not sell, or that cannot be confidential where that is asked for, is left
    out; raises InvalidSpec when that happens to the default, which every pod without wishes would get.
    """
    default = [offer for offer in found if offer.instance_type == config.instance_type]
    if not default:
        raise InvalidSpec(
            f"{config.instance_type} is not sold in the zone of {config.subnet_id or 'the subnet'}:"
            " choose another aws.instance_type or aws.subnet_id"
        )
    if config.tee not in {offer.tee for offer in default}:
        raise InvalidSpec(
            f"{config.instance_type} does not give its guest {config.tee}: choose another aws.instance_type"
            " (m6a, c6a and r6a do), or set aws.confidential = false"
        )
    rank = {name: position for position, name in enumerate(config.allowed_types)}
    kept = [offer for offer in found if offer.tee is config.tee or not config.confidential]
    return tuple(
        sorted(
            (offer for offer in kept if offer.instance_type in rank),
            key=lambda offer: (rank[offer.instance_type], offer.tee is not config.tee),
        )
    )


def _offerings(shape: Mapping[str, Any], zone: str) -> Iterator[Offering]:
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
            zone=zone,
        )


def _architecture(supported: Collection[str]) -> str:
    ours = [name for name in _ARCHITECTURES if name in supported]
    return (ours or sorted(supported) or ["x86_64"])[0]
