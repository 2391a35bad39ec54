"""What a virtual machine has: its interfaces, disks and addresses, and what becomes of them when it goes."""

import copy
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from providers.simcloud.arm import disks
from providers.simcloud.arm.disks import Disks
from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.nics import Network
from providers.simcloud.arm.state import ADDRESS, NIC, Resource, World
from providers.simcloud.arm.vm_rules import Plan
from providers.simcloud.arm.vm_view import Vm


class Belongings:
    """Taken at birth, parted with at the end."""

    def __init__(self, world: World, network: Network, disks: Disks) -> None:
        self._world = world
        self.network = network
        self._disks = disks

    def interfaces(self, plan: Plan) -> list[dict[str, Any]]:
        """Those of the networkProfile; the ones that are described in it are made now. Raises Refused."""
        if plan.nics:
            return [{"id": nic.id, "properties": {"primary": len(plan.nics) == 1, **asked}} for nic, asked in plan.nics]
        made: list[dict[str, Any]] = []
        inline = plan.properties["networkProfile"]["networkInterfaceConfigurations"]
        try:
            for each in inline:
                wanted = each.get("properties") or {}
                nic = self._inline(plan, each["name"], wanted)
                kept = {key: wanted[key] for key in ("deleteOption",) if key in wanted}
                made.append({"id": nic.id, "properties": {"primary": wanted.get("primary", len(inline) == 1), **kept}})
        except Exception:
            for known in made:
                self._remove(known["id"])
            raise
        return made

    def _inline(self, plan: Plan, name: str, wanted: Mapping[str, Any]) -> Resource:
        """An interface that the VM describes. Its name is not the description's: nobody may guess it."""
        suffix = uuid4().hex[:8]
        addresses: list[Resource] = []
        configurations = []
        for each in wanted.get("ipConfigurations") or []:
            inner = dict(copy.deepcopy(each.get("properties") or {}))
            public = inner.pop("publicIPAddressConfiguration", None)
            if public:
                body = {"location": self._world.region, "sku": public.get("sku"), "tags": plan.body.get("tags") or {}}
                address = self.network.make_address(plan.group, f"{public['name']}-{suffix}", body, None)
                addresses.append(address)
                option = (public.get("properties") or {}).get("deleteOption", "Detach")
                address.properties["deleteOption"] = option
                inner["publicIPAddress"] = {"id": address.id}
            configurations.append({"name": each["name"], "properties": inner})
        kept = {k: v for k, v in wanted.items() if k not in ("ipConfigurations", "deleteOption", "primary")}
        body = {
            "location": self._world.region,
            "tags": wanted.get("tags") or plan.body.get("tags") or {},
            "properties": {**kept, "ipConfigurations": configurations},
        }
        try:
            return self.network.make(plan.group, f"{name}-{suffix}", body)
        except Refused:
            for address in addresses:
                self._world.remove(address)
            raise

    def take(self, plan: Plan, vm: Resource) -> None:
        """Interfaces and disks become the VM's; those that are to be made with it are made."""
        for each in vm.properties["networkProfile"]["networkInterfaces"]:
            nic = self._world.find(each["id"], NIC)
            assert nic is not None
            self.network.attach(nic, vm.id, primary=bool(each["properties"].get("primary")))
        storage = vm.properties["storageProfile"]
        self._make_disk(plan, vm, storage["osDisk"], {"createOption": "FromImage"})
        for each in storage["dataDisks"]:
            if each["createOption"] == "Empty":
                self._make_disk(plan, vm, each, {"createOption": "Empty"})
        for disk in plan.disks:
            disks.attach(disk, vm.id)

    def _make_disk(self, plan: Plan, vm: Resource, shown: Mapping[str, Any], origin: dict[str, Any]) -> None:
        managed = shown["managedDisk"]
        self._disks.make(
            plan.group,
            shown["name"],
            plan.body.get("tags") or {},
            [plan.zone] if plan.zone else [],
            managed["storageAccountType"],
            {"creationData": origin, "diskSizeGB": shown["diskSizeGB"]},
            vm=vm.id,
        )

    def release(self, vm: Resource, *, with_interfaces: bool) -> None:
        """Everything is free again, and what had been made with the VM is removed: the launch is tried anew.

        `with_interfaces`: they had been made with it too.
        """
        for each in vm.properties["networkProfile"]["networkInterfaces"]:
            nic = self._world.find(each["id"], NIC)
            if nic is not None:
                self.network.detach(nic)
                if with_interfaces:
                    self._remove(nic.id)
        storage = vm.properties["storageProfile"]
        for each in [storage["osDisk"], *storage["dataDisks"]]:
            disk = self._world.find(each["managedDisk"]["id"])
            if disk is None:
                continue
            disks.detach(disk, vm.id)
            if each["createOption"] != "Attach":
                self._world.remove(disk)

    def part(self, vm: Vm) -> None:
        """The VM is gone: by each thing's deleteOption it goes too, or stays, free."""
        properties = vm.resource.properties
        for each in properties["networkProfile"]["networkInterfaces"]:
            nic = self._world.find(each["id"], NIC)
            if nic is None:
                continue
            self.network.detach(nic)
            if (each.get("properties") or {}).get("deleteOption") == "Delete":
                self._remove(nic.id)
            elif vm.life is None:
                self.network.reserve(nic, vm.resource.id)
        storage = properties["storageProfile"]
        for each in [storage["osDisk"], *storage["dataDisks"]]:
            disk = self._world.find(each["managedDisk"]["id"])
            if disk is None:
                continue
            disks.detach(disk, vm.resource.id)
            if each["deleteOption"] == "Delete" and not disks.holders(disk):
                self._world.remove(disk)

    def _remove(self, nic_id: str) -> None:
        """An interface, and the public addresses that go with it."""
        nic = self._world.find(nic_id, NIC)
        assert nic is not None
        public = [each["properties"].get("publicIPAddress") for each in nic.properties["ipConfigurations"]]
        self.network.remove(nic)
        for each in public:
            address = self._world.find(each["id"], ADDRESS) if each else None
            if address is not None and address.properties.get("deleteOption") == "Delete":
                self._world.remove(address)
