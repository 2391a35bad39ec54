"""Azure's usages as headroom: of the families that the allowed sizes are in, and of what every VM needs (pure)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from providers.azure.config import AzureConfig
from providers.base import Headroom

_CORES: Final = "cores"  # all vCPUs of the region
_SPOT: Final = "lowPriorityCores"
_NICS: Final = "NetworkInterfaces"
_ADDRESSES: Final = "PublicIPAddresses"
_STANDARD_ADDRESSES: Final = "StandardSkuPublicIpAddresses"


def headroom(
    compute: Sequence[Mapping[str, Any]],
    network: Sequence[Mapping[str, Any]],
    families: Mapping[str, tuple[str, ...]],
    config: AzureConfig,
) -> tuple[Headroom, ...]:
    """The limits that launches meet. `families`: the allowed sizes of each."""
    return (*_compute(compute, families, config), *_network(network, config))


def _compute(
    usages: Sequence[Mapping[str, Any]], families: Mapping[str, tuple[str, ...]], config: AzureConfig
) -> Iterator[Headroom]:
    by_lower = {family.lower(): types for family, types in families.items()}
    for usage in usages:
        name = usage["name"]["value"]
        types = by_lower.get(name.lower(), ())
        if types or name == _CORES or (name == _SPOT and config.spot) or name == "virtualMachines":
            unit = "VM" if name == "virtualMachines" else "vCPU"
            yield Headroom(
                name, float(usage["limit"]), float(usage["currentValue"]), unit, types or config.allowed_types
            )


def _network(usages: Sequence[Mapping[str, Any]], config: AzureConfig) -> Iterator[Headroom]:
    wanted = {_NICS, _ADDRESSES, _STANDARD_ADDRESSES} if config.public_ip else {_NICS}
    for usage in usages:
        name = usage["name"]["value"]
        if name in wanted:
            unit = "interface" if name == _NICS else "address"
            yield Headroom(name, float(usage["limit"]), float(usage["currentValue"]), unit)
