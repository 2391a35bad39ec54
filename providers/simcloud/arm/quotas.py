"""vCPU quotas: by family, in all, and of spot."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.skus import SIZES, Size

# What a subscription may have unless a fault says otherwise: more than any test needs.
USUAL: Final = 20_000
_MACHINES: Final = 25_000  # VMs per region and subscription
_TOTAL: Final = "cores"
_SPOT: Final = "lowPriorityCores"
_WORDS: Final = {_TOTAL: "Total Regional Cores", _SPOT: "LowPriorityCores"}
_LONG: Final = {_TOTAL: "Total Regional vCPUs", _SPOT: "Total Regional Spot vCPUs"}


@dataclass(frozen=True, slots=True)
class Load:
    """What one allocated VM counts."""

    size: Size
    spot: bool

    def counts(self) -> tuple[str, ...]:
        """The quotas it counts against."""
        return (_SPOT,) if self.spot else (self.size.family, _TOTAL)


def check(wanted: Load, loads: Iterable[Load], limit: int | None, region: str) -> None:
    """Raises Refused when one more VM is one too many. `limit`: of each quota; None: the usual one."""
    used = _used(loads)
    allowed = USUAL if limit is None else limit
    for name in wanted.counts():
        usage = used.get(name, 0)
        if usage + wanted.size.vcpus > allowed:
            words = _WORDS.get(name, f"{name} Cores")
            page = "regional" if name == _TOTAL else "per-vm"
            raise Refused(
                "OperationNotAllowed",
                f"Operation could not be completed as it results in exceeding approved {words} quota. Additional"
                f" details - Deployment Model: Resource Manager, Location: {region}, Current Limit: {allowed}, Current"
                f" Usage: {usage}, Additional Required: {wanted.size.vcpus}, (Minimum) New Limit Required:"
                f" {usage + wanted.size.vcpus}. Setup Alerts when Quota reaches threshold. Learn more at"
                " https://aka.ms/quotamonitoringalerting . Submit a request for Quota increase by specifying parameters"
                " listed in the 'Details' section for deployment to succeed. Please read more about quota limits at"
                f" https://docs.microsoft.com/en-us/azure/azure-supportability/{page}-quota-requests",
            )


def usages(loads: Iterable[Load], machines: int, limit: int | None) -> list[dict[str, Any]]:
    """As `locations/.../usages` lists them."""
    used = _used(loads)
    allowed = USUAL if limit is None else limit
    names = [_TOTAL, _SPOT, *dict.fromkeys(size.family for size in SIZES.values())]
    counted = [_usage(name, used.get(name, 0), allowed, _LONG.get(name, _family(name))) for name in names]
    return [_usage("virtualMachines", machines, _MACHINES, "Virtual Machines"), *counted]


def _used(loads: Iterable[Load]) -> dict[str, int]:
    used: dict[str, int] = {}
    for load in loads:
        for name in load.counts():
            used[name] = used.get(name, 0) + load.size.vcpus
    return used


def network_usages(interfaces: int, addresses: int) -> list[dict[str, Any]]:
    """As `Microsoft.Network/locations/.../usages` lists them; the limits that every subscription begins with."""
    return [
        _usage("NetworkInterfaces", interfaces, 65536, "Network Interfaces"),
        _usage("PublicIPAddresses", addresses, 1000, "Public IP Addresses"),
        _usage("StandardSkuPublicIpAddresses", addresses, 1000, "Static Public IP Addresses - Standard"),
    ]


def _usage(name: str, used: int, limit: int, long: str) -> dict[str, Any]:
    return {"unit": "Count", "currentValue": used, "limit": limit, "name": {"value": name, "localizedValue": long}}


def _family(name: str) -> str:
    return name.removeprefix("standard").removesuffix("Family").strip() + " Family vCPUs"
