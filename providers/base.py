"""What the adaptor asks of a cloud.

Every verb is idempotent and safe to cancel: cancelling stops the waiting, never half of a deed, and the
same call again finds out what happened. Errors are those of `providers.errors`, nothing else escapes.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable


class Tee(StrEnum):
    """The trusted execution environment a machine gives its guest."""

    NONE = "none"
    SEV = "sev"  # encrypted memory without attestation of its own; GCP only
    SNP = "snp"
    TDX = "tdx"


class Purchase(StrEnum):
    """How a machine is paid for."""

    ON_DEMAND = "on-demand"
    SPOT = "spot"  # cheaper, and the cloud may take it back at any moment


class InstanceState(StrEnum):
    """As much of an instance's life as the adaptor branches on."""

    PENDING = "pending"  # accepted; may have addresses already
    RUNNING = "running"
    STOPPED = "stopped"  # exists, costs disk, will not answer
    GONE = "gone"  # deleted, or being deleted with no way back


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whose instances these are; written as tags on every resource.

    Without a node it is the whole cluster's: `list`, `delete`, `resources` and `remove` then reach every node's, and
    `create` raises InvalidSpec, for what has no node is nobody's.
    """

    cluster: str
    node: str


@dataclass(frozen=True, slots=True)
class Offering:
    """One thing that can be launched: a type, in a zone, paid for in one way, with one TEE or none."""

    instance_type: str
    vcpus: int
    memory_mib: int
    gpus: int = 0
    gpu_model: str = ""  # as the cloud names it: "A10G", "nvidia-l4"
    architecture: str = "x86_64"  # or "arm64"
    tee: Tee = Tee.NONE
    zone: str = ""  # as the cloud names it; empty = the cloud has none here
    purchase: Purchase = Purchase.ON_DEMAND
    price: float | None = None  # USD per hour; None = unknown


@dataclass(frozen=True, slots=True)
class Volume:
    """A disk that exists already and is a pod's: attached to its machine, never deleted with it."""

    id: str  # the cloud's own: vol-..., a disk's resource id, projects/.../disks/...
    read_only: bool = False


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
    purchase: Purchase = Purchase.ON_DEMAND
    root_volume_gib: int | None = None  # None = as configured; never less than the image's
    scratch_gib: int = 0  # so much more of it, for the guest's scratch partition
    volumes: tuple[Volume, ...] = ()  # in this order; see SupportsVolumes for which device each becomes


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
    """A cloud, for one node of one cluster, or to look after a whole one (see Ownership)."""

    name: str
    user_data_limit: int  # bytes that LaunchSpec.user_data may have

    async def create(self, spec: LaunchSpec, token: str) -> Instance:
        """Ask for a machine; return as soon as the cloud has accepted (it need not run yet).

        `token` (at most 64 characters) makes it once-only: the same token and spec again return the same
        instance, also after a lost reply, also when that instance has died since (state GONE). The same
        token with another spec raises InvalidSpec.

        Raises: Capacity, Quota, Unsupported, Throttled, Denied, InvalidSpec, NotFound, Transient.
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
        """What the configuration allows to be launched; cached by the provider.

        The first is what a pod without wishes gets: the default type with the default TEE, on demand. A pod that
        names no TEE gets the first one's. Where the configuration demands a TEE, no offering lacks it.

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


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk as the cloud describes it, before anything is attached or spent."""

    id: str
    zone: str  # empty: it can be attached in every zone of the region
    size_gib: int
    attached_to: tuple[str, ...] = ()  # ids of the machines that have it
    shareable: bool = False  # more than one machine may have it at once


@runtime_checkable
class SupportsVolumes(Protocol):
    """A cloud whose disks can be given to machines."""

    async def disks(self, ids: Collection[str]) -> Mapping[str, Disk]:
        """Describe these; those that do not exist are left out. Raises: Throttled, Denied, Transient."""
        ...

    async def attach(self, instance_id: str, volumes: Sequence[Volume]) -> None:
        """Have the machine hold these, as `LaunchSpec.volumes` asked; return when the cloud says that it does.

        Where the create has done it already this does nothing, as does a repeat. Raises: InvalidSpec (another machine
        has one of them, or it is in another zone), NotFound, Quota, Throttled, Denied, Transient (a machine that does
        not run yet: repeat).
        """
        ...

    def device(self, spec: LaunchSpec, index: int) -> "Device":
        """How the guest finds `spec.volumes[index]`: known before the machine is."""
        ...


@dataclass(frozen=True, slots=True)
class Device:
    """What identifies an attached disk inside the machine; empty or None where this cloud does not use it."""

    lun: int | None = None  # Azure: /dev/disk/azure/scsi1/lunN, or NVMe namespace N + 2
    serial: str = ""  # AWS: the NVMe serial, vol0123...; GCP: the device name, /dev/disk/by-id/google-NAME


@dataclass(frozen=True, slots=True)
class Seat:
    """A place in a call that launches several machines; as a token `<call>.<index>.<count>`, at most 64 characters."""

    call: str  # the call's own token: 1 to 56 of [0-9A-Za-z_-]
    index: int
    count: int  # 2 to 999

    def __str__(self) -> str:
        return f"{self.call}.{self.index}.{self.count}"

    @classmethod
    def parse(cls, token: str) -> "Seat | None":
        """The seat of this token; None for one that is a machine's own."""
        found = re.fullmatch(r"([\w-]{1,56})\.(0|[1-9]\d{0,2})\.([1-9]\d{0,2})", token, re.ASCII)
        if found is None or not int(found[2]) < int(found[3]) >= 2:
            return None
        return cls(found[1], int(found[2]), int(found[3]))


@runtime_checkable
class SupportsBatchCreate(Protocol):
    """A cloud that launches many equal machines with one call.

    `create` with the token of a Seat makes the whole call, or joins the one under way, and returns the index-th
    machine; Capacity when the cloud launched fewer. As the token says all, a repeat after a crash is the same call
    again, whoever of the `count` makes it. What `get` and `list` report carries the seat as its token, always.
    """

    async def seat(self, spec: LaunchSpec, token: str) -> str:
        """The token to create `spec` with: `token` itself where nobody of its shape came within the window, else a
        seat. No machine has been asked for yet. Cancelling it gives the place up. Raises: as `create`.
        """
        ...

    def leave(self, token: str) -> None:
        """No create for this seat will come, or come again, and nobody has what it made: that is deleted at once.

        A seat that this provider has not dealt, and one whose create was answered, may be left: nothing happens.
        """
        ...


class Grade(StrEnum):
    """How a finding of the preflight weighs."""

    OK = "ok"
    WARNING = "warning"  # pods start, but something is worse than it could be, or could not be verified
    FAULT = "fault"  # pods will not start


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the preflight looked at."""

    subject: str  # "credentials", "permission ec2:RunInstances", "image ami-...", "subnet subnet-...", "quota ..."
    grade: Grade
    message: str  # what is so
    fix: str = ""  # what to do about it; empty when all is well


@runtime_checkable
class SupportsPreflight(Protocol):
    """A cloud that can be asked beforehand whether launches would succeed."""

    async def preflight(self, port: int, tunnel_port: int) -> Sequence[Finding]:
        """Everything that a launch needs, looked at with dry runs and describes; nothing is made or changed.

        `port` (TCP) and `tunnel_port` (UDP) must be open from workers to machines. What cannot be asked is a WARNING
        that says so. Raises nothing of `providers.errors`: that is what findings are.
        """
        ...


@dataclass(frozen=True, slots=True)
class Headroom:
    """One of the account's limits."""

    name: str  # as the cloud calls it: "Running On-Demand Standard instances", "standardDCASv5Family"
    limit: float
    used: float | None  # None: the cloud does not tell
    unit: str = "vCPU"
    types: tuple[str, ...] = ()  # the configured instance types that count against it


@runtime_checkable
class SupportsQuota(Protocol):
    """A cloud that tells its limits."""

    async def quota(self) -> Sequence[Headroom]:
        """Those limits that the configured types meet. Raises: Throttled, Denied, Transient."""
        ...


# Bytes of a console that `SupportsConsole.console` gives at most, the last ones: as many as EC2 keeps.
CONSOLE_LIMIT = 64 * 1024


def console_tail(printed: str) -> str:
    """The end of it, as long as `SupportsConsole.console` may be."""
    return printed.encode(errors="replace")[-CONSOLE_LIMIT:].decode(errors="replace").lstrip("\ufffd")


@runtime_checkable
class SupportsConsole(Protocol):
    """A cloud that keeps what its machines print on their serial console."""

    async def console(self, instance_id: str) -> str:
        """The newest CONSOLE_LIMIT bytes that the cloud has of it; empty while it has none, clouds lag by seconds to
        minutes. What is not UTF-8 is replaced; escape sequences are the guest's, and still in it.

        Some clouds still tell of a machine that has been deleted. Raises: NotFound, Throttled, Denied, InvalidSpec
        (this machine's console is not kept), Transient.
        """
        ...


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A pod VM's disk, in the form that the cloud takes (SupportsImages.form)."""

    path: Path
    digest: str  # SHA-256 of the raw disk, in hex: what makes it this image, in whichever form
    name: str  # what people will see in the cloud: at most 63 of [a-z0-9-]
    architecture: str = "x86_64"  # or "arm64"


class Progress(Protocol):
    """Hears how far something is that takes long."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """`done` of `total` bytes; both 0 while something is waited for that has no measure."""
        ...


class SupportsImages(Protocol):
    """A cloud that takes pod VM images; opened by a module `<cloud>.uploads`, apart from the provider of a node."""

    form: str  # raw, vhd or gcp

    async def find(self, digest: str) -> str:
        """The id of the image that this disk has become, as a launch may name it; empty where there is none."""
        ...

    async def upload(self, image: ImageFile, progress: Progress) -> str:
        """Make it an image, and return its id. What is there already is found, what was begun is gone on with.

        A file `<path>.<cloud>-upload` beside the disk says how far it came; it goes with the last step.
        Raises: as Provider.create; InvalidSpec for a disk that is not as it should be.
        """
        ...

    async def tidy(self, digest: str) -> None:
        """Remove what the upload of a finished image left, were it cut off at its very end. Raises: as upload."""
        ...

    async def aclose(self) -> None:
        """Let go of connections and threads."""
        ...
