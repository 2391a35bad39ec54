"""Forms of settings that only the adaptor has; the common ones are in `providers.forms`."""

import base64
import binascii
import math
import tomllib
import zlib
from typing import Any, Final

from providers import forms
from providers.settings import Form

# Bytes of a node's default initdata, unpacked. It travels in user-data or in one Bind: more than this would not pass.
_INITDATA_LIMIT: Final = 1 << 20
_GZIP_AS_BASE64: Final = "H4sI"  # how every base64 of gzip begins; no TOML document can
_ALGORITHMS: Final = ("sha256", "sha384", "sha512")
QUOTA_KEYS: Final = ("pods", "vcpus", "memory-gib", "gpus")
_UNIX_PATH_LIMIT: Final = 107  # bytes of a socket's path that the kernel takes


def _socket(value: Any) -> str:
    path = str(forms.path.parse(value))
    if len(path.encode()) > _UNIX_PATH_LIMIT:
        raise ValueError(f"is longer than the {_UNIX_PATH_LIMIT} bytes a socket's path may have")
    return path


def _listen(value: Any) -> tuple[str, int] | None:
    if value == "":
        return None
    if isinstance(value, int) or str(value).isdecimal():  # upstream's PROBE_PORT
        return "", forms.port_number(value)
    host, port = forms.host_port.parse(value)
    return str(host), int(port)


def _initdata(value: Any) -> str | None:
    """The TOML text exactly as its author wrote it: its hash is what gets attested."""
    if not isinstance(value, str):
        raise ValueError("is not a text")
    if not value.strip():
        return None
    text = unpacked(value) if value.lstrip().startswith(_GZIP_AS_BASE64) else value
    table = initdata_table(text)
    if not isinstance(table.get("version"), str):
        raise ValueError('has no version = "..."')
    return text


def initdata_table(text: str) -> dict[str, Any]:
    """The document, its version unseen. Raises: ValueError, with what is wrong."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not TOML: {error}") from None
    if table.get("algorithm") not in _ALGORITHMS:
        raise ValueError(f"has no algorithm among {', '.join(_ALGORITHMS)}")
    data = table.get("data")
    if not isinstance(data, dict) or not all(isinstance(entry, str) for entry in data.values()):
        raise ValueError("has no [data] table of texts")
    return table


def _quota(value: Any) -> tuple[tuple[str, int], ...]:
    found = forms.pairs.parse(value)
    for key, amount in found.items():
        if key not in QUOTA_KEYS:
            raise ValueError(f"has {key!r}")
        if not amount.isdecimal() or len(amount) > 9:
            raise ValueError(f"has {key}={amount[:20]!r}, which is not a whole number")
    return tuple((key, int(found[key])) for key in QUOTA_KEYS if key in found)


def unpacked(value: str) -> str:
    """Initdata as a pod's annotation has it, base64 of gzip. Raises: ValueError, also for more than 1 MiB."""
    try:
        unzip = zlib.decompressobj(wbits=31)
        raw = unzip.decompress(base64.b64decode("".join(value.split()), validate=True), _INITDATA_LIMIT)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"is not base64 of gzip: {error}") from None
    if unzip.unconsumed_tail:
        raise ValueError(f"is more than {_INITDATA_LIMIT} bytes unpacked")
    if not unzip.eof:
        raise ValueError("is cut off: the gzip inside has no end")
    if unzip.unused_data:
        raise ValueError("has something behind the end of its gzip")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 inside") from None


class Usd(float):
    """US dollars: a type of its own, for other floats among settings are seconds."""


def _usd(value: Any) -> Usd:
    try:
        amount = Usd(value)
    except (TypeError, ValueError):
        raise ValueError("is not a number") from None
    if isinstance(value, bool) or not (math.isfinite(amount) and amount > 0):
        raise ValueError("is no price")
    return amount


node_name = forms.matching(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?", "a node's name as Kubernetes has it: a-z, 0-9, '-', '.'; at most 253"
)
cluster_id = forms.optional(forms.matching(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", "a-z, 0-9 and '-'; at most 63"))
unix_socket = Form("an absolute path without ':' of at most 107 bytes", _socket)
listen = Form('an address and a port ("127.0.0.1:8000"), a port alone for every address, or "" for no server', _listen)
usd = Form("USD, more than 0: 0.25", _usd)
initdata = Form("initdata as TOML, or as upstream has it: base64 of its gzip; empty for none", _initdata)


def seconds_between(low: float, high: float) -> Form:
    """A duration within these bounds, in seconds."""

    def parse(value: Any) -> float:
        seconds = float(forms.duration.parse(value))
        if not low <= seconds <= high:
            raise ValueError("is out of range")
        return seconds

    return Form(f'{low:g} to {high:g} seconds, or a text like "30s", "5m"', parse)


quota: Final = Form(f'"pods=10,vcpus=40": of {", ".join(QUOTA_KEYS)} those that have a limit', _quota)
