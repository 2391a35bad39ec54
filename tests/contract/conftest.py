"""Every test of this folder runs once for each cloud named here."""

import importlib
from collections.abc import AsyncIterator

import pytest

from providers.base import Provider
from tests.contract.world import World

CLOUDS = {
    "aws": "tests.contract.aws_world",
    "azure": "tests.contract.azure_world",
    "gcp": "tests.contract.gcp_world",
    "local": "tests.contract.local_world",
}  # name: module with `world()`, an async context manager


@pytest.fixture(params=sorted(CLOUDS))
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with importlib.import_module(CLOUDS[request.param]).world() as made:
        yield made


@pytest.fixture
def provider(world: World) -> Provider:
    return world.provider
