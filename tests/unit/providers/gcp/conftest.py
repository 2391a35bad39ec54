"""Compute Engine as simcloud plays it, with the contract suite's world around it."""

from collections.abc import AsyncIterator

import pytest

from tests.contract import gcp_world
from tests.contract.gcp_world import GcpWorld


@pytest.fixture
async def world() -> AsyncIterator[GcpWorld]:
    async with gcp_world.world() as made:
        yield made
