"""The real SDK, pointed at a simulated cloud."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from providers.simcloud.cloud import Simcloud

PATIENCE = 20.0  # seconds; the machine is shared


@cache
def _session() -> boto3.Session:
    """One for all tests: EC2's service model takes a quarter of a second to read."""
    return boto3.Session("an-access-key", "a-secret-key")


@contextmanager
def client(cloud: Simcloud, **changes: Any) -> Iterator[Any]:
    """An EC2 client that does not retry by itself."""
    config = Config(retries={"total_max_attempts": 1}, read_timeout=PATIENCE)
    settings = {"region_name": cloud.region, "endpoint_url": cloud.endpoint_url, "config": config, **changes}
    made = _session().client("ec2", **settings)
    try:
        yield made
    finally:
        made.close()


class Account:
    """A user of one simulated cloud."""

    def __init__(self, cloud: Simcloud, ec2: Any) -> None:
        self.cloud = cloud
        self.ec2 = ec2

    def request(self, **changes: Any) -> dict[str, Any]:
        """A RunInstances call that is right, with changes; None takes a parameter away."""
        right = {
            "ImageId": self.cloud.ami,
            "InstanceType": "m6a.large",
            "MinCount": 1,
            "MaxCount": 1,
            "SubnetId": self.cloud.subnet,
            "SecurityGroupIds": [self.cloud.security_group],
        }
        return {key: value for key, value in {**right, **changes}.items() if value is not None}

    def run(self, **changes: Any) -> dict[str, Any]:
        """Launch; the first instance of the answer."""
        return dict(self.ec2.run_instances(**self.request(**changes))["Instances"][0])

    def launch(self, **changes: Any) -> str:
        return str(self.run(**changes)["InstanceId"])

    def show(self, instance: str) -> dict[str, Any]:
        return dict(self.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0])

    def state(self, instance: str) -> str:
        return str(self.show(instance)["State"]["Name"])

    def becomes(self, instance: str, state: str) -> dict[str, Any]:
        """Wait until it is in that state."""
        eventually(lambda: self.state(instance) == state)
        return self.show(instance)

    def terminate(self, instance: str) -> dict[str, Any]:
        self.ec2.terminate_instances(InstanceIds=[instance])
        return self.becomes(instance, "terminated")

    def ids(self, **asked: Any) -> list[str]:
        """What DescribeInstances shows for these parameters."""
        pages = self.ec2.get_paginator("describe_instances").paginate(**asked)
        return [i["InstanceId"] for page in pages for r in page["Reservations"] for i in r["Instances"]]

    def by(self, name: str, *values: str) -> list[str]:
        return self.ids(Filters=[{"Name": name, "Values": list(values)}])


def eventually(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """The first true value of `condition`; fails when none comes."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.01)
    return value


@contextmanager
def refused(code: str, words: str = "", status: int = 400) -> Iterator[None]:
    """Inside, EC2 says no: with this code, these words in its message, this HTTP status, and a request id."""
    with pytest.raises(ClientError) as caught:
        yield
    answer = caught.value.response
    assert answer["Error"]["Code"] == code, answer["Error"]
    assert words in answer["Error"]["Message"]
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == status
    assert len(answer["ResponseMetadata"]["RequestId"]) == 36
