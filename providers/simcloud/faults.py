"""What goes wrong in a simulated cloud, and when: faults for single calls, and a world that lacks things.

    faults.next(action="RunInstances", error="RequestLimitExceeded", times=2)    the next two are refused
    faults.capacity("m6a.large", "us-east-1a", free=0)                           none left, until told otherwise
    faults.boot("dies")                                                          the next instance dies booting

Everything is immediate and may be called from the cloud's own loop, or through `/_simcloud/faults`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

ANY = "*"


class Fate(StrEnum):
    """How an instance's start goes."""

    LIVES = "lives"
    DIES = "dies"  # while booting: pending, then terminated, with a reason
    DEAF = "deaf"  # runs, has its address, and nothing in it ever listens
    UNREACHABLE = "unreachable"  # runs, and no packet ever comes back


@dataclass(slots=True)
class Rule:
    """What happens to the next `times` calls of `action`, in this order: delay, deed or error, delay_reply, reply."""

    action: str = ANY
    error: str = ""  # a code of the cloud's; nothing is done
    message: str = ""  # in place of the usual one
    http_status: int = 0  # in place of the usual one; without `error`: a load balancer's page, nothing is done
    garbage: bool = False  # a body that is not the cloud's
    lose_reply: bool = False  # the deed is done, and the connection closes without a byte
    delay: float = 0.0  # seconds before the deed
    delay_reply: float = 0.0  # seconds after the deed
    times: int = 1

    def matches(self, action: str) -> bool:
        return self.action in (ANY, action)


@dataclass(slots=True)
class Pool:
    """What is left of a type in a zone; `*` is any. Terminating an instance gives its place back."""

    instance_type: str
    zone: str
    free: int

    def covers(self, instance_type: str, zone: str) -> bool:
        return self.instance_type in (ANY, instance_type) and self.zone in (ANY, zone)


@dataclass(frozen=True, slots=True)
class Birth:
    """How one instance's start goes, and the reason that the cloud will state."""

    fate: Fate = Fate.LIVES
    reason: str = ""


@dataclass
class Faults:
    """All faults of one cloud."""

    kill_instance: Callable[[str, str], None] | None = None  # the fleet's hand: instance id, reason
    cut_instance: Callable[[str, float], None] | None = None  # instance id, seconds
    rules: list[Rule] = field(default_factory=list)
    pools: list[Pool] = field(default_factory=list)
    births: list[Birth] = field(default_factory=list)
    vcpus: int | None = None
    denied: set[str] = field(default_factory=set)  # what the caller may not do, as the cloud's roles name it

    # -- to cause them ----------------------------------------------------------------------------

    def next(self, action: str = ANY, **what: Any) -> None:
        """The next call(s) of `action` go wrong; the fields of Rule say how. Earlier rules are used up first."""
        self.rules.append(Rule(action, **what))

    def capacity(self, instance_type: str = ANY, zone: str = ANY, *, free: int | None) -> None:
        """Only `free` more instances of this type can be had in this zone; None = as many as one likes."""
        self.pools = [p for p in self.pools if (p.instance_type, p.zone) != (instance_type, zone)]
        if free is not None:
            self.pools.append(Pool(instance_type, zone, free))

    def quota(self, vcpus: int | None) -> None:
        """The account may run at most so many vCPUs; None = no limit."""
        self.vcpus = vcpus

    def deny(self, permission: str) -> None:
        """The caller's role lacks this permission from now on: `Microsoft.Compute/virtualMachines/write`."""
        self.denied.add(permission)

    def boot(self, fate: Fate | str, *, times: int = 1, reason: str = "") -> None:
        """How the next instances start. `reason` is what the cloud states for one that dies."""
        self.births.extend([Birth(Fate(fate), reason)] * times)

    def kill(self, instance: str, reason: str = "") -> None:
        """End a running instance as a failing host would. Raises KeyError for an unknown one."""
        if self.kill_instance is None:
            raise KeyError(instance)
        self.kill_instance(instance, reason)

    def cut(self, instance: str, seconds: float = 10.0) -> None:
        """Take a running instance's network cable out for so long. Raises KeyError for an unknown one."""
        if self.cut_instance is None:
            raise KeyError(instance)
        self.cut_instance(instance, seconds)

    def clear(self) -> None:
        """Nothing goes wrong any more. What has happened stays."""
        self.rules, self.pools, self.births, self.vcpus, self.denied = [], [], [], None, set()

    def outstanding(self) -> dict[str, Any]:
        """What is still to come, as plain values."""
        return {
            "next": [asdict(rule) for rule in self.rules],
            "capacity": [asdict(pool) for pool in self.pools],
            "boot": [asdict(birth) for birth in self.births],
            "quota": self.vcpus,
            "deny": sorted(self.denied),
        }

    # -- for the cloud to suffer them -------------------------------------------------------------

    def take(self, action: str) -> Rule:
        """The rule for this call, used up by one; an empty rule when there is none."""
        for rule in self.rules:
            if rule.matches(action):
                rule.times -= 1
                if rule.times <= 0:
                    self.rules.remove(rule)
                return rule
        return Rule(action)

    def take_birth(self) -> Birth:
        return self.births.pop(0) if self.births else Birth()

    def room(self, instance_type: str, zone: str, wanted: int) -> int:
        """How many of `wanted` instances there is capacity for."""
        return max(0, min([wanted, *(pool.free for pool in self._pools(instance_type, zone))]))

    def occupy(self, instance_type: str, zone: str) -> list[Pool]:
        """Take one place; the pools it was taken from, to be given back with `release`."""
        pools = self._pools(instance_type, zone)
        for pool in pools:
            pool.free -= 1
        return pools

    def release(self, pools: list[Pool]) -> None:
        """Give one place back to each pool; one that has been replaced meanwhile does not matter any more."""
        for pool in pools:
            pool.free += 1

    def _pools(self, instance_type: str, zone: str) -> list[Pool]:
        return [pool for pool in self.pools if pool.covers(instance_type, zone)]
