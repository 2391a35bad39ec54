"""A virtual machine's way onto the fleet: whether there is a place, and what Azure says when there is none."""

import random
from collections.abc import Callable
from ipaddress import IPv4Interface, IPv4Network
from typing import Final

from providers.simcloud.arm.desk import Desk
from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.nics import Network
from providers.simcloud.arm.state import NIC
from providers.simcloud.arm.vm_rules import Plan, no_room_here
from providers.simcloud.arm.vm_view import Vm
from providers.simcloud.fleet import ENDED, Fleet
from providers.simcloud.machines.base import Machine, Metadata
from providers.simcloud.machines.console import LONG, Console

# What a pool is asked about when the VM names no zone: the region decides.
_REGIONAL: Final = ""


class Launcher:
    """All launches. `metadata` makes what a machine learns about itself."""

    def __init__(self, desk: Desk, network: Network, metadata: Callable[[Vm], Metadata]) -> None:
        self._desk = desk
        self._network = network
        self._metadata = metadata

    def refuse_if_restricted(self, plan: Plan, fleet: Fleet) -> None:
        """A pool that holds nothing and never did is a size that is not sold there: Azure knows before it tries."""
        for pool in self._desk.faults.pools:
            covers = pool.covers(plan.size.name, plan.zone or _REGIONAL)
            used = any(pool in life.machine.pools for life in fleet.lives.values() if life.state not in ENDED)
            if covers and pool.free <= 0 and not used:
                raise no_room_here(plan.size, self._desk.world.region, plan.zone)

    def launch(self, vm: Vm, plan: Plan, fleet: Fleet) -> None:
        """Onto the fleet; or it fails later, as an allocation does."""
        if self._desk.faults.room(vm.size.name, vm.zone, 1) < 1:
            vm.failed = Refused("ZonalAllocationFailed" if vm.zone else "AllocationFailed")
            vm.fails_at = self._desk.now() + self._desk.options.boot_delay.draw(self._desk.random)
            return
        computer = (vm.resource.properties.get("osProfile") or {}).get("computerName") or plan.name
        self._start(vm, computer, fleet)

    def relaunch(self, vm: Vm, fleet: Fleet) -> None:
        """Start one whose host has failed. Raises Refused when there is no room for it."""
        if self._desk.faults.room(vm.size.name, vm.zone, 1) < 1:
            raise Refused("ZonalAllocationFailed" if vm.zone else "AllocationFailed")
        computer = (vm.resource.properties.get("osProfile") or {}).get("computerName") or vm.resource.name
        self._start(vm, computer, fleet)

    def left(self, vm: Vm) -> float:
        """Seconds until it is likely provisioned."""
        if vm.ready_at is not None:
            return vm.ready_at - self._desk.now()
        options = self._desk.options
        return options.boot_delay.mean + (options.agent_delay.mean if vm.agent else 0.0)

    def agent_delay(self) -> float:
        """Seconds from running until the operating system reports."""
        return self._desk.options.agent_delay.draw(self._desk.random)

    def _start(self, vm: Vm, computer: str, fleet: Fleet) -> None:
        nic = self._desk.world.find(_primary(vm), NIC)
        assert nic is not None, "a VM has its interfaces before it starts"
        configuration = nic.properties["ipConfigurations"][0]["properties"]
        subnet = self._desk.world.find(configuration["subnet"]["id"])
        assert subnet is not None
        prefix = IPv4Network(subnet.properties["addressPrefix"]).prefixlen
        vm.life = fleet.launch(
            Machine(
                id=vm.id,
                hostname=computer,
                address=IPv4Interface(f"{configuration['privateIPAddress']}/{prefix}"),
                mac=nic.properties["macAddress"].replace("-", ":").lower(),
                metadata=self._metadata(vm),
                pools=self._desk.faults.occupy(vm.size.name, vm.zone),
                console=Console(LONG),
            )
        )


def _primary(vm: Vm) -> str:
    interfaces = vm.resource.properties["networkProfile"]["networkInterfaces"]
    primary = [each for each in interfaces if (each.get("properties") or {}).get("primary")]
    return str((primary or interfaces)[0]["id"])


def seeded(seed: int | None) -> random.Random:
    """Spreads what is drawn here, and not in the fleet."""
    return random.Random(None if seed is None else f"{seed}/arm")  # noqa: S311
