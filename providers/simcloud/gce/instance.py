"""An instance as Google shows it: what was asked for with everything filled in, and its state over time."""

from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Any, Final

from providers.simcloud.fleet import State
from providers.simcloud.gce.networks import NETWORK_PATH
from providers.simcloud.gce.paths import link
from providers.simcloud.gce.project import ID, SERVICE_ACCOUNT, Json, Vm, fingerprint, timestamp
from providers.simcloud.gce.request import DiskPlan, NicPlan, Plan

_KEPT: Final = (
    "description", "canIpForward", "hostname", "minCpuPlatform", "reservationAffinity", "deletionProtection",
    "advancedMachineFeatures", "displayDevice", "networkPerformanceConfig", "resourcePolicies",
    "keyRevocationActionType",
)  # fmt: skip
_STATES: Final = {
    State.RUNNING: "RUNNING",
    State.STOPPING: "STOPPING",
    State.SHUTTING_DOWN: "STOPPING",
    State.STOPPED: "TERMINATED",
    State.TERMINATED: "TERMINATED",
}


def shown(vm: Vm, now: float, preparing: float) -> Json:
    """What get and list answer. `preparing` is how long after its birth it is still PROVISIONING."""
    return {**vm.body, "status": status(vm, now, preparing)}


def status(vm: Vm, now: float, preparing: float) -> str:
    """As Google names it; TERMINATED is one that has stopped, and can be started."""
    if vm.deleting:
        return "STOPPING"
    if vm.restarting:
        return "REPAIRING"
    if vm.life is None:
        return "PROVISIONING"
    if vm.life.state is State.PENDING:
        return "PROVISIONING" if now - vm.born < preparing else "STAGING"
    return _STATES[vm.life.state]


def body(plan: Plan, id: str, address: IPv4Address, external: str, subnetwork: str) -> Json:
    """A new instance's, all but its status."""
    path = f"projects/{ID}/zones/{plan.zone}/instances/{plan.name}"
    asked = plan.body
    made: Json = {
        "kind": "compute#instance",
        "id": id,
        "creationTimestamp": timestamp(),
        "name": plan.name,
        "tags": tags((asked.get("tags") or {}).get("items") or []),
        "machineType": link(f"projects/{ID}/zones/{plan.zone}/machineTypes/{plan.machine_type.name}"),
        "zone": link(f"projects/{ID}/zones/{plan.zone}"),
        "canIpForward": False,
        "networkInterfaces": [_interface(nic, n, address, external, subnetwork) for n, nic in enumerate(plan.nics)],
        "disks": [attached(disk, n, plan.zone, plan.tee) for n, disk in enumerate(plan.disks)],
        "metadata": metadata((asked.get("metadata") or {}).get("items") or []),
        "serviceAccounts": [_account(each) for each in asked.get("serviceAccounts") or []],
        "selfLink": link(path),
        "scheduling": _scheduling(plan),
        "cpuPlatform": asked.get("minCpuPlatform") or plan.machine_type.platform,
        "labels": dict(asked.get("labels") or {}),
        "startRestricted": False,
        "deletionProtection": False,
        "shieldedInstanceConfig": {
            "enableSecureBoot": False,
            "enableVtpm": True,
            "enableIntegrityMonitoring": True,
            **(asked.get("shieldedInstanceConfig") or {}),
        },
        "shieldedInstanceIntegrityPolicy": {"updateAutoLearnPolicy": True},
        "lastStartTimestamp": timestamp(),
        **{name: asked[name] for name in _KEPT if asked.get(name) is not None},
    }
    if plan.gpus:
        accelerators = f"projects/{ID}/zones/{plan.zone}/acceleratorTypes"
        made["guestAccelerators"] = [
            {"acceleratorType": link(f"{accelerators}/{name}"), "acceleratorCount": n} for name, n in plan.gpus.items()
        ]
    if asked.get("confidentialInstanceConfig"):
        made["confidentialInstanceConfig"] = dict(asked["confidentialInstanceConfig"])
    for name in ("labels", "serviceAccounts"):
        if not made[name]:
            del made[name]
    made["labelFingerprint"] = fingerprint(made.get("labels", {}))
    made["fingerprint"] = fingerprint(made)
    return made


def tags(items: list[str]) -> Json:
    """Network tags."""
    return {**({"items": items} if items else {}), "fingerprint": fingerprint(items)}


def metadata(items: list[Json]) -> Json:
    kept = [dict(item) for item in items]
    made: Json = {"kind": "compute#metadata", "fingerprint": fingerprint(kept)}
    return {**made, "items": kept} if kept else made


def attached(disk: DiskPlan, index: int, zone: str, tee: str) -> Json:
    """A disk as its instance shows it."""
    interface = disk.asked.get("interface") or ("NVME" if tee else "SCSI")
    source = {} if disk.scratch else {"source": link(f"projects/{ID}/zones/{zone}/disks/{disk.name}")}
    made: Json = {
        "kind": "compute#attachedDisk",
        "type": "SCRATCH" if disk.scratch else "PERSISTENT",
        "mode": disk.asked.get("mode") or "READ_WRITE",
        **source,
        "deviceName": disk.device,
        "index": index,
        "boot": disk.boot,
        "autoDelete": bool(disk.asked.get("autoDelete")),
        "interface": interface,
        "diskSizeGb": str(disk.gib),
    }
    if disk.features:
        made["guestOsFeatures"] = [{"type": each} for each in sorted(disk.features)]
    if disk.architecture:
        made["architecture"] = disk.architecture
    return made


def _interface(nic: NicPlan, index: int, address: IPv4Address, external: str, subnetwork: str) -> Json:
    made: Json = {
        "kind": "compute#networkInterface",
        "network": link(NETWORK_PATH),
        "subnetwork": link(subnetwork),
        "networkIP": str(address),
        "name": f"nic{index}",
        "stackType": nic.asked.get("stackType") or "IPV4_ONLY",
    }
    if address.is_unspecified:  # there was none left: its insert fails
        del made["networkIP"]
    if nic.asked.get("nicType"):
        made["nicType"] = nic.asked["nicType"]
    if nic.external:
        config: Mapping[str, Any] = (nic.asked.get("accessConfigs") or [{}])[0]
        made["accessConfigs"] = [
            {
                "kind": "compute#accessConfig",
                "type": "ONE_TO_ONE_NAT",
                "name": config.get("name") or "external-nat",
                "natIP": config.get("natIP") or external,
                "networkTier": config.get("networkTier") or "PREMIUM",
            }
        ]
    made["fingerprint"] = fingerprint(made)
    return made


def _account(asked: Json) -> Json:
    email = asked.get("email") or "default"
    return {"email": SERVICE_ACCOUNT if email == "default" else email, "scopes": list(asked.get("scopes") or [])}


def _scheduling(plan: Plan) -> Json:
    """With Google's defaults: what cannot be moved to another host is stopped instead, spot is never started again."""
    made = {
        "onHostMaintenance": "TERMINATE" if plan.spot else "MIGRATE",
        "automaticRestart": not plan.spot,
        "preemptible": plan.spot,
        "provisioningModel": "SPOT" if plan.spot else "STANDARD",
    }
    made |= {name: value for name, value in plan.scheduling.items() if value not in (None, "")}
    made["preemptible"] = plan.spot
    return made
