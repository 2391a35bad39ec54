"""Google's rate quotas: calls per minute, for the project and its region, in groups that are counted separately.

Groups and names are those of docs.cloud.google.com/compute/docs/api-rate-limits of April 2026. That page prints no
default figures any more; an older one had 1500 a minute for mutations and for reads. As it says, a used-up quota is
full again at the beginning of the next minute, not bit by bit, and the answer is 403 with rateLimitExceeded. Google
sends no Retry-After with it.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from providers.simcloud.gce.errors import Refused
from providers.simcloud.gce.project import NUMBER

_MINUTE: Final = 60.0
_PER_MINUTE: Final = 1500
_SERVICE: Final = "compute.googleapis.com"


@dataclass(frozen=True, slots=True)
class Group:
    """One quota: what people see it called, its metric, its limit's name."""

    title: str
    metric: str
    limit: str
    regional: bool = True


_WRITES: Final = Group("Queries", "default_per_region", "QueriesPerMinutePerRegion")
_READS: Final = Group("Read requests", "read_requests_per_region", "ReadRequestsPerMinutePerRegion")
_LISTS: Final = Group("List requests", "list_requests_per_region", "ListRequestsPerMinutePerRegion")
_OPERATIONS: Final = Group(
    "Operation read requests", "operation_read_requests_per_region", "OperationReadRequestsPerMinutePerRegion"
)
_WAITS: Final = Group(
    "Heavy weight read requests", "heavy_weight_read_requests_per_region", "HeavyWeightReadRequestsPerMinutePerRegion"
)
_AGGREGATED: Final = Group(
    "Heavy-weight read requests", "heavy_weight_read_requests", "HeavyWeightReadRequestsPerMinutePerProject", False
)
_CONSOLE: Final = Group(
    "Get serial port output requests",
    "get_serial_port_output_requests_per_region",
    "GetSerialPortOutputRequestsPerMinutePerProjectPerRegion",
)
_GLOBAL_READS: Final = Group("Read requests", "read_requests", "ReadRequestsPerMinutePerProject", False)
_GLOBAL_LISTS: Final = Group("List requests", "list_requests", "ListRequestsPerMinutePerProject", False)
_GLOBAL: Final = frozenset({"projects", "images", "networks", "firewalls", "zones", "regions"})


class Limits:
    """All counters of one project. `factor` scales the quotas; None: there are none."""

    def __init__(self, factor: float | None, region: str) -> None:
        self._limit = None if factor is None else max(1, int(_PER_MINUTE * factor))
        self._region = region
        self._minute = -1
        self._used: Counter[str] = Counter()

    def admit(self, action: str, now: float) -> None:
        """Count a call; `now` is seconds on any scale. Raises Refused when the minute's quota is used up."""
        if self._limit is None:
            return
        if (minute := int(now // _MINUTE)) != self._minute:
            self._minute = minute
            self._used.clear()
        group = group_of(action)
        if self._used[group.metric] >= self._limit:
            raise exceeded(group, self._region, self._limit)
        self._used[group.metric] += 1


def group_of(action: str) -> Group:
    """Which quota a call counts against."""
    kind, _, verb = action.partition(".")
    if verb == "aggregatedList":
        return _AGGREGATED
    if kind.endswith("Operations"):
        return _WAITS if verb == "wait" else _OPERATIONS if verb == "get" else _LISTS
    if verb == "getSerialPortOutput":
        return _CONSOLE
    if verb.startswith("get"):
        return _GLOBAL_READS if kind in _GLOBAL else _READS
    if verb == "list":
        return _GLOBAL_LISTS if kind in _GLOBAL else _LISTS
    return _WRITES


def exceeded(group: Group, region: str, limit: int) -> Refused:
    """The refusal of a call that is one too many."""
    per = "per minute per region" if group.regional else "per minute"
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "RATE_LIMIT_EXCEEDED",
        "domain": "googleapis.com",
        "metadata": {
            "consumer": f"projects/{NUMBER}",
            "service": _SERVICE,
            "quota_metric": f"{_SERVICE}/{group.metric}",
            "quota_limit": group.limit,
            "quota_limit_value": str(limit),
            "quota_location": region if group.regional else "global",
        },
    }
    words = (
        f"Quota exceeded for quota metric '{group.title}' and limit '{group.title} {per}' of service '{_SERVICE}' for"
        f" consumer 'project_number:{NUMBER}'."
    )
    return Refused("rateLimitExceeded", words, details=[info])


def usual(region: str) -> Refused:
    """As for one mutation too many."""
    return exceeded(_WRITES, region, _PER_MINUTE)
