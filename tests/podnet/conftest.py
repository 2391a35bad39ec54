"""One world for the tests of a module; a pod of its own for each."""

import itertools
from collections.abc import Iterator
from typing import Final

import pytest

from tests.podnet.world import World

_NUMBERS: Final = itertools.count(1)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture
def number() -> int:
    """Nobody else's."""
    return next(_NUMBERS)


@pytest.fixture
def pod(world: World, number: int) -> str:
    """The path of its namespace."""
    return world.pod(number)
