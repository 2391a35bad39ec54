"""Pods that could never start, and why: told when they are created, not minutes later in an event. Pure.

Only what is certain is refused. What merely does not do what its author may expect is a warning.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from adaptor import config_forms, names
from adaptor.catalog import explain, wishes
from adaptor.catalog.chooser import Chooser
from adaptor.catalog.patterns import in_family, is_wild, matches
from adaptor.catalog.select import Constraints, Requirements
from adaptor.config_network import Network
from adaptor.errors import InvalidRequest
from adaptor.podnet import egress
from providers.base import Offering
from webhook import shim, sizes
from webhook.pods import Pod

INITDATA_VERSION: Final = "0.1.0"  # the only one there is
_SPACE: Final = re.compile(r"[^\S\r\n]")  # the shim's base64 allows line ends and no other space
_ANSWERS: Final = 2048  # different questions that are remembered; deployments ask the same ones


@dataclass
class Market:
    """What can be had at all: the cloud's offerings and [selection]. That some are exhausted today does not count."""

    chooser: Chooser
    offerings: tuple[Offering, ...] = ()  # empty = not known, and then not looked at
    _answers: dict[Requirements, str] = field(default_factory=dict, repr=False)

    def refusal(self, wanted: Requirements) -> str:
        """Why no machine will ever do; empty when one does."""
        if wanted not in self._answers:
            if len(self._answers) >= _ANSWERS:
                self._answers.clear()
            self._answers[wanted] = self._ask(wanted)
        return self._answers[wanted]

    def _ask(self, wanted: Requirements) -> str:
        if not self.offerings:
            return _not_allowed(wanted, self.chooser.constraints)
        choice = self.chooser.choose(self.offerings, wanted, now=0.0)
        return "" if choice.ranked else explain.refusal(choice, wanted)


def refusals(pod: Pod, market: Market, network: Network) -> list[str]:
    """Every reason why this pod cannot start, each with what to do; empty when there is none. `network`: the nodes'."""
    return [*_of_the_network(pod), *_of_the_initdata(pod), *_of_the_machine(pod, market, network)]


def warnings(pod: Pod) -> list[str]:
    """What will not do what it says."""
    return [
        f"{key}: the pod's processes are in a VM of their own, not on the worker; it has no effect"
        for key in ("hostPID", "hostIPC")
        if pod.spec.get(key) is True
    ]


def _of_the_network(pod: Pod) -> Iterator[str]:
    if pod.spec.get("hostNetwork") is True:
        yield (
            "hostNetwork: true cannot work: the pod runs in a VM, which would need the worker's own address. Remove "
            "hostNetwork, or run the pod with another runtime class"
        )


def _of_the_initdata(pod: Pod) -> Iterator[str]:
    value = pod.annotations.get(names.INITDATA, "")
    if not value:
        return
    try:
        if _SPACE.search(value):
            raise ValueError("holds spaces, which base64 has none of")
        version = config_forms.initdata_table(config_forms.unpacked(value)).get("version")
        if version != INITDATA_VERSION:
            raise ValueError(f'has version {str(version)[:40]!r}; "{INITDATA_VERSION}" is understood')
    except ValueError as error:
        yield (
            f"annotation {names.INITDATA} {error}. It must be base64 of the gzip of a TOML document: "
            "`gzip -c initdata.toml | base64 -w0`"
        )


def _of_the_machine(pod: Pod, market: Market, network: Network) -> Iterator[str]:
    for key in shim.empty(pod.annotations):
        yield f"annotation {key} is empty, which kata refuses: leave it out, or say 0"
    try:
        limits = sizes.asked(pod).limits
        text = wishes.from_annotations(pod.annotations, pod.annotations.get(names.MACHINE_TYPE, ""))
        wanted = shim.requirements({**pod.annotations, names.MACHINE_TYPE: text}, limits)
    except InvalidRequest as error:
        yield str(error)
        return
    try:
        egress.egress(network, wishes.parse(text))
    except InvalidRequest as error:
        yield str(error)
    if why := market.refusal(wanted):
        yield why


def _not_allowed(wanted: Requirements, limits: Constraints) -> str:
    """Without a catalog: whether any type that the pod names could be allowed."""
    if not wanted.types or any(is_wild(each) or _allowed(each, limits) for each in wanted.types):
        return ""
    return (
        f'the requested instance type ("{",".join(wanted.types)[:200]}") is not allowed by [selection] (allow, deny, '
        "families); choose another, or have the admin allow it"
    )


def _allowed(instance_type: str, limits: Constraints) -> bool:
    return (
        (not limits.allow or matches(limits.allow, instance_type))
        and not matches(limits.deny, instance_type)
        and (not limits.families or in_family(limits.families, instance_type))
    )
