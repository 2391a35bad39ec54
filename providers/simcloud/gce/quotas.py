"""The region's quotas: how much there may be of what counts, and how much there is."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Final

from providers.simcloud.faults import Faults
from providers.simcloud.fleet import OFF
from providers.simcloud.gce.errors import Failed
from providers.simcloud.gce.machine_types import ACCELERATORS, FAMILIES
from providers.simcloud.gce.project import Json, Project, Vm

# A project's in every region, as large as a paying customer's: what is to run out is set by a fault.
_LIMITS: Final[Mapping[str, float]] = {
    "CPUS": 2400.0,
    "PREEMPTIBLE_CPUS": 2400.0,
    **{kind.quota: 2400.0 for kind in FAMILIES.values() if kind.quota},
    **{kind.quota: 64.0 for kind in ACCELERATORS.values() if kind.quota},
    **{f"PREEMPTIBLE_{kind.quota}": 64.0 for kind in ACCELERATORS.values() if kind.quota},
    "INSTANCES": 6000.0,
    "IN_USE_ADDRESSES": 2300.0,
    "STATIC_ADDRESSES": 700.0,
    "DISKS_TOTAL_GB": 102400.0,
    "SSD_TOTAL_GB": 81920.0,
}
_HELP: Final = "https://cloud.google.com/compute/docs/resource-quotas"


class Quotas:
    """All quotas of the region."""

    def __init__(self, project: Project, faults: Faults) -> None:
        self._project = project
        self._faults = faults

    def shown(self) -> list[Json]:
        """As in a region."""
        used = self._used()
        return [{"metric": name, "limit": self._limit(name), "usage": used[name]} for name in _LIMITS]

    def refusal(self, wanted: Mapping[str, float]) -> Failed | None:
        """Why there cannot be so much more; None: there can."""
        used = self._used()
        if (cpus := self._faults.vcpus) is not None:  # the fault's limit is over all families
            metric = next((name for name in wanted if name.endswith("CPUS")), "CPUS")
            count = sum(amount for name, amount in wanted.items() if name.endswith("CPUS"))
            if sum(vm.machine_type.vcpus for vm in self._up()) + count > cpus:
                return self._exceeded(metric, float(cpus))
        for name, amount in wanted.items():
            if name and used[name] + amount > self._limit(name):
                return self._exceeded(name, self._limit(name))
        return None

    def _exceeded(self, metric: str, limit: float) -> Failed:
        region = self._project.region
        info = {
            "reason": "QUOTA_EXCEEDED",
            "domain": "compute.googleapis.com",
            "metadatas": {"metricName": f"compute.googleapis.com/{metric.lower()}", "limit": f"{limit:g}"},
        }
        exceeded = {
            "metricName": f"compute.googleapis.com/{metric.lower()}",
            "limitName": f"{metric.replace('_', '-')}-per-project-region",
            "limit": limit,
            "dimensions": {"region": region},
        }
        return Failed(
            "QUOTA_EXCEEDED",
            f"Quota '{metric}' exceeded.  Limit: {limit:.1f} in region {region}.",
            [
                {"errorInfo": info},
                {"quotaInfo": exceeded},
                {"help": {"links": [{"description": "quotas", "url": _HELP}]}},
            ],
        )

    def _limit(self, name: str) -> float:
        cpus = self._faults.vcpus
        return float(cpus) if cpus is not None and name.endswith("CPUS") else _LIMITS[name]

    def _up(self) -> list[Vm]:
        """Those that hold their machine: a stopped one gives it back."""
        return [vm for vm in self._project.instances.values() if vm.life is not None and vm.life.state not in OFF]

    def _used(self) -> dict[str, float]:
        used: dict[str, float] = defaultdict(float)
        for vm in self._up():
            for name, amount in vm.counts.items():
                used[name] += amount
        used["INSTANCES"] = len(self._project.instances)
        for disk in self._project.disks.values():
            used[disk_metric(disk["type"])] += int(disk["sizeGb"])
        for address in self._project.addresses.values():
            if address["addressType"] == "EXTERNAL":
                used["STATIC_ADDRESSES"] += 1
        return used


def of_instance(machine_type: str, body: Json, vcpus: int) -> Counter[str]:
    """What an instance counts for while it runs."""
    used: Counter[str] = Counter()
    family = FAMILIES[machine_type.partition("-")[0]]
    spot = body.get("scheduling", {}).get("preemptible", False)
    if family.quota:
        used["PREEMPTIBLE_CPUS" if spot else family.quota] += vcpus
    for each in body.get("guestAccelerators", []):
        kind = ACCELERATORS[each["acceleratorType"].rpartition("/")[2]]
        if kind.quota:
            used[f"PREEMPTIBLE_{kind.quota}" if spot else kind.quota] += int(each["acceleratorCount"])
    used["IN_USE_ADDRESSES"] += sum(len(nic.get("accessConfigs", [])) for nic in body.get("networkInterfaces", []))
    return used


def disk_metric(disk_type: str) -> str:
    return "DISKS_TOTAL_GB" if disk_type.endswith("pd-standard") else "SSD_TOTAL_GB"
