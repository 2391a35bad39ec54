"""Whether launches would succeed: what Google is asked, and what each answer means (`findings`, pure).

Nothing is made or changed: gets, lists and testIamPermissions.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from providers.base import Finding, Grade, Offering
from providers.errors import Denied, NotFound, ProviderError, Transient
from providers.gcp import findings, quotas, requests
from providers.gcp.api import Api
from providers.gcp.config import GcpConfig

_RESOURCE_MANAGER: Final = "https://cloudresourcemanager.googleapis.com"

Offerings = Callable[[], Awaitable[Sequence[Offering]]]
Image = Callable[[str], Awaitable[requests.Image]]


async def run(
    api: Api, config: GcpConfig, port: int, tunnel_port: int, *, offerings: Offerings, image: Image
) -> list[Finding]:
    """Every finding; those of one look that failed say so themselves."""
    credentials = await _look("credentials", lambda: _identify(api))
    if any(each.grade is Grade.FAULT for each in credentials):
        return credentials
    looks = {
        f"permissions in {config.project}": lambda: _permissions(api, config),
        f"image {config.image}": lambda: _image(config, image, offerings),
        f"subnetwork {requests.subnetwork(config)}": lambda: _subnetwork(api, config),
        f"firewall of {requests.network(config)}": lambda: _firewall(api, config, port, tunnel_port),
        f"quotas of {config.region}": lambda: _quotas(api, config, offerings),
        f"machine type {config.machine_type}": lambda: _types(config, offerings),
    }
    found = await asyncio.gather(*(_look(subject, look) for subject, look in looks.items()))
    return [*credentials, *(each for part in found for each in part)]


async def _look(subject: str, look: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    try:
        return await look()
    except Denied as error:
        if subject == "credentials":
            fix = "set GOOGLE_APPLICATION_CREDENTIALS or gcp.credentials, or give this node a service account"
            return [Finding(subject, Grade.FAULT, str(error), fix)]
        return [Finding(subject, Grade.WARNING, f"could not be looked at: {error}", "allow this node to read it")]
    except NotFound as error:
        return [Finding(subject, Grade.FAULT, str(error), "correct the setting, or make what it names")]
    except ProviderError as error:
        grade = Grade.FAULT if subject == "credentials" or isinstance(error, Transient) else Grade.WARNING
        return [
            Finding(subject, grade, f"could not be looked at: {error}", "try again; is Google reachable from here?")
        ]


async def _identify(api: Api) -> list[Finding]:
    await api.identify("cannot find credentials that Google accepts")
    return [Finding("credentials", Grade.OK, "found, and accepted")]


async def _permissions(api: Api, config: GcpConfig) -> list[Finding]:
    base = config.endpoint_url if (config.endpoint_url or "").startswith("http:") else _RESOURCE_MANAGER
    wanted = findings.permissions(config)
    answer = await api.rest(
        "cannot ask which permissions this node has",
        "POST",
        f"{str(base).rstrip('/')}/v1/projects/{config.project}:testIamPermissions",
        {"permissions": sorted(wanted)},
    )
    return findings.of_permissions(wanted, answer.get("permissions", []))


async def _image(config: GcpConfig, image: Image, offerings: Offerings) -> list[Finding]:
    return findings.of_image(config, await image(config.image), await offerings())


async def _subnetwork(api: Api, config: GcpConfig) -> list[Finding]:
    project, region, name = findings.subnetwork_of(config)
    asked = {"project": project, "region": region, "subnetwork": name}
    shape = await api.ask(f"cannot read about the subnetwork {name}", "subnetworks", "get", asked)
    return findings.of_subnetwork(config, shape)


async def _firewall(api: Api, config: GcpConfig, port: int, tunnel_port: int) -> list[Finding]:
    project, network = findings.network_of(config)
    if config.subnetwork:
        host, region, name = findings.subnetwork_of(config)
        asked = {"project": host, "region": region, "subnetwork": name}
        shape = await api.ask(f"cannot read about the subnetwork {name}", "subnetworks", "get", asked)
        project, network = host, requests.last(shape.get("network", ""))
    rules: list[Any] = await api.items("cannot list the firewall rules", "firewalls", {"project": project})
    return findings.of_firewall(config, network, rules, {"tcp": port, "udp": tunnel_port})


async def _quotas(api: Api, config: GcpConfig, offerings: Offerings) -> list[Finding]:
    doing = f"cannot read the quotas of {config.region}"
    shape = await api.ask(doing, "regions", "get", {"project": config.project, "region": config.region})
    return findings.of_quotas(quotas.headroom(shape, config), await offerings())


async def _types(config: GcpConfig, offerings: Offerings) -> list[Finding]:
    return findings.of_offerings(config, await offerings())
