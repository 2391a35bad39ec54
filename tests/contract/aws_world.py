"""EC2 as simcloud plays it, for the contract suite."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.loaders import Loader

from providers.aws.config import AwsConfig
from providers.aws.requests import USER_DATA_LIMIT
from providers.base import LaunchSpec, Offering, Purchase, ResourceKind, Tee
from providers.errors import Capacity, Denied, ProviderError, Quota, Throttled, Transient
from providers.simcloud.testing import running
from tests.contract.simulated import Simulated
from tests.contract.world import Verb

REGION = "us-east-1"
IMAGE = "ami-03cf127a"  # one of moto's own
ACTIONS = {
    Verb.CREATE: "RunInstances",
    Verb.GET: "DescribeInstances",
    Verb.LIST: "DescribeInstances",
    Verb.DELETE: "TerminateInstances",
    Verb.OFFERINGS: "DescribeInstanceTypes",
    Verb.RESOURCES: "DescribeVolumes",
    Verb.REMOVE: "DeleteVolume",
    Verb.DISKS: "DescribeVolumes",
    Verb.ATTACH: "AttachVolume",
    Verb.QUOTA: "GetServiceQuota",
    Verb.CONSOLE: "GetConsoleOutput",
}
ANSWERS: dict[type[ProviderError], dict[str, Any]] = {
    Capacity: {"error": "InsufficientInstanceCapacity"},
    Quota: {"error": "VcpuLimitExceeded"},
    Throttled: {"error": "RequestLimitExceeded"},
    Denied: {"error": "UnauthorizedOperation"},
    Transient: {"http_status": 503},  # a page of the load balancer's, not of EC2's
}
# As AWS publishes them on its pages of instance types.
TRUTHS = (
    Offering("m6a.large", 2, 8192),
    Offering("m6a.large", 2, 8192, tee=Tee.SNP),
    Offering("m7g.large", 2, 8192, architecture="arm64"),
    Offering("g5.xlarge", 4, 16384, gpus=1, gpu_model="A10G"),
)


class AwsWorld(Simulated):
    """World for EC2."""

    name = "aws"
    actions = {verb: (action,) for verb, action in ACTIONS.items()}
    answers = ANSWERS
    unknown_id = "i-0123456789abcdef0"
    user_data_limit = USER_DATA_LIMIT
    truths: tuple[Offering, ...] = TRUTHS
    confidential = ("m6a.large", "g5.xlarge")
    zones = (f"{REGION}a", f"{REGION}b")
    disk_gib = 8

    def __init__(self, cloud: Any, admin: Any, config: AwsConfig, closing: AsyncExitStack) -> None:
        self.admin = admin  # a plain client, to look behind the provider
        super().__init__(cloud, config, closing)

    def spec(self, **changes: Any) -> LaunchSpec:
        plain = LaunchSpec("podvm-nginx-1a2b3c4d", "m6a.large", b"user data", IMAGE, {"team": "blue"})
        return replace(plain, **changes)

    async def user_data(self, instance_id: str) -> bytes:
        answer = await self.ask("describe_instance_attribute", InstanceId=instance_id, Attribute="userData")
        return base64.b64decode(answer["UserData"].get("Value", ""))

    async def plant(self, kind: ResourceKind, tags: Mapping[str, str]) -> str:
        pairs = [{"Key": key, "Value": value} for key, value in tags.items()]

        def tagged(what: str) -> list[dict[str, Any]]:
            return [{"ResourceType": what, "Tags": pairs}] if pairs else []

        match kind:
            case ResourceKind.INSTANCE:
                request = {"ImageId": IMAGE, "InstanceType": "m6a.large", "SubnetId": self.config.subnet_ids[0]}
                made = await self.ask(
                    "run_instances", MinCount=1, MaxCount=1, TagSpecifications=tagged("instance"), **request
                )
                return str(made["Instances"][0]["InstanceId"])
            case ResourceKind.INTERFACE:
                made = await self.ask(
                    "create_network_interface",
                    SubnetId=self.config.subnet_ids[0],
                    TagSpecifications=tagged("network-interface"),
                )
                return str(made["NetworkInterface"]["NetworkInterfaceId"])
            case ResourceKind.ADDRESS:
                made = await self.ask("allocate_address", Domain="vpc", TagSpecifications=tagged("elastic-ip"))
                return str(made["AllocationId"])
        zone = {"AvailabilityZone": f"{REGION}a", "VolumeType": "gp3"}
        made = await self.ask("create_volume", Size=8, TagSpecifications=tagged("volume"), **zone)
        return str(made["VolumeId"])

    async def attach(self, resource_id: str, kind: ResourceKind, instance_id: str) -> None:
        match kind:
            case ResourceKind.INTERFACE:
                await self.ask(
                    "attach_network_interface", NetworkInterfaceId=resource_id, InstanceId=instance_id, DeviceIndex=1
                )
            case ResourceKind.ADDRESS:
                await self.ask("associate_address", AllocationId=resource_id, InstanceId=instance_id)
            case _:
                await self.ask("attach_volume", VolumeId=resource_id, InstanceId=instance_id, Device="/dev/sdf")

    async def disk(self, zone: str) -> str:
        made = await self.ask("create_volume", Size=8, AvailabilityZone=zone, VolumeType="gp3")
        return str(made["VolumeId"])

    async def root_gib(self, instance_id: str) -> int:
        found = await self.ask("describe_volumes", Filters=_is("attachment.instance-id", instance_id))
        return int(found["Volumes"][0]["Size"])

    async def prints(self, instance_id: str, data: bytes) -> None:
        self.cloud._cloud.fleet.lives[instance_id].machine.console.write(data)

    async def purchase(self, instance_id: str) -> Purchase:
        found = await self.ask("describe_instances", InstanceIds=[instance_id])
        shape = found["Reservations"][0]["Instances"][0]
        return Purchase.SPOT if shape.get("InstanceLifecycle") == "spot" else Purchase.ON_DEMAND

    def forbid(self, verb: Verb) -> None:
        self.cloud.faults.next(action=ACTIONS[verb], times=1_000_000, **ANSWERS[Denied])

    async def exists(self, kind: ResourceKind, resource_id: str) -> bool:
        match kind:
            case ResourceKind.INSTANCE:
                found = await self.ask("describe_instances", InstanceIds=[resource_id])
                return found["Reservations"][0]["Instances"][0]["State"]["Name"] in ("pending", "running")
            case ResourceKind.INTERFACE:
                found = await self.ask("describe_network_interfaces", Filters=_is("network-interface-id", resource_id))
                return bool(found["NetworkInterfaces"])
            case ResourceKind.ADDRESS:
                found = await self.ask("describe_addresses", Filters=_is("allocation-id", resource_id))
                return bool(found["Addresses"])
        found = await self.ask("describe_volumes", Filters=_is("volume-id", resource_id))
        return bool(found["Volumes"])

    async def ask(self, method: str, **request: Any) -> Any:
        """A call of the admin's."""
        return await asyncio.to_thread(getattr(self.admin, method), **request)


def _is(name: str, value: str) -> list[dict[str, Any]]:
    return [{"Name": name, "Values": [value]}]


@asynccontextmanager
async def world(**options: Any) -> AsyncIterator[AwsWorld]:
    """A fresh EC2 with a default network, and one node's provider for it. `options`: simcloud's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "an-access-key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setattr(boto3, "Session", _session)
        async with running(instances="api-only", **options) as cloud, AsyncExitStack() as closing:
            admin = await asyncio.to_thread(_admin().client, "ec2", endpoint_url=cloud.endpoint_url)
            closing.callback(admin.close)
            yield AwsWorld(cloud, admin, await _settings(admin, cloud.endpoint_url), closing)


_LOADER = Loader(include_default_search_paths=True)
_SESSION = boto3.Session


def _session(*given: Any, **settings: Any) -> Any:
    """The SDK's own, with one reader of service models for the whole run: EC2's takes a quarter of a second."""
    core = botocore.session.Session()
    core.register_component("data_loader", _LOADER)
    return _SESSION(*given, botocore_session=core, **settings)


@cache
def _admin() -> Any:
    return _session("an-access-key", "a-secret-key", region_name=REGION)


async def _settings(admin: Any, endpoint_url: str) -> AwsConfig:
    subnets = (await asyncio.to_thread(admin.describe_subnets))["Subnets"]
    groups = (await asyncio.to_thread(admin.describe_security_groups))["SecurityGroups"]
    subnet, second = sorted(subnets, key=lambda each: each["AvailabilityZone"])[:2]
    return AwsConfig(
        region=REGION,
        subnet_ids=(subnet["SubnetId"], second["SubnetId"]),
        security_group_ids=tuple(g["GroupId"] for g in groups if g["VpcId"] == subnet["VpcId"])[:1],
        image=IMAGE,
        instance_type="m6a.large",
        instance_types=("m7g.large", "g5.xlarge"),
        confidential=False,
        endpoint_url=endpoint_url,
        endpoint_urls=tuple((service, endpoint_url) for service in ("ebs", "sts", "pricing", "service-quotas")),
    )
