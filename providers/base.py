"""What the adaptor asks of a cloud.

Every verb is idempotent and safe to cancel: cancelling stops the waiting, never half of a deed, and the
same call again finds out what happened. Errors are those of `providers.errors`, nothing else escapes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable


class Tee(StrEnum):
    """The trusted execution environment a machine gives its guest."""

    NONE = "none"
    SNP = "snp"
    TDX = "tdx"


class InstanceState(StrEnum):
    """As much of an instance's life as the adaptor branches on."""

    PENDING = "pending"  # accepted; may have addresses already
    RUNNING = "running"
    STOPPED = "stopped"  # exists, costs disk, will not answer
    GONE = "gone"  # deleted, or being deleted with no way back


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whose instances these are; written as tags on every resource."""

    cluster: str
    node: str


@dataclass(frozen=True, slots=True)
class Offering:
    """One thing that can be launched."""

    instance_type: str
    vcpus: int
    memory_mib: int
    gpus: int = 0
    gpu_model: str = ""
    architecture: str = "x86_64"
    tees: frozenset[Tee] = frozenset({Tee.NONE})
    zone: str = ""  # empty = any the configuration allows
    price: float | None = None  # USD per hour; None = unknown


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """Everything a create needs to know; equal specs make equal machines."""

    name: str  # at most 63 characters, [a-z0-9-]
    instance_type: str
    user_data: bytes  # as the guest must read it; the provider does the cloud's own encoding
    image: str = ""  # empty = the configured one
    tags: Mapping[str, str] = field(default_factory=dict)  # see providers.tags; the provider adds ownership
    tee: Tee | None = None  # None = as configured
    zone: str = ""
    root_volume_gib: int | None = None  # None = as the image says


@dataclass(frozen=True, slots=True)
class Instance:
    """A machine as the cloud describes it."""

    id: str
    state: InstanceState
    addresses: tuple[str, ...] = ()  # where a worker can reach it, best first; may be empty while pending
    name: str = ""
    instance_type: str = ""
    zone: str = ""
    image: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    launched_at: float | None = None  # seconds since the epoch
    reason: str = ""  # the cloud's own words for why it is stopped or gone


class Provider(Protocol):
    """A cloud, for one node of one cluster."""

    name: str

    async def create(self, spec: LaunchSpec, token: str) -> Instance:
        """Ask for a machine; return as soon as the cloud has accepted (it need not run yet).

        `token` (at most 64 characters) makes it once-only: the same token and spec again return the same
        instance, also after a lost reply, also when that instance has died since (state GONE). The same
        token with another spec raises InvalidSpec.

        Raises: Capacity, Quota, Throttled, Denied, InvalidSpec, Transient.
        """
        ...

    async def get(self, ids: Collection[str]) -> Mapping[str, Instance]:
        """Describe these machines in as few calls as the cloud allows; those it does not know are left out.

        A machine just created may be missing for some seconds (clouds are eventually consistent).
        """
        ...

    async def list(self) -> Sequence[Instance]:
        """Every machine that carries this ownership's tags and is not GONE."""
        ...

    async def delete(self, instance_id: str) -> None:
        """Have the machine and all that came with it deleted; return once the cloud has accepted.

        One that is gone, or never was, is success.
        """
        ...

    async def offerings(self) -> Sequence[Offering]:
        """What the configuration allows to be launched, the default first; cached by the provider.

        Raises: Throttled, Denied, InvalidSpec (a configured type does not exist), Transient.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections and threads. Calls under way may finish; new ones are refused."""
        ...


class ResourceKind(StrEnum):
    """What a cloud bills or counts by itself, in the words that people read."""

    INSTANCE = "instance"
    INTERFACE = "network interface"
    ADDRESS = "address"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class Resource:
    """One thing in the cloud, with what a decision to remove it takes."""

    kind: ResourceKind
    id: str
    name: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    created_at: float | None = None  # seconds since the epoch; None = the cloud does not tell
    attached_to: str = ""  # the id of what holds it, an instance's mostly; empty = it is free
    addresses: tuple[str, ...] = ()  # an instance's, as Instance has them
    facts: str = ""  # what it costs by: "8 GiB gp3 in us-east-1a"


@runtime_checkable
class SupportsSweep(Protocol):
    """A cloud whose leaked resources can be found and removed."""

    async def resources(self) -> Sequence[Resource]:
        """Everything that carries this ownership's cluster tag, whichever its node, and is not GONE.

        All of it or an error: what is missing from the answer does not exist. Raises: Throttled, Denied, Transient.
        """
        ...

    async def remove(self, resource: Resource) -> None:
        """Have it deleted; return once the cloud has accepted. One that is gone is success.

        The cloud is asked about it first. Raises InvalidSpec, having done nothing, for one that something holds, or
        that does not carry this ownership's tags now; Throttled, Denied, Transient.
        """
        ...
