"""Azure's own list of SKUs as offerings: what a size has, its TEE, and in which zones this subscription may have it."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from providers.azure import gpus
from providers.azure.config import AzureConfig
from providers.base import Offering, Purchase, Tee
from providers.errors import InvalidSpec

# Capability ConfidentialComputingType. A size that has it launches as a confidential VM only: its TEE is no choice.
_TEES: Final = {"SNP": Tee.SNP, "TDX": Tee.TDX}
_ARCHITECTURES: Final = {"x64": "x86_64", "Arm64": "arm64"}

Prices = Mapping[tuple[str, Purchase], float]  # by size, USD per hour


def decode(text: str, names: Collection[str]) -> Any:
    """The JSON of a page of SKUs without those that nobody asks about: a region has thousands (4 MB, 40 MB as objects),
    and each is dropped as soon as it is read.
    """
    wanted = {name.lower() for name in names}

    def keep(shape: dict[str, Any]) -> dict[str, Any] | None:
        if "resourceType" not in shape:
            return shape
        ours = shape["resourceType"] == "virtualMachines" and shape["name"].lower() in wanted
        return shape if ours else None

    return json.loads(text, object_hook=keep)


def families(items: Sequence[Mapping[str, Any] | None], config: AzureConfig) -> Mapping[str, tuple[str, ...]]:
    """The allowed sizes of each family, as quotas count them."""
    known: dict[str, list[str]] = {}
    for name, shape in _allowed_shapes(items, config):
        known.setdefault(shape.get("family", ""), []).append(name)
    return {family: tuple(sizes) for family, sizes in known.items()}


def described(items: Sequence[Mapping[str, Any] | None], config: AzureConfig) -> tuple[Offering, ...]:
    """SKUs as offerings, without those this subscription may not have here.

    Raises: InvalidSpec for an allowed size that no region has, or not this one.
    """
    found = list(_allowed_shapes(items, config))
    known = {name for name, _ in found}
    if missing := [name for name in config.allowed_types if name not in known]:
        raise InvalidSpec(
            f"there is no size {', '.join(missing)} in {config.region}: correct azure.instance_types, or azure.region"
        )
    return tuple(offer for name, shape in found for offer in _offerings(name, shape, config))


def allowed(found: Sequence[Offering], config: AzureConfig) -> tuple[Offering, ...]:
    """Those the settings let be launched, the default first and the others in the settings' order.

    A listed size that is not sold here, or that cannot be confidential where that is asked for, is left out; raises
    InvalidSpec when that happens to the default, which every pod without wishes would get.
    """
    default = [offer for offer in found if offer.instance_type == config.instance_type]
    where = f"zones {', '.join(config.zones)} of {config.region}" if config.zones else config.region
    if not default:
        raise InvalidSpec(
            f"{config.instance_type} is not sold to this subscription in {where}:"
            " choose another azure.instance_type, azure.zones or azure.region"
        )
    if config.confidential and all(offer.tee is Tee.NONE for offer in default):
        raise InvalidSpec(
            f"{config.instance_type} is no confidential VM: choose another azure.instance_type"
            " (DCas_v5, DCes_v6 and the EC families are), or set azure.confidential = false"
        )
    rank = {name: position for position, name in enumerate(config.allowed_types)}
    zones = {zone: position for position, zone in enumerate(config.zones)}
    kept = [offer for offer in found if offer.tee is not Tee.NONE or not config.confidential]
    return tuple(
        sorted(
            kept,
            key=lambda offer: (
                rank[offer.instance_type],
                offer.purchase is not Purchase.ON_DEMAND,
                zones.get(offer.zone, 0),
            ),
        )
    )


def priced(offers: Sequence[Offering], prices: Prices) -> tuple[Offering, ...]:
    """The same with what they cost, where that is known."""
    return tuple(replace(offer, price=prices.get((offer.instance_type, offer.purchase))) for offer in offers)


def _allowed_shapes(
    items: Sequence[Mapping[str, Any] | None], config: AzureConfig
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each allowed size's SKU, with its name as the settings write it; Azure does not care for case."""
    spelt = {name.lower(): name for name in config.allowed_types}
    for shape in items:
        if shape is not None and (name := spelt.get(shape["name"].lower())):
            yield name, shape


def _offerings(name: str, shape: Mapping[str, Any], config: AzureConfig) -> Iterator[Offering]:
    told = {each["name"]: each["value"] for each in shape.get("capabilities") or []}
    vcpus = int(told["vCPUs"])
    offer = Offering(
        instance_type=name,
        vcpus=vcpus,
        memory_mib=int(float(told["MemoryGB"]) * 1024),
        gpus=gpus.whole(name, vcpus, int(told.get("GPUs", 0))),
        gpu_model=gpus.model(name) if int(told.get("GPUs", 0)) else "",
        architecture=_ARCHITECTURES.get(told.get("CpuArchitectureType", "x64"), "x86_64"),
        tee=_TEES.get(told.get("ConfidentialComputingType", ""), Tee.NONE),
    )
    purchases = [Purchase.ON_DEMAND]
    if config.spot and told.get("LowPriorityCapable") == "True":
        purchases.append(Purchase.SPOT)
    for zone in _zones(shape, config):
        for purchase in purchases:
            yield replace(offer, zone=zone, purchase=purchase)


def _zones(shape: Mapping[str, Any], config: AzureConfig) -> Iterator[str]:
    """Where it can be had; an empty one means the region, whichever zone Azure takes."""
    closed: set[str] = set()
    for each in shape.get("restrictions") or []:
        if each.get("type") == "Location":
            return
        closed |= set((each.get("restrictionInfo") or {}).get("zones") or [])
    if not config.zones:
        yield ""
        return
    sold = {zone for place in shape.get("locationInfo") or [] for zone in place.get("zones") or []}
    yield from (zone for zone in config.zones if zone in sold - closed)
