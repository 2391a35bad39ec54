"""Azure's pace: buckets that empty, and what it says then."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.limits import Limits
from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.arm.arm_client import Account, clients, refused

PUT = "VirtualMachines.CreateOrUpdate"
GET = "VirtualMachines.Get"


def admitted(
    limits: Limits, action: str, method: str, now: float = 0.0, resource: str = "/vm", most: int = 5000
) -> int:
    """How many calls pass at this moment."""
    for count in range(most):
        try:
            limits.admit(action, method, resource, now)
        except Refused:
            return count
    return most


@contextmanager
def throttled(code: str) -> Iterator[pytest.ExceptionInfo[Refused]]:
    with pytest.raises(Refused) as caught:
        yield caught
    assert (caught.value.status, caught.value.code) == (429, code)


def test_arm_admits_200_writes_and_then_ten_a_second() -> None:
    limits = Limits(1)
    assert admitted(limits, PUT, "PUT") == 200
    assert admitted(limits, PUT, "PUT", now=1.0) == 10
    with throttled("SubscriptionRequestsThrottled") as caught:
        limits.admit(PUT, "PUT", "/vm", 1.0)
    assert caught.value.headers == {"Retry-After": "1", "x-ms-ratelimit-remaining-subscription-writes": "0"}


def test_reads_writes_and_deletes_have_buckets_of_their_own() -> None:
    limits = Limits(1)
    assert admitted(limits, PUT, "PUT") == 200
    assert admitted(limits, "VirtualMachines.Delete", "DELETE") == 200
    assert admitted(limits, "ResourceSkus.List", "GET") == 250


def test_a_single_vm_is_asked_about_36_times_and_then_12_a_minute() -> None:
    limits = Limits(1)
    assert admitted(limits, GET, "GET", resource="/a") == 36
    with throttled("OperationNotAllowed") as caught:
        limits.admit(GET, "GET", "/A", 0.0)
    assert caught.value.headers["Retry-After"] == "5"
    assert caught.value.details[0]["code"] == "TooManyRequests"
    assert admitted(limits, GET, "GET", resource="/b") == 36
    assert admitted(limits, GET, "GET", resource="/a", now=60.0) == 12


def test_the_operations_of_one_vm_are_asked_about_45_times() -> None:
    assert admitted(Limits(1), "Operations.Get", "GET") == 45


def test_lists_are_dear() -> None:
    limits = Limits(1)
    for second in range(10):  # beyond what ARM admits in one
        admitted(limits, "VirtualMachines.List", "GET", now=float(second * 10), most=100)
    assert admitted(limits, "VirtualMachines.List", "GET", now=101.0) < 500


def test_a_factor_scales_and_none_is_no_limit() -> None:
    assert admitted(Limits(0.1), PUT, "PUT") == 20
    assert admitted(Limits(None), PUT, "PUT", most=1000) == 1000


def test_answers_say_what_is_left_and_refusals_how_long_to_wait() -> None:
    with running_in_thread(cloud="arm", rate_limits=0.01) as cloud, clients(cloud) as account:
        seen = []

        def keep(response: object) -> None:
            seen.append(response.http_response.headers)  # type: ignore[attr-defined]

        list(account.compute.virtual_machines.list("peerpods", raw_response_hook=keep))
        assert seen[0]["x-ms-ratelimit-remaining-subscription-reads"] == "1"
        assert seen[0]["x-ms-ratelimit-remaining-resource"] == "Microsoft.Compute/HighCostGetSubscriptionMaximum;8"
        _exhaust(account)


def _exhaust(account: Account) -> None:
    with refused("SubscriptionRequestsThrottled", status=429) as caught:
        for _ in range(10):
            account.names()
    assert int(caught.value.response.headers["Retry-After"]) >= 1
