"""The verbs on instances; those on their disks are in disks.py."""

from collections.abc import Callable, Mapping
from typing import Final

from providers.simcloud.fleet import Cause, Fleet, Life, State
from providers.simcloud.gce import checks, instance
from providers.simcloud.gce.asked import Asked, Verb
from providers.simcloud.gce.checks import check_labels, check_metadata, check_network_tags
from providers.simcloud.gce.disks import STALE_LABELS
from providers.simcloud.gce.errors import Failed, Refused, not_ready
from providers.simcloud.gce.images import Images
from providers.simcloud.gce.launch import Launcher
from providers.simcloud.gce.operations import Operation, Operations
from providers.simcloud.gce.paths import link
from providers.simcloud.gce.places import zonal
from providers.simcloud.gce.project import ID, Json, Project, Vm, Waiting, fingerprint, timestamp
from providers.simcloud.gce.request import resolve
from providers.simcloud.options import Options

# Seconds that an instance is PROVISIONING before it has its hardware and is STAGING, and that a zone takes to notice
# that it has none left; at most half of the boot.
_PREPARING: Final = 3.0
_STOPPED: Final = frozenset({State.STOPPED, State.TERMINATED})
_MOVING: Final = frozenset({State.PENDING, State.STOPPING, State.SHUTTING_DOWN})
_REPAIR: Final = 0.5  # seconds from a host's failure to the next start; Google takes minutes


class Instances:
    """Actions on instances, and what becomes of them by themselves."""

    def __init__(
        self,
        project: Project,
        fleet: Fleet,
        operations: Operations,
        launcher: Launcher,
        images: Images,
        options: Options,
    ) -> None:
        self._project = project
        self._fleet = fleet
        self._operations = operations
        self._launcher = launcher
        self._images = images
        self._visible_after = options.visible_after
        self.preparing = min(_PREPARING, options.boot_delay.mean / 2)

    def actions(self) -> Mapping[str, Verb]:
        return {
            **zonal(self._project.zones, "instances", "instance", self._of_zone),
            "instances.get": lambda asked: self._shown(self._vm(asked)),
            "instances.insert": self.insert,
            "instances.delete": self.delete,
            "instances.stop": self.stop,
            "instances.start": self.start,
            "instances.reset": self.reset,
            "instances.setLabels": self.set_labels,
            "instances.setMetadata": self.set_metadata,
            "instances.setTags": self.set_tags,
            "instances.setDeletionProtection": self.protect,
            "instances.getSerialPortOutput": self.console,
        }

    def insert(self, asked: Asked) -> Json:
        """Once per request id: a repeat is answered with the first one's operation."""
        path = f"projects/{ID}/zones/{asked.zone}/instances/{asked.body.get('name')}"
        if known := self._operations.known(asked.action, path, asked.request_id):
            return known.shown()
        plan = resolve(asked.body, asked.zone, self._project, self._images)
        checks.refuse_if_wrong(plan, self._project)
        unknown = self._visible_after.draw(self._project.random)
        return self._launcher.run(plan, asked, unknown, self.preparing)

    def delete(self, asked: Asked) -> Json:
        return self._change(asked, self._delete)

    def stop(self, asked: Asked) -> Json:
        return self._change(asked, self._stop)

    def start(self, asked: Asked) -> Json:
        return self._change(asked, self._start)

    def reset(self, asked: Asked) -> Json:
        return self._change(asked, self._reset)

    def set_labels(self, asked: Asked) -> Json:
        vm, labels = self._vm(asked), asked.body.get("labels") or {}
        check_labels(labels, "labels")
        if asked.body.get("labelFingerprint") != vm.body["labelFingerprint"]:
            raise Refused("conditionNotMet", STALE_LABELS, location="If-Match")
        vm.body["labels"], vm.body["labelFingerprint"] = dict(labels), fingerprint(labels)
        return self._at_once(asked, vm)

    def set_metadata(self, asked: Asked) -> Json:
        vm = self._vm(asked)
        check_metadata(asked.body, "resource")
        if asked.body.get("fingerprint") != vm.body["metadata"]["fingerprint"]:
            words = "Supplied fingerprint does not match current metadata fingerprint."
            raise Refused("conditionNotMet", words, location="If-Match")
        vm.body["metadata"] = instance.metadata(asked.body.get("items") or [])
        return self._at_once(asked, vm)

    def set_tags(self, asked: Asked) -> Json:
        vm, items = self._vm(asked), asked.body.get("items") or []
        check_network_tags(items, "resource.items")
        if asked.body.get("fingerprint") != vm.body["tags"]["fingerprint"]:
            words = "Supplied fingerprint does not match current tags fingerprint."
            raise Refused("conditionNotMet", words, location="If-Match")
        vm.body["tags"] = instance.tags(items)
        return self._at_once(asked, vm)

    def protect(self, asked: Asked) -> Json:
        vm = self._project.vm(asked.zone, asked.names["instance"])
        vm.body["deletionProtection"] = asked.query.get("deletionProtection", "true") == "true"
        return self._at_once(asked, vm)

    def console(self, asked: Asked) -> Json:
        vm = self._vm(asked)
        asked_start = int(asked.query.get("start", 0))
        port = int(asked.query.get("port", 1))
        text = vm.machine.console.text() if vm.machine is not None and port == 1 else ""
        start = asked_start if asked_start >= 0 else max(0, len(text) + asked_start)  # negative: so many, the newest
        return {
            "kind": "compute#serialPortOutput",
            "contents": text[start:],
            "start": str(start),
            "next": str(len(text)),
            "selfLink": link(f"{vm.path}/serialPort"),
        }

    # -- the fleet's news -------------------------------------------------------------------------

    def note_change(self, life: Life) -> None:
        """An instance has come to another state, by a call or by itself."""
        vm = self._project.all_instances[life.machine.id]
        if vm.life is not life and vm.life is not None:
            return  # of a machine that it has no more
        if life.state is State.RUNNING:
            vm.restarting = False
        if life.state is State.TERMINATED:
            self._ended(vm, life)
        elif life.state is State.STOPPED:
            vm.reason = "" if life.cause is Cause.ASKED else "the instance has shut itself down"
            vm.body["lastStopTimestamp"] = timestamp()
        for each in [each for each in vm.waiting if life.state in each.until]:
            vm.waiting.remove(each)
            self._operations.finish(each.operation)

    def _ended(self, vm: Vm, life: Life) -> None:
        """Deleted, or its host has failed: before it ever ran, it is no more; afterwards as its scheduling says."""
        scheduling = vm.body["scheduling"]
        stopped = [each for each in vm.waiting if life.state in each.until]
        for each in stopped:
            vm.waiting.remove(each)
            self._operations.finish(each.operation)
        unborn = any(each.operation.verb == "insert" for each in vm.waiting)
        reason = life.reason or ("" if vm.deleting else "INTERNAL_ERROR: Internal error on launch")
        if vm.deleting or unborn or scheduling.get("instanceTerminationAction") == "DELETE":
            self._launcher.forget(vm, reason if not vm.deleting else "deleted")
            return
        vm.reason = life.reason or "the instance's host has failed"
        for each in list(vm.waiting):  # a start that came to nothing
            vm.waiting.remove(each)
            self._operations.finish(each.operation, Failed("INTERNAL_ERROR", vm.reason))
        vm.body["lastStopTimestamp"] = timestamp()
        if scheduling["automaticRestart"] and life.cause is Cause.HOST:
            vm.restarting = True
            self._launcher.later(_REPAIR, lambda: self._restart(vm))

    def _restart(self, vm: Vm) -> None:
        """As Google does after a host's failure, unless the instance's scheduling forbids it."""
        if vm.gone or vm.deleting:
            return
        operation = self._operations.begin("instances.automaticRestart", f"zones/{vm.zone}", vm.path, vm.id)
        self._launcher.give_birth(vm, operation)

    # -- one change each ----------------------------------------------------------------------------

    def _change(self, asked: Asked, deed: Callable[[Vm, Operation], None]) -> Json:
        """A change that takes its time: its operation, or that of the call whose repeat it is. Raises Refused."""
        name = asked.names["instance"]
        path = f"projects/{ID}/zones/{asked.zone}/instances/{name}"
        if known := self._operations.known(asked.action, path, asked.request_id):
            return known.shown()
        vm = self._vm(asked)
        self._refuse_unready(vm, asked.action)
        operation = self._operations.begin(asked.action, f"zones/{vm.zone}", path, vm.id, asked.request_id)
        deed(vm, operation)
        return operation.shown()

    def _refuse_unready(self, vm: Vm, action: str) -> None:
        if action == "instances.delete":
            if vm.body["deletionProtection"]:
                words = "Resource cannot be deleted if it's protected against deletion."
                raise Refused("invalidResourceUsage", f"Invalid resource usage: '{words}'.")
            return
        if vm.life is None or vm.deleting or vm.restarting or vm.life.state in _MOVING:
            raise not_ready(vm.path)

    def _delete(self, vm: Vm, operation: Operation) -> None:
        vm.waiting.append(Waiting(operation, frozenset()))  # done when it is forgotten
        if vm.deleting or vm.life is None:
            return
        vm.deleting = True
        if vm.life.state is State.TERMINATED:
            self._operations.soon(lambda: self._launcher.forget(vm, "deleted"))
        else:
            self._fleet.terminate(vm.id)

    def _stop(self, vm: Vm, operation: Operation) -> None:
        if vm.off:
            self._operations.soon(lambda: self._operations.finish(operation))
            return
        vm.waiting.append(Waiting(operation, _STOPPED))
        self._fleet.stop(vm.id)

    def _start(self, vm: Vm, operation: Operation) -> None:
        if not vm.off:
            self._operations.soon(lambda: self._operations.finish(operation))
        elif failure := self._launcher.shortage(vm):
            self._operations.soon(lambda: self._operations.finish(operation, failure))
        else:
            vm.body["lastStartTimestamp"] = timestamp()
            self._launcher.give_birth(vm, operation)

    def _reset(self, vm: Vm, operation: Operation) -> None:
        self._fleet.reboot(vm.id)
        self._operations.soon(lambda: self._operations.finish(operation))

    # -- reading --------------------------------------------------------------------------------------

    def _vm(self, asked: Asked) -> Vm:
        return self._project.vm(asked.zone, asked.names["instance"])

    def _shown(self, vm: Vm) -> Json:
        return instance.shown(vm, self._project.now(), self.preparing)

    def _of_zone(self, zone: str) -> list[Json]:
        now, all_of_them = self._project.now(), self._project.instances.values()
        return [self._shown(vm) for vm in all_of_them if vm.zone == zone and now >= vm.visible_from]

    def _at_once(self, asked: Asked, vm: Vm) -> Json:
        return self._operations.at_once(asked.action, f"zones/{vm.zone}", vm.path, vm.id, asked.request_id)
