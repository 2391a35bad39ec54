"""What `peerpods instances` does and prints; apart from its declaration, for it loads a cloud's SDK."""

import json
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from adaptor import daemon
from adaptor.catalog import explain as texts
from adaptor.catalog.chooser import Chooser, constraints
from adaptor.catalog.select import Catalog, Constraints, Rejection, Requirements, Spot, select
from adaptor.config import Config
from adaptor.errors import Unavailable
from providers.base import Headroom, Offering, Ownership, Provider, SupportsQuota
from providers.errors import ProviderError

_NONE_FITS = 1  # exit status

Cells = tuple[str, ...]
_OFFERING: Cells = ("TYPE", "ZONE", "VCPU", "MEMORY", "GPU", "ARCH", "TEE", "PURCHASE", "USD/H")
_NUMBERS = frozenset({"RANK", "VCPU", "MEMORY", "USD/H", "LIMIT", "USED", "FREE"})  # columns that stand to the right


async def show(config: Config, *, as_json: bool) -> int:
    """Every offering, with what the admin's constraints say of it."""
    async with _cloud(config) as provider:
        chooser = _chooser(config)
        offerings = chooser.catalog(await _offerings(provider)).offerings
    found = [(offering, _forbidden(offering, chooser.constraints)) for offering in offerings]
    if as_json:
        rows = [
            {**_json(each), "default": not index, "allowed": why is None, **(_why(why) if why else {})}
            for index, (each, why) in enumerate(found)
        ]
        print(json.dumps({"cloud": config.cloud.provider, "offerings": rows}, indent=2))
        return 0
    notes = ["" if why is None else f"not allowed: {why.reason}" for _, why in found]
    if notes:
        notes[0] = ", ".join(filter(None, ("default", notes[0])))
    print(_table((*_OFFERING, "NOTE"), [(*_cells(each), note) for (each, _), note in zip(found, notes, strict=True)]))
    unknown = sum(each.price is None for each in offerings)
    if unknown:
        print(f"\n{unknown} of {len(offerings)} prices are unknown: a file at [selection].prices can say them")
    return 0


async def choose(config: Config, wanted: Requirements, *, explain: bool, as_json: bool) -> int:
    """What the adaptor would try, in its order."""
    async with _cloud(config) as provider:
        choice = _chooser(config).choose(await _offerings(provider), wanted, 0.0)
    refusal = "" if choice.ranked else texts.refusal(choice, wanted)
    if as_json:
        ranked = [{"rank": rank, **_json(each)} for rank, each in enumerate(choice.ranked, 1)]
        rejected = [{**_json(each.offering), **_why(each)} for each in choice.rejected]
        answer = {"cloud": config.cloud.provider, "ranked": ranked, "rejected": rejected, "refusal": refusal}
        print(json.dumps(answer, indent=2))
        return _NONE_FITS if refusal else 0
    if choice.ranked:
        print(_table(("RANK", *_OFFERING), [(str(n), *_cells(each)) for n, each in enumerate(choice.ranked, 1)]))
    if explain and choice.rejected:
        rows = [(*_cells(each.offering), each.filter, each.reason) for each in choice.rejected]
        print(("\n" if choice.ranked else "") + "ruled out:")
        print(_table((*_OFFERING, "BY", "WHY"), rows))
    elif choice.rejected and choice.ranked:
        print(f"\n{len(choice.rejected)} more are ruled out; --explain says why")
    if refusal:
        print(f"peerpods: {refusal}", file=sys.stderr)
        return _NONE_FITS
    return 0


async def quota(config: Config, *, as_json: bool) -> int:
    """The account's limits. Raises: Unavailable where this cloud's provider cannot tell."""
    async with _cloud(config) as provider:
        if not isinstance(provider, SupportsQuota):
            raise Unavailable(
                f"the {provider.name} provider cannot tell the account's limits: look at the cloud's console"
            )
        limits = await provider.quota()
    if as_json:
        rows = [
            {
                "name": each.name,
                "unit": each.unit,
                "limit": each.limit,
                "used": each.used,
                "free": _free(each),
                "instance_types": list(each.types),
            }
            for each in limits
        ]
        print(json.dumps({"cloud": config.cloud.provider, "limits": rows}, indent=2))
    elif limits:
        table = [
            (each.name, each.unit, _number(each.limit), _number(each.used), _number(_free(each)), ", ".join(each.types))
            for each in limits
        ]
        print(_table(("LIMIT OF", "UNIT", "LIMIT", "USED", "FREE", "COUNTS FOR"), table))
    else:
        print("the configured instance types meet no limit that this cloud tells of")
    return 0


@asynccontextmanager
async def _cloud(config: Config) -> AsyncIterator[Provider]:
    """The configured one; its errors as ours. Nothing is launched, so whose machines they would be does not matter."""
    provider = await daemon.open_provider(config, Ownership(config.node.cluster or "none", config.node.name))
    try:
        yield provider
    except ProviderError as error:
        raise Unavailable(str(error)) from error
    finally:
        await provider.aclose()


async def _offerings(provider: Provider) -> Sequence[Offering]:
    found = await provider.offerings()
    if not found:
        raise Unavailable(f"{provider.name} offers nothing of what its settings allow")
    return found


def _chooser(config: Config) -> Chooser:
    return Chooser(constraints(config.selection), config.prices)


def _forbidden(offering: Offering, limits: Constraints) -> Rejection | None:
    """Why the admin's constraints keep it from every pod, even one that asks for just this."""
    asking = Requirements(types=(offering.instance_type,), spot=Spot.ALLOWED)
    return next(iter(select(Catalog((offering,)), asking, limits).rejected), None)


def _free(limit: Headroom) -> float | None:
    return None if limit.used is None else max(0.0, limit.limit - limit.used)


def _json(offering: Offering) -> dict[str, Any]:
    return {
        "type": offering.instance_type,
        "zone": offering.zone,
        "vcpus": offering.vcpus,
        "memory_mib": offering.memory_mib,
        "gpus": offering.gpus,
        "gpu_model": offering.gpu_model,
        "architecture": offering.architecture,
        "tee": offering.tee.value,
        "purchase": offering.purchase.value,
        "usd_per_hour": offering.price,
    }


def _why(rejection: Rejection) -> dict[str, str]:
    return {"rule": rejection.filter, "reason": rejection.reason}


def _cells(offering: Offering) -> Cells:
    gpu = f"{offering.gpus} {offering.gpu_model}".strip() if offering.gpus else "-"
    return (
        offering.instance_type,
        offering.zone or "-",
        str(offering.vcpus),
        f"{offering.memory_mib / 1024:g} GiB",
        gpu,
        offering.architecture,
        offering.tee.value,
        offering.purchase.value,
        "unknown" if offering.price is None else f"{offering.price:.4f}",
    )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"


def _table(head: Cells, rows: Iterable[Cells]) -> str:
    """Aligned text, two spaces between columns."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = [str.rjust if name in _NUMBERS else str.ljust for name in head]
    return "\n".join(
        "  ".join(side(cell, width) for cell, width, side in zip(line, widths, sides, strict=True)).rstrip()
        for line in lines
    )
