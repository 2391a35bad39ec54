"""The `[gcp]` settings; upstream's environment names are aliases, and win over the file."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from providers import forms
from providers.base import Tee
from providers.gcp import tees
from providers.settings import Fault, Faults, Form, read, setting

LABEL_KEY: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")  # Google's rules, without its few non-Latin letters
LABEL_VALUE: Final = re.compile(r"[a-z0-9_-]{0,63}")
LABELS_LIMIT: Final = 64  # per resource
RESERVED: Final = ("peerpods", "goog")  # ours; Google's own

# The smallest root disk Google makes of most types; hyperdisks need 4, and no image is smaller than that.
_ROOT_LIMITS: Final = (10, 65_536)

# The kinds of credentials files, without those that name a program to run.
_CREDENTIALS: Final = ("service_account", "external_account", "authorized_user")

_project: Final = forms.matching(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", "a project's id: my-project")
_zone: Final = forms.matching(r"[a-z]+-[a-z]+\d+-[a-z0-9]+", "a zone: europe-west4-a")
_type: Final = forms.matching(r"[a-z][a-z0-9]*(-[a-z0-9]+)+", "a machine type: n2d-standard-2")
_resource: Final = r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
_network: Final = forms.matching(
    rf"({_resource}|(https://\S+/)?(projects/[^/]+/)?global/networks/{_resource})", "a network's name or path: default"
)
_subnetwork: Final = forms.matching(
    rf"({_resource}|(https://\S+/)?(projects/[^/]+/)?regions/[^/]+/subnetworks/{_resource})",
    "a subnetwork's name or path: projects/my-host/regions/europe-west4/subnetworks/pods",
)
_image: Final = forms.matching(
    rf"/?((https://\S+/)?projects/[^/]+/global/images/(family/)?{_resource}|global/images/(family/)?{_resource}"
    rf"|family/{_resource}|{_resource})",
    "an image's name, family/NAME, or projects/P/global/images/[family/]NAME",
)
_kind: Final = forms.matching(r"[a-z][a-z0-9-]*", "a type's name: pd-balanced, nvidia-tesla-t4")
_tag: Final = forms.matching(_resource, "a network tag: podvm")
_account: Final = forms.matching(r"\S+@\S+", "a service account's address: podvm@my-project.iam.gserviceaccount.com")
_key: Final = forms.matching(
    r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+(/cryptoKeyVersions/\d+)?",
    "a key: projects/P/locations/L/keyRings/R/cryptoKeys/K",
)
_url: Final = forms.matching(r"https?://[^\s/]+/?", "a URL: https://compute-psc.p.googleapis.com")
_disk: Final = forms.matching(r"local-ssd|[a-z][a-z0-9-]*:\d{1,5}", "local-ssd, or TYPE:GIB as pd-ssd:100")


def _labels(value: Any) -> tuple[tuple[str, str], ...]:
    pairs: dict[str, str] = forms.pairs.parse(value)
    for key, val in pairs.items():
        if not LABEL_KEY.fullmatch(key):
            raise ValueError(f"has the label {key!r}; a key is 1 to 63 of a-z, 0-9, _ and -, and starts with a letter")
        if not LABEL_VALUE.fullmatch(val):
            raise ValueError(f"has {val!r} for the label {key}; a value is up to 63 of a-z, 0-9, _ and -")
        if key.startswith(RESERVED):
            raise ValueError(f"has the label {key!r}, which is written by peerpods or Google itself")
    if len(pairs) > LABELS_LIMIT // 2:
        raise ValueError(f"has {len(pairs)} labels; {LABELS_LIMIT // 2} leave room for those that peerpods writes")
    return tuple(sorted(pairs.items()))


def _resource_tags(value: Any) -> tuple[tuple[str, str], ...]:
    pairs: dict[str, str] = forms.pairs.parse(value)
    for key, val in pairs.items():
        by_id = re.fullmatch(r"tagKeys/\d+", key), re.fullmatch(r"tagValues/\d+", val)
        if any(by_id) and not all(by_id):
            raise ValueError(f"has {key}={val}, of which one is an id and the other is not")
        if not all(by_id) and not re.fullmatch(r"([^/\s]+/)?[^/\s]+", key):
            raise ValueError(f"has the tag {key!r}; a key is a name, PARENT/NAME or tagKeys/ID")
    return tuple(sorted(pairs.items()))


def _affinity(value: Any) -> tuple[tuple[str, tuple[str, ...]], ...]:
    pairs: dict[str, str] = forms.pairs.parse(value)
    if not all(pairs.values()):
        raise ValueError("has a label without a value")
    return tuple((key, tuple(part for part in val.split("|") if part)) for key, val in sorted(pairs.items()))


def _credentials(value: Any) -> str:
    text = str(forms.nonempty.parse(value))
    try:
        parsed = json.loads(text)
    except ValueError:
        raise ValueError("is not JSON") from None
    if not isinstance(parsed, dict) or parsed.get("type") not in _CREDENTIALS:
        raise ValueError(f"is not a credentials file's content: its type is none of {', '.join(_CREDENTIALS)}")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class GcpConfig:
    """How this node launches instances. No key is needed: without `credentials` Google's own chain finds some
    (GOOGLE_APPLICATION_CREDENTIALS, also a workload identity federation file; gcloud's; the metadata server).
    """

    project: str = setting(_project, help="whose pod VMs are", env=("GCP_PROJECT_ID",))
    zones: tuple[str, ...] = setting(
        forms.each(_zone), help="where pod VMs may be, of one region; the first is the default", env=("GCP_ZONE",)
    )
    network: str = setting(_network, "default", "used where subnetwork is empty", env=("GCP_NETWORK",))
    subnetwork: str | None = setting(
        forms.optional(_subnetwork), None, "empty: the network's own in the region", env=("GCP_SUBNETWORK",)
    )
    image: str = setting(
        _image, help="the pod VM image; a pod's annotation may name another", env=("PODVM_IMAGE_NAME",)
    )
    machine_type: str = setting(_type, "n2d-standard-2", "for pods that ask for no size", env=("GCP_MACHINE_TYPE",))
    machine_types: tuple[str, ...] = setting(
        forms.each(_type), (), "what pods may ask for, besides machine_type", env=("GCP_INSTANCE_TYPES",)
    )
    confidential: bool = setting(
        forms.boolean,
        True,
        "launch confidential VMs; DISABLECVM=true means false here",
        env=("DISABLECVM",),
        inverted=("DISABLECVM",),
    )
    confidential_type: str | None = setting(
        forms.optional(forms.choice("sev", "sev_snp", "tdx")),
        None,
        "which kind; empty: the strongest that machine_type gives (SEV_SNP or TDX before SEV)",
        env=("GCP_CONFIDENTIAL_TYPE",),
    )
    disk_type: str | None = setting(
        forms.optional(_kind),
        None,
        "of the root disk; empty: pd-balanced, hyperdisk-balanced where a family takes only those",
        env=("GCP_DISK_TYPE",),
    )
    root_volume_gib: int | None = setting(
        forms.optional(forms.integer(*_ROOT_LIMITS), lambda value: value in ("", None, 0, "0")),
        None,
        "size of the root disk, never less than the image's; empty or 0: the image's",
        env=("ROOT_VOLUME_SIZE",),
    )
    extra_disks: tuple[str, ...] = setting(
        forms.each(_disk), (), "empty disks for every pod VM, deleted with it: local-ssd, or TYPE:GIB"
    )
    kms_key: str | None = setting(
        forms.optional(_key), None, "encrypts the disks that peerpods makes; empty: Google's own key"
    )
    public_ip: bool = setting(
        forms.boolean, False, "give pod VMs a public address, and reach them there", env=("USE_PUBLIC_IP",)
    )
    reserve_address: bool = setting(
        forms.boolean,
        False,
        "reserve the internal address before the VM is made; three calls more for each pod, and no faster",
    )
    labels: tuple[tuple[str, str], ...] = setting(
        Form(forms.pairs.allowed, _labels), (), "for every instance, disk and address"
    )
    resource_tags: tuple[tuple[str, str], ...] = setting(
        Form(forms.pairs.allowed, _resource_tags),
        (),
        "Resource Manager tags for every instance: tagKeys/ID = tagValues/ID, or names as PARENT/KEY = VALUE;"
        " a key without a parent is the project's",
        env=("TAGS",),
    )
    network_tags: tuple[str, ...] = setting(forms.each(_tag), (), "what firewall rules know pod VMs by")
    service_account: str | None = setting(
        forms.optional(_account), None, "what pod VMs may act as; empty: nothing, they get no credentials"
    )
    scopes: tuple[str, ...] = setting(
        forms.strings, ("https://www.googleapis.com/auth/cloud-platform",), "of the service account, if there is one"
    )
    gpu_type: str | None = setting(
        forms.optional(_kind), None, "attached to every N1 machine type: nvidia-tesla-t4; A2, A3, G2 bring their own"
    )
    gpu_count: int = setting(forms.integer(1, 8), 1, "how many of gpu_type")
    min_cpu_platform: str | None = setting(
        forms.optional(forms.nonempty), None, 'empty: as the TEE needs it ("AMD Milan" for SEV_SNP)'
    )
    spot: bool = setting(forms.boolean, False, "offer spot VMs too: cheaper, and Google may take them back")
    prices: bool = setting(
        forms.boolean,
        False,
        "ask Cloud Billing for list prices once: some ten pages of several MB; where it does not tell, they are unknown",
    )
    secure_boot: bool = setting(forms.boolean, False, "only signed boot loaders and kernels; the image must be")
    vtpm: bool = setting(forms.boolean, True, "a virtual TPM")
    integrity_monitoring: bool = setting(forms.boolean, True, "Google compares each boot's measurements; needs vtpm")
    reservation: str | None = setting(
        forms.optional(forms.nonempty), None, '"none", "any" or a reservation\'s name; empty: as "any"'
    )
    node_affinity: tuple[tuple[str, tuple[str, ...]], ...] = setting(
        Form(forms.pairs.allowed + "; several values as a|b", _affinity),
        (),
        "sole-tenant nodes: which labels they must have",
    )
    credentials: str | None = setting(
        forms.optional(Form("a credentials file's content, JSON", _credentials)),
        None,
        "a key or federation file's content; empty, which is better: found as Google's libraries do",
        env=("GCP_CREDENTIALS",),
        secret=True,
    )
    endpoint_url: str | None = setting(
        forms.optional(_url), None, "another Compute Engine endpoint; simcloud by http:, which gets no credentials"
    )
    # An insert is answered within a second; the rest are reads of some ten milliseconds. A thread costs its stack.
    api_concurrency: int = setting(forms.integer(1, 64), 8, "calls to Compute Engine at a time (threads)")

    @property
    def allowed_types(self) -> tuple[str, ...]:
        """Every type that may be launched, the default first, each once."""
        return tuple(dict.fromkeys((self.machine_type, *self.machine_types)))

    @property
    def region(self) -> str:
        """That of the zones."""
        return self.zones[0].rpartition("-")[0]

    @property
    def tee(self) -> Tee:
        """What pods get that do not say otherwise."""
        if not self.confidential:
            return Tee.NONE
        return tees.BY_SETTING[self.confidential_type] if self.confidential_type else tees.strongest(self.machine_type)


def parse(table: Mapping[str, Any], env: Mapping[str, str], faults: Faults) -> GcpConfig:
    """Settings from the `[gcp]` table and the environment; what is wrong goes to `faults`, nothing is raised."""
    known = len(faults)
    config = read(GcpConfig, table, where="gcp", env=env, faults=faults)
    if len(faults) == known:
        faults.extend(_contradictions(config))
    return config


def _contradictions(config: GcpConfig) -> list[Fault]:
    found: list[Fault] = []
    if not config.zones:
        found.append(Fault("gcp.zones", "is empty", "at least one zone, or GCP_ZONE in the environment"))
    elif len({zone.rpartition("-")[0] for zone in config.zones}) > 1:
        found.append(Fault("gcp.zones", f"{', '.join(config.zones)} are not of one region", "zones of one region"))
    if config.confidential and config.tee not in tees.of(config.machine_type):
        gives = ", ".join(tee.value for tee in tees.of(config.machine_type)) or "none"
        wanted = config.confidential_type or "confidential VMs"
        found.append(
            Fault(
                "gcp.machine_type",
                f"{config.machine_type} does not give its guest {wanted} (it gives {gives})",
                "n2d-... for SEV_SNP and SEV, c3-standard-... for TDX, c2d, c3d, c4d for SEV;"
                " or gcp.confidential = false",
            )
        )
    if config.integrity_monitoring and not config.vtpm:
        found.append(Fault("gcp.integrity_monitoring", "needs vtpm", "false where vtpm is false"))
    return found
