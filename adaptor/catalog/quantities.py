"""Kubernetes quantities: "500m" of a CPU, "8Gi" of memory."""

import re
from decimal import ROUND_CEILING, Context, Decimal, localcontext
from functools import lru_cache
from typing import Final

from adaptor.errors import InvalidRequest

_FORM: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d{1,2})|([a-zA-Z]{0,2}))", re.ASCII)
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_LARGEST: Final = Decimal((1 << 63) - 1)  # where Kubernetes caps every quantity
_LONGEST: Final = 40  # characters; as Kubernetes writes them none has more than 21
_EXACT: Final = Context(prec=150)  # digits: 40 written ones times an Ei, or an e99
MOST_VCPUS: Final = 100_000  # far beyond any machine: what is larger is a slip of the pen
MOST_MIB: Final = 1 << 30  # a pebibyte


def vcpus(text: str) -> int:
    """Whole vCPUs, rounded up: "1500m" are 2. Raises: InvalidRequest."""
    return _whole("CPU", text, Decimal(1), MOST_VCPUS, '4, "500m", "1.5"')


def mebibytes(text: str) -> int:
    """Whole MiB, rounded up; a bare number is bytes, as in Kubernetes. Raises: InvalidRequest."""
    return _whole("memory", text, Decimal(1 << 20), MOST_MIB, '"8Gi", "512Mi", "4G"; a bare number is bytes')


@lru_cache(maxsize=8192)  # a cluster's pods ask for the same few amounts again and again
def nano(text: str) -> int:
    """Any quantity in thousand-millionths of its unit, exactly; what is finer is rounded up, as Kubernetes does.

    Raises: InvalidRequest for what is none, or is below 0.
    """
    with localcontext(_EXACT):
        amount = _parse(text)
        if amount is None or amount < 0:
            problem = "is no quantity" if amount is None else "is below 0"
            raise InvalidRequest(f'"{text[:_LONGEST]}" {problem}; write it as Kubernetes does: 2, "500m", "1.5", "8Gi"')
        return int((min(amount, _LARGEST) * 10**9).to_integral_value(ROUND_CEILING))


def _whole(what: str, text: str, unit: Decimal, most: int, like: str) -> int:
    amount = _parse(text)
    if amount is None:
        problem = "is no quantity"
    elif amount <= 0:
        problem = "must be more than 0"
    elif amount / unit > most:
        problem = "is more than any machine has"
    else:
        return int((amount / unit).to_integral_value(ROUND_CEILING))
    raise InvalidRequest(f'{what} "{text[:40]}" {problem}; write it as Kubernetes does: {like}')


def _parse(text: str) -> Decimal | None:
    found = _FORM.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if found is None:
        return None
    number, exponent, suffix = Decimal(found[1]), found[2], found[3] or ""
    if exponent is not None:
        return number.scaleb(int(exponent))
    if suffix in _BINARY:
        return number * (1 << _BINARY[suffix])
    return number.scaleb(_DECIMAL[suffix]) if suffix in _DECIMAL else None
