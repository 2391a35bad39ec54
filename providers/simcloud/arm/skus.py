"""Virtual machine sizes, as `Microsoft.Compute/skus` lists them.

From Azure's pages on VM sizes, confidential VM families and the SKU listing, as of November 2026. Zones are those of
eastus, nearly: three for what is common, fewer for what is not, so that callers must look.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from providers.simcloud.arm.errors import Refused

ZONES: Final = ("1", "2", "3")
# Where this cloud can be; real ones, so that a typing error is noticed.
REGIONS: Final = (
    "australiaeast", "brazilsouth", "canadacentral", "centralindia", "centralus", "eastasia", "eastus", "eastus2",
    "francecentral", "germanywestcentral", "italynorth", "japaneast", "koreacentral", "northeurope", "norwayeast",
    "polandcentral", "southafricanorth", "southcentralus", "southeastasia", "swedencentral", "switzerlandnorth",
    "uaenorth", "uksouth", "westcentralus", "westeurope", "westus", "westus2", "westus3",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Size:
    """One VM size."""

    name: str
    family: str
    vcpus: int
    memory: float  # GiB
    disks: int  # data disks at most
    nics: int = 2
    tee: str = ""  # SNP or TDX
    generations: str = "V1,V2"
    arm: bool = False
    gpus: int = 0
    local: int = 0  # GiB of temporary disk
    zones: tuple[str, ...] = ZONES
    spot: bool = True
    price: float = 0.0  # USD per hour on demand, Linux

    def capabilities(self) -> dict[str, str]:
        """As the listing names them; texts all."""
        made = {
            "MaxResourceVolumeMB": str(self.local * 1024),
            "OSVhdSizeMB": "1047552",
            "vCPUs": str(self.vcpus),
            "MemoryPreservingMaintenanceSupported": str(not self.tee and not self.gpus),
            "HyperVGenerations": self.generations,
            "DiskControllerTypes": "NVMe" if self.name.endswith("_v6") else "SCSI",
            "MemoryGB": f"{self.memory:g}",
            "MaxDataDiskCount": str(self.disks),
            "CpuArchitectureType": "Arm64" if self.arm else "x64",
            "LowPriorityCapable": str(self.spot),
            "PremiumIO": "True",
            "VMDeploymentTypes": "IaaS",
            "vCPUsAvailable": str(self.vcpus),
            "vCPUsPerCore": "1" if self.arm else "2",
            "EphemeralOSDiskSupported": str(bool(self.local)),
            "EncryptionAtHostSupported": str(not self.tee),
            "CapacityReservationSupported": "True",
            "AcceleratedNetworkingEnabled": str(not self.tee),
            "RdmaEnabled": "False",
            "MaxNetworkInterfaces": str(self.nics),
        }
        if self.tee:
            made["ConfidentialComputingType"] = self.tee
        if self.gpus:
            made["GPUs"] = str(self.gpus)
        return made


_DCAS: Final = "standardDCASv5Family"
_DCADS: Final = "standardDCADSv5Family"
_ECAS: Final = "standardECASv5Family"
_DCES5: Final = "standardDCESv5Family"
_DCES6: Final = "standardDCESv6Family"
_DS5: Final = "standardDSv5Family"
_DPS5: Final = "standardDPSv5Family"
_V2: Final = "V2"

SIZES: Final = {
    size.name: size
    for size in (
        Size("Standard_DC2as_v5", _DCAS, 2, 8, 4, tee="SNP", generations=_V2, price=0.086),
        Size("Standard_DC4as_v5", _DCAS, 4, 16, 8, tee="SNP", generations=_V2, price=0.172),
        Size("Standard_DC8as_v5", _DCAS, 8, 32, 16, 4, tee="SNP", generations=_V2, price=0.344),
        Size("Standard_DC16as_v5", _DCAS, 16, 64, 32, 4, tee="SNP", generations=_V2, price=0.688),
        Size("Standard_DC2ads_v5", _DCADS, 2, 8, 4, tee="SNP", generations=_V2, local=75, price=0.103),
        Size("Standard_DC4ads_v5", _DCADS, 4, 16, 8, tee="SNP", generations=_V2, local=150, price=0.206),
        Size("Standard_EC2as_v5", _ECAS, 2, 16, 4, tee="SNP", generations=_V2, price=0.113),
        Size("Standard_EC4as_v5", _ECAS, 4, 32, 8, tee="SNP", generations=_V2, price=0.226),
        Size("Standard_DC2as_v6", "standardDCASv6Family", 2, 8, 4, tee="SNP", generations=_V2, zones=("1", "2"), price=0.091),
        Size("Standard_DC2es_v5", _DCES5, 2, 8, 4, tee="TDX", generations=_V2, zones=("1", "3"), price=0.096),
        Size("Standard_DC4es_v5", _DCES5, 4, 16, 8, tee="TDX", generations=_V2, zones=("1", "3"), price=0.192),
        Size("Standard_DC2es_v6", _DCES6, 2, 8, 8, tee="TDX", generations=_V2, zones=("2", "3"), price=0.101),
        Size("Standard_DC4es_v6", _DCES6, 4, 16, 12, tee="TDX", generations=_V2, zones=("2", "3"), price=0.202),
        Size("Standard_EC2es_v6", "standardECESv6Family", 2, 16, 8, tee="TDX", generations=_V2, zones=("2", "3"), price=0.126),
        Size("Standard_D2s_v5", _DS5, 2, 8, 4, price=0.096),
        Size("Standard_D4s_v5", _DS5, 4, 16, 8, price=0.192),
        Size("Standard_D8s_v5", _DS5, 8, 32, 16, 4, price=0.384),
        Size("Standard_D2as_v5", "standardDASv5Family", 2, 8, 4, price=0.086),
        Size("Standard_D2ds_v5", "standardDDSv5Family", 2, 8, 4, local=75, price=0.113),
        Size("Standard_E2s_v5", "standardESv5Family", 2, 16, 4, price=0.126),
        Size("Standard_F2s_v2", "standardFSv2Family", 2, 4, 4, local=16, price=0.085),
        Size("Standard_B2s", "standardBSFamily", 2, 4, 4, 3, local=8, spot=False, price=0.0416),
        Size("Standard_D2ps_v5", _DPS5, 2, 8, 4, generations=_V2, arm=True, price=0.077),
        Size("Standard_D4ps_v5", _DPS5, 4, 16, 8, generations=_V2, arm=True, price=0.154),
        Size("Standard_NC4as_T4_v3", "Standard NCASv3_T4 Family", 4, 28, 8, gpus=1, local=176, price=0.526),
        Size("Standard_NC24ads_A100_v4", "StandardNCADSA100v4Family", 24, 220, 8, gpus=1, local=64, zones=("1", "2"), price=3.673),
        Size("Standard_NC40ads_H100_v5", "standardNCadsH100v5Family", 40, 320, 8, gpus=1, generations=_V2, local=128, zones=("3",), price=6.98),
        Size("Standard_NCC40ads_H100_v5", "standardNCCadsH100v5Family", 40, 320, 8, gpus=1, tee="SNP", generations=_V2, local=128, zones=("3",), spot=False, price=6.98),
        Size("Standard_ND96asr_v4", "standardNDASv4_A100Family", 96, 900, 16, 8, gpus=8, local=6000, zones=("2",), price=27.197),
    )
}  # fmt: skip

_BY_LOWER: Final = {name.lower(): size for name, size in SIZES.items()}


def size_of(name: str, region: str) -> Size:
    """Raises Refused for one that this region has not."""
    found = _BY_LOWER.get(name.lower())
    if found is None:
        raise Refused(
            "InvalidParameter",
            f"The value {name} provided for the VM size is not valid. The valid sizes in the current region are:"
            f" {', '.join(SIZES)}. Find out more on the valid VM sizes in each region at https://aka.ms/azure-regions.",
            target="vmSize",
        )
    return found


def listing(region: str) -> list[dict[str, Any]]:
    """`Microsoft.Compute/skus`: VM sizes, and disks among them, as in the real one."""
    disks = [_disk(name, size, region) for name, size in (("Premium_LRS", "P10"), ("StandardSSD_LRS", "E10"))]
    return [*disks, *(_vm(size, region) for size in SIZES.values())]


def _vm(size: Size, region: str) -> dict[str, Any]:
    return {
        "resourceType": "virtualMachines",
        "name": size.name,
        "tier": "Standard",
        "size": size.name.removeprefix("Standard_"),
        "family": size.family,
        "locations": [region],
        "locationInfo": [{"location": region, "zones": list(size.zones), "zoneDetails": []}],
        "capabilities": [{"name": name, "value": value} for name, value in size.capabilities().items()],
        "restrictions": [],
    }


def _disk(name: str, size: str, region: str) -> dict[str, Any]:
    return {
        "resourceType": "disks",
        "name": name,
        "tier": name.partition("_")[0],
        "size": size,
        "locations": [region],
        "locationInfo": [{"location": region, "zones": list(ZONES), "zoneDetails": []}],
        "capabilities": [{"name": "MaxSizeGiB", "value": "128"}, {"name": "MinSizeGiB", "value": "64"}],
        "restrictions": [],
    }


def filtered_region(text: str) -> str:
    """The region of `location eq 'eastus'`; empty for no filter. Raises Refused for another one."""
    if not text:
        return ""
    found = re.fullmatch(r"\s*location\s+eq\s+'([^']+)'\s*", text)
    if found is None:
        raise Refused("InvalidFilterInQueryString", f"Invalid $filter '{text}' specified in the query string.")
    return found[1]
