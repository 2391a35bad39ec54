from collections.abc import Iterator

import pytest

from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.arm.arm_client import Account, clients


@pytest.fixture
def account() -> Iterator[Account]:
    """A fresh cloud whose VMs exist in the API, and a user of it."""
    with running_in_thread(cloud="arm") as cloud, clients(cloud) as made:
        yield made


@pytest.fixture(scope="module")
def lasting() -> Iterator[Account]:
    """One cloud for a whole table of refusals: nothing is made in it, which each of them sees to."""
    with running_in_thread(cloud="arm") as cloud, clients(cloud) as made:
        made.nic()
        yield made
