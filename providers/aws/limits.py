"""EC2's API limits, per account and region, as Amazon publishes them (pure): which buckets a call takes from, and who
goes first.

Source: docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html. An account may have been given more: then the
published rate is less than could be had, and `[aws]` has no setting for it yet.
"""

from collections.abc import Mapping
from typing import Final

from providers.throttle import Rank, Rate

RUN: Final = "RunInstances"
TERMINATE: Final = "TerminateInstances"
RUN_MACHINES: Final = "machines of RunInstances"
TERMINATE_MACHINES: Final = "machines of TerminateInstances"
DESCRIBE: Final = "DescribeInstances"

_READ: Final = Rate(100, 20)
_WRITE: Final = Rate(50, 5)
_RATES: Final[Mapping[str, Rate]] = {
    RUN: Rate(5, 2),
    RUN_MACHINES: Rate(1000, 2),
    TERMINATE: Rate(100, 5),
    TERMINATE_MACHINES: Rate(1000, 20),
    "CreateNetworkInterface": Rate(100, 5),
    "CreateTags": Rate(100, 10),
}
_READING: Final = ("Describe", "Get", "List", "Search")
_UNDOING: Final = ("Delete", "Release", "Detach", "Disassociate", "Terminate", "Cancel")


def rate(bucket: str) -> Rate:
    """The limit that this bucket stands for; each action has one."""
    return _RATES.get(bucket) or (_READ if bucket.startswith(_READING) else _WRITE)


def action(method: str) -> str:
    """The API's name of one of the SDK's methods, and of its bucket."""
    return "".join(part.capitalize() for part in method.split("_"))


def rank(action: str) -> Rank:
    """Who goes first of those that wait."""
    if action == "CreateTags":
        return Rank.LAST
    if action.startswith(_UNDOING):
        return Rank.DELETE
    return Rank.READ if action.startswith(_READING) else Rank.CREATE
