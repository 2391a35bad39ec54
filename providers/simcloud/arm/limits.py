"""Azure's API limits: ARM's token buckets per principal, and each provider's own policies per subscription.

ARM: reads 250 and 25 a second, writes 200 and 10, deletes 200 and 10. Compute: per minute, with three times that as
the burst, for the region and some also per VM. Network: per five minutes. From Azure's pages on request limits and on
throttling in compute, as of 2026.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from providers.simcloud.arm.errors import Refused
from providers.simcloud.buckets import Bucket, Rate


@dataclass(frozen=True, slots=True)
class Policy:
    """One of a provider's own; `shown` is its name in x-ms-ratelimit-remaining-resource."""

    shown: str
    rate: Rate


def _minute(refill: float, burst: float) -> Rate:
    return Rate(burst, refill / 60)


def _compute(name: str, refill: float, burst: float) -> Policy:
    return Policy(f"Microsoft.Compute/{name}", _minute(refill, burst))


_READS: Final = Rate(250, 25)
_WRITES: Final = Rate(200, 10)
_DELETES: Final = Rate(200, 10)

_PUT: Final = _compute("PutVMSubscriptionMaximum", 500, 1500)
_DELETE: Final = _compute("DeleteVMSubscriptionMaximum", 500, 1500)
_UPDATE: Final = _compute("UpdateVMSubscriptionMaximum", 500, 1500)
_LOW_COST: Final = _compute("LowCostGetSubscriptionMaximum", 8000, 24000)
_LOW_COST_VM: Final = _compute("LowCostGetResourceMaximum", 12, 36)
_HIGH_COST: Final = _compute("HighCostGetSubscriptionMaximum", 300, 900)
_OPERATION: Final = _compute("GetOperationSubscriptionMaximum", 5000, 15000)
_OPERATION_VM: Final = _compute("GetOperationResourceMaximum", 15, 45)
_NETWORK_READS: Final = Policy("Microsoft.Network/Reads5Min", Rate(10_000, 10_000 / 300))
_NETWORK_WRITES: Final = Policy("Microsoft.Network/Writes5Min", Rate(1000, 1000 / 300))

# An action -> the policies of the whole subscription, and those of one VM.
_POLICIES: Final[Mapping[str, tuple[tuple[Policy, ...], tuple[Policy, ...]]]] = {
    "VirtualMachines.CreateOrUpdate": ((_PUT,), ()),
    "VirtualMachines.Delete": ((_DELETE,), ()),
    "VirtualMachines.Update": ((_UPDATE,), ()),
    "VirtualMachines.Get": ((_LOW_COST,), (_LOW_COST_VM,)),
    "VirtualMachines.InstanceView": ((_LOW_COST,), (_LOW_COST_VM,)),
    "VirtualMachines.List": ((_HIGH_COST,), ()),
    "VirtualMachines.ListAll": ((_HIGH_COST,), ()),
    "VirtualMachines.ListByLocation": ((_HIGH_COST,), ()),
    "Operations.Get": ((_OPERATION,), (_OPERATION_VM,)),
}
_NETWORK: Final = ("NetworkInterfaces.", "PublicIPAddresses.", "VirtualNetworks.", "Subnets.", "NetworkSecurityGroups.")


class Limits:
    """All buckets of one subscription. `factor` scales them; None: there are none."""

    def __init__(self, factor: float | None) -> None:
        self._factor = factor
        self._buckets: dict[str, Bucket] = {}
        self._rates: dict[str, Rate] = {}

    def admit(self, action: str, method: str, resource: str, now: float) -> dict[str, str]:
        """The headers that say how much is left. Raises Refused when there is nothing. `resource`: what it is about."""
        if self._factor is None:
            return {}
        arm, rate = _arm(method)
        policies = _policies(action, method)
        wanted = [(arm, rate), *((name, policy.rate) for name, policy in self._named(policies, resource))]
        for name, each in wanted:
            bucket = self._bucket(name, each, now)
            if not bucket.holds(1, now):
                raise self._throttled(name, arm, action, now)
        for name, _ in wanted:
            self._buckets[name].take(1, now)
        shown = [(policy.shown, name) for name, policy in self._named(policies, resource)]
        headers = {f"x-ms-ratelimit-remaining-subscription-{arm}": str(self._left(arm, now))}
        if shown:
            headers["x-ms-ratelimit-remaining-resource"] = ",".join(f"{what};{self._left(n, now)}" for what, n in shown)
        return headers

    def _named(
        self, policies: tuple[tuple[Policy, ...], tuple[Policy, ...]], resource: str
    ) -> list[tuple[str, Policy]]:
        whole, single = policies
        return [(p.shown, p) for p in whole] + [(f"{p.shown} {resource.lower()}", p) for p in single if resource]

    def _throttled(self, name: str, arm: str, action: str, now: float) -> Refused:
        wait = str(max(1, math.ceil(self._wait(name, now))))
        if name == arm:
            return Refused(
                "SubscriptionRequestsThrottled",
                f"Number of '{arm}' requests for subscription exceeded the limit. Please try again after '{wait}' seconds.",
                headers={"Retry-After": wait, f"x-ms-ratelimit-remaining-subscription-{arm}": "0"},
            )
        shown = name.partition(" ")[0]
        if shown.startswith("Microsoft.Network"):
            return Refused(
                "TooManyRequests",
                "The request is being throttled as the limit has been reached for this operation type.",
                headers={"Retry-After": wait},
            )
        detail = {
            "code": "TooManyRequests",
            "target": shown.partition("/")[2],
            "message": f'{{"operationGroup":"{shown.partition("/")[2]}","allowedRequestCount":{self._rates[name].burst:g}}}',
        }
        return Refused(
            "OperationNotAllowed",
            f"The server rejected the request because too many requests have been received for this subscription: {action}.",
            status=429,
            details=[detail],
            headers={"Retry-After": wait, "x-ms-ratelimit-remaining-resource": f"{shown};0"},
        )

    def _bucket(self, name: str, rate: Rate, now: float) -> Bucket:
        if name not in self._buckets:
            self._rates[name] = rate.scaled(self._factor or 1.0)
            self._buckets[name] = Bucket(self._rates[name], now)
        return self._buckets[name]

    def _left(self, name: str, now: float) -> int:
        return self._buckets[name].left(now)

    def _wait(self, name: str, now: float) -> float:
        return self._buckets[name].wait(now)


def _arm(method: str) -> tuple[str, Rate]:
    if method == "GET":
        return "reads", _READS
    return ("deletes", _DELETES) if method == "DELETE" else ("writes", _WRITES)


def _policies(action: str, method: str) -> tuple[tuple[Policy, ...], tuple[Policy, ...]]:
    if action.startswith(_NETWORK):
        return ((_NETWORK_READS,) if method == "GET" else (_NETWORK_WRITES,)), ()
    return _POLICIES.get(action, ((), ()))
