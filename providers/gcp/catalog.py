"""Compute Engine's own description of its machine types, as offerings; which TEE a type gives is a table's (tees)."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from providers.base import Offering, Purchase, Tee
from providers.errors import InvalidSpec
from providers.gcp import tees
from providers.gcp.config import GcpConfig

Shape = Mapping[str, Any]

_ARCHITECTURES: Final = {"X86_64": "x86_64", "ARM64": "arm64", "": "x86_64"}
_CUSTOM: Final = re.compile(r"(?:[a-z0-9]+-)?custom-(\d+)-(\d+)(?:-ext)?")  # vCPUs and MiB; no list names these


def filter_of(config: GcpConfig) -> str:
    """The list filter for the allowed types."""
    return f'name eq "{"|".join(config.allowed_types)}"'


def described(
    config: GcpConfig,
    types: Mapping[str, Sequence[Shape]],
    platforms: Mapping[str, Collection[str]],
    accelerators: Mapping[str, Collection[str]],
) -> tuple[Offering, ...]:
    """Everything that the cloud sells of the allowed types in the allowed zones, with every TEE it can have.

    By zone: `types` (machine types as the API shows them), `platforms` (the zone's CPU platforms), `accelerators`
    (the names of GPUs that can be attached there).
    """
    return tuple(
        offer
        for zone in config.zones
        for name in config.allowed_types
        if (shape := _shape(name, types.get(zone, ())))
        for offer in _offerings(config, shape, zone, platforms.get(zone, ()), accelerators.get(zone, ()))
    )


def allowed(found: Sequence[Offering], config: GcpConfig) -> tuple[Offering, ...]:
    """Those the settings let be launched, the default first and the others in the settings' order.

    A listed type that no zone sells, or that cannot be confidential where that is asked for, is left out; raises
    InvalidSpec when that happens to the default, which every pod without wishes would get.
    """
    zones = ", ".join(config.zones)
    default = [offer for offer in found if offer.instance_type == config.machine_type]
    if not default:
        raise InvalidSpec(f"{config.machine_type} is not sold in {zones}: choose another gcp.machine_type or gcp.zones")
    if config.tee not in {offer.tee for offer in default}:
        raise InvalidSpec(
            f"{config.machine_type} does not give its guest {config.tee} in {zones}: choose another gcp.machine_type"
            " (n2d gives SEV_SNP, c3-standard TDX) or gcp.zones, or set gcp.confidential = false"
        )
    kept = [offer for offer in found if offer.tee is not Tee.NONE or not config.confidential]
    if config.confidential_type and config.confidential:
        kept = [offer for offer in kept if offer.tee is config.tee]
    types = {name: position for position, name in enumerate(config.allowed_types)}
    zone_rank = {name: position for position, name in enumerate(config.zones)}

    def rank(offer: Offering) -> tuple[int, bool, int, int]:
        usual = config.tee if offer.instance_type == config.machine_type else _usual(offer.instance_type, config)
        spot = offer.purchase is Purchase.SPOT
        return types[offer.instance_type], spot, int(offer.tee is not usual), zone_rank[offer.zone]

    return tuple(sorted(kept, key=rank))


def _usual(machine_type: str, config: GcpConfig) -> Tee:
    if not config.confidential:
        return Tee.NONE
    return config.tee if config.confidential_type else tees.strongest(machine_type)


def _shape(name: str, sold: Iterable[Shape]) -> Shape | None:
    for shape in sold:
        if shape["name"] == name:
            return shape
    if custom := _CUSTOM.fullmatch(name):
        return {"name": name, "guest_cpus": int(custom[1]), "memory_mb": int(custom[2])}
    return None


def _offerings(
    config: GcpConfig, shape: Shape, zone: str, platforms: Collection[str], attachable: Collection[str]
) -> Iterator[Offering]:
    count, model = _gpus(shape)
    name = shape["name"]
    if not count and name.startswith(("n1-", "custom-")) and config.gpu_type:
        if config.gpu_type not in attachable:
            return  # a launch would attach it, and be refused
        count, model = config.gpu_count, config.gpu_type
    for tee in (Tee.NONE, *tees.of(name)):
        needed = tees.platform(name, tee)
        if needed and platforms and needed not in platforms:
            continue
        for purchase in (Purchase.ON_DEMAND, Purchase.SPOT) if config.spot else (Purchase.ON_DEMAND,):
            yield Offering(
                instance_type=name,
                vcpus=int(shape["guest_cpus"]),
                memory_mib=int(shape["memory_mb"]),
                gpus=count,
                gpu_model=model,
                architecture=_ARCHITECTURES.get(shape.get("architecture", ""), "x86_64"),
                tee=tee,
                zone=zone,
                purchase=purchase,
            )


def _gpus(shape: Shape) -> tuple[int, str]:
    """Those that the type brings: all of its accelerators are of one kind."""
    found = shape.get("accelerators", [])
    count = sum(int(each.get("guest_accelerator_count", 0)) for each in found)
    return count, str(found[0].get("guest_accelerator_type", "")) if count else ""
