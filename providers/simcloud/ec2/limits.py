"""EC2's API limits per account and region: a bucket of calls per action, and one of instances for some.

The numbers are those of Amazon's page on request throttling for the EC2 API.
"""

from collections.abc import Mapping
from typing import Any, Final

from providers.simcloud.buckets import Bucket, Rate

_READ: Final = Rate(100, 20)
_READ_EVERYTHING: Final = Rate(50, 10)  # no filter, no ids, no pages
_WRITE: Final = Rate(50, 5)
_CALLS: Final = {
    "RunInstances": Rate(5, 2),
    "StartInstances": Rate(5, 2),
    "TerminateInstances": Rate(100, 5),
    "CreateNetworkInterface": Rate(100, 5),
    "CreateTags": Rate(100, 10),
}
_INSTANCES: Final = {
    "RunInstances": Rate(1000, 2),
    "StartInstances": Rate(1000, 2),
    "TerminateInstances": Rate(1000, 20),
    "StopInstances": Rate(1000, 20),
}
_READING: Final = ("Describe", "Get", "List", "Search")
_COSTLY_IN_FULL: Final = ("DescribeInstances", "DescribeNetworkInterfaces")
_NARROWS: Final = ("Filter.", "InstanceId.", "NetworkInterfaceId.", "MaxResults")


class Limits:
    """All buckets of one account. `factor` scales them; None: there are none."""

    def __init__(self, factor: float | None) -> None:
        self._factor = factor
        self._buckets: dict[str, Bucket] = {}

    def admits(self, action: str, form: Mapping[str, Any], now: float) -> bool:
        """Whether this call may pass now; it is counted if so."""
        if self._factor is None:
            return True
        calls = self._bucket(*_bucket_of(action, form), now)
        wanted = _instances(action, form)
        instances = self._bucket(f"{action} instances", _INSTANCES[action], now) if wanted else None
        if not calls.holds(1, now) or (instances is not None and not instances.holds(wanted, now)):
            return False
        calls.take(1, now)
        if instances is not None:
            instances.take(wanted, now)
        return True

    def _bucket(self, name: str, rate: Rate, now: float) -> Bucket:
        if name not in self._buckets:
            self._buckets[name] = Bucket(rate.scaled(self._factor or 1.0), now)
        return self._buckets[name]


def _bucket_of(action: str, form: Mapping[str, Any]) -> tuple[str, Rate]:
    if action in _CALLS:
        return action, _CALLS[action]
    if not action.startswith(_READING):
        return action, _WRITE
    if action in _COSTLY_IN_FULL and not any(key.startswith(_NARROWS) for key in form):
        return f"{action} in full", _READ_EVERYTHING
    return action, _READ


def _instances(action: str, form: Mapping[str, Any]) -> int:
    """How many instances the call is about, for the actions that count them."""
    if action not in _INSTANCES:
        return 0
    if action != "RunInstances":
        return sum(key.startswith("InstanceId.") for key in form)
    count = str(form.get("MaxCount", "1"))
    return int(count) if count.isdecimal() else 1  # what is no number is refused later
