"""Why a pod got no machine, or not the first one, in the words of its event.

The first clauses are upstream's own texts, which people and tests search for. All of it stays short enough for a
Kubernetes event (1,024 characters, of which kata's own prefix takes some 150), however long the catalog is.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from adaptor.catalog.select import RULES, Choice, Rejection, Requirements
from adaptor.catalog.unavailable import SAID, Mark
from providers.base import Offering, Purchase

LIMIT: Final = 820  # characters
_NAMES: Final = 5  # types listed before "and N more"
_EXAMPLES: Final = 3  # rejections told of each rule
_TRIES: Final = 6  # failed creates told one by one
_WORDS: Final = 160  # characters of a cloud's message


@dataclass(frozen=True, slots=True)
class Try:
    """A create call that the cloud refused."""

    offering: Offering
    mark: Mark

    @property
    def alike(self) -> tuple[str, Purchase, str]:
        """Tries that differ in their zone only are told as one."""
        return self.offering.instance_type, self.offering.purchase, self.mark.kind


def refusal(choice: Choice, wanted: Requirements) -> str:
    """Why nothing is left to try; for an InvalidRequest."""
    if not choice.rejected:
        return "no instance type found: the cloud's settings allow none that it sells here"
    if wanted.types:
        named = [each for each in choice.rejected if each.filter != "type"]
        if all(each.filter in ("allow", "deny") for each in named):
            return _cut(_unknown_type(choice, wanted), LIMIT)
        first = f'the requested instance type ("{_cut(",".join(wanted.types), 80)}") cannot be used'
        return _cut(f"{first}. {_ruled_out(named)}", LIMIT)
    sizes = " and ".join(_sizes(wanted))
    first = f"no instance type found for the given {sizes}" if sizes else "no instance type found for this pod"
    if wanted.vcpus or wanted.memory_mib:
        first = f"failed to get instance type based on vCPU and memory annotations: {first}"
    return _cut(f"{first}. {_ruled_out(choice.rejected)}", LIMIT)


def chosen(choice: Choice, tries: Sequence[Try]) -> str:
    """Why the first of `choice` that was not tried yet is asked for."""
    parts = [f"the first of {_count(len(choice.ranked), 'offering')} that fit, in the order of their cost"]
    if choice.last_resort:
        parts = ["all that fit were refused a short while ago, and this one's turn has come to be asked for again"]
    if tries:
        parts.append(f"Tried before: {tried(tries)}")
    if choice.ruled_out:
        parts.append(_ruled_out(choice.rejected))
    return _cut(". ".join(parts), LIMIT)


def no_room(cloud: str, tries: Sequence[Try], left_out: Sequence[Rejection], note: str = "") -> str:
    """What was asked for in vain; for a NoCapacity."""
    asked = {each.offering for each in tries}
    marked = [each for each in left_out if each.filter == "unavailable" and each.offering not in asked]
    parts = [f"{cloud} has no room for this pod's VM. Tried {tried(tries)}" if tries else f"{cloud} was not asked"]
    if marked:
        parts.append(f"Not asked again so soon: {_examples(marked)}")
    if note:
        parts.append(note)
    return _cut(". ".join(parts), LIMIT)


def tried(tries: Sequence[Try]) -> str:
    """`3 offerings: m6a.large in us-east-1a, us-east-1b: the cloud's words; m6a.xlarge in ...`."""
    groups: dict[tuple[str, Purchase, str], list[Try]] = {}
    for each in tries:
        groups.setdefault(each.alike, []).append(each)
    told = list(groups.values())
    shown = "; ".join(_told(group) for group in told[:_TRIES])
    counted = Counter(SAID[each.mark.kind] for group in told[_TRIES:] for each in group)
    more = "".join(f"; {count} more {said}" for said, count in counted.items())
    return f"{_count(len(tries), 'offering')}: {shown}{more}"


def _told(group: Sequence[Try]) -> str:
    """The first one's words speak for all; what they say of the machine's name and type is said already."""
    first = group[0]
    zones = ", ".join(dict.fromkeys(each.offering.zone for each in group if each.offering.zone))
    words = re.sub(r"^cannot launch \S+ \([^)]*\): ", "", first.mark.said)
    return f"{place(replace(first.offering, zone=zones))}: {_cut(words, _WORDS)}"


def place(offering: Offering) -> str:
    """An offering by what tells it from its like: `m6a.large in us-east-1a (spot)`."""
    where = f" in {offering.zone}" if offering.zone else ""
    return f"{offering.instance_type}{where}{' (spot)' if offering.purchase is Purchase.SPOT else ''}"


def _unknown_type(choice: Choice, wanted: Requirements) -> str:
    usable = (each.offering.instance_type for each in choice.rejected if each.filter not in ("allow", "deny"))
    kinds = sorted(set(usable))
    known = ", ".join(kinds[:_NAMES]) + (f" and {len(kinds) - _NAMES} more" if len(kinds) > _NAMES else "")
    return (
        f'requested instance type ("{_cut(",".join(wanted.types), 200)}") is not part of supported instance types list '
        f"({known or 'which is empty'}); choose one of these (`peerpods instances list`), or have the admin allow it"
    )


def _sizes(wanted: Requirements) -> Iterator[str]:
    if wanted.vcpus:
        yield f"vcpus ({wanted.vcpus})"
    if wanted.memory_mib:
        yield f"memory ({wanted.memory_mib})"
    if wanted.gpus:
        yield f"gpus ({wanted.gpus})"
    if wanted.gpu_models:
        yield f"gpu model ({', '.join(wanted.gpu_models)})"


def _ruled_out(rejected: Sequence[Rejection]) -> str:
    """Rule by rule, those that came the nearest first."""
    rules: dict[str, list[Rejection]] = {}
    for each in rejected:
        rules.setdefault(each.filter, []).append(each)
    nearest = sorted(rules.items(), key=lambda item: -RULES.index(item[0]))
    examples = _EXAMPLES if len(nearest) <= _EXAMPLES else 1
    parts = (f"{len(group)} by {name} ({_examples(group, examples)})" for name, group in nearest)
    return f"Ruled out {_count(len(rejected), 'offering')}: {'; '.join(parts)}"


def _examples(group: Sequence[Rejection], most: int = _EXAMPLES) -> str:
    """The largest types with their reasons, each type and reason once."""
    largest = sorted(group, key=lambda r: (-r.offering.gpus, -r.offering.memory_mib, -r.offering.vcpus))
    texts = list(dict.fromkeys((each.offering.instance_type, each.reason) for each in largest))
    shown = "; ".join(f"{kind}: {_cut(reason, _WORDS)}" for kind, reason in texts[:most])
    more = len({kind for kind, _ in texts} - {kind for kind, _ in texts[:most]})
    return shown + (f"; and {_count(more, 'more type')}" if more else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
