"""A virtual machine as it is, and as GET and instanceView show it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.operations import Operation
from providers.simcloud.arm.quotas import Load
from providers.simcloud.arm.skus import Size
from providers.simcloud.arm.state import Resource
from providers.simcloud.fleet import Life, State


@dataclass(eq=False, slots=True)
class Vm:
    """What is known of one beyond its resource. Times are monotonic seconds."""

    resource: Resource
    id: str  # vmId: its own, whatever comes later under the same name
    size: Size
    spot: bool
    zone: str
    visible_at: float = 0.0  # from when on it is shown
    user_data: str = ""
    agent: bool = True  # whether Azure waits for the operating system's word
    life: Life | None = None  # None: it never found a place
    settled: bool = False  # its first start has succeeded
    ready_at: float | None = None  # when the operating system reports
    failed: Refused | None = None
    fails_at: float = 0.0
    released: bool = False  # deallocated: it takes no place and no quota
    deleting: bool = False
    gone: bool = False
    creation: Operation | None = None
    changed: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def load(self) -> Load | None:
        """What it counts against quotas; None: nothing."""
        return None if self.gone or self.released or self.life is None else Load(self.size, self.spot)

    def settle(self, now: float) -> None:
        """Time has gone by: the operating system may have reported."""
        if not self.settled and self.failed is None and self.ready_at is not None and now >= self.ready_at:
            self.settled = True

    def provisioning(self, now: float) -> str:
        """Its provisioningState."""
        self.settle(now)
        if self.deleting:
            return "Deleting"
        if self.failed is not None and now >= self.fails_at:
            return "Failed"
        return "Succeeded" if self.settled else "Creating"

    def power(self) -> str:
        """The word after PowerState/; empty when there is none."""
        if self.life is None:
            return ""
        if self.life.state in (State.PENDING, State.RUNNING):
            return "starting" if self.life.state is State.PENDING else "running"
        if self.deleting:
            return "stopping"
        ending = self.life.state in (State.STOPPING, State.SHUTTING_DOWN)
        return (
            ("deallocating" if self.released else "stopping")
            if ending
            else "deallocated"
            if self.released
            else "stopped"
        )


def shown(vm: Vm, now: float, expand: str = "") -> dict[str, Any]:
    """As GET shows it. `expand`: instanceView or userData."""
    properties = {**vm.resource.properties, "provisioningState": vm.provisioning(now)}
    if "instanceview" in expand.lower():
        properties["instanceView"] = instance_view(vm, now)
    if "userdata" in expand.lower() and vm.user_data:
        properties["userData"] = vm.user_data
    return {**vm.resource.body, "etag": vm.resource.etag, "properties": properties}


def instance_view(vm: Vm, now: float) -> dict[str, Any]:
    """Its statuses: how it was provisioned, and whether it is on."""
    state, when = vm.provisioning(now), vm.changed.isoformat()
    disks = vm.resource.properties["storageProfile"]
    statuses = [_provisioning(vm, state, when)]
    if power := vm.power():
        statuses.append({"code": f"PowerState/{power}", "level": "Info", "displayStatus": f"VM {power}"})
    made: dict[str, Any] = {
        "disks": [
            {
                "name": disk["name"],
                "statuses": [{"code": "ProvisioningState/succeeded", "level": "Info", "time": when}],
            }
            for disk in [disks["osDisk"], *disks["dataDisks"]]
        ],
        "hyperVGeneration": "V2",
        "statuses": statuses,
    }
    if vm.agent and vm.settled and power == "running":
        ready = {"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Ready", "time": when}
        made["vmAgent"] = {"vmAgentVersion": "2.11.1.4", "statuses": [ready]}
    return made


def _provisioning(vm: Vm, state: str, when: str) -> dict[str, Any]:
    if state == "Failed" and vm.failed is not None:
        return {
            "code": f"ProvisioningState/failed/{vm.failed.code}",
            "level": "Error",
            "displayStatus": "Provisioning failed",
            "message": vm.failed.message,
            "time": when,
        }
    code = {"Creating": "ProvisioningState/creating", "Deleting": "ProvisioningState/deleting"}.get(state)
    shown = {"Creating": "Creating", "Deleting": "Deleting"}.get(state, "Provisioning succeeded")
    return {"code": code or "ProvisioningState/succeeded", "level": "Info", "displayStatus": shown, "time": when}
