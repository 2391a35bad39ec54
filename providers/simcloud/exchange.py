"""What passes between the HTTP front and a cloud, whichever cloud it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from providers.simcloud.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Call:
    """A request, as far as every cloud's has one."""

    action: str  # as the cloud names it: RunInstances
    form: Mapping[str, str]  # its parameters, flat
    method: str
    target: str  # path and query
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str = ""  # the cloud's error code; empty: it was done


@dataclass(frozen=True, slots=True)
class InstanceView:
    """An instance as people and tests want to see it."""

    id: str
    state: str  # as fleet.State, whatever the cloud calls it; one that has been forgotten is terminated
    instance_type: str
    zone: str
    address: str
    tags: Mapping[str, str]
    reason: str  # why it is stopped or gone, in the cloud's words
    console: str


class Cloud(Protocol):
    """One cloud behind the front. All of it is synchronous and runs in the front's loop: no two calls overlap, so
    a deed is done whole or not at all.
    """

    title: str  # what it plays, for people: "EC2's us-east-1"
    fleet: Fleet

    def facts(self) -> dict[str, str]:
        """The ids that a user needs to launch something, by name."""
        ...

    def environment(self, endpoint_url: str) -> dict[str, str]:
        """What makes this cloud's SDKs and command line use it. The credentials are not anybody's."""
        ...

    def settings(self, endpoint_url: str) -> tuple[str, dict[str, Any]]:
        """The peerpods provider that talks to it, and what must stand in that provider's table."""
        ...

    def read(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Call:
        """What the request asks for; never fails, a request that makes no sense has no action."""
        ...

    def perform(self, call: Call) -> Answer:
        """Do it, or refuse it as the real cloud would."""
        ...

    def refusal(self, code: str, message: str, status: int) -> Answer:
        """A refusal with this code; an empty message or status 0 = the cloud's usual one."""
        ...

    def instances(self) -> list[InstanceView]:
        """Every instance there has been, oldest first."""
        ...

    def age(self, resource_id: str, seconds: float) -> None:
        """Have an instance or disk be made so many seconds earlier. Raises KeyError for an unknown one."""
        ...
