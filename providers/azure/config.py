"""The `[azure]` settings; upstream's environment names are aliases, and win over the file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from providers import forms
from providers.settings import Fault, Faults, Form, read, setting

TAG_KEY_LIMIT: Final = 512  # characters, as Azure counts them
TAG_VALUE_LIMIT: Final = 256
RESERVED_TAGS: Final = ("microsoft", "azure", "windows", "peerpods-")  # Azure's own; ours (providers.tags)
PRICES_URL: Final = "https://prices.azure.com/api/retail/prices"

_GUID: Final = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_IN_GROUP: Final = r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers"

_guid: Final = forms.matching(_GUID, "a GUID: 00000000-0000-0000-0000-000000000000")
_region: Final = forms.matching(r"[a-z0-9]+", "a region: eastus")
_group: Final = forms.matching(r"[-\w.()]{1,90}(?<!\.)", "a resource group's name")
_zone: Final = forms.matching(r"[1-9]", "a zone of the region: 1")
_type: Final = forms.matching(r"[A-Za-z]\w+", "a size: Standard_DC2as_v5")
_user: Final = forms.matching(r"[a-z_][a-z0-9_-]{0,31}", "a Linux user's name")
_url: Final = forms.matching(r"https?://\S+", "a URL: https://management.azure.com")


def _resource(kind: str, example: str) -> Form:
    return forms.matching(rf"(?i:{_IN_GROUP}/{kind}/[^/]+)", f"a resource's id: /subscriptions/.../{example}")


_subnet: Final = _resource(r"Microsoft\.Network/virtualNetworks/[^/]+/subnets", "virtualNetworks/V/subnets/S")
_security_group: Final = _resource(r"Microsoft\.Network/networkSecurityGroups", "networkSecurityGroups/N")
_identity: Final = _resource(r"Microsoft\.ManagedIdentity/userAssignedIdentities", "userAssignedIdentities/I")
_placement: Final = _resource(r"Microsoft\.Compute/proximityPlacementGroups", "proximityPlacementGroups/P")
_reservation: Final = _resource(r"Microsoft\.Compute/capacityReservationGroups", "capacityReservationGroups/C")
_host_group: Final = _resource(r"Microsoft\.Compute/hostGroups", "hostGroups/G")
_host: Final = _resource(r"Microsoft\.Compute/hostGroups/[^/]+/hosts", "hostGroups/G/hosts/H")
_encryption_set: Final = _resource(r"Microsoft\.Compute/diskEncryptionSets", "diskEncryptionSets/D")

_IMAGES: Final = (
    rf"{_IN_GROUP}/Microsoft\.Compute/(images/[^/]+|galleries/[^/]+/images/[^/]+(/versions/[^/]+)?)"
    r"|/(CommunityGalleries|SharedGalleries)/[^/]+/Images/[^/]+(/Versions/[^/]+)?"
)
_image: Final = forms.matching(
    rf"(?i:{_IMAGES})",
    "an image's id: /subscriptions/.../images/I, /subscriptions/.../galleries/G/images/I/versions/V, "
    "/CommunityGalleries/G/Images/I/Versions/V or /SharedGalleries/G/Images/I/Versions/V",
)


def is_image(text: str) -> bool:
    """Whether Azure could know an image by this id."""
    return re.fullmatch(rf"(?i:{_IMAGES})", text) is not None


def _words(*words: str) -> Form:
    """One of these, in any case; the value is spelt as it is here."""

    def parse(value: Any) -> str:
        for word in words:
            if str(value).lower() == word.lower():
                return word
        raise ValueError("is none of them")

    return Form(" | ".join(words), parse)


def _price(value: Any) -> float:
    try:
        price = float(value)
    except (TypeError, ValueError):
        raise ValueError("is not a number") from None
    if isinstance(value, bool) or not 0 < price < 1000:
        raise ValueError("is no price of an hour")
    return price


def tag_problem(key: str, value: str) -> str:
    """Why Azure would refuse this tag; empty when it would not."""
    if not 1 <= len(key) <= TAG_KEY_LIMIT:
        return f"has a key of {len(key)} characters; 1 to {TAG_KEY_LIMIT} are allowed"
    if found := set(r"<>%&\?/") & set(key):
        return f"has {''.join(sorted(found))!r} in its key, which Azure does not allow"
    if len(value) > TAG_VALUE_LIMIT:
        return f"has a value of {len(value)} characters; {TAG_VALUE_LIMIT} are allowed"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureConfig:
    """How this node launches virtual machines.

    Credentials, the first that there is: a client's secret (AZURE_CLIENT_SECRET, never in the file), a workload
    identity (AZURE_FEDERATED_TOKEN_FILE, as its webhook sets it), the worker's managed identity.
    """

    subscription_id: str = setting(_guid, help="what pod VMs are made in and billed to", env=("AZURE_SUBSCRIPTION_ID",))
    tenant_id: str | None = setting(
        forms.optional(forms.nonempty), None, "the directory of client_id", env=("AZURE_TENANT_ID",)
    )
    client_id: str | None = setting(
        forms.optional(_guid),
        None,
        "the service principal, or which of the worker's managed identities; empty: its only one",
        env=("AZURE_CLIENT_ID",),
    )
    client_secret: str | None = setting(
        forms.optional(forms.nonempty),
        None,
        "of the service principal; from the environment only",
        env=("AZURE_CLIENT_SECRET",),
        secret=True,
    )
    federated_token_file: str | None = setting(
        forms.optional(forms.path),
        None,
        "a workload identity's token; AKS sets the variable",
        env=("AZURE_FEDERATED_TOKEN_FILE",),
    )
    region: str = setting(_region, help="where pod VMs live", env=("AZURE_REGION",))
    zones: tuple[str, ...] = setting(
        forms.each(_zone),
        (),
        "zones to launch in, the first is preferred; empty: wherever Azure likes",
        env=("AZURE_ZONE",),
    )
    resource_group: str = setting(
        _group, help="what pod VMs and all of theirs are put in", env=("AZURE_RESOURCE_GROUP",)
    )
    subnet_id: str = setting(_subnet, help="where pod VMs get their addresses", env=("AZURE_SUBNET_ID",))
    security_group_id: str | None = setting(
        forms.optional(_security_group),
        None,
        "must let workers reach TCP 15150 and UDP 4789 of pod VMs; empty: the subnet's own rules",
        env=("AZURE_NSG_ID",),
    )
    public_ip: bool = setting(forms.boolean, False, "give every pod VM a public address too", env=("USE_PUBLIC_IP",))
    image: str = setting(_image, help="the pod VM image; a pod's annotation may name another", env=("AZURE_IMAGE_ID",))
    instance_type: str = setting(
        _type, "Standard_DC2as_v5", "for pods that ask for no size", env=("AZURE_INSTANCE_SIZE",)
    )
    instance_types: tuple[str, ...] = setting(
        forms.each(_type), (), "what pods may ask for, besides instance_type", env=("AZURE_INSTANCE_SIZES",)
    )
    confidential: bool = setting(
        forms.boolean,
        True,
        "launch confidential VMs, SEV-SNP or TDX as the size has it; DISABLECVM=true means false here",
        env=("DISABLECVM",),
        inverted=("DISABLECVM",),
    )
    secure_boot: bool = setting(
        forms.boolean, False, "boot only what Microsoft's keys have signed", env=("ENABLE_SECURE_BOOT",)
    )
    disk_encryption: str = setting(
        _words("VMGuestStateOnly", "DiskWithVMGuestState"),
        "VMGuestStateOnly",
        "what of a confidential VM's OS disk the platform encrypts for it; the whole disk makes creation minutes longer",
    )
    disk_encryption_set_id: str | None = setting(
        forms.optional(_encryption_set), None, "the customer's own key for OS disks"
    )
    disk_type: str = setting(
        _words("Premium_LRS", "StandardSSD_LRS", "Standard_LRS", "Premium_ZRS", "StandardSSD_ZRS"),
        "Premium_LRS",
        "of OS disks",
    )
    root_volume_gib: int | None = setting(
        forms.optional(forms.integer(1, 4095), lambda value: value in ("", None, 0, "0")),
        None,
        "size of the OS disk, never less than the image's; empty or 0: the image's",
        env=("ROOT_VOLUME_SIZE",),
    )
    tags: tuple[tuple[str, str], ...] = setting(
        forms.tags(tag_problem, RESERVED_TAGS, "Azure"), (), "for every VM, disk, interface and address", env=("TAGS",)
    )
    ssh_user: str = setting(_user, "peerpod", "Azure demands one, with a key", env=("SSH_USERNAME",))
    ssh_key_path: str | None = setting(
        forms.optional(forms.path), None, "a public key, for debug images; empty: one that nobody has the other half of"
    )
    identity_ids: tuple[str, ...] = setting(forms.each(_identity), (), "user-assigned identities that pod VMs get")
    proximity_placement_group_id: str | None = setting(
        forms.optional(_placement), None, "keep pod VMs near each other, or near the workers"
    )
    capacity_reservation_group_id: str | None = setting(
        forms.optional(_reservation), None, "take pod VMs from what is reserved there"
    )
    host_group_id: str | None = setting(forms.optional(_host_group), None, "dedicated hosts, chosen by Azure")
    host_id: str | None = setting(forms.optional(_host), None, "one dedicated host; not together with host_group_id")
    spot: bool = setting(forms.boolean, False, "offer spot VMs too; an evicted one is deleted, its pod with it")
    spot_max_price: float | None = setting(
        forms.optional(Form("USD per hour, more than 0", _price)), None, "empty: up to the on-demand price"
    )
    boot_diagnostics: bool = setting(forms.boolean, True, "keep each VM's console, in storage that Azure manages")
    prices: bool = setting(forms.boolean, False, "ask Azure's public price list; it needs no credentials")
    prices_url: str = setting(_url, PRICES_URL, "another price list")
    endpoint_url: str | None = setting(
        forms.optional(_url),
        None,
        "another Azure Resource Manager: a sovereign cloud's, or simcloud; plain http never gets credentials",
        env=("AZURE_ENDPOINT_URL",),
    )
    # Allocation failures come seconds after Azure has accepted a VM, and no guest boots faster: a look this long after
    # costs a start nothing and lets it go on with another offering.
    allocation_check: float = setting(
        forms.duration,
        5.0,
        "how long after a VM was accepted Azure is asked whether it found room; again after twice as long, while it"
        " has not, for a minute; 0: at once, and no more",
    )

    @property
    def allowed_types(self) -> tuple[str, ...]:
        """Every size that may be launched, the default first, each once."""
        return tuple(dict.fromkeys((self.instance_type, *self.instance_types)))

    @property
    def group_id(self) -> str:
        """The resource group's path, which every id of ours begins with."""
        return f"/subscriptions/{self.subscription_id}/resourceGroups/{self.resource_group}"


def parse(table: Mapping[str, Any], env: Mapping[str, str], faults: Faults) -> AzureConfig:
    """Settings from the `[azure]` table and the environment; what is wrong goes to `faults`, nothing is raised."""
    if "client_secret" in table:
        faults.append(Fault("azure.client_secret", "(secret) is in the file", "AZURE_CLIENT_SECRET in the environment"))
        table = {key: value for key, value in table.items() if key != "client_secret"}
    config = read(AzureConfig, table, where="azure", env=env, faults=faults)
    if config.host_id and config.host_group_id:
        faults.append(Fault("azure.host_id", "is given, and azure.host_group_id too", "one of both"))
    if config.client_secret and not (config.tenant_id and config.client_id):
        allowed = "AZURE_TENANT_ID and AZURE_CLIENT_ID, or azure.tenant_id and azure.client_id"
        faults.append(Fault("AZURE_CLIENT_SECRET", "is given without the tenant and client it belongs to", allowed))
    return config
