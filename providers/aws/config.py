"""The `[aws]` settings; upstream's environment names are aliases, and win over the file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from providers import forms
from providers.base import Tee
from providers.settings import Fault, Faults, Form, read, setting

TAG_KEY_LIMIT: Final = 128  # characters, as EC2 counts them
TAG_VALUE_LIMIT: Final = 256
RESERVED_TAGS: Final = ("aws:", "peerpods-")  # Amazon's own; ours (providers.tags)

# Upstream's options that have no counterpart here yet: ignoring one would launch other machines than were asked for.
_UNSUPPORTED: Final = {
    "USE_PUBLIC_IP": "public addresses for pod VMs are not supported yet",
    "USE_PODVM_LAUNCHTEMPLATE": "launch templates are not supported yet: give the image, subnet and groups as settings",
}

_subnet: Final = forms.matching(r"subnet-[0-9a-f]{8,17}", "a subnet's id: subnet-0123456789abcdef0")
_group: Final = forms.matching(r"sg-[0-9a-f]{8,17}", "a security group's id: sg-0123456789abcdef0")
_image: Final = forms.matching(r"ami-[0-9a-f]{8,17}", "an AMI's id: ami-0123456789abcdef0")
_type: Final = forms.matching(r"[a-z0-9-]+\.[a-z0-9-]+", "an instance type: m6a.large")
_region: Final = forms.matching(r"[a-z]+(-[a-z]+)+-\d+", "a region: us-east-2")
_url: Final = forms.matching(r"https?://\S+", "a URL: https://ec2.us-east-2.amazonaws.com")


def _tags(value: Any) -> tuple[tuple[str, str], ...]:
    pairs: dict[str, str] = forms.pairs.parse(value)
    for key, val in pairs.items():
        if problem := tag_problem(key, val):
            raise ValueError(f"has the tag {key!r}, which {problem}")
        if key.lower().startswith(RESERVED_TAGS) or key == "Name":
            raise ValueError(f"has the tag {key!r}, which is written by peerpods or Amazon itself")
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
    subnet_id: str | None = setting(
        forms.optional(_subnet),
        None,
        "where pod VMs live; one subnet means one zone; empty: this worker's own",
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
        forms.each(_type), (), "what pods may ask for, besides instance_type", env=("PODVM_INSTANCE_TYPES",)
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
    tags: tuple[tuple[str, str], ...] = setting(
        Form(forms.pairs.allowed, _tags), (), "for every instance, volume and network interface", env=("TAGS",)
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
    # RunInstances takes 1-2 s and EC2 admits two a second after a burst of five: five threads keep up with
    # creates, three are left for describes and deletes. A thread costs its stack and a connection.
    api_concurrency: int = setting(forms.integer(1, 64), 8, "calls to EC2 at a time (threads)")

    @property
    def allowed_types(self) -> tuple[str, ...]:
        """Every type that may be launched, the default first, each once."""
        return tuple(dict.fromkeys((self.instance_type, *self.instance_types)))

    @property
    def tee(self) -> Tee:
        """What pods get that do not say otherwise."""
        return Tee.SNP if self.confidential else Tee.NONE


def parse(table: Mapping[str, Any], env: Mapping[str, str], faults: Faults) -> AwsConfig:
    """Settings from the `[aws]` table and the environment; what is wrong goes to `faults`, nothing is raised."""
    for name, problem in _UNSUPPORTED.items():
        if _is_on(name, env, faults):
            faults.append(Fault(name, problem, "false, or unset"))
    return read(AwsConfig, table, where="aws", env=env, faults=faults)


def _is_on(name: str, env: Mapping[str, str], faults: Faults) -> bool:
    raw = env.get(name, "")
    try:
        return bool(raw) and bool(forms.boolean.parse(raw))
    except ValueError as error:
        faults.append(Fault(name, f"{raw!r} {error}", forms.boolean.allowed))
        return False
