"""Azure as simcloud plays it, for the contract suite."""

import base64
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from providers.azure import arm, provider
from providers.azure.arm import Arm
from providers.azure.config import AzureConfig
from providers.azure.requests import USER_DATA_LIMIT, nic_name, resource_id
from providers.azure.resources import DOORS, path
from providers.base import LaunchSpec, Offering, Purchase, ResourceKind, Tee
from providers.errors import Capacity, Denied, NotFound, ProviderError, Quota, Throttled, Transient
from providers.simcloud.testing import running
from tests.contract.simulated import Simulated
from tests.contract.world import Verb

ACTIONS = {
    Verb.CREATE: ("VirtualMachines.CreateOrUpdate",),
    Verb.GET: ("VirtualMachines.Get", "VirtualMachines.List"),  # one by one, or all
    Verb.LIST: ("VirtualMachines.List",),
    Verb.DELETE: ("VirtualMachines.Delete",),
    Verb.OFFERINGS: ("ResourceSkus.List",),
    Verb.RESOURCES: ("Disks.ListByResourceGroup",),
    Verb.REMOVE: ("Disks.Delete",),
    Verb.DISKS: ("Disks.Get",),
    Verb.ATTACH: ("VirtualMachines.AttachDetachDataDisks",),  # never asked for: the create attaches
    Verb.QUOTA: ("Usage.List",),
    Verb.CONSOLE: ("VirtualMachines.RetrieveBootDiagnosticsData",),
}
ANSWERS: dict[type[ProviderError], dict[str, Any]] = {
    Capacity: {"error": "ZonalAllocationFailed"},
    Quota: {"error": "QuotaExceeded"},
    Throttled: {"error": "TooManyRequests"},
    Denied: {"error": "AuthorizationFailed"},
    Transient: {"http_status": 503},  # a page of the front door's, not of ARM's
}
# As Microsoft publishes them on its pages of VM sizes.
TRUTHS = (
    Offering("Standard_DC2as_v5", 2, 8192, tee=Tee.SNP),
    Offering("Standard_DC2es_v6", 2, 8192, tee=Tee.TDX),
    Offering("Standard_D2s_v5", 2, 8192),
    Offering("Standard_D2ps_v5", 2, 8192, architecture="arm64"),
    Offering("Standard_NC4as_T4_v3", 4, 28672, gpus=1, gpu_model="T4"),
)


class AzureWorld(Simulated):
    """World for Azure."""

    name = "azure"
    actions = ACTIONS
    answers = ANSWERS
    unknown_id = "podvm-unknown-0123456789ab"
    user_data_limit = USER_DATA_LIMIT
    truths: tuple[Offering, ...] = TRUTHS
    zones = ("1", "2")
    disk_gib = 8
    confidential = ("Standard_DC2as_v5", "Standard_D2s_v5")

    def __init__(self, cloud: Any, config: AzureConfig, closing: AsyncExitStack) -> None:
        self.admin = Arm(config)  # to look behind the provider
        closing.push_async_callback(self.admin.aclose)
        super().__init__(cloud, config, closing)

    def spec(self, **changes: Any) -> LaunchSpec:
        plain = LaunchSpec("podvm-nginx-1a2b3c4d", "Standard_D2s_v5", b"user data", self.config.image, {"team": "blue"})
        return replace(plain, **changes)

    async def user_data(self, instance_id: str) -> bytes:
        shape = await self.seen(ResourceKind.INSTANCE, instance_id, **{"$expand": "userData"})
        return base64.b64decode(shape["properties"].get("userData") or "")

    async def plant(self, kind: ResourceKind, tags: Mapping[str, str]) -> str:
        self._planted += 1
        name = f"planted-{self._planted:04d}"
        body: dict[str, Any] = {"location": self.config.region, "tags": dict(tags)}
        match kind:
            case ResourceKind.INSTANCE:
                await self._put(ResourceKind.INTERFACE, nic_name(name), self._interface())
                body["properties"] = self._machine(name)
            case ResourceKind.INTERFACE:
                body |= self._interface()
            case ResourceKind.ADDRESS:
                body |= {"sku": {"name": "Standard"}, "properties": {"publicIPAllocationMethod": "Static"}}
            case _:
                body |= {"sku": {"name": "Premium_LRS"}, "zones": [self.zones[0]]}
                body["properties"] = {"creationData": {"createOption": "Empty"}, "diskSizeGB": 8}
        await self._put(kind, name, body)
        return name

    async def attach(self, resource_id: str, kind: ResourceKind, instance_id: str) -> None:
        if kind is ResourceKind.ADDRESS:
            seen = await self.seen(ResourceKind.INTERFACE, nic_name(instance_id))
            (place,) = seen["properties"]["ipConfigurations"]
            place["properties"]["publicIPAddress"] = {"id": path(kind, self.config, resource_id)}
            wanted = {"location": seen["location"], "tags": seen["tags"], "properties": {"ipConfigurations": [place]}}
            await self._put(ResourceKind.INTERFACE, nic_name(instance_id), wanted)
            return
        if kind is ResourceKind.DISK:
            shape = await self.seen(ResourceKind.INSTANCE, instance_id)
            held = {"id": path(kind, self.config, resource_id)}
            disk = {"lun": 7, "createOption": "Attach", "deleteOption": "Detach", "managedDisk": held}
            shape["properties"]["storageProfile"]["dataDisks"].append(disk)
            await self._put(ResourceKind.INSTANCE, instance_id, shape)
            return
        # Azure adds an interface to a VM that is deallocated only, and this world has no time for that.
        azure = self.cloud._cloud
        vm = azure.world.find(path(ResourceKind.INSTANCE, self.config, instance_id))
        nic = azure.world.find(path(kind, self.config, resource_id))
        more = {"id": nic.id, "properties": {"primary": False, "deleteOption": "Detach"}}
        vm.properties["networkProfile"]["networkInterfaces"].append(more)
        azure.network.attach(nic, vm.id, primary=False)

    async def disk(self, zone: str) -> str:
        self._planted += 1
        name = f"volume-{self._planted:04d}"
        properties = {"creationData": {"createOption": "Empty"}, "diskSizeGB": 8}
        body = {"location": self.config.region, "sku": {"name": "Premium_LRS"}, "zones": [zone]}
        await self._put(ResourceKind.DISK, name, {**body, "properties": properties})
        return path(ResourceKind.DISK, self.config, name)

    async def root_gib(self, instance_id: str) -> int:
        shape = await self.seen(ResourceKind.INSTANCE, instance_id)
        return int(shape["properties"]["storageProfile"]["osDisk"]["diskSizeGB"])

    async def prints(self, instance_id: str, data: bytes) -> None:
        machines = self.cloud._cloud.machines
        machines.all[machines.machine_id(instance_id)].life.machine.console.write(data)

    async def purchase(self, instance_id: str) -> Purchase:
        shape = await self.seen(ResourceKind.INSTANCE, instance_id)
        return Purchase.SPOT if shape["properties"].get("priority") == "Spot" else Purchase.ON_DEMAND

    def forbid(self, verb: Verb) -> None:
        self.cloud.faults.deny(f"Microsoft.Compute/virtualMachines/{'write' if verb is Verb.CREATE else verb}")

    async def exists(self, kind: ResourceKind, resource_id: str) -> bool:
        try:
            shape = await self.seen(kind, resource_id.rpartition("/")[2])
        except NotFound:
            return False
        return bool(shape["properties"].get("provisioningState") != "Deleting")

    async def seen(self, kind: ResourceKind, name: str, **query: str) -> Any:
        """A resource as Azure describes it to its admin."""
        return (await self.admin.get(path(kind, self.config, name), _api(kind), "the admin looks", **query)).body  # type: ignore[arg-type]

    async def names(self, kind: ResourceKind) -> list[str]:
        """Whatever there is of a kind."""
        return [each["name"] for each in await self.admin.items(path(kind, self.config), _api(kind), "the admin looks")]

    async def _put(self, kind: ResourceKind, name: str, body: Any) -> None:
        await self.admin.put(path(kind, self.config, name), _api(kind), body, f"the admin plants {name}")

    def _interface(self) -> dict[str, Any]:
        place = {"subnet": {"id": self.config.subnet_id}, "privateIPAllocationMethod": "Dynamic"}
        return {
            "location": self.config.region,
            "properties": {"ipConfigurations": [{"name": "primary", "properties": place}]},
        }

    def _machine(self, name: str) -> dict[str, Any]:
        nic = resource_id(self.config, DOORS[ResourceKind.INTERFACE].type, nic_name(name))
        return {
            "hardwareProfile": {"vmSize": "Standard_D2s_v5"},
            "storageProfile": {
                "imageReference": {"id": self.config.image},
                "osDisk": {"createOption": "FromImage", "deleteOption": "Delete"},
            },
            "osProfile": {"computerName": name, "adminUsername": "operator", "adminPassword": "A-passw0rd-of-17"},
            "networkProfile": {"networkInterfaces": [{"id": nic, "properties": {"deleteOption": "Delete"}}]},
        }


def _api(kind: ResourceKind) -> str:
    if DOORS[kind].network:
        return arm.NETWORK_API
    return arm.DISKS_API if kind is ResourceKind.DISK else arm.COMPUTE_API


@asynccontextmanager
async def world(**options: Any) -> AsyncIterator[AzureWorld]:
    """A fresh subscription, and one node's provider for it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AZURE_")]:
            patch.delenv(name)
        patch.setattr(provider, "FRESH", 0.05)  # tests have no five seconds for news
        async with running(instances="api-only", cloud="arm", **options) as cloud, AsyncExitStack() as closing:
            yield AzureWorld(cloud, _settings(cloud), closing)


def _settings(cloud: Any) -> AzureConfig:
    facts = cloud.facts
    return AzureConfig(
        subscription_id=facts["subscription"],
        resource_group=facts["resource_group"],
        region=facts["region"],
        subnet_id=facts["subnet"],
        security_group_id=facts["nsg"],
        image=facts["image"],
        instance_type="Standard_D2s_v5",
        instance_types=("Standard_DC2as_v5", "Standard_DC2es_v6", "Standard_D2ps_v5", "Standard_NC4as_T4_v3"),
        confidential=False,
        zones=AzureWorld.zones,
        allocation_check=0.0,
        endpoint_url=cloud.endpoint_url,
    )
