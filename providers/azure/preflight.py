"""Whether launches would succeed, asked without making anything: each finding with what to do about it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_network
from typing import Any, Final

from providers.azure import arm, openings, permissions
from providers.azure.arm import Arm
from providers.azure.config import AzureConfig
from providers.azure.images import Image
from providers.base import Finding, Grade, Headroom, Offering, Tee
from providers.errors import Denied, InvalidSpec, NotFound, ProviderError

RESOURCES_API: Final = "2021-04-01"
# Of a subnet's addresses Azure keeps the first four and the last.
_KEPT: Final = 5
_FEW: Final = 10  # free addresses, or pods' worth of quota, below which an admin wants to hear of it
_CONFIDENTIAL_FEATURE: Final = "confidentialvm"  # part of the SecurityType of an image that can be one

_Look = Callable[[], Awaitable[Sequence[Finding]]]


class Preflight:
    """Looks at everything a launch needs. `offerings`, `quota`, `image` are the provider's own."""

    def __init__(
        self,
        config: AzureConfig,
        api: Arm,
        offerings: Callable[[], Awaitable[Sequence[Offering]]],
        quota: Callable[[], Awaitable[Sequence[Headroom]]],
        image: Callable[[str], Awaitable[Image]],
    ) -> None:
        self._config = config
        self._arm = api
        self._offerings = offerings
        self._quota = quota
        self._image = image

    async def findings(self, port: int, tunnel_port: int) -> Sequence[Finding]:
        """See SupportsPreflight.preflight. Without credentials nothing else is asked."""
        first = await self._credentials()
        if any(each.grade is Grade.FAULT for each in first):
            return first
        looks: dict[str, _Look] = {
            f"permissions on {self._config.resource_group}": self._permissions,
            "permission to join the subnet": self._subnet_permission,
            f"image {self._config.image}": self._look_at_image,
            f"subnet {self._config.subnet_id}": lambda: self._subnet(port, tunnel_port),
            f"sizes in {self._config.region}": self._sizes,
            f"quotas in {self._config.region}": self._quotas,
        }
        found = await asyncio.gather(*(self._tried(subject, look) for subject, look in looks.items()))
        return [*first, *(finding for findings in found for finding in findings)]

    async def _tried(self, subject: str, look: _Look) -> Sequence[Finding]:
        try:
            return await look()
        except (InvalidSpec, NotFound) as error:
            return [Finding(subject, Grade.FAULT, str(error), "correct the setting, or make what it names")]
        except Denied as error:
            fix = "allow this node to read it, or see to it yourself"
            return [Finding(subject, Grade.WARNING, f"could not be looked at: {error}", fix)]
        except ProviderError as error:
            return [Finding(subject, Grade.WARNING, f"could not be looked at: {error}", "try again")]

    async def _credentials(self) -> list[Finding]:
        group = self._config.resource_group
        try:
            answer = await self._arm.get(
                self._config.group_id, RESOURCES_API, f"cannot read the resource group {group}"
            )
        except NotFound as error:
            fix = "correct azure.subscription_id and azure.resource_group, or create the group"
            return [Finding(f"resource group {group}", Grade.FAULT, str(error), fix)]
        except Denied as error:
            if error.code == "AuthorizationFailed":  # known, but not allowed to read the group: not needed for launches
                return [Finding("credentials", Grade.OK, "Azure knows this node")]
            fix = "give this node a managed identity, a workload identity, or AZURE_CLIENT_SECRET with its tenant and client"
            return [Finding("credentials", Grade.FAULT, str(error), fix)]
        except ProviderError as error:
            fix = "see that this node reaches Azure Resource Manager, and try again"
            return [Finding("credentials", Grade.FAULT, str(error), fix)]
        place = (answer.body or {}).get("location", "")
        return [
            Finding("credentials", Grade.OK, "Azure knows this node"),
            Finding(f"resource group {group}", Grade.OK, f"exists in {place}"),
        ]

    async def _permissions(self) -> Sequence[Finding]:
        granted = await self._granted(self._config.group_id)
        return _actions(
            list(permissions.needed(self._config)), granted, f"resource group {self._config.resource_group}"
        )

    async def _subnet_permission(self) -> Sequence[Finding]:
        return _actions([permissions.JOIN_SUBNET], await self._granted(self._config.subnet_id), "the subnet")

    async def _granted(self, scope: str) -> list[Any]:
        path = f"{scope}/providers/Microsoft.Authorization/permissions"
        return await self._arm.items(path, arm.AUTHORIZATION_API, f"cannot read this node's permissions on {scope}")

    async def _look_at_image(self) -> Sequence[Finding]:
        image, subject = await self._image(self._config.image), f"image {self._config.image}"
        wrong = []
        if image.generation and image.generation != "V2":
            fix = "make it of Hyper-V generation 2"
            wrong.append(Finding(subject, Grade.FAULT, f"it is of Hyper-V generation {image.generation}", fix))
        if self._config.confidential and _CONFIDENTIAL_FEATURE not in image.security.lower():
            said = f"its SecurityType is {image.security!r}" if image.security else "it has no SecurityType"
            fix = "give its gallery definition the feature SecurityType=ConfidentialVmSupported"
            wrong.append(Finding(subject, Grade.FAULT, f"it cannot be a confidential VM: {said}", fix))
        default = next(iter(await self._offerings()), None)
        if image.architecture and default and image.architecture != default.architecture:
            told = f"it is for {image.architecture}, and {default.instance_type} is {default.architecture}"
            wrong.append(Finding(subject, Grade.FAULT, told, "take an image of that architecture, or another size"))
        size = f", {image.size_gib} GiB" if image.size_gib else ""
        return wrong or [Finding(subject, Grade.OK, f"exists{size}")]

    async def _subnet(self, port: int, tunnel_port: int) -> Sequence[Finding]:
        doing = f"cannot read the subnet {self._config.subnet_id}"
        answer = await self._arm.get(self._config.subnet_id, arm.NETWORK_API, doing)
        with arm.reading(doing):
            properties = answer.body["properties"]
            prefixes = properties.get("addressPrefixes") or [properties["addressPrefix"]]
            size = sum(ip_network(prefix).num_addresses - _KEPT for prefix in prefixes if ":" not in prefix)
            free = size - len(properties.get("ipConfigurations") or [])
        name = self._config.subnet_id.rpartition("/")[2]
        few = free < _FEW
        told = f"{free} of {size} addresses are free"
        room = Finding(f"subnet {name}", Grade.WARNING if few else Grade.OK, told, "use a larger subnet" if few else "")
        group = self._config.security_group_id or (properties.get("networkSecurityGroup") or {}).get("id")
        if not group:
            return [room, Finding(f"ports of subnet {name}", Grade.OK, "no security group closes any")]
        return [room, *await self._group(group, port, tunnel_port)]

    async def _group(self, group: str, port: int, tunnel_port: int) -> Sequence[Finding]:
        doing, subject = f"cannot read the security group {group}", f"security group {group.rpartition('/')[2]}"
        answer = await self._arm.get(group, arm.NETWORK_API, doing)
        with arm.reading(doing):
            properties = answer.body["properties"]
            rules = [*(properties.get("securityRules") or []), *(properties.get("defaultSecurityRules") or [])]
            return [
                openings.look(subject, rules, port, "TCP"),
                openings.look(subject, rules, tunnel_port, "UDP"),
            ]

    async def _sizes(self) -> Sequence[Finding]:
        offers = await self._offerings()
        sold = {offer.instance_type for offer in offers}
        default = next(iter(offers))
        tee = "no TEE" if default.tee is Tee.NONE else f"TEE {default.tee}"
        found = [Finding(f"size {default.instance_type}", Grade.OK, f"sold in {self._config.region}, with {tee}")]
        for size in self._config.allowed_types:
            if size not in sold:
                told = "not sold to this subscription here" + (
                    ", or not confidential" if self._config.confidential else ""
                )
                fix = "take it out of azure.instance_types, or ask Azure to open it"
                found.append(Finding(f"size {size}", Grade.WARNING, told, fix))
        return found

    async def _quotas(self) -> Sequence[Finding]:
        least = {offer.instance_type: offer.vcpus for offer in await self._offerings()}
        return [_room(each, least, self._config) for each in await self._quota()]


def _actions(wanted: list[str], granted: list[Any], where: str) -> Sequence[Finding]:
    lacking = permissions.missing(wanted, granted)
    if not lacking:
        return [Finding(f"permissions on {where}", Grade.OK, f"a launch may do all it needs ({len(wanted)} actions)")]
    return [
        Finding(
            f"permission {action}", Grade.FAULT, f"missing on {where}", "give this node's identity a role that has it"
        )
        for action in lacking
    ]


def _room(each: Headroom, vcpus: dict[str, int], config: AzureConfig) -> Finding:
    subject, left = f"quota {each.name}", each.limit - (each.used or 0)
    told = f"{left:g} of {each.limit:g} {each.unit} left"
    one = min((vcpus.get(size, 1) for size in each.types), default=1) if each.unit == "vCPU" else 1
    if left >= one * _FEW:
        return Finding(subject, Grade.OK, told)
    vital = config.instance_type in each.types or not each.types
    grade = Grade.FAULT if left < one and vital else Grade.WARNING
    return Finding(subject, grade, told, f"ask Azure for a higher limit of {each.name} in {config.region}")
