from collections.abc import Iterator

import pytest

from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.ec2_client import Account, client


@pytest.fixture
def account() -> Iterator[Account]:
    """A fresh cloud whose instances exist in the API, and a user of it."""
    with running_in_thread() as cloud, client(cloud) as ec2:
        yield Account(cloud, ec2)
