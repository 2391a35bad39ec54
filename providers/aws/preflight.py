"""Whether launches would succeed, found out with dry runs and describes. Nothing is made or changed."""

import asyncio
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from providers.aws import reachability, requests
from providers.aws.asking import Ask
from providers.aws.catalog import is_pattern
from providers.aws.config import AwsConfig
from providers.aws.errors import UNAUTHORIZED, WOULD_SUCCEED, missing_action
from providers.aws.reachability import Worker
from providers.aws.shape import Place
from providers.base import Finding, Grade, Headroom, LaunchSpec, Offering, Tee
from providers.errors import Denied, NotFound, ProviderError, Throttled

# AWS's page on AMD SEV-SNP for EC2 names these regions only (read in 2025; the API decides, this warns).
SNP_REGIONS: Final = ("us-east-2", "eu-west-1")
_NOBODY: Final = "i-00000000000000000"  # of the right form
_FEW: Final = 16  # free addresses: about what a worker starts at once
_UEFI: Final = ("uefi", "uefi-preferred")
# The calls of every day; each may be tried without doing anything.
_READS: Final = {
    "describe_instances": "ec2:DescribeInstances",
    "describe_images": "ec2:DescribeImages",
    "describe_subnets": "ec2:DescribeSubnets",
    "describe_instance_types": "ec2:DescribeInstanceTypes",
    "describe_instance_type_offerings": "ec2:DescribeInstanceTypeOfferings",
    "describe_volumes": "ec2:DescribeVolumes",
    "describe_network_interfaces": "ec2:DescribeNetworkInterfaces",
    "describe_addresses": "ec2:DescribeAddresses",
}


class Subject(Protocol):
    """What of the provider is looked at."""

    @property
    def config(self) -> AwsConfig: ...
    @property
    def ask(self) -> Ask: ...
    async def region(self) -> str: ...
    async def places(self) -> Mapping[str, Sequence[Place]]: ...  # by zone
    async def offerings(self) -> Sequence[Offering]: ...
    async def quota(self) -> Sequence[Headroom]: ...
    async def launch(self, spec: LaunchSpec) -> requests.Request: ...  # RunInstances' parameters
    async def ours(self) -> Sequence[str]: ...  # ids of this node's instances
    async def worker(self) -> Worker: ...


@dataclass(frozen=True, slots=True)
class Preflight:
    """One look at everything."""

    subject: Subject

    async def run(self, port: int, tunnel_port: int) -> list[Finding]:
        """See SupportsPreflight.preflight."""
        who = await self._credentials()
        if any(each.grade is Grade.FAULT for each in who):
            return who  # whatever is asked now would say the same
        checks: dict[str, Awaitable[Sequence[Finding]]] = {
            "image": self._image(),
            "subnets": self._subnets(),
            "security groups": self._groups(port, tunnel_port),
            "instance types": self._types(),
            "launch": self._launch(),
            "permission ec2:TerminateInstances": self._delete(),
            "permissions to read": self._reads(),
            "quota": self._quota(),
        }
        found = await asyncio.gather(*(_told(subject, check) for subject, check in checks.items()))
        return [*who, *(finding for each in found for finding in each)]

    async def _credentials(self) -> list[Finding]:
        ask = self.subject.ask
        try:
            (arn,) = await ask("cannot tell who this is", "get_caller_identity", {}, _arns, service="sts")
        except Denied as error:
            return [Finding("credentials", Grade.FAULT, str(error), "give this node credentials that are valid now")]
        except ProviderError as error:
            fix = "let this node reach STS, or ignore this if what follows is well"
            return [Finding("credentials", Grade.WARNING, str(error), fix)]
        return [Finding("credentials", Grade.OK, f"{arn} in {await self.subject.region()}")]

    async def _image(self) -> list[Finding]:
        config = self.subject.config
        name = f"image {config.image}"
        doing = f"cannot read about the image {config.image}"
        found = await self.subject.ask(doing, "describe_images", {"ImageIds": [config.image]}, _images)
        if not found:
            return [Finding(name, Grade.FAULT, "does not exist here", "share it with this account, or choose another")]
        return list(_image_findings(name, found[0], await self.subject.offerings(), config))

    async def _subnets(self) -> list[Finding]:
        places = await self.subject.places()
        ids = [place.subnet_id for there in places.values() for place in there]
        seen = await self.subject.ask("cannot read about the subnets", "describe_subnets", {"SubnetIds": ids}, _subnets)
        return [_subnet_finding(each) for each in seen]

    async def _groups(self, port: int, tunnel_port: int) -> list[Finding]:
        places = [place for there in (await self.subject.places()).values() for place in there]
        ids, doing = list(places[0].security_group_ids), "cannot read the security groups' rules"
        groups = await self.subject.ask(doing, "describe_security_groups", {"GroupIds": ids}, _security_groups)
        ranges = await self.subject.ask(doing, "describe_subnets", {"SubnetIds": [places[0].subnet_id]}, _subnets)
        wanted = (("tcp", port), ("udp", tunnel_port))
        cidrs = [each["CidrBlock"] for each in ranges]
        return list(reachability.findings(groups, cidrs, wanted, await self.subject.worker()))

    async def _types(self) -> list[Finding]:
        config, offers = self.subject.config, await self.subject.offerings()
        return list(_type_findings(config, offers, await self.subject.region()))

    async def _launch(self) -> list[Finding]:
        """The very call of a launch, dry: it needs ec2:RunInstances, ec2:CreateTags, iam:PassRole and whatever else."""
        default = (await self.subject.offerings())[0]
        spec = LaunchSpec("peerpods-preflight", default.instance_type, b"", tee=default.tee, zone=default.zone)
        request = {**await self.subject.launch(spec), "DryRun": True}
        what = f"launch of {default.instance_type} in {default.zone}"
        found = [await self._dry("run_instances", request, "ec2:RunInstances", what)]
        if self.subject.config.public_ip == "elastic":
            found.append(await self._dry("allocate_address", {"Domain": "vpc", "DryRun": True}, "ec2:AllocateAddress"))
        return found

    async def _delete(self) -> list[Finding]:
        ids = await self.subject.ours()
        request = {"InstanceIds": [ids[0] if ids else _NOBODY], "DryRun": True}
        found = await self._dry("terminate_instances", request, "ec2:TerminateInstances")
        if ids or found.grade is Grade.OK:
            return [found]
        text = f"could not be tried, as this node has no instance now; for one that does not exist EC2 says: {found.message}"
        return [Finding(found.subject, Grade.WARNING, text, f"try again with a pod running; or: {found.fix}")]

    async def _reads(self) -> list[Finding]:
        names = dict(_READS)
        if self.subject.config.use_launch_template:
            names["describe_launch_template_versions"] = "ec2:DescribeLaunchTemplateVersions"
        if self.subject.config.prices and self.subject.config.spot:
            names["describe_spot_price_history"] = "ec2:DescribeSpotPriceHistory"
        found = await asyncio.gather(*(self._dry(name, {"DryRun": True}, action) for name, action in names.items()))
        bad = [each for each in found if each.grade is not Grade.OK]
        allowed = len(found) - len(bad)
        return [*bad, Finding("permissions to read", Grade.OK, f"{allowed} of {len(found)} calls are allowed")]

    async def _quota(self) -> list[Finding]:
        try:
            limits = await self.subject.quota()
        except ProviderError as error:
            fix = f"allow {missing_action(error.message) or 'servicequotas:GetServiceQuota'} to see limits beforehand"
            return [Finding("quota", Grade.WARNING, str(error), fix)]
        sizes = {each.instance_type: each.vcpus for each in await self.subject.offerings()}
        return [_quota_finding(each, sizes, self.subject.config) for each in limits]

    async def _dry(self, method: str, request: requests.Request, action: str, what: str = "") -> Finding:
        subject = f"permission {action}"
        try:
            await self.subject.ask(f"cannot {what}" if what else "refused", method, request, requests.empty)
        except NotFound as error:
            if method == "terminate_instances":  # whoever may not is told so first
                return Finding(subject, Grade.OK, "not refused")
            return Finding(what or subject, Grade.FAULT, str(error), "correct the settings that name it")
        except ProviderError as error:
            if error.code == WOULD_SUCCEED:
                return Finding(subject, Grade.OK, f"allowed; a {what} would be accepted" if what else "allowed")
            if error.code in UNAUTHORIZED:
                missing = missing_action(error.message) or action
                fix = f"add {missing} to the policy of this node's role"
                return Finding(f"permission {missing}", Grade.FAULT, str(error), fix)
            return _failed(what or subject, error)
        return Finding(subject, Grade.WARNING, "was carried out, not tried: this is not EC2", "check aws.endpoint_url")


async def _told(subject: str, check: Awaitable[Sequence[Finding]]) -> Sequence[Finding]:
    try:
        return await check
    except ProviderError as error:
        return [_failed(subject, error)]


def _failed(subject: str, error: ProviderError) -> Finding:
    if isinstance(error, Throttled):
        return Finding(subject, Grade.WARNING, f"could not be asked: {error}", "ask again later")
    if error.code in UNAUTHORIZED and (missing := missing_action(error.message)):
        return Finding(f"permission {missing}", Grade.FAULT, str(error), f"allow {missing} to this node's role")
    return Finding(subject, Grade.FAULT, str(error), "do what the message asks for, and check again")


def _image_findings(
    name: str, image: Mapping[str, Any], offers: Sequence[Offering], config: AwsConfig
) -> Iterator[Finding]:
    if (state := image.get("State", "available")) != "available":
        yield Finding(name, Grade.FAULT, f"is {state}", "wait until it is available, or choose another")
    architecture = image.get("Architecture", "")
    unfit = dict.fromkeys(each.instance_type for each in offers if each.architecture != architecture)
    if unfit:
        grade = Grade.FAULT if config.instance_type in unfit else Grade.WARNING
        text = f"is for {architecture}, which these are not: {', '.join(unfit)}"
        yield Finding(name, grade, text, "choose an image or types of the other architecture, or name one per pod")
    boot = image.get("BootMode", "")
    if config.confidential and boot not in _UEFI:
        text = f"has the boot mode {boot or 'legacy-bios'}; AMD SEV-SNP starts from UEFI only"
        yield Finding(name, Grade.FAULT, text, "register it with --boot-mode uefi")
    if not unfit and image.get("State", "available") == "available":
        yield Finding(name, Grade.OK, f"{image.get('Name', 'it')} is available, for {architecture}")


def _subnet_finding(subnet: Mapping[str, Any]) -> Finding:
    name, free = f"subnet {subnet['SubnetId']}", int(subnet.get("AvailableIpAddressCount", 0))
    text = f"in {subnet['AvailabilityZone']}, {free} addresses free"
    if free == 0:
        return Finding(name, Grade.FAULT, text, "add a larger subnet to aws.subnet_ids")
    if free < _FEW:
        return Finding(name, Grade.WARNING, text, "add a larger subnet to aws.subnet_ids")
    return Finding(name, Grade.OK, text)


def _type_findings(config: AwsConfig, offers: Sequence[Offering], region: str) -> Iterator[Finding]:
    offered = {each.instance_type for each in offers}
    lacking = [each for each in config.allowed_types if not is_pattern(each) and each not in offered]
    zones = list(dict.fromkeys(each.zone for each in offers))
    if lacking:
        why = "is sold in none of these zones" + (f", or gives no {Tee.SNP}" if config.confidential else "")
        fix = "take it out of aws.instance_types, or add a subnet in a zone that sells it"
        yield Finding(f"instance type {', '.join(lacking)}", Grade.WARNING, why, fix)
    with_tee = f", all with {Tee.SNP}" if config.confidential else ""
    yield Finding("instance types", Grade.OK, f"{len(offered)} in {', '.join(zones)}{with_tee}")
    if config.confidential and region not in SNP_REGIONS:
        text = f"EC2 lists {Tee.SNP} for {config.instance_type} in {region}, where AWS's documentation does not name it"
        fix = f"if launches are refused, use {' or '.join(SNP_REGIONS)}"
        yield Finding("TEE", Grade.WARNING, text, fix)


def _quota_finding(limit: Headroom, sizes: Mapping[str, int], config: AwsConfig) -> Finding:
    subject = f"quota {limit.name}"
    used = limit.used or 0.0
    text = f"{used:g} of {limit.limit:g} {limit.unit} used; counts {', '.join(limit.types)}"
    left = limit.limit - used
    short = [each for each in limit.types if sizes.get(each, 0) > left]
    if not short:
        return Finding(subject, Grade.OK, text)
    spot = "spot" in limit.name.lower()
    grade = Grade.FAULT if config.instance_type in short and not spot else Grade.WARNING
    return Finding(subject, grade, f"{text}: no room for {', '.join(short)}", "ask AWS for a higher limit")


def _arns(answer: Mapping[str, Any]) -> Iterator[str]:
    yield answer["Arn"]


def _images(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return iter(answer["Images"])


def _subnets(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return iter(answer["Subnets"])


def _security_groups(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return iter(answer["SecurityGroups"])
