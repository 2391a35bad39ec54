"""What every action needs, kept for the cloud's life; a request; a reply."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.operations import Operations
from providers.simcloud.arm.state import Resource, World
from providers.simcloud.faults import Faults
from providers.simcloud.options import Options


@dataclass(frozen=True, slots=True)
class Desk:
    """The subscription and what its rooms share."""

    world: World
    operations: Operations
    faults: Faults
    options: Options
    random: random.Random
    now: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, read and admitted."""

    action: str
    names: Mapping[str, str]  # of the path: subscription, group, name, ...
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: dict[str, Any] = field(default_factory=dict)
    base: str = ""  # http://host:port, for links
    path: str = ""
    version: str = ""  # api-version

    @property
    def group(self) -> str:
        return self.names.get("group", "")

    @property
    def name(self) -> str:
        return self.names.get("name", "")


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered when nothing is refused."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Asked], Reply]
Handlers = Mapping[str, Handler]


def check_etag(asked: Asked, existing: Resource | None) -> None:
    """If-Match and If-None-Match. Raises Refused."""
    match, none_match = asked.headers.get("If-Match", ""), asked.headers.get("If-None-Match", "")
    wrong = ""
    if match == "*" and existing is None:
        wrong = f"The condition 'If-Match: *' is not satisfied: {asked.name} does not exist."
    elif match not in ("", "*") and (existing is None or match != existing.etag):
        wrong = f"The condition 'If-Match: {match}' is not satisfied: it is {existing.etag if existing else 'absent'}."
    elif none_match == "*" and existing is not None:
        wrong = f"The condition 'If-None-Match: *' is not satisfied: {existing.id} exists."
    elif none_match not in ("", "*") and existing is not None and none_match == existing.etag:
        wrong = f"The condition 'If-None-Match: {none_match}' is not satisfied."
    if wrong:
        raise Refused("PreconditionFailed", wrong)
