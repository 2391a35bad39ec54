"""The account's limits on running vCPUs, by groups of families, and what is used of them."""

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from providers.aws.asking import Ask
from providers.base import Headroom, Offering, Purchase
from providers.errors import NotFound

PAGE: Final = 1000

# Service Quotas' codes, as the console and the SDK's examples show them in 2025. Names come from the answer.
# First word of a type's family: code on demand, code as spot.
_STANDARD: Final = ("L-1216C47A", "L-34B43A08")
_CODES: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(("a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"), _STANDARD),
    "dl": ("L-6E869C2A", "L-85EED4F7"),
    "f": ("L-74FC7D96", "L-88CF9481"),
    **dict.fromkeys(("g", "gr", "vt"), ("L-DB2E81BA", "L-3819A6DF")),
    "hpc": ("L-F7808C92", ""),
    "inf": ("L-1945791B", "L-B5D1601B"),
    "p": ("L-417A185B", "L-7212CCBC"),
    "trn": ("L-2C3B7624", "L-6B0D517C"),
    "u": ("L-43DA4232", ""),
    "x": ("L-7295265B", "L-E3A00192"),
}
_P5_SPOT: Final = "L-C4BD4855"  # spot P5 has a limit of its own


@dataclass(frozen=True, slots=True)
class Usage:
    """One running instance."""

    instance_type: str
    spot: bool
    vcpus: int


def code(instance_type: str, purchase: Purchase) -> str:
    """The limit this type counts against; empty where we know of none."""
    if purchase is Purchase.SPOT and instance_type.startswith("p5"):
        return _P5_SPOT
    family = re.match(r"[a-z]+", instance_type)
    codes = _CODES.get(family[0] if family else "", ("", ""))
    return codes[purchase is Purchase.SPOT]


def running(answer: Mapping[str, Any]) -> Iterator[Usage]:
    """Every instance of a DescribeInstances page, with the vCPUs that it has, not those of its type."""
    for shape in (shape for reservation in answer["Reservations"] for shape in reservation["Instances"]):
        cpu = shape.get("CpuOptions", {})
        yield Usage(
            shape["InstanceType"],
            shape.get("InstanceLifecycle") == "spot",
            cpu.get("CoreCount", 0) * cpu.get("ThreadsPerCore", 1),
        )


async def read(ask: Ask, offers: Sequence[Offering]) -> list[Headroom]:
    """The limits that `offers` meet. Raises: Throttled, Denied, Transient."""
    wanted: dict[str, dict[str, None]] = {}
    for offer in offers:
        if found := code(offer.instance_type, offer.purchase):
            wanted.setdefault(found, {})[offer.instance_type] = None
    request = {"Filters": [{"Name": "instance-state-name", "Values": ["pending", "running"]}], "MaxResults": PAGE}
    doing = "cannot count the account's running vCPUs"
    used, limits = await asyncio.gather(
        ask(doing, "describe_instances", request, running), asyncio.gather(*(_limit(ask, each) for each in wanted))
    )
    return [
        Headroom(name=f"{name} ({each})", limit=limit, used=float(_counted(used, each)), types=tuple(wanted[each]))
        for each, (name, limit) in zip(wanted, limits, strict=True)
    ]


def _counted(used: Sequence[Usage], limit: str) -> int:
    return sum(
        each.vcpus
        for each in used
        if code(each.instance_type, Purchase.SPOT if each.spot else Purchase.ON_DEMAND) == limit
    )


async def _limit(ask: Ask, quota: str) -> tuple[str, float]:
    request = {"ServiceCode": "ec2", "QuotaCode": quota}
    doing = f"cannot read the account's limit {quota}"

    def read(answer: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
        yield answer["Quota"]["QuotaName"], float(answer["Quota"]["Value"])

    try:
        (found,) = await ask(doing, "get_service_quota", request, read, service="service-quotas")
    except NotFound:  # never changed for this account: only Amazon's default is listed
        (found,) = await ask(doing, "get_aws_default_service_quota", request, read, service="service-quotas")
    return found
