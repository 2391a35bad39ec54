"""What is asked of Compute Engine, and how its answers read: pure functions between our values and the API's dicts.

Requests are what the SDK's methods take as `request`: snake_case, as its messages spell the fields. Answers are the
same messages as dicts, without the fields that were not set.
"""

import base64
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from providers import tags
from providers.base import Instance, InstanceState, LaunchSpec, Ownership, Purchase, Tee
from providers.errors import InvalidSpec
from providers.gcp import marks, tees, volumes
from providers.gcp.config import LABELS_LIMIT, GcpConfig

USER_DATA_LIMIT: Final = 256 * 1024 // 4 * 3  # bytes: Google takes 256 KiB per metadata value, and this one is base64
TOKEN_LIMIT: Final = 64  # characters, as on other clouds
TAG_KEY_LIMIT: Final = 128  # characters; Google has no such tags: what passes here passes on other clouds
TAG_VALUE_LIMIT: Final = 256
PAGE: Final = 500  # the largest page Google gives: fewest calls
# Ids per list call: their names must fit into a URL, of which Google's front end takes some 16 KB.
IDS_PER_CALL: Final = 150
DISKS_LIMIT: Final = 128  # of an instance, the root's among them

# Families that take hyperdisks only, and those that know no other network interface than gVNIC.
_HYPERDISK_ONLY: Final = ("c4", "c4a", "c4d", "n4", "n4a", "n4d", "x4", "m4", "a4", "z3", "h4d", "g4", "c4n")
_GVNIC_FAMILIES: Final = (*_HYPERDISK_ONLY, "c3", "c3d", "a3", "g2", "h3", "t2a", "m3")
_STATES: Final = {
    "PROVISIONING": InstanceState.PENDING,
    "STAGING": InstanceState.PENDING,
    "PENDING": InstanceState.PENDING,
    "RUNNING": InstanceState.RUNNING,
    "REPAIRING": InstanceState.RUNNING,
    "STOPPING": InstanceState.STOPPED,
    "PENDING_STOP": InstanceState.STOPPED,
    "STOPPED": InstanceState.STOPPED,
    "SUSPENDING": InstanceState.STOPPED,
    "SUSPENDED": InstanceState.STOPPED,
    "TERMINATED": InstanceState.STOPPED,  # Google's word for stopped: its disk is still billed
    "DEPROVISIONING": InstanceState.GONE,
}

Request = dict[str, Any]
Shape = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Image:
    """What of an image shapes a launch."""

    link: str  # projects/P/global/images/NAME: a family has been resolved
    size_gib: int
    architecture: str = ""  # "X86_64", "ARM64", or empty where it does not say
    features: frozenset[str] = frozenset()  # guestOsFeatures: UEFI_COMPATIBLE, SEV_SNP_CAPABLE, ...


def check(spec: LaunchSpec, token: str, config: GcpConfig) -> None:
    """Refuse what Compute Engine would refuse, before a call is spent on it. Raises: InvalidSpec."""
    problem = _problem(spec, token, config) or _tags_problem(spec.tags, config) or _volumes_problem(spec, config)
    if problem:
        raise InvalidSpec(f"cannot launch {spec.name or 'an instance'}: {problem}")


def _problem(spec: LaunchSpec, token: str, config: GcpConfig) -> str:
    if not re.fullmatch(r"[a-z0-9-]{1,63}", spec.name):
        return f"the name {spec.name!r} is not 1 to 63 of a-z, 0-9 and '-'"
    if not re.fullmatch(rf"[!-~]{{1,{TOKEN_LIMIT}}}", token):
        return f"the token is not 1 to {TOKEN_LIMIT} visible ASCII characters"
    if spec.instance_type not in config.allowed_types:
        return f"{spec.instance_type} is not among the machine types allowed here: {', '.join(config.allowed_types)}"
    if spec.zone and spec.zone not in config.zones:
        return f"the zone {spec.zone} is not among those allowed here: {', '.join(config.zones)}"
    if len(spec.user_data) > USER_DATA_LIMIT:
        return f"its user data has {len(spec.user_data)} bytes; Compute Engine takes {USER_DATA_LIMIT}"
    if spec.purchase is Purchase.SPOT and not config.spot:
        return "spot VMs are not allowed here: set gcp.spot = true"
    tee = tee_of(spec, config)
    if tee is not Tee.NONE and tee not in tees.of(spec.instance_type):
        gives = ", ".join(tees.of(spec.instance_type)) or "none"
        return f"{spec.instance_type} does not give its guest {tee}; it gives {gives}"
    return ""


def _tags_problem(asked: Mapping[str, str], config: GcpConfig) -> str:
    for key, value in asked.items():
        if not 1 <= len(key) <= TAG_KEY_LIMIT:
            return f"its tag {key[:40]!r} has a key of {len(key)} characters; 1 to {TAG_KEY_LIMIT} are allowed"
        if len(value) > TAG_VALUE_LIMIT:
            return f"its tag {key[:40]!r} has a value of {len(value)} characters; {TAG_VALUE_LIMIT} are allowed"
    ours = {marks.NAME, tags.CLUSTER, tags.NODE, tags.TOKEN}
    count = len(ours | asked.keys() | dict(config.labels).keys())
    if count > LABELS_LIMIT:
        return f"it would carry {count} labels; Compute Engine takes {LABELS_LIMIT}"
    return ""


def _volumes_problem(spec: LaunchSpec, config: GcpConfig) -> str:
    for volume in spec.volumes:
        if problem := volumes.problem(volume.id, zone_of(spec, config), config):
            return problem
    limit = tees.DISKS_LIMIT if tee_of(spec, config) is not Tee.NONE else DISKS_LIMIT
    count = 1 + len(config.extra_disks) + len(spec.volumes)
    return f"it would have {count} disks; this machine takes {limit}" if count > limit else ""


def check_image(spec: LaunchSpec, config: GcpConfig, image: Image, architecture: str) -> None:
    """Refuse an image that this machine cannot boot; `architecture` is the machine type's. Raises: InvalidSpec."""
    mine, tee = image.architecture.lower(), tee_of(spec, config)
    problem = ""
    if mine and mine != architecture:
        problem = f"is for {mine}, and {spec.instance_type} is {architecture}"
    elif tee is not Tee.NONE and tees.IMAGE_FEATURES[tee] not in image.features:
        problem = f"cannot be launched with {tee}: {tees.IMAGE_FEATURES[tee]} is not among its guest OS features"
    if problem:
        raise InvalidSpec(f"cannot launch {spec.name}: the image {spec.image or config.image} {problem}")


def tee_of(spec: LaunchSpec, config: GcpConfig) -> Tee:
    """What the guest is to get."""
    if spec.tee is not None:
        return spec.tee
    if not config.confidential or config.confidential_type:
        return config.tee
    return tees.strongest(spec.instance_type)


def zone_of(spec: LaunchSpec, config: GcpConfig) -> str:
    """Where the instance is to be."""
    return spec.zone or config.zones[0]


def insert(
    spec: LaunchSpec,
    token: str,
    *,
    config: GcpConfig,
    owner: Ownership,
    image: Image,
    attempt: int = 0,
    address: str = "",
) -> Request:
    """instances.insert for one instance. `address`: an internal one that has been reserved for it."""
    zone, tee = zone_of(spec, config), tee_of(spec, config)
    all_tags = tags_of(spec, token, owner)
    resource: Request = {
        "name": marks.resource_name(spec.name, token),
        "machine_type": f"zones/{zone}/machineTypes/{spec.instance_type}",
        "labels": {**marks.labels(all_tags), **dict(config.labels)},
        "metadata": {"items": _metadata(spec, all_tags)},
        "disks": _disks(spec, config, image, all_tags),
        "network_interfaces": [_interface(spec, config, tee, address)],
        "scheduling": _scheduling(spec, config, tee),
        "shielded_instance_config": {
            "enable_secure_boot": config.secure_boot,
            "enable_vtpm": config.vtpm,
            "enable_integrity_monitoring": config.integrity_monitoring,
        },
    }
    resource |= _options(spec, config, tee)
    return {
        "project": config.project,
        "zone": zone,
        "request_id": marks.request_id(token, attempt),
        "instance_resource": resource,
    }


def tags_of(spec: LaunchSpec, token: str, owner: Ownership) -> dict[str, str]:
    """Every tag of what this launch makes."""
    return {**spec.tags, marks.NAME: spec.name, tags.TOKEN: token, **tags.of_new(owner)}


def _metadata(spec: LaunchSpec, all_tags: Mapping[str, str]) -> list[Request]:
    note = marks.note(all_tags, image=spec.image, spec=marks.digest(spec))
    items = {
        "user-data": base64.b64encode(spec.user_data).decode(),
        "user-data-encoding": "base64",
        marks.METADATA_KEY: note,
        # Nobody's keys but the image's own: the project's SSH keys have no business in a confidential VM.
        "block-project-ssh-keys": "true",
        "enable-oslogin": "false",
    }
    return [{"key": key, "value": value} for key, value in items.items()]


def _disks(spec: LaunchSpec, config: GcpConfig, image: Image, all_tags: Mapping[str, str]) -> list[Request]:
    """The root, the settings' extra ones, then the pod's volumes; all but those go with the instance."""
    size = max(image.size_gib, spec.root_volume_gib or config.root_volume_gib or 0) + spec.scratch_gib
    root = {"source_image": image.link, "disk_size_gb": size, "disk_type": _disk_type(spec, config)}
    disks = [_made(root, "boot", config, all_tags) | {"boot": True}]
    for number, wish in enumerate(config.extra_disks):
        kind, _, gib = wish.partition(":")
        params: Request = {"disk_type": _in_zone(spec, config, f"diskTypes/{kind}")}
        if gib:
            disks.append(_made(params | {"disk_size_gb": int(gib)}, f"extra-{number}", config, all_tags))
        else:  # a local SSD has one size, no labels and no key of ours
            scratch = {"type_": "SCRATCH", "interface": "NVME", "auto_delete": True, "initialize_params": params}
            disks.append(scratch)
    return disks + [volumes.attached(volume, number, config) for number, volume in enumerate(spec.volumes)]


def _made(params: Request, device: str, config: GcpConfig, all_tags: Mapping[str, str]) -> Request:
    params = params | {
        "labels": {**marks.of_resource(all_tags), **dict(config.labels)},
        "description": marks.description(all_tags),
    }
    disk: Request = {"type_": "PERSISTENT", "auto_delete": True, "device_name": device, "initialize_params": params}
    return disk | {"disk_encryption_key": {"kms_key_name": config.kms_key}} if config.kms_key else disk


def _disk_type(spec: LaunchSpec, config: GcpConfig) -> str:
    usual = "hyperdisk-balanced" if family(spec.instance_type) in _HYPERDISK_ONLY else "pd-balanced"
    return _in_zone(spec, config, f"diskTypes/{config.disk_type or usual}")


def _in_zone(spec: LaunchSpec, config: GcpConfig, path: str) -> str:
    return f"projects/{config.project}/zones/{zone_of(spec, config)}/{path}"


def family(machine_type: str) -> str:
    """n2d of n2d-standard-2."""
    return machine_type.partition("-")[0]


def _interface(spec: LaunchSpec, config: GcpConfig, tee: Tee, address: str) -> Request:
    interface: Request = {"network": network(config)} if not config.subnetwork else {"subnetwork": subnetwork(config)}
    if tee is Tee.TDX or family(spec.instance_type) in _GVNIC_FAMILIES:
        interface["nic_type"] = "GVNIC"
    if address:
        interface["network_i_p"] = address
    if config.public_ip:
        interface["access_configs"] = [{"name": "External NAT", "type_": "ONE_TO_ONE_NAT"}]
    return interface


def network(config: GcpConfig) -> str:
    """The network's path."""
    return config.network if "/" in config.network else f"global/networks/{config.network}"


def subnetwork(config: GcpConfig) -> str:
    """The subnetwork's path; the network's own in the region has, in an auto-mode network, the network's name."""
    name = config.subnetwork or config.network.rpartition("/")[2]
    return name if "/" in name else f"projects/{config.project}/regions/{config.region}/subnetworks/{name}"


def _scheduling(spec: LaunchSpec, config: GcpConfig, tee: Tee) -> Request:
    # A VM that starts anew has lost its pod: it shall stay down, and be noticed.
    scheduling: Request = {"automatic_restart": False, "on_host_maintenance": "MIGRATE"}
    spot = spec.purchase is Purchase.SPOT
    if spot or tee is not Tee.NONE or _gpus(spec, config) or family(spec.instance_type).startswith(("a", "g")):
        scheduling["on_host_maintenance"] = "TERMINATE"
    if spot:
        scheduling |= {"provisioning_model": "SPOT", "instance_termination_action": "DELETE"}
    if config.node_affinity:
        scheduling["node_affinities"] = [
            {"key": key, "operator": "IN", "values": list(values)} for key, values in config.node_affinity
        ]
    return scheduling


def _gpus(spec: LaunchSpec, config: GcpConfig) -> bool:
    return bool(config.gpu_type) and family(spec.instance_type) in ("n1", "custom")  # the second are N1s too


def _options(spec: LaunchSpec, config: GcpConfig, tee: Tee) -> Request:
    """What only some launches have."""
    found: Request = {}
    if tee is not Tee.NONE:
        found["confidential_instance_config"] = {"confidential_instance_type": tees.API_NAMES[tee]}
        if tee is Tee.SEV:  # the older spelling, which the older types of it need
            found["confidential_instance_config"]["enable_confidential_compute"] = True
    # Only N2D runs on several platforms of which not all can do it; others would refuse to be told.
    needed = tees.platform(spec.instance_type, tee) if family(spec.instance_type) == "n2d" else ""
    if platform := config.min_cpu_platform or needed:
        found["min_cpu_platform"] = platform
    if _gpus(spec, config):
        kind = _in_zone(spec, config, f"acceleratorTypes/{config.gpu_type}")
        found["guest_accelerators"] = [{"accelerator_type": kind, "accelerator_count": config.gpu_count}]
    if config.service_account:
        found["service_accounts"] = [{"email": config.service_account, "scopes": list(config.scopes)}]
    if config.network_tags:
        found["tags"] = {"items": list(config.network_tags)}
    if config.resource_tags:
        found["params"] = {"resource_manager_tags": dict(_resource_tag(tag, config) for tag in config.resource_tags)}
    if config.reservation:
        found["reservation_affinity"] = _reservation(config.reservation)
    return found


def _resource_tag(tag: tuple[str, str], config: GcpConfig) -> tuple[str, str]:
    """Google takes names as well as ids: nothing has to be looked up."""
    key, value = tag
    return (key if "/" in key else f"{config.project}/{key}"), value


def _reservation(wish: str) -> Request:
    kinds = {"none": "NO_RESERVATION", "any": "ANY_RESERVATION"}
    if wish.lower() in kinds:
        return {"consume_reservation_type": kinds[wish.lower()]}
    key = "compute.googleapis.com/reservation-name"
    return {"consume_reservation_type": "SPECIFIC_RESERVATION", "key": key, "values": [wish]}


# Ids. An instance's is ZONE/NAME: names are unique in a zone only.


def instance_id(zone: str, name: str) -> str:
    """The id by which the adaptor knows an instance."""
    return f"{zone}/{name}"


def place(instance: str) -> tuple[str, str] | None:
    """Zone and name of an id; None for what is no id and never was an instance."""
    found = re.fullmatch(r"([a-z]+-[a-z]+\d+-[a-z0-9]+)/([a-z](?:[a-z0-9-]{0,61}[a-z0-9])?)", instance)
    return (found[1], found[2]) if found else None


def one(config: GcpConfig, zone: str, name: str) -> Request:
    """instances.get."""
    return {"project": config.project, "zone": zone, "instance": name}


def by_id(config: GcpConfig, ids: Collection[str]) -> Iterator[Request]:
    """instances.aggregatedList for these ids, in as few calls as their names fit into: unknown ones are left out."""
    names = sorted({found[1] for found in map(place, ids) if found})
    for start in range(0, len(names), IDS_PER_CALL):
        yield listing(config, f'name eq "{"|".join(names[start : start + IDS_PER_CALL])}"')


def labelled(config: GcpConfig, labels: Mapping[str, str]) -> Request:
    """An aggregatedList for all that carries these labels."""
    return listing(config, " ".join(f'(labels.{key} = "{value}")' for key, value in sorted(labels.items())))


def listing(config: GcpConfig, filter: str) -> Request:
    """An aggregatedList: one call for every zone and region."""
    return {"project": config.project, "filter": filter, "max_results": PAGE}


# Readers of answers. What an answer of Google's always has is demanded: a proxy's page must not read as "nothing".


def instance(shape: Shape, *, gone: bool = False) -> Instance:
    """One of Compute Engine's instances. `gone`: its deletion has been accepted, which no status tells."""
    note = noted(shape)
    found: dict[str, str] = note.get("tags", {})
    zone = last(shape["zone"])
    return Instance(
        id=instance_id(zone, shape["name"]),
        # A state Google has not had until now is not proof of death: nothing may be given up for it.
        state=InstanceState.GONE if gone else _STATES.get(shape.get("status", ""), InstanceState.PENDING),
        addresses=addresses(shape),
        name=found.get(marks.NAME) or shape["name"],
        instance_type=last(shape.get("machine_type", "")),
        zone=zone,
        image=note.get("image", ""),
        tags=found,
        launched_at=moment(shape.get("creation_timestamp", "")),
        reason=shape.get("status_message", ""),
    )


def has_hardware(shape: Shape, config: GcpConfig) -> bool:
    """Whether the zone had room for it, and it has the address it is to be reached at."""
    wanted = 2 if config.public_ip else 1
    return shape.get("status") not in ("PROVISIONING", "PENDING") and len(addresses(shape)) >= wanted


def noted(shape: Shape) -> dict[str, Any]:
    """What an instance's metadata says of it."""
    for item in shape.get("metadata", {}).get("items", []):
        if item.get("key") == marks.METADATA_KEY:
            return marks.noted(item.get("value", ""))
    return {}


def addresses(shape: Shape) -> tuple[str, ...]:
    """Where a worker can reach it; a public address comes first: there is one only where the settings ask for it."""
    interfaces = shape.get("network_interfaces", [])
    public = [config.get("nat_i_p") for each in interfaces for config in each.get("access_configs", [])]
    private = [each.get("network_i_p") for each in interfaces]
    return tuple(address for address in (*public, *private) if address)


def is_ours(found: Mapping[str, str], owner: Ownership) -> bool:
    """Whether these exact tags are this node's."""
    return tags.ownership(owner).items() <= found.items()


def last(link: str) -> str:
    """The last part of a resource's URL: its name."""
    return link.rpartition("/")[2]


def moment(text: str) -> float | None:
    """RFC 3339 as seconds since the epoch."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def image_request(config: GcpConfig, wish: str) -> tuple[str, Request]:
    """The method and the request that resolve an image's name, family or path."""
    path = re.sub(r"^(https?://.*?/)?(?=projects/)|^/", "", wish)
    found = re.fullmatch(r"(?:projects/([^/]+)/)?(?:global/images/)?(family/)?([^/]+)", path)
    if not found:
        raise InvalidSpec(f"{wish!r} is no image: give NAME, family/NAME or projects/P/global/images/NAME")
    project = found[1] or config.project
    if found[2]:
        return "get_from_family", {"project": project, "family": found[3]}
    return "get", {"project": project, "image": found[3]}


def image(shape: Shape) -> Image:
    """One of Compute Engine's images."""
    link = re.sub(r"^.*?(?=projects/)", "", shape.get("self_link", ""))
    return Image(
        link=link or f"global/images/{shape['name']}",
        size_gib=int(shape.get("disk_size_gb", 0)),
        architecture=shape.get("architecture", ""),
        features=frozenset(each.get("type_", "") for each in shape.get("guest_os_features", [])),
    )


def names(shapes: Iterable[Shape]) -> Sequence[str]:
    """Just the names."""
    return [shape["name"] for shape in shapes]
