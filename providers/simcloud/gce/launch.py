"""instances.insert: once per request id, refused at once or in its operation, none half-made."""

from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, Final

from providers.simcloud.faults import Faults
from providers.simcloud.fleet import Fleet, State
from providers.simcloud.gce import instance, metadata, quotas, tees
from providers.simcloud.gce.asked import Asked
from providers.simcloud.gce.disks import Disks
from providers.simcloud.gce.errors import Failed, exists, in_use
from providers.simcloud.gce.networks import Networks
from providers.simcloud.gce.operations import Operation, Operations
from providers.simcloud.gce.project import ID, Json, Project, Vm, Waiting
from providers.simcloud.gce.quotas import Quotas
from providers.simcloud.gce.request import Plan
from providers.simcloud.machines.base import Machine
from providers.simcloud.machines.console import LONG, Console

UP: Final = frozenset({State.RUNNING})
_EXTERNAL: Final = "203.0.113."  # a range for documentation: shown, not reachable
_SHORT: Final = "https://cloud.google.com/compute/docs/resource-error"
Later = Callable[[float, Callable[[], None]], Any]


class Launcher:
    """All inserts of the project."""

    def __init__(
        self,
        project: Project,
        fleet: Fleet,
        faults: Faults,
        operations: Operations,
        disks: Disks,
        networks: Networks,
        quotas: Quotas,
        later: Later,
    ) -> None:
        """`later` runs something after so many seconds."""
        self._project = project
        self._fleet = fleet
        self._faults = faults
        self._operations = operations
        self._disks = disks
        self._networks = networks
        self._quotas = quotas
        self.later = later

    def run(self, plan: Plan, asked: Asked, visible_after: float, preparing: float) -> Json:
        """The operation of an insert that is sound. Raises Refused, having done nothing.

        What runs out takes `preparing` seconds to be noticed: until then the instance is there, PROVISIONING.
        """
        self._refuse_taken(plan)
        failure, address = self._room(plan)
        vm = self._make(plan, address or IPv4Address(0))
        vm.visible_from = vm.born + visible_after
        operation = self._operations.begin(asked.action, f"zones/{plan.zone}", vm.path, vm.id, asked.request_id)
        if failure is None:
            self._disks.made_for(plan, vm)
            self.give_birth(vm, operation)
        else:
            self.later(preparing, lambda: self._vanish(vm, operation, failure, address))
        return operation.shown()

    def give_birth(self, vm: Vm, operation: Operation) -> None:
        """Have the fleet start it, for the first time or again: the operation is done when it runs."""
        if vm.machine is None:
            vm.machine = Machine(
                id=vm.id,
                hostname=vm.name,
                address=IPv4Interface(f"{vm.address}/{self._project.subnet.prefixlen}"),
                mac="42:01:" + ":".join(f"{byte:02x}" for byte in vm.address.packed),
                metadata=metadata.Metadata(self._project, vm).answer,
                console=Console(LONG),
            )
        vm.born = self._project.now()
        vm.waiting.append(Waiting(operation, UP))
        if vm.life is not None and vm.life.state is State.STOPPED:
            self._fleet.start(vm.id)
            return
        vm.machine.pools = self._faults.occupy(vm.machine_type.name, vm.zone)
        vm.life = self._fleet.launch(vm.machine)

    def shortage(self, vm: Vm) -> Failed | None:
        """Why it cannot be started again now."""
        if vm.life is not None and vm.life.state is State.STOPPED:  # its place has been kept
            return None
        if self._faults.room(vm.machine_type.name, vm.zone, 1) < 1:
            return self._exhausted(vm.machine_type.name, vm.zone, vm.body.get("guestAccelerators", []))
        return None

    def _refuse_taken(self, plan: Plan) -> None:
        if (plan.zone, plan.name) in self._project.instances:
            raise exists(f"projects/{ID}/zones/{plan.zone}/instances/{plan.name}")
        for disk in plan.disks:
            path = f"projects/{ID}/zones/{plan.zone}/disks/{disk.name}"
            if disk.existing is None and not disk.scratch and (plan.zone, disk.name) in self._project.disks:
                raise exists(path)
        for nic in plan.nics:
            if nic.reserved and nic.reserved.get("users"):
                raise in_use("address", nic.reserved["selfLink"].partition("/v1/")[2], nic.reserved["users"][0])

    def _room(self, plan: Plan) -> tuple[Failed | None, IPv4Address | None]:
        """What there is too little of, and the address that is taken for it in any case."""
        nic = plan.nics[0]
        address = nic.address if nic.reserved else self._project.take_address(nic.address)
        if address is None:
            if nic.address:
                words = f"IP '{nic.address}' is already being used by another resource."
                return Failed("IP_IN_USE_BY_ANOTHER_RESOURCE", words), None
            path = self._networks.subnetwork_path
            return Failed("IP_SPACE_EXHAUSTED", f"IP space of '{path}' is exhausted."), None
        wanted: Counter[str] = Counter({"INSTANCES": 1})
        kind = plan.machine_type
        wanted.update(quotas.of_instance(kind.name, instance.body(plan, "0", address, "", ""), kind.vcpus))
        for disk in plan.disks:
            if disk.existing is None and not disk.scratch:
                wanted[quotas.disk_metric(disk.kind)] += disk.gib
        if failure := self._quotas.refusal(wanted):
            return failure, address
        # A zone without the TEE is no fault of the request's to Google: it is like one that has none left. As seen by
        # others: github.com/kubernetes-sigs/cluster-api-provider-gcp/issues/1437.
        has_tee = not plan.tee or tees.has_in(plan.tee, kind.name, plan.zone)
        if not has_tee or self._faults.room(kind.name, plan.zone, 1) < 1:
            gpus = [{"acceleratorType": name, "acceleratorCount": n} for name, n in plan.gpus.items()]
            return self._exhausted(kind.name, plan.zone, gpus, detailed=not has_tee), address
        return None, address

    def _exhausted(self, kind: str, zone: str, gpus: list[Json], *, detailed: bool = False) -> Failed:
        others = [z for z in self._project.zones if z != zone and self._faults.room(kind, z, 1)]
        attachment = ",".join(f"{g['acceleratorType'].rpartition('/')[2]}:{g['acceleratorCount']}" for g in gpus)
        facts = {"attachment": attachment, "vmType": kind, "zone": zone, "zonesAvailable": ",".join(others)}
        with_gpu = f" with {attachment.replace(':', ' ')} accelerator(s)" if attachment else ""
        advice = f" Consider trying your request in the {', '.join(others)} zone(s)." if others else ""
        words = f"A {kind} VM instance{with_gpu} is currently unavailable in the {zone} zone.{advice}"
        details: list[Json] = [
            {"help": {"links": [{"description": "Troubleshooting documentation", "url": _SHORT}]}},
            {"localizedMessage": {"locale": "en-US", "message": words}},
            {
                "errorInfo": {
                    "reason": "resource_availability",
                    "domain": "compute.googleapis.com",
                    "metadatas": facts,
                }
            },
        ]
        path = f"projects/{ID}/zones/{zone}"
        poor = f"The zone '{path}' does not have enough resources available to fulfill the request."
        if gpus or detailed:
            return Failed("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", f"{poor}  '(resource type:compute)'.", details)
        return Failed("ZONE_RESOURCE_POOL_EXHAUSTED", f"{poor}  Try a different zone, or try again later.", details)

    def _make(self, plan: Plan, address: IPv4Address) -> Vm:
        project = self._project
        number = project.new_id()
        external = f"{_EXTERNAL}{len(project.all_instances) % 254 + 1}"
        body = instance.body(plan, number, address, external, self._networks.subnetwork_path)
        vm = Vm(number, plan.zone, body, plan.machine_type, project.now(), address)
        vm.counts = quotas.of_instance(vm.machine_type.name, body, vm.machine_type.vcpus)
        vm.tags = dict((plan.body.get("params") or {}).get("resourceManagerTags") or {})
        project.instances[vm.zone, vm.name] = vm
        project.all_instances[vm.id] = vm
        for nic in plan.nics:
            if nic.reserved is not None:
                nic.reserved |= {"status": "IN_USE", "users": [body["selfLink"]]}
                vm.reserved = True
        return vm

    def _vanish(self, vm: Vm, operation: Operation, failure: Failed, address: IPv4Address | None) -> None:
        self.forget(vm, failure.code + ": " + str(failure))
        self._operations.finish(operation, failure)

    def forget(self, vm: Vm, reason: str) -> None:
        """It is not there any more; its disks that were to go with it neither, and its address is free."""
        if vm.gone:
            return
        vm.gone, vm.reason = True, reason
        self._project.instances.pop((vm.zone, vm.name), None)
        self._disks.let_go(vm)
        held = [a for a in self._project.addresses.values() if vm.body["selfLink"] in a.get("users", [])]
        for each in held:
            each["status"] = "RESERVED"
            del each["users"]
        if not vm.reserved:
            self._project.free_address(vm.address)
        for waiting in vm.waiting:
            failure = None if waiting.operation.verb == "delete" else _gone(vm, reason)
            self._operations.finish(waiting.operation, failure)
        vm.waiting.clear()


def _gone(vm: Vm, reason: str) -> Failed:
    """Why an operation on it has not come to its end."""
    code, colon, words = reason.partition(": ")
    if colon and code.isupper():
        return Failed(code, words)
    return Failed("CONFLICT", f"The resource '{vm.path}' was deleted meanwhile")
