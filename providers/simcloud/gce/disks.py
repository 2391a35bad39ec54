"""Disks: made by themselves or with an instance, attached, let go."""

from collections.abc import Mapping
from typing import Any, Final

from providers.simcloud.gce import instance
from providers.simcloud.gce.asked import Asked, Verb
from providers.simcloud.gce.checks import check_free, check_labels, check_size
from providers.simcloud.gce.errors import Refused, exists, in_use, invalid, not_found, required
from providers.simcloud.gce.images import Images
from providers.simcloud.gce.operations import Operations
from providers.simcloud.gce.paths import check_name, link
from providers.simcloud.gce.places import zonal
from providers.simcloud.gce.project import ID, Json, Project, Vm, fingerprint, timestamp
from providers.simcloud.gce.request import DiskPlan, Plan, plan_disk

STALE_LABELS: Final = "Labels fingerprint either invalid or resource labels have changed"
_USUAL_GIB: Final = 500  # of a disk without size and image
_MOST_ATTACHED: Final = 128
_MOST_CONFIDENTIAL: Final = 40


class Disks:
    """Actions on disks, and on an instance's disks."""

    def __init__(self, project: Project, operations: Operations, images: Images) -> None:
        self._project = project
        self._operations = operations
        self._images = images

    def actions(self) -> Mapping[str, Verb]:
        return {
            **zonal(self._project.zones, "disks", "disk", self._of_zone),
            "disks.insert": self.insert,
            "disks.delete": self.delete,
            "disks.setLabels": self.set_labels,
            "disks.resize": self.resize,
            "instances.attachDisk": self.attach,
            "instances.detachDisk": self.detach,
        }

    def insert(self, asked: Asked) -> Json:
        body, zone = asked.body, asked.zone
        name = body.get("name") or ""
        if not name:
            raise required("resource.name")
        check_name(name)
        if known := self._known(asked, name):
            return known
        check_labels(body.get("labels") or {}, "resource.labels")
        params = {
            "diskType": body.get("type") or f"zones/{zone}/diskTypes/pd-standard",
            "sourceImage": body.get("sourceImage") or asked.query.get("sourceImage") or "",
            "diskSizeGb": body.get("sizeGb") or "",
            **{key: body[key] for key in ("labels", "description") if body.get(key)},
        }
        asked_disk = {"initializeParams": {key: value for key, value in params.items() if value}}
        plan = plan_disk(asked_disk, "resource", zone, name, 0, self._project, self._images)
        plan.name = name
        if not body.get("sizeGb") and plan.image is None:
            plan.gib = _USUAL_GIB
        check_size(plan, "resource.sizeGb")
        if (zone, name) in self._project.disks:
            raise exists(_path(zone, name))
        disk = self._make(plan, zone)
        return self._done(asked, zone, disk)

    def delete(self, asked: Asked) -> Json:
        disk, zone = self._disk(asked.zone, asked.names["disk"]), asked.zone
        if known := self._known(asked, disk["name"]):
            return known
        if disk.get("users"):
            raise in_use("disk", _path(zone, disk["name"]), _short(disk["users"][0]))
        del self._project.disks[zone, disk["name"]]
        return self._done(asked, zone, disk)

    def set_labels(self, asked: Asked) -> Json:
        disk = self._disk(asked.zone, asked.names["resource"])
        relabel(disk, asked.body)
        return self._done(asked, asked.zone, disk)

    def resize(self, asked: Asked) -> Json:
        disk = self._disk(asked.zone, asked.names["disk"])
        size = int(asked.body.get("sizeGb") or 0)
        if size <= int(disk["sizeGb"]):
            raise invalid("sizeGb", size, f"New disk size must be larger than the current size ({disk['sizeGb']} GB).")
        disk["sizeGb"] = str(size)
        return self._done(asked, asked.zone, disk)

    def attach(self, asked: Asked) -> Json:
        vm = self._project.vm(asked.zone, asked.names["instance"])
        path = f"projects/{ID}/zones/{asked.zone}/instances/{vm.name}"
        if known := self._operations.known(asked.action, path, asked.request_id):
            return known.shown()
        index = max((disk["index"] for disk in vm.body["disks"]), default=-1) + 1
        plan = plan_disk(asked.body, "resource", asked.zone, vm.name, index, self._project, self._images)
        if plan.existing is None:
            raise required("resource.source")
        check_free(plan, asked.zone, self._project)
        confidential = bool(vm.body.get("confidentialInstanceConfig"))
        if len(vm.body["disks"]) >= (_MOST_CONFIDENTIAL if confidential else _MOST_ATTACHED):
            raise Refused("limitExceeded", "Exceeded limit 'maximum_persistent_disks' on resource. Limit: 128.0")
        if any(disk["deviceName"] == plan.device for disk in vm.body["disks"]):
            raise invalid("resource.deviceName", plan.device, "Device name is already in use by the instance.")
        vm.body["disks"].append(instance.attached(plan, index, asked.zone, "TEE" if confidential else ""))
        plan.existing.setdefault("users", []).append(vm.body["selfLink"])
        scope = f"zones/{asked.zone}"
        return self._operations.at_once(asked.action, scope, path, vm.id, asked.request_id)

    def detach(self, asked: Asked) -> Json:
        vm = self._project.vm(asked.zone, asked.names["instance"])
        path = f"projects/{ID}/zones/{asked.zone}/instances/{vm.name}"
        if known := self._operations.known(asked.action, path, asked.request_id):
            return known.shown()
        device = asked.query.get("deviceName", "")
        found = [disk for disk in vm.body["disks"] if disk["deviceName"] == device]
        if not found:
            raise invalid("deviceName", device, f"No attached disk found with device name '{device}'.")
        if found[0]["boot"] and vm.life is not None and not vm.off:
            raise Refused("invalid", "Cannot detach the boot disk of a running instance.")
        vm.body["disks"].remove(found[0])
        self._free(found[0], vm)
        return self._operations.at_once(asked.action, f"zones/{asked.zone}", path, vm.id, asked.request_id)

    # -- with an instance -------------------------------------------------------------------------

    def made_for(self, plan: Plan, vm: Vm) -> None:
        """Its new disks are made, and all of them are its."""
        for disk in plan.disks:
            if not disk.scratch:
                resource = disk.existing if disk.existing is not None else self._make(disk, plan.zone)
                resource.setdefault("users", []).append(vm.body["selfLink"])

    def let_go(self, vm: Vm) -> None:
        """It is gone: what was to go with it goes, the others are free."""
        for disk in vm.body["disks"]:
            self._free(disk, vm)
            if disk["autoDelete"] and "source" in disk:
                self._project.disks.pop((vm.zone, disk["source"].rpartition("/")[2]), None)

    def _free(self, attached: Json, vm: Vm) -> None:
        disk = self._project.disks.get((vm.zone, attached.get("source", "").rpartition("/")[2]))
        if disk is None or vm.body["selfLink"] not in disk.get("users", []):
            return
        disk["users"].remove(vm.body["selfLink"])
        disk["lastDetachTimestamp"] = timestamp()
        if not disk["users"]:
            del disk["users"]

    def _make(self, plan: DiskPlan, zone: str) -> Json:
        params: Mapping[str, Any] = plan.asked.get("initializeParams") or {}
        labels = dict(params.get("labels") or {})
        disk: Json = {
            "kind": "compute#disk",
            "id": self._project.new_id(),
            "creationTimestamp": timestamp(),
            "name": plan.name,
            "sizeGb": str(plan.gib),
            "zone": self._project.zone_link(zone),
            "status": "READY",
            "selfLink": link(_path(zone, plan.name)),
            "type": link(f"projects/{ID}/zones/{zone}/diskTypes/{plan.kind}"),
            "labelFingerprint": fingerprint(labels),
            "physicalBlockSizeBytes": "4096",
        }
        if plan.image is not None:
            disk |= {"sourceImage": plan.image["selfLink"], "sourceImageId": plan.image["id"]}
            disk |= {"architecture": plan.architecture, "guestOsFeatures": plan.image["guestOsFeatures"]}
        if labels:
            disk["labels"] = labels
        if params.get("description"):
            disk["description"] = params["description"]
        self._project.disks[zone, plan.name] = disk
        return disk

    def _of_zone(self, zone: str) -> list[Json]:
        return [disk for (where, _), disk in self._project.disks.items() if where == zone]

    def _disk(self, zone: str, name: str) -> Json:
        for disk in self._of_zone(zone):
            if name in (disk["name"], disk["id"]):
                return disk
        raise not_found(_path(zone, name))

    def _known(self, asked: Asked, name: str) -> Json | None:
        known = self._operations.known(asked.action, _path(asked.zone, name), asked.request_id)
        return known.shown() if known else None

    def _done(self, asked: Asked, zone: str, disk: Json) -> Json:
        path = _path(zone, disk["name"])
        return self._operations.at_once(asked.action, f"zones/{zone}", path, disk["id"], asked.request_id)


def relabel(resource: Json, body: Json) -> None:
    """SetLabels. Raises Refused, with 412 when somebody else has changed them meanwhile."""
    check_labels(body.get("labels") or {}, "labels")
    if body.get("labelFingerprint") != resource["labelFingerprint"]:
        raise Refused("conditionNotMet", STALE_LABELS, location="If-Match")
    resource["labels"] = dict(body.get("labels") or {})
    resource["labelFingerprint"] = fingerprint(resource["labels"])


def _path(zone: str, name: str) -> str:
    return f"projects/{ID}/zones/{zone}/disks/{name}"


def _short(url: str) -> str:
    return url.partition("/v1/")[2]
