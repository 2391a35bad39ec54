"""What pods cost in calls, counted where EC2 counts them: at simcloud, with EC2's API limits on."""

import asyncio
from collections import Counter

from providers import tags
from providers.base import Instance, SupportsBatchCreate
from tests.contract import aws_world
from tests.contract.aws_world import AwsWorld

PODS = 20


async def start(world: AwsWorld, pod: int) -> Instance:
    """As the adaptor does."""
    spec = world.spec(name=f"podvm-{pod}", tags={tags.POD_NAME: f"pod-{pod}", tags.SANDBOX: f"s-{pod}"})
    provider = world.provider
    assert isinstance(provider, SupportsBatchCreate)
    seat = await provider.seat(spec, f"token-{pod}")
    return await provider.create(spec, seat)


async def test_pods_that_start_and_stop_together_cost_little_more_than_a_call_each() -> None:
    async with aws_world.world(rate_limits=1.0) as world:
        made = await asyncio.gather(*(start(world, pod) for pod in range(PODS)))
        assert len({instance.id for instance in made}) == PODS
        for _ in range(400):
            seen = await world.provider.list()
            if all(tags.POD_NAME in instance.tags for instance in seen):
                break
            await asyncio.sleep(0.3)
        assert {instance.tags[tags.POD_NAME] for instance in seen} == {f"pod-{pod}" for pod in range(PODS)}
        looks = Counter(world.cloud.calls)["DescribeInstances"]
        await asyncio.gather(*(world.provider.get([instance.id]) for instance in made))
        await asyncio.gather(*(world.provider.delete(instance.id) for instance in made))
        calls = Counter(world.cloud.calls)
        assert calls["RunInstances"] == 1
        assert calls["CreateTags"] == PODS, "the only one that is each pod's own"
        assert calls["TerminateInstances"] == 1
        assert calls["DescribeInstances"] == looks + 1
        assert list(await world.provider.list()) == []
