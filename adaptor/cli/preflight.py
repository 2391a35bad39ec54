"""What `peerpods check --cloud` does and prints; apart from its declaration, for it loads a cloud's SDK."""

import asyncio
import dataclasses
import json
import os
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Final

from adaptor import daemon
from adaptor.config import Config
from adaptor.config_network import Network
from adaptor.errors import Unavailable
from adaptor.kube import place
from adaptor.podnet import trial
from adaptor.podnet.encryption import Encryption
from providers.base import Finding, Grade, Ownership, Provider, SupportsPreflight
from providers.errors import ProviderError

_FAILED: Final = 1
_WIDTH: Final = 110  # of a finding's text
_ORDER: Final = (Grade.FAULT, Grade.WARNING, Grade.OK)
_AS_ROOT: Final = "run this as root, as the adaptor is, on the node"
_NODE: Final = "preflight"  # nothing is made, so nothing will carry this mark


async def check(config: Config, *, as_json: bool) -> int:
    """Ask the cloud, print its findings; 0 when pods would start. Raises: Unavailable (no SDK installed)."""
    provider = await daemon.open_provider(config, Ownership(config.node.cluster or _NODE, config.node.name))
    try:
        findings = [*await _findings(provider, config), *await _kubernetes(config), *await _network(config.network)]
    finally:
        await provider.aclose()
    print(_json(findings) if as_json else report(provider.name, findings))
    return _FAILED if any(finding.grade is Grade.FAULT for finding in findings) else 0


async def _findings(provider: Provider, config: Config) -> Sequence[Finding]:
    """At least that the credentials work and the configured types exist: every provider can tell that."""
    try:
        offers = await provider.offerings()
    except ProviderError as error:
        offered = Finding("instance types", Grade.FAULT, str(error), "correct the setting or the credentials")
    else:
        zones = f" in {', '.join(sorted({offer.zone for offer in offers if offer.zone}))}".removesuffix(" in ")
        kinds = sorted({offer.tee.value for offer in offers})
        count = len({offer.instance_type for offer in offers})
        message = f"{count}{zones}; TEE: {', '.join(kinds)}"
        offered = Finding("instance types", Grade.OK, message)
    if isinstance(provider, SupportsPreflight):
        found = await provider.preflight(config.guest.port, config.network.vxlan_port)
        return [offered, *found] if offered.grade is Grade.FAULT else found  # it tells of the types itself
    unasked = f"the {provider.name} provider has no preflight: permissions, network and quotas were not looked at"
    return [offered, Finding("preflight", Grade.WARNING, unasked, "launch one pod to find out")]


async def _kubernetes(config: Config) -> Sequence[Finding]:
    """What the cluster's API server lets this node do; nothing where there is none."""
    try:
        if place.find(config.kubernetes) is None:
            return []
        from adaptor.kube import client, rights

        opened = client.open_client(config.kubernetes)
    except (Unavailable, ModuleNotFoundError) as error:
        return [Finding("Kubernetes", Grade.FAULT, str(error), "correct [kubernetes], or install peerpods[kubernetes]")]
    assert opened is not None, "there is a place"
    try:
        return await rights.findings(opened, config.kubernetes)
    finally:
        await opened.aclose()


async def _network(settings: Network) -> Sequence[Finding]:
    """Whether this node can carry pods' networks, tried where nothing is touched."""

    async def tried(subject: str, sound: str, deed: Callable[[], Any], fix: str) -> Finding:
        try:
            return Finding(subject, Grade.OK, sound.format(await asyncio.to_thread(deed)))
        except Unavailable as error:
            may = os.geteuid() == 0
            return Finding(subject, Grade.FAULT if may else Grade.WARNING, str(error), fix if may else _AS_ROOT)

    found = [
        await tried(
            "pods' network",
            "this node makes tunnels: VXLAN, redirects and nftables",
            lambda: trial.attempt(settings.vxlan_port),
            "load the modules vxlan, sch_ingress, cls_u32, act_mirred, nf_tables and nft_ct, and give the adaptor "
            "CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN",
        )
    ]
    if settings.encryption == "required":
        found.append(
            await tried(
                "encryption",
                "WireGuard: {}",
                lambda: Encryption.open(settings.wireguard, settings.wireguard_port).kind,
                "provide what is missing, or set network.encryption = off",
            )
        )
    return found


def report(cloud: str, findings: Sequence[Finding]) -> str:
    """The findings for people, the worst first, and what they come to."""
    lines = []
    for finding in sorted(findings, key=lambda each: _ORDER.index(each.grade)):
        lines.append(f"{finding.grade.value:8} {finding.subject}: {finding.message}")
        lines += textwrap.wrap(finding.fix, _WIDTH, initial_indent=f"{'':9}fix: ", subsequent_indent=f"{'':14}")
    count = {grade: sum(finding.grade is grade for finding in findings) for grade in Grade}
    verdict = "pods will not start" if count[Grade.FAULT] else "pods can start"
    summary = (
        f"{_several(count[Grade.FAULT], 'fault')}, {_several(count[Grade.WARNING], 'warning')}, {count[Grade.OK]} ok"
    )
    return "\n".join([*lines, f"{cloud}: {verdict} ({summary})"])


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _json(findings: Sequence[Finding]) -> str:
    return json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2)
