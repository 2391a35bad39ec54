"""instances.insert: what was asked, with everything that it names looked up and Google's defaults filled in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, Final

from providers.simcloud.gce import machine_types
from providers.simcloud.gce.errors import invalid, required
from providers.simcloud.gce.images import Images
from providers.simcloud.gce.machine_types import MachineType
from providers.simcloud.gce.paths import check_name, reference
from providers.simcloud.gce.project import ID, NETWORK, NUMBER, SUBNETWORK, Json, Project

_DEFAULT_GIB: Final = 10  # of a new disk that says nothing and has no image
SPOT: Final = "SPOT"


@dataclass(slots=True)
class DiskPlan:
    """A disk of the instance: made for it, or one that is there already. `at` is its place in the request."""

    at: str
    asked: Mapping[str, Any]
    boot: bool
    name: str
    device: str
    kind: str = "pd-standard"
    gib: int = _DEFAULT_GIB
    image: Json | None = None
    existing: Json | None = None
    architecture: str = ""
    features: frozenset[str] = frozenset()
    scratch: bool = False  # a local SSD: no resource of its own


@dataclass(slots=True)
class NicPlan:
    """A network interface of the instance."""

    at: str
    asked: Mapping[str, Any]
    address: IPv4Address | None = None  # that was asked for
    reserved: Json | None = None  # the address resource of that
    external: bool = False


@dataclass(slots=True)
class Plan:
    """Everything about one instance to be."""

    body: Json
    zone: str
    name: str
    machine_type: MachineType
    disks: list[DiskPlan]
    nics: list[NicPlan]
    gpus: dict[str, int] = field(default_factory=dict)
    built_in: bool = False  # the GPUs come with the type

    @property
    def spot(self) -> bool:
        scheduling = self.scheduling
        return scheduling.get("provisioningModel") == SPOT or bool(scheduling.get("preemptible"))

    @property
    def scheduling(self) -> Mapping[str, Any]:
        return self.body.get("scheduling") or {}

    @property
    def boot(self) -> DiskPlan:
        return next(disk for disk in self.disks if disk.boot)

    @property
    def tee(self) -> str:
        """SEV, SEV_SNP, TDX, or empty."""
        config = self.body.get("confidentialInstanceConfig") or {}
        kind = str(config.get("confidentialInstanceType") or "")
        if kind == "CONFIDENTIAL_INSTANCE_TYPE_UNSPECIFIED":
            kind = ""
        return kind or ("SEV" if config.get("enableConfidentialCompute") else "")


def resolve(body: Json, zone: str, project: Project, images: Images) -> Plan:
    """Raises Refused for what is missing, malformed, or not there."""
    name = body.get("name") or ""
    if not name:
        raise required("resource.name")
    check_name(name)
    kind = _machine_type(body, zone)
    disks = _disks(body, zone, name, project, images)
    nics = [
        _nic(nic, f"resource.networkInterfaces[{n}]", project)
        for n, nic in enumerate(body.get("networkInterfaces") or [])
    ]
    if not nics:
        raise invalid("resource.networkInterfaces", "", "At least one network interface is required.")
    gpus, built_in = _gpus(body, zone, kind)
    return Plan(body, zone, name, kind, disks, nics, gpus, built_in)


def _machine_type(body: Json, zone: str) -> MachineType:
    text = body.get("machineType") or ""
    if not text:
        raise required("resource.machineType")
    field_name = "resource.machineType"
    wanted = reference(text, "machineTypes", ID, field_name)
    if wanted.place != zone:
        raise invalid(field_name, text, f"Machine type must be in the instance's zone '{zone}'.")
    kind = machine_types.sold_in(zone).get(wanted.name)
    if kind is None:
        raise invalid(field_name, text, f"Machine type with name '{wanted.name}' does not exist in zone '{zone}'.")
    return kind


def _disks(body: Json, zone: str, name: str, project: Project, images: Images) -> list[DiskPlan]:
    asked = body.get("disks") or []
    if not asked:
        raise invalid("resource.disks", "", "At least one disk is required.")
    made = [plan_disk(disk, f"resource.disks[{n}]", zone, name, n, project, images) for n, disk in enumerate(asked)]
    if sum(disk.boot for disk in made) != 1:
        raise invalid("resource.disks", "", "Exactly one disk must be a boot disk.")
    if not made[0].boot:
        raise invalid("resource.disks[0].boot", "false", "Boot disk must be the first disk attached to the instance.")
    return made


def plan_disk(asked: Json, at: str, zone: str, name: str, index: int, project: Project, images: Images) -> DiskPlan:
    """One disk of a request. Raises Refused."""
    params: Json = asked.get("initializeParams") or {}
    source = asked.get("source") or ""
    boot = bool(asked.get("boot"))
    if bool(source) == ("initializeParams" in asked):
        raise invalid(at, "", "Exactly one of source and initializeParams must be specified.")
    if source:
        return _existing(asked, at, zone, index, boot, project)
    if asked.get("type") == "SCRATCH":
        return _scratch(asked, at, zone, index)
    new = name if boot else f"{name}-{index}"
    disk_name = params.get("diskName") or new
    check_name(disk_name, f"{at}.initializeParams.diskName")
    made = DiskPlan(at, asked, boot, disk_name, asked.get("deviceName") or _device(index), _disk_type(params, at, zone))
    text = params.get("sourceImage") or ""
    if text:
        field_name = f"{at}.initializeParams.sourceImage"
        made.image = images.resolve(reference(text, "images", ID, field_name), text, field_name)
        made.gib = int(made.image["diskSizeGb"])
        made.architecture = made.image["architecture"]
        made.features = frozenset(each["type"] for each in made.image["guestOsFeatures"])
    elif boot:
        raise invalid(at, "", "Boot disk must have a source specified.")
    size = params.get("diskSizeGb") or asked.get("diskSizeGb")
    if size is not None:
        made.gib = int(size)
    return made


def _scratch(asked: Json, at: str, zone: str, index: int) -> DiskPlan:
    text = (asked.get("initializeParams") or {}).get("diskType") or ""
    field_name = f"{at}.initializeParams.diskType"
    if not text or reference(text, "diskTypes", ID, field_name).name != machine_types.LOCAL_SSD:
        raise invalid(field_name, text, "Scratch disks must be of the type local-ssd.")
    if asked.get("boot"):
        raise invalid(f"{at}.boot", "true", "A scratch disk cannot be a boot disk.")
    device = asked.get("deviceName") or f"local-ssd-{index}"
    made = DiskPlan(at, asked, boot=False, name="", device=device, kind=machine_types.LOCAL_SSD)
    made.gib, made.scratch = machine_types.LOCAL_SSD_GIB, True
    return made


def _existing(asked: Json, at: str, zone: str, index: int, boot: bool, project: Project) -> DiskPlan:
    text = asked["source"]
    field_name = f"{at}.source"
    wanted = reference(text, "disks", ID, field_name)
    if wanted.place != zone:
        raise invalid(field_name, text, f"Disk must be in the same zone as the instance ('{zone}').")
    disk = project.disks.get((zone, wanted.name))
    if disk is None:
        raise invalid(field_name, text, "The referenced disk resource cannot be found.")
    features = frozenset(each["type"] for each in disk.get("guestOsFeatures", []))
    kind = disk["type"].rpartition("/")[2]
    device = asked.get("deviceName") or _device(index)
    return DiskPlan(
        at,
        asked,
        boot,
        wanted.name,
        device,
        kind,
        int(disk["sizeGb"]),
        None,
        disk,
        disk.get("architecture", ""),
        features,
    )


def _device(index: int) -> str:
    return f"persistent-disk-{index}"


def _disk_type(params: Json, at: str, zone: str) -> str:
    text = params.get("diskType") or ""
    if not text:
        return "pd-standard"
    field_name = f"{at}.initializeParams.diskType"
    wanted = reference(text, "diskTypes", ID, field_name)
    if wanted.name not in machine_types.DISK_TYPES or wanted.place != zone:
        raise invalid(field_name, text, "The referenced diskType resource cannot be found.")
    return wanted.name


def _nic(asked: Json, at: str, project: Project) -> NicPlan:
    network, subnet = asked.get("network") or "", asked.get("subnetwork") or ""
    if network:
        wanted = reference(network, "networks", ID, f"{at}.network")
        if wanted.name != NETWORK or wanted.project not in (ID, NUMBER):
            raise invalid(f"{at}.network", network, "The referenced network resource cannot be found.")
    if subnet:
        wanted = reference(subnet, "subnetworks", ID, f"{at}.subnetwork")
        if wanted.place != project.region:
            raise invalid(
                f"{at}.subnetwork", subnet, f"Subnetwork must be in the instance's region '{project.region}'."
            )
        if wanted.name != SUBNETWORK or wanted.project not in (ID, NUMBER):
            raise invalid(f"{at}.subnetwork", subnet, "The referenced subnetwork resource cannot be found.")
    plan = NicPlan(at, asked, external=bool(asked.get("accessConfigs")))
    if text := asked.get("networkIP"):
        _wish(plan, text, project)
    return plan


def _wish(plan: NicPlan, text: str, project: Project) -> None:
    """An address of the caller's choice: its own reserved one, or any in the subnetwork."""
    field_name = f"{plan.at}.networkIP"
    try:
        plan.address = IPv4Address(text)
    except ValueError:
        raise invalid(field_name, text, "Must be a valid IPv4 address.") from None
    if not project.usable(plan.address):
        raise invalid(field_name, text, f"IP address must be in the subnetwork's range {project.subnet}.")
    held = [each for each in project.addresses.values() if each.get("address") == text]
    plan.reserved = held[0] if held else None


def _gpus(body: Json, zone: str, kind: MachineType) -> tuple[dict[str, int], bool]:
    asked: dict[str, int] = {}
    for n, each in enumerate(body.get("guestAccelerators") or []):
        at = f"resource.guestAccelerators[{n}]"
        text = each.get("acceleratorType") or ""
        if not text:
            raise required(f"{at}.acceleratorType")
        wanted = reference(text, "acceleratorTypes", ID, f"{at}.acceleratorType")
        if wanted.place != zone or wanted.name not in machine_types.accelerators_in(zone):
            raise invalid(
                f"{at}.acceleratorType", text, f"Accelerator type '{wanted.name}' does not exist in zone '{zone}'."
            )
        asked[wanted.name] = asked.get(wanted.name, 0) + int(each.get("acceleratorCount") or 0)
    if not asked and kind.gpus:
        return {kind.gpu: kind.gpus}, True
    return asked, asked == {kind.gpu: kind.gpus}
