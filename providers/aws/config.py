"""The `[aws]` settings; upstream's environment names are aliases, and win over the file."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from providers import forms
from providers.base import Tee
from providers.settings import Fault, Faults, Form, read, setting

TAG_KEY_LIMIT: Final = 128  # characters, as EC2 counts them
TAG_VALUE_LIMIT: Final = 256
RESERVED_TAGS: Final = ("aws:", "peerpods-")  # Amazon's own; ours (providers.tags)

PUBLIC_IPS: Final = ("none", "auto", "elastic")
TENANCIES: Final = ("default", "dedicated", "host")
VOLUME_TYPES: Final = ("gp3", "gp2", "io1", "io2")
UPSTREAMS_TEMPLATE: Final = "kata"
SERVICES: Final = ("ebs", "sts", "pricing", "service-quotas")  # besides EC2

_subnet: Final = forms.matching(r"subnet-[0-9a-f]{8,17}", "a subnet's id: subnet-0123456789abcdef0")
_group: Final = forms.matching(r"sg-[0-9a-f]{8,17}", "a security group's id: sg-0123456789abcdef0")
_image: Final = forms.matching(r"ami-[0-9a-f]{8,17}", "an AMI's id: ami-0123456789abcdef0")
_type: Final = forms.matching(r"[a-z0-9-]+\.[a-z0-9-]+", "an instance type: m6a.large")
_types: Final = forms.matching(r"(?=.*\.)[a-z0-9.*?-]+", "an instance type, with wildcards if you like: m6a.*")
_template: Final = forms.matching(
    r"[A-Za-z0-9().\-/_]{3,128}", "a launch template's name or id: kata, lt-0123456789abcdef0"
)
_version: Final = forms.matching(r"\$Default|\$Latest|[1-9]\d*", "$Default, $Latest or a number")
_host: Final = forms.matching(r"h-[0-9a-f]{8,17}", "a dedicated host's id: h-0123456789abcdef0")
_arn: Final = forms.matching(r"arn:[a-z-]+:resource-groups:\S+", "a resource group's ARN: arn:aws:resource-groups:...")
_reservation: Final = forms.matching(
    r"open|none|cr-[0-9a-f]{8,17}|arn:[a-z-]+:resource-groups:\S+",
    "open, none, a capacity reservation's id (cr-...) or the ARN of a resource group of them",
)
_profile: Final = forms.matching(
    r"[\w+=,.@-]{1,128}|arn:[a-z-]+:iam::\d{12}:instance-profile/\S+", "an instance profile's name or ARN"
)
_key: Final = forms.matching(r"(?!.*\s).{1,2048}", "a KMS key's id, alias (alias/...) or ARN")
_region: Final = forms.matching(r"[a-z]+(-[a-z]+)+-\d+", "a region: us-east-2")
_url: Final = forms.matching(r"https?://\S+", "a URL: https://ec2.us-east-2.amazonaws.com")


def _public_ip(value: Any) -> str:
    """Upstream's setting is true or false."""
    if isinstance(value, str) and value.lower() in PUBLIC_IPS:
        return value.lower()
    try:
        return "auto" if forms.boolean.parse(value) else "none"
    except ValueError:
        raise ValueError("is none of them") from None


def _second(value: Any) -> bool:
    """The environment name is that of network.external_network too, whose words it may hold."""
    word = str(value).strip().lower()
    return bool(forms.boolean.parse({"nic": True, "vm": False}.get(word, value)))


def _price(value: Any) -> float:
    try:
        price = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        price = math.nan
    if not 0 < price < 1000:  # NaN is in no range
        raise ValueError("is no price")
    return price


def _endpoints(value: Any) -> tuple[tuple[str, str], ...]:
    pairs: dict[str, str] = forms.pairs.parse(value)
    for service, url in pairs.items():
        if service not in SERVICES:
            raise ValueError(f"names {service!r}, which is none of {', '.join(SERVICES)}")
        _url.parse(url)
    return tuple(sorted(pairs.items()))


def tag_problem(key: str, value: str) -> str:
    """Why EC2 would refuse this tag; empty when it would not."""
    if not 1 <= len(key) <= TAG_KEY_LIMIT:
        return f"has a key of {len(key)} characters; 1 to {TAG_KEY_LIMIT} are allowed"
    if len(value) > TAG_VALUE_LIMIT:
        return f"has a value of {len(value)} characters; {TAG_VALUE_LIMIT} are allowed"
    if key.lower().startswith("aws:"):
        return "starts with aws:, which only Amazon may use"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsConfig:
    """How this node launches instances. Credentials are not settings: boto3's standard chain finds them
    (environment, shared files, web identity, instance role).
    """

    region: str | None = setting(
        forms.optional(_region),
        None,
        "empty: as the profile says, or this worker's own",
        env=("AWS_REGION", "AWS_DEFAULT_REGION"),
    )
    subnet_ids: tuple[str, ...] = setting(
        forms.each(_subnet),
        (),
        "where pod VMs live: the zones of these are the zones that pods can go to, the first one's before the others;"
        " empty: this worker's own",
        env=("AWS_SUBNET_ID",),
    )
    security_group_ids: tuple[str, ...] = setting(
        forms.each(_group),
        (),
        "must let workers reach TCP 15150 and UDP 4789 of pod VMs; empty: this worker's own",
        env=("AWS_SG_IDS",),
    )
    key_name: str | None = setting(
        forms.optional(forms.nonempty), None, "EC2 key pair for SSH, for debug images only", env=("SSH_KP_NAME",)
    )
    image: str = setting(_image, help="the pod VM image; a pod's annotation may name another", env=("PODVM_AMI_ID",))
    instance_type: str = setting(_type, "m6a.large", "for pods that ask for no size", env=("PODVM_INSTANCE_TYPE",))
    instance_types: tuple[str, ...] = setting(
        forms.each(_types),
        (),
        "what pods may ask for, besides instance_type; with wildcards (m6a.*), whatever EC2 has of that name",
        env=("PODVM_INSTANCE_TYPES",),
    )
    confidential: bool = setting(
        forms.boolean,
        True,
        "launch with AMD SEV-SNP; DISABLECVM=true means false here",
        env=("DISABLECVM",),
        inverted=("DISABLECVM",),
    )
    root_volume_gib: int | None = setting(
        forms.optional(forms.integer(1, 16384), lambda value: value in ("", None, 0, "0")),
        None,
        "size of the root volume, never less than the image's; empty or 0: the image's",
        env=("ROOT_VOLUME_SIZE",),
    )
    volume_type: str | None = setting(
        forms.optional(forms.choice(*VOLUME_TYPES)), None, "of the root volume; empty: the image's"
    )
    volume_iops: int | None = setting(
        forms.optional(forms.integer(100, 256_000)), None, "of the root volume: gp3 (3000 and more), io1, io2"
    )
    volume_throughput: int | None = setting(
        forms.optional(forms.integer(125, 2000)), None, "MiB/s of the root volume: gp3"
    )
    volume_encrypted: bool | None = setting(
        forms.optional(forms.boolean),
        None,
        "encrypt the root volume with a key of Amazon's or yours; empty: as the image, or the account's default",
    )
    kms_key_id: str | None = setting(
        forms.optional(_key), None, "the KMS key for the root volume; pods' users of it need kms:CreateGrant"
    )
    public_ip: str = setting(
        Form(" | ".join(PUBLIC_IPS) + " (true: auto, false: none)", _public_ip),
        "none",
        "auto: Amazon lends the VM a public address for its life; elastic: one of the account's own, on the second"
        " interface where there is one",
        env=("USE_PUBLIC_IP",),
    )
    secondary_interface: bool = setting(
        Form("true or false (nic: true)", _second),
        False,
        "give every VM a second network interface, deleted with it; for network.external_network = nic",
        env=("EXTERNAL_NETWORK_VIA_PODVM",),
    )
    secondary_subnet_ids: tuple[str, ...] = setting(
        forms.each(_subnet), (), "the second interface's subnets, one per zone; empty: the first one's"
    )
    secondary_security_group_ids: tuple[str, ...] = setting(
        forms.each(_group), (), "the second interface's groups; empty: the first one's"
    )
    spot: bool = setting(forms.boolean, False, "offer spot capacity too; pods choose by price or annotation")
    spot_max_price: float | None = setting(
        forms.optional(Form("USD per hour: 0.05", _price)), None, "pay no more for spot; empty: up to on-demand's price"
    )
    use_launch_template: bool = setting(
        forms.boolean,
        False,
        "launch by a template; what peerpods sets itself (image, type, TEE, place, user data, tags, IMDS) wins over it",
        env=("USE_PODVM_LAUNCHTEMPLATE",),
    )
    launch_template: str = setting(
        _template, UPSTREAMS_TEMPLATE, "the template's name or id", env=("PODVM_LAUNCHTEMPLATE_NAME",)
    )
    launch_template_version: str = setting(_version, "$Default", "which version of it")
    placement_group: str | None = setting(
        forms.optional(forms.nonempty), None, "a placement group's name or id (pg-...)"
    )
    tenancy: str = setting(
        forms.choice(*TENANCIES), "default", "dedicated: on hardware of your account only; host: on a dedicated host"
    )
    host_id: str | None = setting(forms.optional(_host), None, "with tenancy host: this one; empty: any of yours")
    host_resource_group_arn: str | None = setting(
        forms.optional(_arn), None, "with tenancy host: any of this group's hosts"
    )
    capacity_reservation: str | None = setting(
        forms.optional(_reservation),
        None,
        "for launches on demand: any open reservation that matches (open, EC2's default), none, or this one",
    )
    instance_profile: str | None = setting(
        forms.optional(_profile), None, "an instance profile: what its role allows, every pod may do"
    )
    prices: bool = setting(
        forms.boolean, False, "read prices (needs pricing:GetProducts, ec2:DescribeSpotPriceHistory)"
    )
    tag_labels: tuple[str, ...] = setting(
        forms.each(forms.nonempty),
        (),
        "pod labels that become tags of the VM, shortened and cleaned where EC2 needs it",
    )
    tags: tuple[tuple[str, str], ...] = setting(
        forms.tags(tag_problem, RESERVED_TAGS, "Amazon"),
        (),
        "for every instance, volume and network interface",
        env=("TAGS",),
    )
    profile: str | None = setting(
        forms.optional(forms.nonempty), None, "a profile of ~/.aws to take credentials from", env=("AWS_PROFILE",)
    )
    endpoint_url: str | None = setting(
        forms.optional(_url),
        None,
        "another EC2 endpoint: a VPC endpoint, or simcloud",
        env=("AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL"),
    )
    endpoint_urls: tuple[tuple[str, str], ...] = setting(
        Form(f"a table of URLs by service: {', '.join(SERVICES)}", _endpoints), (), "other endpoints of other services"
    )
    # RunInstances takes 1-2 s and EC2 admits two a second after a burst of five: five threads keep up with
    # creates, three are left for describes and deletes. A thread costs its stack and a connection.
    api_concurrency: int = setting(forms.integer(1, 64), 8, "calls to EC2 at a time (threads)")

    @property
    def allowed_types(self) -> tuple[str, ...]:
        """Every type that may be launched, the default first, each once; some may have wildcards."""
        return tuple(dict.fromkeys((self.instance_type, *self.instance_types)))

    def allows(self, instance_type: str) -> bool:
        """Whether a launch may name this type."""
        return any(fnmatchcase(instance_type, each) for each in self.allowed_types)

    @property
    def tee(self) -> Tee:
        """What pods get that do not say otherwise."""
        return Tee.SNP if self.confidential else Tee.NONE


def parse(table: Mapping[str, Any], env: Mapping[str, str], faults: Faults) -> AwsConfig:
    """Settings from the `[aws]` table and the environment; what is wrong goes to `faults`, nothing is raised."""
    config = read(AwsConfig, table, where="aws", env=env, faults=faults)
    if table.get("launch_template", UPSTREAMS_TEMPLATE) != UPSTREAMS_TEMPLATE and not config.use_launch_template:
        faults.append(Fault("aws.launch_template", "is not used", "use_launch_template = true with it, or neither"))
    faults.extend(contradictions(config))
    return config


def contradictions(config: AwsConfig) -> Iterator[Fault]:
    """Settings that EC2 would refuse together, or that would be ignored."""
    c = config
    if c.public_ip == "auto" and c.secondary_interface:
        yield _fault("public_ip", "EC2 lends addresses to machines with one interface only", "elastic or none here")
    if (c.secondary_subnet_ids or c.secondary_security_group_ids) and not c.secondary_interface:
        yield _fault("secondary_interface", "is false, but it has a subnet or groups", "true, or neither of them")
    if c.spot_max_price is not None and not c.spot:
        yield _fault("spot_max_price", "is not used", "spot = true with it, or neither")
    yield from _place_contradictions(config)
    yield from _volume_contradictions(config)


def _place_contradictions(c: AwsConfig) -> Iterator[Fault]:
    if (c.host_id or c.host_resource_group_arn) and c.tenancy != "host":
        yield _fault("tenancy", f"{c.tenancy!r} uses no dedicated host, but one is named", "host")
    if c.host_id and c.host_resource_group_arn:
        yield _fault("host_id", "is given, and host_resource_group_arn too", "one of the two")
    if c.tenancy == "host" and c.spot:
        yield _fault("spot", "EC2 has no spot capacity on dedicated hosts", "false, or another tenancy")
    if c.tenancy != "default" and c.prices:
        yield _fault("prices", f"are known for the tenancy default only, not for {c.tenancy}", "false here")


def _volume_contradictions(c: AwsConfig) -> Iterator[Fault]:
    if c.volume_throughput is not None and c.volume_type != "gp3":
        yield _fault("volume_throughput", "can be chosen for gp3 only", 'volume_type = "gp3" with it')
    if c.volume_iops is not None and c.volume_type not in ("gp3", "io1", "io2"):
        yield _fault("volume_iops", "can be chosen for gp3, io1 and io2 only", "one of these as volume_type")
    if c.volume_type in ("io1", "io2") and c.volume_iops is None:
        yield _fault("volume_iops", f"must be given for {c.volume_type}", "a number of operations a second")
    if c.volume_type == "gp3" and (c.volume_iops or 3000) < 3000:
        yield _fault("volume_iops", f"{c.volume_iops} is less than every gp3 volume has", "3000 or more")
    if c.volume_type == "gp3" and 4 * (c.volume_throughput or 0) > (c.volume_iops or 3000):
        least = 4 * (c.volume_throughput or 0)
        yield _fault("volume_iops", f"{c.volume_throughput} MiB/s take {least} operations a second", f"{least} or more")
    if c.kms_key_id and c.volume_encrypted is False:
        yield _fault("volume_encrypted", "is false, but a KMS key is named", "true, or no kms_key_id")


def _fault(name: str, problem: str, allowed: str) -> Fault:
    return Fault(f"aws.{name}", problem, allowed)
