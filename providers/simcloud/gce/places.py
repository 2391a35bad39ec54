"""The project, its region and zones, and what is sold there: read only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from providers.simcloud.gce import listing, machine_types
from providers.simcloud.gce.asked import Asked, Verb
from providers.simcloud.gce.errors import not_found
from providers.simcloud.gce.machine_types import ACCELERATORS, DISK_TYPES, LOCAL_SSD, MachineType
from providers.simcloud.gce.paths import link
from providers.simcloud.gce.project import ID, NUMBER, SERVICE_ACCOUNT, Json, Project
from providers.simcloud.gce.quotas import Quotas

_SINCE: Final = "1969-12-31T16:00:00.000-08:00"  # what Google says of everything that was always there
OfZone = Callable[[str], list[Json]]  # a zone's resources of one kind


class Places:
    """Actions on projects, regions, zones and what is sold in them."""

    def __init__(self, project: Project, quotas: Quotas) -> None:
        self._project = project
        self._quotas = quotas

    def actions(self) -> Mapping[str, Verb]:
        made: dict[str, Verb] = {
            "projects.get": self.project,
            "zones.get": lambda asked: self._zone(asked.zone),
            "zones.list": lambda asked: listing.page(
                [self._zone(zone) for zone in self._project.zones], asked.query, "zone", f"projects/{ID}/zones"
            ),
            "regions.get": lambda asked: self._region(),
            "regions.list": lambda asked: listing.page(
                [self._region()], asked.query, "region", f"projects/{ID}/regions"
            ),
        }
        for kind, one, of_zone in (
            ("machineTypes", "machineType", self._machine_types),
            ("acceleratorTypes", "acceleratorType", self._accelerators),
            ("diskTypes", "diskType", self._disk_types),
            ("reservations", "reservation", lambda zone: []),
        ):
            made |= zonal(self._project.zones, kind, one, of_zone)
        return made

    def project(self, asked: Asked) -> Json:
        return {
            "kind": "compute#project",
            "id": NUMBER,
            "creationTimestamp": _SINCE,
            "name": ID,
            "commonInstanceMetadata": {"kind": "compute#metadata", "fingerprint": "AAAAAAAAAAA="},
            "quotas": [],
            "selfLink": link(f"projects/{ID}"),
            "defaultServiceAccount": SERVICE_ACCOUNT,
            "xpnProjectStatus": "UNSPECIFIED_XPN_PROJECT_STATUS",
            "defaultNetworkTier": "PREMIUM",
            "vmDnsSetting": "ZONAL_ONLY",
        }

    def _region(self) -> Json:
        region = self._project.region
        return {
            "kind": "compute#region",
            "id": "1000",
            "creationTimestamp": _SINCE,
            "name": region,
            "description": region,
            "status": "UP",
            "zones": [self._project.zone_link(zone) for zone in self._project.zones],
            "quotas": self._quotas.shown(),
            "selfLink": self._project.region_link(),
            "supportsPzs": False,
        }

    def _zone(self, zone: str) -> Json:
        platforms = sorted({p for kind in machine_types.sold_in(zone).values() for p in kind.family.platforms})
        return {
            "kind": "compute#zone",
            "id": str(2000 + self._project.zones.index(zone)),
            "creationTimestamp": _SINCE,
            "name": zone,
            "description": zone,
            "status": "UP",
            "region": self._project.region_link(),
            "selfLink": self._project.zone_link(zone),
            "availableCpuPlatforms": platforms,
            "supportsPzs": False,
        }

    def _machine_types(self, zone: str) -> list[Json]:
        return [_machine_type(kind, zone) for kind in machine_types.sold_in(zone).values()]

    def _accelerators(self, zone: str) -> list[Json]:
        return [
            {
                "kind": "compute#acceleratorType",
                "id": str(10000 + list(ACCELERATORS).index(name)),
                "creationTimestamp": _SINCE,
                "name": name,
                "description": kind.description,
                "maximumCardsPerInstance": max(kind.counts, default=16),
                "zone": link(f"projects/{ID}/zones/{zone}"),
                "selfLink": link(f"projects/{ID}/zones/{zone}/acceleratorTypes/{name}"),
            }
            for name, kind in machine_types.accelerators_in(zone).items()
        ]

    def _disk_types(self, zone: str) -> list[Json]:
        return [
            {
                "kind": "compute#diskType",
                "id": str(30000 + index),
                "creationTimestamp": _SINCE,
                "name": name,
                "description": name,
                "validDiskSize": f"{least}GB-{most}GB",
                "defaultDiskSizeGb": str(max(least, 100) if name.startswith("hyper") else max(least, 500)),
                "zone": link(f"projects/{ID}/zones/{zone}"),
                "selfLink": link(f"projects/{ID}/zones/{zone}/diskTypes/{name}"),
            }
            for index, (name, (least, most)) in enumerate({**DISK_TYPES, LOCAL_SSD: (375, 375)}.items())
        ]


def zonal(zones: Sequence[str], kind: str, one: str, of_zone: OfZone) -> dict[str, Verb]:
    """get, list and aggregatedList of a kind of zonal resource."""

    def get(asked: Asked) -> Json:
        name = asked.names[one]
        for each in of_zone(asked.zone):
            if name in (each["name"], each.get("id")):
                return each
        raise not_found(f"projects/{ID}/zones/{asked.zone}/{kind}/{name}")

    def some(asked: Asked) -> Json:
        return listing.page(of_zone(asked.zone), asked.query, one, f"projects/{ID}/zones/{asked.zone}/{kind}")

    def all_of_them(asked: Asked) -> Json:
        items = [(f"zones/{zone}", each) for zone in zones for each in of_zone(zone)]
        return listing.aggregated(items, [f"zones/{zone}" for zone in zones], asked.query, one, kind)

    return {f"{kind}.get": get, f"{kind}.list": some, f"{kind}.aggregatedList": all_of_them}


def _machine_type(kind: MachineType, zone: str) -> Json:
    gpu: dict[str, Any] = {}
    if kind.gpus:
        gpu = {"accelerators": [{"guestAcceleratorType": kind.gpu, "guestAcceleratorCount": kind.gpus}]}
    return {
        "kind": "compute#machineType",
        "id": str(800000 + list(machine_types.TYPES).index(kind.name)),
        "creationTimestamp": _SINCE,
        "name": kind.name,
        "description": f"{kind.vcpus} vCPUs, {kind.memory_mib / 1024:g} GB RAM",
        "guestCpus": kind.vcpus,
        "memoryMb": kind.memory_mib,
        "imageSpaceGb": 0,
        "maximumPersistentDisks": 16 if kind.shared else 128,
        "maximumPersistentDisksSizeGb": "3072" if kind.shared else "263168",
        "zone": zone,
        "isSharedCpu": kind.shared,
        "architecture": kind.family.architecture,
        "selfLink": link(f"projects/{ID}/zones/{zone}/machineTypes/{kind.name}"),
        **gpu,
    }
