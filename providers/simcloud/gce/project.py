"""What exists in the project: plain JSON as Google shows it, and what Google does not show."""

import base64
import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any, Final

from providers.simcloud.fleet import Life, State
from providers.simcloud.gce import machine_types
from providers.simcloud.gce.errors import Refused, not_found
from providers.simcloud.gce.paths import link
from providers.simcloud.machines.base import Machine
from providers.simcloud.options import SimcloudError

ID: Final = "peerpods-simcloud"
NUMBER: Final = "123456789012"
SERVICE_ACCOUNT: Final = f"{NUMBER}-compute@developer.gserviceaccount.com"
OTHER_ACCOUNT: Final = f"pod-vms@{ID}.iam.gserviceaccount.com"
NETWORK: Final = "default"
SUBNETWORK: Final = "default"
_SUBNET_PREFIX: Final = 20  # as the default network's subnets everywhere
_RESERVED: Final = 2  # addresses at each end of a subnetwork that Google keeps
_PACIFIC: Final = timezone(timedelta(hours=-8))  # Google's clocks

Json = dict[str, Any]


if TYPE_CHECKING:
    from providers.simcloud.gce.operations import Operation  # which knows this module


@dataclass(frozen=True, slots=True)
class Waiting:
    """An operation that is done when the instance has come to one of these states."""

    operation: "Operation"
    until: frozenset[State]


@dataclass(eq=False)
class Vm:
    """An instance, from its insert until it is deleted, and afterwards for people to look back at."""

    id: str
    zone: str
    body: Json  # as it is shown, but for what changes with its life
    machine_type: machine_types.MachineType
    born: float  # monotonic
    address: IPv4Address
    visible_from: float = 0.0  # monotonic
    life: Life | None = None  # None: its insert fails
    deleting: bool = False
    restarting: bool = False
    counts: Mapping[str, float] = field(default_factory=dict)  # against the region's quotas, while it runs
    gone: bool = False
    reason: str = ""
    reserved: bool = False  # its address is a resource of its own, and stays
    machine: Machine | None = None
    waiting: list["Waiting"] = field(default_factory=list)
    tags: Json = field(default_factory=dict)  # resource manager's, which Google does not show with the instance

    @property
    def name(self) -> str:
        return str(self.body["name"])

    @property
    def off(self) -> bool:
        """Whether it holds no machine."""
        return self.life is not None and self.life.state in (State.STOPPED, State.TERMINATED)

    @property
    def path(self) -> str:
        return f"projects/{ID}/zones/{self.zone}/instances/{self.name}"


class Project:
    """One project in one region. Dictionaries are by name, zonal ones by zone and name."""

    def __init__(self, region: str, network: str, seed: int | None, now: Callable[[], float]) -> None:
        """`now` is monotonic seconds."""
        self.zones = machine_types.zones_of(region)
        if not self.zones:
            known = ", ".join(machine_types.REGIONS)
            raise SimcloudError(f"simcloud's Compute Engine has no region {region!r}; it knows {known}")
        self.region = region
        self.now = now
        self.random = random.Random(seed)  # noqa: S311 - ids, not secrets
        whole = IPv4Network(network)
        self.subnet = next(whole.subnets(new_prefix=max(_SUBNET_PREFIX, whole.prefixlen)))
        self.instances: dict[tuple[str, str], Vm] = {}
        self.all_instances: dict[str, Vm] = {}  # by id, oldest first
        self.disks: dict[tuple[str, str], Json] = {}
        self.addresses: dict[str, Json] = {}
        self.images: dict[str, Json] = {}
        self.tag_keys: dict[str, Json] = {}
        self.tag_values: dict[str, Json] = {}
        self.service_accounts = [SERVICE_ACCOUNT, OTHER_ACCOUNT]
        self._taken: set[IPv4Address] = set()
        self._all_taken_below = int(self.subnet[_RESERVED])  # where to look for a free address from

    # -- names of places --------------------------------------------------------------------------

    def check_place(self, project: str, zone: str = "", region: str = "") -> None:
        """Raises Refused for a project, zone or region that is not there."""
        if project not in (ID, NUMBER):
            raise not_found(f"projects/{project}")
        if zone and zone not in self.zones:
            raise not_found(f"projects/{project}/zones/{zone}") if _is_place(zone) else _malformed("zone", zone)
        if region and region != self.region:
            raise (
                not_found(f"projects/{project}/regions/{region}") if _is_place(region) else _malformed("region", region)
            )

    def vm(self, zone: str, name: str) -> Vm:
        """Raises Refused. An instance's id does for its name, as everywhere at Google."""
        found = self.instances.get((zone, name)) or self.all_instances.get(name)
        if found is None or found.gone or found.zone != zone or self.now() < found.visible_from:
            raise not_found(f"projects/{ID}/zones/{zone}/instances/{name}")
        return found

    def zone_link(self, zone: str) -> str:
        return link(f"projects/{ID}/zones/{zone}")

    def region_link(self) -> str:
        return link(f"projects/{ID}/regions/{self.region}")

    # -- resource manager's tags --------------------------------------------------------------------

    def tag_key(self, key: str) -> Json | None:
        """By "tagKeys/123" or "parent/key"; the project goes by its number too."""
        parent, _, name = key.partition("/")
        parent = ID if parent == NUMBER else parent
        for each in self.tag_keys.values():
            if key == each["name"] or (parent == ID and name == each["shortName"]):
                return each
        return None

    def tags(self) -> list[Json]:
        """All tag values."""
        return list(self.tag_values.values())

    # -- addresses --------------------------------------------------------------------------------

    def take_address(self, wanted: IPv4Address | None = None) -> IPv4Address | None:
        """The wanted address, or the first free one; None when it is not to be had."""
        if wanted is not None:
            free = self.usable(wanted) and wanted not in self._taken
            chosen = wanted if free else None
        else:
            chosen = self._lowest()
        if chosen is not None:
            self._taken.add(chosen)
        return chosen

    def hold(self, address: str) -> None:
        """Keep one from instances: it is somebody else's."""
        self._taken.add(IPv4Address(address))

    def free_address(self, address: IPv4Address) -> None:
        if address in self._taken:
            self._taken.discard(address)
            self._all_taken_below = min(self._all_taken_below, int(address))

    def usable(self, address: IPv4Address) -> bool:
        """Whether it lies in the subnetwork and is none that Google keeps."""
        return address in self.subnet and _RESERVED <= int(address) - int(self.subnet[0]) < self._size() - _RESERVED

    def _lowest(self) -> IPv4Address | None:
        """The first free address."""
        for number in range(self._all_taken_below, int(self.subnet[-_RESERVED])):
            if (address := IPv4Address(number)) not in self._taken:
                self._all_taken_below = number
                return address
        return None

    def _size(self) -> int:
        return self.subnet.num_addresses

    # -- what everything has ----------------------------------------------------------------------

    def new_id(self) -> str:
        return str(self.random.randrange(10**18, 9 * 10**18))


def timestamp(aged: float = 0.0) -> str:
    """Now, or so many seconds ago, as Google writes it."""
    return (datetime.now(_PACIFIC) - timedelta(seconds=aged)).isoformat(timespec="milliseconds")


def older(stamp: str, seconds: float) -> str:
    return (datetime.fromisoformat(stamp) - timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def fingerprint(of: Any) -> str:
    """Changes when the value does."""
    return base64.urlsafe_b64encode(hashlib.sha256(json.dumps(of, sort_keys=True).encode()).digest()[:8]).decode()


def _is_place(name: str) -> bool:
    words = name.split("-")
    return name.isascii() and all(word.isalnum() for word in words) and 2 <= len(words) <= 3


def _malformed(kind: str, name: str) -> Refused:
    return Refused("invalid", f"Invalid value for field '{kind}': '{name}'. Unknown {kind}.")
