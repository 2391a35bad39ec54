"""EC2 as simcloud plays it, and providers for it."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from providers.aws.provider import AwsProvider
from tests.contract import aws_world
from tests.contract.aws_world import AwsWorld


@pytest.fixture
async def world() -> AsyncIterator[AwsWorld]:
    async with aws_world.world() as made:
        yield made


Opened = Callable[..., AwsProvider]


@pytest.fixture
def opened(world: AwsWorld) -> Opened:
    """A provider of the world's node with other settings."""

    def open(**settings: Any) -> AwsProvider:
        provider = world.opened(replace(world.config, **settings), world.owner)
        assert isinstance(provider, AwsProvider)
        return provider

    return open
