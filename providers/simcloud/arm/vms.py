"""Virtual machines: made at most once per name, started on the fleet, and taken down with what goes with them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

from azure.mgmt.compute import models

from providers.simcloud.arm import quotas, schema, skus, vm_disks, vm_rules, vm_shape, vm_view
from providers.simcloud.arm.desk import Asked, Desk, Handlers, Reply, check_etag
from providers.simcloud.arm.errors import Refused, no_resource
from providers.simcloud.arm.listing import page
from providers.simcloud.arm.operations import DONE, Operation, Outcome
from providers.simcloud.arm.state import VM, id_of
from providers.simcloud.arm.tags import check as check_tags
from providers.simcloud.arm.vm_belongings import Belongings
from providers.simcloud.arm.vm_launch import Launcher
from providers.simcloud.arm.vm_login import USER_DATA_LIMIT, check_data
from providers.simcloud.arm.vm_rules import Plan
from providers.simcloud.arm.vm_view import Vm
from providers.simcloud.fleet import ENDED, Cause, Fleet, Life, State

_PREEMPTED: Final = Outcome(
    Refused("OperationPreempted", "Operation execution has been preempted by a more recent operation."), canceled=True
)


class Machines:
    """All virtual machines and their actions. `fleet` is given before the first request comes."""

    fleet: Fleet

    def __init__(self, desk: Desk, belongings: Belongings, launcher: Launcher) -> None:
        self._desk = desk
        self._belongings = belongings
        self._launcher = launcher
        self.known: dict[str, Vm] = {}  # by resource id in lower case
        self.all: dict[str, Vm] = {}  # by vmId, every one there has been, oldest first

    def handlers(self) -> Handlers:
        """By action."""
        return {
            "VirtualMachines.CreateOrUpdate": self._put,
            "VirtualMachines.Update": self._update,
            "VirtualMachines.Get": lambda asked: Reply(body=self._shown(self.visible(asked), asked)),
            "VirtualMachines.Delete": self._delete,
            "VirtualMachines.List": self._list,
            "VirtualMachines.ListAll": self._list,
            "VirtualMachines.ListByLocation": self._list,
            "VirtualMachines.InstanceView": self._instance_view,
            "VirtualMachines.Start": self._start,
            "VirtualMachines.Restart": self._restart,
            "VirtualMachines.PowerOff": lambda asked: self._stop(asked, release=False),
            "VirtualMachines.Deallocate": lambda asked: self._stop(asked, release=True),
            "VirtualMachines.AttachDetachDataDisks": self._attach_disks,
            "VirtualMachines.SimulateEviction": self._evict,
        }

    # -- made and changed -------------------------------------------------------------------------

    def _put(self, asked: Asked) -> Reply:
        body = schema.cleaned(models.VirtualMachine, asked.body)
        vm = self._find(asked)
        check_etag(asked, vm.resource if vm else None)
        if vm is None:
            return self._create(asked, body)
        self._refuse_if_deleted(vm, "PUT")
        profile = (body.get("properties") or {}).get("osProfile") or {}
        vm_shape.refuse_change(vm.resource.body, body, profile.get("customData"))
        if vm.provisioning(self._desk.now()) == "Failed" and (vm.life is None or vm.life.state in ENDED):
            return self._create(asked, body, again=vm)
        return self._change(asked, vm, body)

    def _create(self, asked: Asked, body: Mapping[str, Any], again: Vm | None = None) -> Reply:
        world, network = self._desk.world, self._belongings.network
        plan = vm_rules.check(asked.name, asked.group, body, world, network, world.region)
        loads = [load for vm in self.known.values() if (load := vm.load)]
        try:
            quotas.check(quotas.Load(plan.size, plan.spot), loads, self._desk.faults.vcpus, world.region)
            self._launcher.refuse_if_restricted(plan, self.fleet)
        except Refused:
            for nic, _ in plan.nics:
                network.reserve(nic, plan.vm_id)
            raise
        if again is not None:
            self._forget_failed(again, plan)
        vm = self._make(plan)
        if again is not None:
            vm.resource.revision = again.resource.revision + 1
        self._launcher.launch(vm, plan, self.fleet)
        operation = vm.creation = self._desk.operations.begin(
            vm.resource.id, self._until_created(vm), left=lambda: self._launcher.left(vm)
        )
        headers = operation.headers(asked.base, asked.version)
        return Reply(200 if again else 201, vm_view.shown(vm, self._desk.now()), headers)

    def _make(self, plan: Plan) -> Vm:
        vm_id = str(uuid4())
        interfaces = self._belongings.interfaces(plan)
        shape = vm_shape.body(plan, vm_id, interfaces)
        resource = self._desk.world.add(VM, plan.group, plan.name, location=self._desk.world.region, **shape)
        self._belongings.take(plan, resource)
        linux = (plan.properties.get("osProfile") or {}).get("linuxConfiguration") or {}
        vm = Vm(
            resource,
            vm_id,
            plan.size,
            plan.spot,
            plan.zone,
            visible_at=self._desk.now() + self._desk.options.visible_after.draw(self._desk.random),
            user_data=plan.properties.get("userData") or "",
            agent=linux.get("provisionVMAgent", True) and not plan.image.specialized,
        )
        self.known[resource.id.lower()] = self.all[vm_id] = vm
        return vm

    def _forget_failed(self, vm: Vm, plan: Plan) -> None:
        """A launch that found no place is tried anew: what it had taken is free for the next."""
        if vm.creation is not None:
            vm.creation.look()
        self._belongings.release(vm.resource, with_interfaces=not plan.nics)
        vm.gone = True

    def _until_created(self, vm: Vm) -> Callable[[], Outcome | None]:
        def ending() -> Outcome | None:
            now = self._desk.now()
            vm.settle(now)
            if vm.settled:
                return DONE
            if vm.failed is not None and now >= vm.fails_at:
                return Outcome(vm.failed)
            return _PREEMPTED if vm.deleting or vm.gone else None

        return ending

    def _change(self, asked: Asked, vm: Vm, body: Mapping[str, Any]) -> Reply:
        """A PUT or PATCH of what may change: tags, user data, size, identity."""
        check_tags(body.get("tags"))
        properties = body.get("properties") or {}
        check_data(properties.get("userData"), "userData", USER_DATA_LIMIT)
        if wanted := (properties.get("hardwareProfile") or {}).get("vmSize"):
            self._resize(vm, skus.size_of(wanted, self._desk.world.region))
        self._refuse_other_interfaces(vm, (properties.get("networkProfile") or {}).get("networkInterfaces"))
        if (asked_disks := (properties.get("storageProfile") or {}).get("dataDisks")) is not None:
            vm_disks.replace(vm, asked_disks, self._desk.world)
        if (user_data := properties.get("userData")) is not None:
            vm.user_data = user_data
        for key in ("tags", "identity"):
            if key in body:
                vm.resource.body[key] = body[key]
        vm.resource.revision += 1
        creation = vm.creation
        operation = self._desk.operations.begin(vm.resource.id, creation.look if creation else lambda: DONE)
        headers = operation.headers(asked.base, asked.version)
        return Reply(200, vm_view.shown(vm, self._desk.now()), headers)

    def _refuse_other_interfaces(self, vm: Vm, asked: Sequence[Mapping[str, Any]] | None) -> None:
        has = {each["id"].lower() for each in vm.resource.properties["networkProfile"]["networkInterfaces"]}
        if asked is not None and {str(each.get("id")).lower() for each in asked} != has:
            raise Refused(
                "AddingOrDeletingNetworkInterfacesOnARunningVirtualMachineNotSupported",
                f"Secondary network interfaces cannot be added or deleted from a running virtual machine: {vm.resource.name}"
                " (simcloud: nor from one that is deallocated).",
                status=409,
            )

    def _attach_disks(self, asked: Asked) -> Reply:
        body = schema.cleaned(models.AttachDetachDataDisksRequest, asked.body)
        vm = self._named(asked)
        self._refuse_if_deleted(vm, "attachDetachDataDisks")
        attach, detach = body.get("dataDisksToAttach") or [], body.get("dataDisksToDetach") or []
        vm_disks.attach_and_detach(vm, attach, detach, self._desk.world)
        vm.resource.revision += 1
        operation = self._desk.operations.begin(vm.resource.id)
        operation.result = vm.resource.properties["storageProfile"]
        return Reply(202, None, operation.headers(asked.base, asked.version, located=True))

    def _resize(self, vm: Vm, size: skus.Size) -> None:
        if size is vm.size:
            return
        if bool(size.tee) != bool(vm.size.tee) or size.arm != vm.size.arm:
            raise Refused(
                "OperationNotAllowed",
                f"Unable to resize the VM since changing from size {vm.size.name} to {size.name} is not allowed.",
                target="vmSize",
            )
        vm.size = size
        vm.resource.properties["hardwareProfile"]["vmSize"] = size.name

    def _update(self, asked: Asked) -> Reply:
        body = schema.cleaned(models.VirtualMachineUpdate, asked.body)
        vm = self._named(asked)
        check_etag(asked, vm.resource)
        self._refuse_if_deleted(vm, "PATCH")
        vm_shape.refuse_change(vm.resource.body, body, None)
        return self._change(asked, vm, body)

    # -- looked at --------------------------------------------------------------------------------

    def _list(self, asked: Asked) -> Reply:
        now = self._desk.now()
        if asked.names.get("location", self._desk.world.region).lower() != self._desk.world.region:
            return page(asked, [])
        wanted = asked.group.lower()
        found = [vm for vm in self.known.values() if wanted in ("", vm.resource.group.lower()) and now >= vm.visible_at]
        expand = (
            "instanceView" if asked.query.get("statusonly", "").lower() == "true" else asked.query.get("$expand", "")
        )
        return page(asked, [vm_view.shown(vm, now, expand) for vm in found])

    def _instance_view(self, asked: Asked) -> Reply:
        return Reply(body=vm_view.instance_view(self.visible(asked), self._desk.now()))

    def _shown(self, vm: Vm, asked: Asked) -> dict[str, Any]:
        return vm_view.shown(vm, self._desk.now(), asked.query.get("$expand", ""))

    # -- on and off -------------------------------------------------------------------------------

    def _start(self, asked: Asked) -> Reply:
        vm = self._named(asked)
        self._refuse_if_deleted(vm, "start")
        vm.released = False
        if vm.life is None or vm.life.state is State.TERMINATED:
            self._launcher.relaunch(vm, self.fleet)
        else:
            self.fleet.start(vm.id)
        return self._ordered(asked, vm, lambda: vm.power() in ("running", ""))

    def _restart(self, asked: Asked) -> Reply:
        vm = self._named(asked)
        self._refuse_if_deleted(vm, "restart")
        if vm.power() not in ("running", "starting"):
            raise Refused(
                "OperationNotAllowed",
                f"Operation 'restart' is not allowed on VM '{asked.name}' since it is not running.",
            )
        self.fleet.reboot(vm.id)
        return self._ordered(asked, vm, lambda: True)

    def _stop(self, asked: Asked, *, release: bool) -> Reply:
        vm = self._named(asked)
        self._refuse_if_deleted(vm, "deallocate" if release else "powerOff")
        vm.released = vm.released or release
        if vm.life is not None:
            self.fleet.stop(vm.id)
        return self._ordered(asked, vm, lambda: vm.power() in ("stopped", "deallocated", ""))

    def _evict(self, asked: Asked) -> Reply:
        vm = self._named(asked)
        if not vm.spot:
            raise Refused("OperationNotAllowed", "Only Azure Spot Virtual Machines can be evicted.")
        self.fleet.kill(vm.id, "Spot eviction")
        return Reply(204)

    def _ordered(self, asked: Asked, vm: Vm, done: Callable[[], bool]) -> Reply:
        operation = self._desk.operations.begin(vm.resource.id, lambda: DONE if done() or vm.gone else None)
        return Reply(202, None, operation.headers(asked.base, asked.version, located=True))

    # -- taken down -------------------------------------------------------------------------------

    def _delete(self, asked: Asked) -> Reply:
        vm = self._find(asked)
        if vm is None:
            return Reply(204)
        check_etag(asked, vm.resource)
        if vm.creation is not None:
            vm.creation.look()
        vm.deleting = True
        if vm.life is None or vm.life.state is State.TERMINATED:
            self._finish(vm)
        else:
            self.fleet.terminate(vm.id)
        operation: Operation = self._desk.operations.begin(
            vm.resource.id, lambda: DONE if vm.gone else None, left=lambda: self._desk.options.shutdown_delay.mean
        )
        return Reply(202, None, operation.headers(asked.base, asked.version, located=True))

    def _finish(self, vm: Vm) -> None:
        """It is gone, and with it what was to go."""
        if vm.gone:
            return
        vm.gone = True
        self.known.pop(vm.resource.id.lower(), None)
        self._belongings.part(vm)
        self._desk.world.remove(vm.resource)

    # -- news from the fleet ----------------------------------------------------------------------

    def note_change(self, life: Life) -> None:
        """The fleet's news, as Azure takes them."""
        vm = self.all[life.machine.id]
        if life.state is State.RUNNING and vm.ready_at is None:
            vm.ready_at = self._desk.now() + (self._launcher.agent_delay() if vm.agent else 0.0)
        vm.settle(self._desk.now())
        if life.cause is Cause.HOST and not vm.deleting:
            if not vm.settled and vm.failed is None:
                vm.failed = _reason(life.reason)
            elif vm.spot:
                policy = vm.resource.properties.get("evictionPolicy")
                vm.released, vm.deleting = True, policy == "Delete"
        if life.state is State.TERMINATED and vm.deleting:
            self._finish(vm)

    def machine_id(self, text: str) -> str:
        """The fleet's id of a VM given by resource id, name or vmId. Raises KeyError."""
        if text in self.all:
            return text
        for vm in reversed(self.all.values()):
            if text.lower() in (vm.resource.id.lower(), vm.resource.name.lower()):
                return vm.id
        raise KeyError(text)

    # -- both -------------------------------------------------------------------------------------

    def _find(self, asked: Asked) -> Vm | None:
        return self.known.get(id_of(VM, asked.group, asked.name).lower())

    def _named(self, asked: Asked) -> Vm:
        vm = self._find(asked)
        if vm is None:
            raise no_resource(VM, asked.name, asked.group)
        return vm

    def visible(self, asked: Asked) -> Vm:
        """The VM that is named, for whoever only looks: a new one may not be shown yet. Raises Refused."""
        vm = self._named(asked)
        if self._desk.now() < vm.visible_at:
            raise no_resource(VM, asked.name, asked.group)
        return vm

    def _refuse_if_deleted(self, vm: Vm, what: str) -> None:
        if vm.deleting:
            raise Refused(
                "OperationNotAllowed",
                f"Operation '{what}' is not allowed on VM '{vm.resource.name}' since the VM is marked for deletion. You can"
                " only retry the Delete operation (or wait for an ongoing one to complete).",
            )


def _reason(text: str) -> Refused:
    """`Code: sentence`, as a fault says it; without words of its own, Azure's own failure."""
    code, colon, message = text.partition(":")
    if colon and code.isalnum():
        return Refused(code, message.strip())
    return Refused("InternalExecutionError", text)
