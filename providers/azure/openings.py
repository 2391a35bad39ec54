"""Whether a network security group lets workers in (pure).

Where a worker calls from is not known here: from the virtual network, most likely.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from providers.base import Finding, Grade

_FROM_NETWORK: Final = ("*", "VirtualNetwork", "0.0.0.0/0", "Any")


def look(subject: str, rules: Sequence[Mapping[str, Any]], port: int, protocol: str) -> Finding:
    """The first inbound rule, by priority, that decides on this port for callers of the virtual network."""
    inbound = [rule["properties"] for rule in rules if rule["properties"]["direction"].lower() == "inbound"]
    partly: list[str] = []
    what = f"{protocol} {port}"
    for rule in sorted(inbound, key=lambda each: int(each["priority"])):
        if not (_is_protocol(rule, protocol) and _is_port(rule, port)):
            continue
        sources = [rule.get("sourceAddressPrefix") or "", *(rule.get("sourceAddressPrefixes") or [])]
        allows = rule["access"].lower() == "allow"
        if any(source in _FROM_NETWORK for source in sources):
            return (
                _decided(subject, what, partly) if allows or partly else _closed(subject, what, int(rule["priority"]))
            )
        if allows:
            partly += [source for source in sources if source]
    return _decided(subject, what, partly) if partly else _closed(subject, what, None)


def _decided(subject: str, what: str, partly: Sequence[str]) -> Finding:
    if not partly:
        return Finding(subject, Grade.OK, f"{what} is open to the virtual network")
    return Finding(
        subject,
        Grade.WARNING,
        f"{what} is open to {', '.join(partly)}",
        "see that every worker's address is among them",
    )


def _closed(subject: str, what: str, priority: int | None) -> Finding:
    why = "by no rule" if priority is None else f"closed by the rule of priority {priority}"
    fix = f"allow inbound {what} from the workers, with a lower priority number"
    return Finding(subject, Grade.FAULT, f"{what} is not open to the workers: {why}", fix)


def _is_protocol(rule: Mapping[str, Any], protocol: str) -> bool:
    return str(rule.get("protocol", "*")).lower() in ("*", protocol.lower())


def _is_port(rule: Mapping[str, Any], port: int) -> bool:
    ranges = [rule.get("destinationPortRange") or "", *(rule.get("destinationPortRanges") or [])]
    for text in ranges:
        if text == "*":
            return True
        low, _, high = text.partition("-")
        if low.isdecimal() and int(low) <= port <= int(high or low):
            return True
    return False
