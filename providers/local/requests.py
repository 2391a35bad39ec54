"""What a launch comes to: checks, the intent that is written down first, and what is told of a machine later (pure)."""

import hashlib
import ipaddress
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from providers import tags
from providers.base import Instance, InstanceState, LaunchSpec, Ownership, Purchase, Tee
from providers.errors import InvalidSpec, NotFound
from providers.local.config import LocalConfig, size, tag_problem

USER_DATA_LIMIT: Final = 16384  # bytes; as much as EC2 takes, so that a launch that works here works there
TOKEN_LIMIT: Final = 64
_NAME: Final = re.compile(r"[a-z0-9-]{1,63}")
_ID: Final = re.compile(r"vm-[0-9a-f]{16}")
_FIRST: Final = 2  # of a subnet's addresses: the first is this host's
_LOOPBACK: Final = ipaddress.IPv4Network("127.77.0.0/16")  # network = user: each VM has one of its own


@dataclass(frozen=True, slots=True)
class Intent:
    """What is written down before anything is started; enough to start it, to know it again and to take it away."""

    id: str
    token: str
    name: str
    instance_type: str
    image: str
    digest: str  # of the wish
    created_at: float  # seconds since the epoch
    address: str
    vmm: str  # qemu | namespace
    network: str  # tap | user
    boot: str  # direct | uefi
    user_data: str  # fw_cfg | cidata | imds
    accel: str  # kvm | tcg
    tee: str = Tee.NONE.value
    disk_gib: int = 0  # of a copy of the image's disk that the VM may write to; 0: it has the image's own, to read
    tags: Mapping[str, str] = field(default_factory=dict)
    launches: int = 1  # power-ons so far, this one included
    boot_id: str = ""  # this host's, at the last power-on: process ids mean nothing after a reboot


@dataclass(frozen=True, slots=True)
class Ending:
    """What is remembered for an hour of a machine that was deleted: its token must not make another."""

    id: str
    name: str
    instance_type: str
    digest: str
    ended_at: float
    image: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """A machine as this host has it now."""

    intent: Intent
    state: InstanceState
    reason: str = ""


def instance_id(owner: Ownership, token: str) -> str:
    """One per owner and token: so a repeated create meets the first one's directory."""
    text = json.dumps([owner.cluster, owner.node, token])
    return f"vm-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def is_id(text: str) -> bool:
    """Whether it has the form of one; anything else must never become a path."""
    return _ID.fullmatch(text) is not None


def link_of(id: str) -> str:
    """The name of a machine's link on this host, at most 15 characters."""
    return f"pp-{id[-12:]}"


def mac_of(address: str) -> str:
    """A machine's hardware address, which is its lease: `dhcp` reads the address out of it again."""
    return "52:54:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(address).packed)


def address_of(mac: bytes) -> str | None:
    """The address that `mac_of` made this of; None for another's."""
    return str(ipaddress.IPv4Address(mac[2:6])) if len(mac) == 6 and mac[:2] == b"\x52\x54" else None


def free_address(config: LocalConfig, network: str, used: Collection[str]) -> str | None:
    """The first that nobody has; None when all are taken."""
    pool = _LOOPBACK if network == "user" else ipaddress.IPv4Network(config.subnet)
    for number in range(_FIRST, pool.num_addresses - 1):
        if (address := str(pool[number])) not in used:
            return address
    return None


def subnet(config: LocalConfig) -> ipaddress.IPv4Network:
    """Behind the bridge."""
    return ipaddress.IPv4Network(config.subnet)


def check(spec: LaunchSpec, token: str, config: LocalConfig) -> None:
    """What this host would never launch. Raises InvalidSpec, NotFound."""
    doing = f"cannot launch {spec.name!r}"
    if not 1 <= len(token) <= TOKEN_LIMIT:
        raise InvalidSpec(f"{doing}: its token has {len(token)} characters; 1 to {TOKEN_LIMIT} are allowed")
    if not _NAME.fullmatch(spec.name):
        raise InvalidSpec(f"{doing}: its name is not 1 to 63 of a-z, 0-9 and -")
    if len(spec.user_data) > USER_DATA_LIMIT:
        raise InvalidSpec(f"{doing}: {len(spec.user_data)} bytes of user data; {USER_DATA_LIMIT} are allowed")
    if spec.instance_type not in config.allowed_types:
        raise InvalidSpec(f"{doing}: local.instance_types does not allow {spec.instance_type!r}")
    for key, value in spec.tags.items():
        if why := tag_problem(key, value):
            raise InvalidSpec(f"{doing}: the tag {key[:40]!r} {why}")
    if spec.zone:
        raise InvalidSpec(f"{doing}: a host has no zones, and {spec.zone!r} was asked for")
    if spec.purchase is not Purchase.ON_DEMAND:
        raise InvalidSpec(f"{doing}: a host has no {spec.purchase} capacity")
    if spec.volumes:
        raise InvalidSpec(f"{doing}: the local provider attaches no volumes")
    tee = tee_of(spec, config)
    if tee is not config.tee:
        raise InvalidSpec(f"{doing}: it asks for {tee}, and local.tee is {config.tee}")
    _check_image(spec, config, doing)


def _check_image(spec: LaunchSpec, config: LocalConfig, doing: str) -> None:
    """A pod may not name any directory of the node's."""
    if spec.image and spec.image not in (config.image, *config.images):
        raise NotFound(f"{doing}: the image {spec.image} is neither local.image nor among local.images")


def tee_of(spec: LaunchSpec, config: LocalConfig) -> Tee:
    """The TEE that this launch gets."""
    return config.tee if spec.tee is None else spec.tee


def digest(spec: LaunchSpec) -> str:
    """What tells one wish from another under the same token. Settings may change meanwhile."""
    wish = asdict(spec) | {"user_data": hashlib.sha256(spec.user_data).hexdigest(), "tags": sorted(spec.tags.items())}
    return hashlib.sha256(json.dumps(wish, sort_keys=True, default=str).encode()).hexdigest()


def tags_of(spec: LaunchSpec, token: str, owner: Ownership, config: LocalConfig) -> dict[str, str]:
    """Everything that a machine is marked with; what says whose it is wins."""
    return {**dict(config.tags), **spec.tags, **tags.of_new(owner), tags.TOKEN: token}


def disk_gib(spec: LaunchSpec) -> int:
    """Of the machine's own copy of the disk; 0 where the image's own will do."""
    return (spec.root_volume_gib or 0) + spec.scratch_gib


def machine(intent: Intent) -> tuple[int, int]:
    """VCPUs and MiB."""
    return size_of(intent.instance_type)


def size_of(instance_type: str) -> tuple[int, int]:
    """VCPUs and MiB of a type that was checked."""
    found = size(instance_type)
    assert found is not None, "checked before anything was written down"
    return found


def is_ours(found: Mapping[str, str], owner: Ownership) -> bool:
    """Whether these tags are of this owner's."""
    return tags.ownership(owner).items() <= found.items()


def instance(seen: Seen) -> Instance:
    """As callers know it."""
    intent = seen.intent
    return Instance(
        intent.id,
        seen.state,
        (intent.address,),
        name=intent.name,
        instance_type=intent.instance_type,
        image=intent.image,
        tags=dict(intent.tags),
        launched_at=intent.created_at,
        reason=seen.reason,
    )


def ended(ending: Ending) -> Instance:
    """A deleted one."""
    return Instance(
        ending.id,
        InstanceState.GONE,
        name=ending.name,
        instance_type=ending.instance_type,
        image=ending.image,
        tags=dict(ending.tags),
        reason="it was deleted",
    )


def intent_from(fields: Any) -> Intent:
    """What was written down. Raises ValueError for anything else."""
    try:
        return Intent(**fields)
    except TypeError as error:
        raise ValueError(f"is no intent of this version: {error}") from None
