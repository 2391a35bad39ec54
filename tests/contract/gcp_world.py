"""Compute Engine as simcloud plays it, for the contract suite."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import requests

from providers.base import LaunchSpec, Offering, Purchase, ResourceKind, Tee
from providers.errors import Capacity, Denied, ProviderError, Quota, Throttled, Transient
from providers.gcp import marks
from providers.gcp.config import GcpConfig
from providers.gcp.requests import USER_DATA_LIMIT
from providers.simcloud.testing import running
from tests.contract.simulated import Simulated
from tests.contract.world import Verb

ZONES = ("us-central1-a", "us-central1-b")
REGION = "us-central1"
ACTIONS = {
    Verb.CREATE: "instances.insert",
    Verb.GET: "instances.aggregatedList",
    Verb.LIST: "instances.aggregatedList",
    Verb.DELETE: "instances.delete",
    Verb.OFFERINGS: "machineTypes.aggregatedList",
    Verb.RESOURCES: "disks.aggregatedList",
    Verb.REMOVE: "disks.delete",
    Verb.DISKS: "disks.get",
    Verb.ATTACH: "instances.attachDisk",
    Verb.QUOTA: "regions.get",
    Verb.CONSOLE: "instances.getSerialPortOutput",
}
# Room and quota are refused in the operation, the rest at once.
ANSWERS: dict[type[ProviderError], dict[str, Any]] = {
    Capacity: {"error": "ZONE_RESOURCE_POOL_EXHAUSTED"},
    Quota: {"error": "QUOTA_EXCEEDED"},
    Throttled: {"error": "rateLimitExceeded"},
    Denied: {"error": "forbidden"},
    Transient: {"http_status": 503},  # a page of the load balancer's, not of Compute Engine's
}
# As Google publishes them on its pages of machine families.
TRUTHS = (
    Offering("n2d-standard-2", 2, 8192),
    Offering("n2d-standard-2", 2, 8192, tee=Tee.SNP),
    Offering("n2d-standard-2", 2, 8192, tee=Tee.SEV),
    Offering("c3-standard-4", 4, 16384, tee=Tee.TDX),
    Offering("t2a-standard-2", 2, 8192, architecture="arm64"),
    Offering("g2-standard-4", 4, 16384, gpus=1, gpu_model="nvidia-l4"),
)
LOOKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # simcloud's hardware is quick
COLLECTIONS = {ResourceKind.ADDRESS: f"regions/{REGION}/addresses", ResourceKind.DISK: f"zones/{ZONES[0]}/disks"}


class GcpWorld(Simulated):
    """World for Compute Engine."""

    name = "gcp"
    actions = {verb: (action,) for verb, action in ACTIONS.items()}
    answers = ANSWERS
    unknown_id = "us-central1-a/podvm-nobody-0123456789ab"
    user_data_limit = USER_DATA_LIMIT
    truths: tuple[Offering, ...] = TRUTHS
    confidential = ("n2d-standard-2", "g2-standard-4")
    zones = ZONES
    disk_gib = 10  # Google makes no smaller ones
    kinds = (ResourceKind.INSTANCE, ResourceKind.ADDRESS, ResourceKind.DISK)  # an interface is a part of its instance

    def spec(self, **changes: Any) -> LaunchSpec:
        plain = LaunchSpec("podvm-nginx-1a2b3c4d", "n2d-standard-2", b"user data", self.config.image, {"team": "blue"})
        return replace(plain, **changes)

    async def user_data(self, instance_id: str) -> bytes:
        shape = await self.ask("GET", _path(instance_id))
        items = {item["key"]: item["value"] for item in shape["metadata"]["items"]}
        assert items["user-data-encoding"] == "base64"
        return base64.b64decode(items["user-data"])

    async def plant(self, kind: ResourceKind, tags: Mapping[str, str]) -> str:
        self._planted += 1
        body: dict[str, Any] = {"name": f"planted-{self._planted:08}", "labels": marks.labels(tags)}
        if kind is ResourceKind.INSTANCE:
            note = [{"key": marks.METADATA_KEY, "value": marks.note(tags)}] if tags else []
            body |= {
                "machineType": f"zones/{ZONES[0]}/machineTypes/e2-medium",
                "metadata": {"items": note},
                "networkInterfaces": [{"network": "global/networks/default"}],
                "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": self.config.image}}],
            }
            await self.ask("POST", f"zones/{ZONES[0]}/instances", body)
            return f"{ZONES[0]}/{body['name']}"
        if tags:
            body["description"] = marks.description(tags)
        if kind is ResourceKind.DISK:
            body["sizeGb"] = "10"
        await self.ask("POST", COLLECTIONS[kind], body)
        return f"projects/{self.config.project}/{COLLECTIONS[kind]}/{body['name']}"

    async def attach(self, resource_id: str, kind: ResourceKind, instance_id: str) -> None:
        if kind is ResourceKind.DISK:
            await self.ask("POST", f"{_path(instance_id)}/attachDisk", {"source": resource_id})
            return
        # Google does this with an access configuration, which simcloud does not play; what it leaves behind is this.
        project = self.cloud._cloud.project
        address = project.addresses[resource_id.rpartition("/")[2]]
        zone, _, name = instance_id.partition("/")
        address |= {"status": "IN_USE", "users": [project.vm(zone, name).body["selfLink"]]}

    async def disk(self, zone: str) -> str:
        self._planted += 1
        body = {"name": f"volume-{self._planted:04}", "sizeGb": str(self.disk_gib)}
        await self.ask("POST", f"zones/{zone}/disks", body)
        return f"projects/{self.config.project}/zones/{zone}/disks/{body['name']}"

    async def root_gib(self, instance_id: str) -> int:
        return int((await self.ask("GET", _path(instance_id)))["disks"][0]["diskSizeGb"])

    async def prints(self, instance_id: str, data: bytes) -> None:
        zone, _, name = instance_id.partition("/")
        self.cloud._cloud.project.vm(zone, name).machine.console.write(data)

    async def purchase(self, instance_id: str) -> Purchase:
        model = (await self.ask("GET", _path(instance_id)))["scheduling"].get("provisioningModel")
        return Purchase.SPOT if model == "SPOT" else Purchase.ON_DEMAND

    def forbid(self, verb: Verb) -> None:
        self.cloud.faults.deny(f"compute.{ACTIONS[verb].replace('insert', 'create')}")

    async def exists(self, kind: ResourceKind, resource_id: str) -> bool:
        if kind is ResourceKind.INSTANCE:
            found = await self.ask("GET", _path(resource_id), missing_ok=True)
            return bool(found) and found["status"] != "STOPPING"
        return bool(await self.ask("GET", resource_id.partition(f"{self.config.project}/")[2], missing_ok=True))

    async def ask(self, method: str, path: str, body: Any = None, *, missing_ok: bool = False) -> dict[str, Any]:
        """A call of the admin's, without any SDK."""
        url = f"{self.cloud.endpoint_url}/compute/v1/projects/{self.config.project}/{path}"
        answer = await asyncio.to_thread(requests.request, method, url, json=body, timeout=30)
        if answer.status_code == 404 and missing_ok:
            return {}
        assert answer.ok, answer.text
        found: dict[str, Any] = answer.json()
        return found


def _path(instance_id: str) -> str:
    zone, _, name = instance_id.partition("/")
    return f"zones/{zone}/instances/{name}"


@asynccontextmanager
async def world(**options: Any) -> AsyncIterator[GcpWorld]:
    """A fresh project with its default network, and one node's provider for it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("GCP_", "GOOGLE_", "CLOUDSDK_"))]:
            patch.delenv(name)
        patch.setattr("providers.gcp.provider.LOOKS", LOOKS)
        async with running(cloud="gce", **{"instances": "api-only", **options}) as cloud, AsyncExitStack() as closing:
            yield GcpWorld(cloud, _settings(cloud), closing)


def _settings(cloud: Any) -> GcpConfig:
    return GcpConfig(
        project=cloud.facts["project"],
        zones=ZONES,
        network="default",
        image=cloud.facts["image"],
        machine_type="n2d-standard-2",
        machine_types=("c3-standard-4", "t2a-standard-2", "g2-standard-4"),
        confidential=False,
        endpoint_url=cloud.endpoint_url,
    )
