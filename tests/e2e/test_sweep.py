"""The adaptor's own sweep, from time to time: what this node leaked goes, another node's stays."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from adaptor.demo.world import World
from providers import tags
from tests.e2e.conftest import clean

SETTINGS = {
    "guest": {"start_timeout": "15s"},
    "node": {"cluster": "cluster-a"},
    "sweep": {"interval": "1s", "grace": "60s"},
}


@pytest.fixture
async def world(directory: Path) -> AsyncIterator[World]:
    async with World(directory, settings=SETTINGS) as world:
        await world.start_cloud()
        yield world
        await clean(world)


def client(world: World) -> Any:
    session = boto3.Session("an-access-key", "a-secret-key", region_name=world.cloud["region"])
    return session.client("ec2", endpoint_url=world.cloud["endpoint_url"])


def planted(ec2: Any, node: str) -> str:
    pairs = [{"Key": tags.CLUSTER, "Value": "cluster-a"}, {"Key": tags.NODE, "Value": node}]
    made = ec2.allocate_address(Domain="vpc", TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": pairs}])
    return str(made["AllocationId"])


async def test_a_running_adaptor_removes_what_it_leaked_and_only_that(world: World) -> None:
    ec2 = await asyncio.to_thread(client, world)
    leaked, theirs = planted(ec2, "demo-node"), planted(ec2, "node-2")
    state = world.directory / "state"
    state.mkdir(mode=0o700)
    (state / "first-seen.json").write_text(json.dumps({leaked: time.time() - 60, theirs: time.time() - 60}))
    await world.start_adaptor()
    deadline = time.monotonic() + 60
    while any(each["AllocationId"] == leaked for each in await asyncio.to_thread(addresses, ec2)):
        assert time.monotonic() < deadline, world.log_of("adaptor")
        await asyncio.sleep(0.1)
    assert [each["AllocationId"] for each in await asyncio.to_thread(addresses, ec2)] == [theirs]
    page = await world.page("/metrics")
    assert 'peerpods_swept_resources_total{kind="address",outcome="removed"} 1.0' in page
    assert 'peerpods_leaked_resources{kind="address"} 0.0' in page
    (line,) = [json.loads(line) for line in world.log_of("adaptor").splitlines() if '"swept"' in line]
    assert (line["id"], line["outcome"]) == (leaked, "removed")
    ec2.close()


def addresses(ec2: Any) -> list[dict[str, Any]]:
    return list(ec2.describe_addresses()["Addresses"])
