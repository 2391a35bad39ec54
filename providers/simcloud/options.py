"""What a simulated cloud is told when it starts."""

import random
import re
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from providers import forms

Instances = Literal["api-only", "namespace"]
CloudName = Literal["ec2", "arm", "gce"]
TokenAnswer = Literal["reservation", "error"]


class SimcloudError(Exception):
    """The simulated cloud cannot do what it was asked to: what failed, why, what to do."""


@dataclass(frozen=True, slots=True)
class Delay:
    """Seconds; drawn evenly from `mean - spread` to `mean + spread`, never below zero."""

    mean: float = 0.0
    spread: float = 0.0

    def draw(self, rng: random.Random) -> float:
        return max(0.0, rng.uniform(self.mean - self.spread, self.mean + self.spread))

    def __str__(self) -> str:
        return f"{self.mean:g}s" + (f"±{self.spread:g}s" if self.spread else "")


def delay(value: "Delay | float | str") -> Delay:
    """`8`, `"8s"`, `"8s±3s"` or `"8s+-3s"`; raises ValueError."""
    if isinstance(value, Delay):
        return value
    mean, spreads, spread = str(value).replace("+-", "±").partition("±")
    try:
        return Delay(_seconds(mean), _seconds(spread) if spreads else 0.0)
    except ValueError:
        raise ValueError(f"{value!r} is not a time: write 8s, 250ms, 1m30s, or 8s±3s for a spread") from None


def _seconds(text: str) -> float:
    text = text.strip()
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else float(forms.duration.parse(text))


NONE: Final = Delay()


@dataclass(frozen=True, slots=True)
class Options:
    """One cloud's settings; `Options.of` takes them as people write them."""

    cloud: CloudName = "ec2"
    instances: Instances = "api-only"  # namespace: they really boot
    host: str = "127.0.0.1"
    port: int = 0  # 0: any that is free
    region: str = ""  # empty: us-east-1, eastus or us-central1
    program: tuple[str, ...] = ()  # what an instance runs; empty: the guest with its development agent
    boot_delay: Delay = NONE  # pending -> running, and the program starts
    os_delay: Delay = NONE  # running -> the program starts: what an operating system takes to come up
    agent_delay: Delay = NONE  # running -> Azure counts a VM with an agent as provisioned: it waits for its word
    shutdown_delay: Delay = NONE  # shutting-down -> terminated
    visible_after: Delay = NONE  # how long a fresh instance is unknown to Describe*: eventual consistency
    terminated_visible: float = 3600.0  # seconds; EC2 shows a terminated instance for about an hour
    rate_limits: float | None = None  # None: off; 1: as the real cloud; a factor scales bursts and rates
    token_after_termination: TokenAnswer = "error"  # noqa: S105 - as EC2 does since 2025; before: reservation
    seed: int | None = None  # makes drawn delays repeatable
    network: str = ""  # the default VPC, a /16; empty: 172.31.0.0/16, or the next that is free here

    @classmethod
    def of(cls, **values: Any) -> "Options":
        """From plain values: delays as texts or seconds, the program as any sequence. Raises ValueError."""
        for name in ("boot_delay", "os_delay", "agent_delay", "shutdown_delay", "visible_after"):
            if name in values:
                values[name] = delay(values[name])
        if "program" in values:
            values["program"] = tuple(values["program"])
        made = cls(**values)
        _check("cloud", made.cloud, get_args(CloudName))
        _check("instances", made.instances, get_args(Instances))
        _check("token_after_termination", made.token_after_termination, get_args(TokenAnswer))
        if made.rate_limits is not None and made.rate_limits <= 0:
            raise ValueError("rate_limits must be a factor above 0, or None for no limits")
        return made


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it can be {' or '.join(allowed)}")
