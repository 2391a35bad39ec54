"""Kubernetes quantities: "250m", "2Gi", "1e3" as exact numbers and in the form the API server gives them back."""

import math
import re
from fractions import Fraction
from typing import Final

_FORM: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
_BINARY: Final = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL: Final = {"n": -3, "u": -2, "m": -1, "": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


def parse(text: str | float) -> Fraction:
    """Raises ValueError for what Kubernetes would not take."""
    match = _FORM.fullmatch(str(text))
    if match is None:
        raise ValueError("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    number, suffix = Fraction(match[1]), match[2] or ""
    if suffix in _BINARY:
        return number * Fraction(1024) ** _BINARY[suffix]
    if suffix in _DECIMAL:
        return number * Fraction(1000) ** _DECIMAL[suffix]
    return number * Fraction(10) ** int(suffix[1:])


def form(value: Fraction, *, binary: bool = False, exponent: bool = False) -> str:
    """The canonical text: the largest suffix that leaves a whole number."""
    if binary and value.denominator == 1 and abs(value) >= 1024:
        power = max((p for p in _BINARY.values() if (value / 1024**p).denominator == 1), default=0)
        suffix = next((name for name, p in _BINARY.items() if p == power), "")
        return f"{value / 1024**power}{suffix}"
    value = Fraction(math.ceil(value * 1000), 1000)  # what is finer than milli is rounded up
    power = max(p for p in _DECIMAL.values() if (value / Fraction(1000) ** p).denominator == 1 or p == -3)
    power = 0 if value == 0 else power
    number = value / Fraction(1000) ** power
    if exponent and power > 0:
        return f"{number}e{3 * power}"
    return f"{number}{next(name for name, p in _DECIMAL.items() if p == power)}"


def canonical(text: str | float) -> str:
    """As the API server would print it; raises ValueError."""
    match = _FORM.fullmatch(str(text))
    suffix = (match[2] or "") if match else ""
    if match and suffix[1:].lstrip("+-").isdigit() and match[1].isdigit():
        return str(text)  # exponents of whole numbers stay as they are
    return form(parse(text), binary=suffix in _BINARY, exponent=suffix[:1] in ("e", "E") and suffix[1:] != "")


def add(*lists: dict[str, str]) -> dict[str, str]:
    """The sum of resource lists."""
    total: dict[str, str] = {}
    for resources in lists:
        for name, text in resources.items():
            total[name] = combined(total.get(name, "0"), text)
    return total


def larger(*lists: dict[str, str]) -> dict[str, str]:
    """The larger of each resource."""
    most: dict[str, str] = {}
    for resources in lists:
        for name, text in resources.items():
            if name not in most or parse(text) > parse(most[name]):
                most[name] = text
    return most


def combined(one: str, other: str) -> str:
    binary = any(text.endswith("i") for text in (one, other))
    return form(parse(one) + parse(other), binary=binary)
