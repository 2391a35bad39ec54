from collections.abc import Iterator

import pytest

from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.gce.owner import Owner, owner_of


@pytest.fixture
def owner() -> Iterator[Owner]:
    """A fresh project whose instances exist in the API, and a user of it."""
    with running_in_thread(cloud="gce") as cloud, owner_of(cloud) as user:
        yield user


@pytest.fixture
def slow() -> Iterator[Owner]:
    """The same; what boots there, or is shut down, takes long."""
    with running_in_thread(cloud="gce", boot_delay="1h", shutdown_delay="1h") as cloud, owner_of(cloud) as user:
        yield user
