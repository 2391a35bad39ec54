"""User-data: what the launch told this VM. Public but for the launch token, and the same for every VM of one launch.

    {"peerpods": 1, "launch_token": "<base64 of 32 bytes>", "worker_ca": "<PEM>", "port": 15150}

UTF-8 JSON of at most names.USER_DATA_LIMIT bytes, as it is or in base64 (some clouds hand it out that way); the two
cannot be confused, for no base64 text begins with a brace. A #cloud-config is of upstream's adaptor: see `stock`. Unknown keys are ignored, an unknown version is refused.
"""

import base64
import binascii
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from adaptor import names
from adaptor.errors import AdaptorError
from adaptor.telemetry import logs
from podvm_images.guest import imds

if TYPE_CHECKING:
    from podvm_images.guest.stock import Stock

VERSION: Final = 1
_STOCK: Final = b"#cloud-config"  # what upstream's adaptor writes: see `stock`
TOKEN_BYTES: Final = 32
# Seconds between two rounds. An instance's metadata service, or its network, may come up after this program: each
# round that comes too late is added to the pod's start, and a refused connection costs nearly nothing.
PAUSE: Final = 0.2

log = logs.get(__name__)


class UserDataError(AdaptorError):
    """This VM has no user-data it can use; the message says what was tried or what is wrong with it."""


@dataclass(frozen=True, slots=True)
class UserData:
    """`launch_token` proves to the worker that this is the VM it launched; `worker_ca` (PEM) signs who may bind it."""

    launch_token: bytes = field(repr=False)
    worker_ca: str
    port: int = names.GUEST_PORT


def read(
    files: Sequence[str],
    imds_url: str,
    timeout: float,
    *,
    dmi: str = imds.DMI,
    now: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> "UserData | Stock":
    """Wait until one of `files` or the cloud's metadata service gives user-data, `timeout` seconds at most.

    Raises UserDataError, at once when what is there cannot be used: it will not change by itself.
    """
    deadline = now() + timeout
    sources = imds.candidates(dmi)
    last_said = ""
    while True:
        for file in files:
            if os.path.exists(file):
                return _from_file(file)
        found, tried = _ask(imds_url, sources)
        if found is not None:
            return found
        report = "; ".join([*(f"{file}: no such file" for file in files), *tried])
        if now() >= deadline:
            raise UserDataError(f"no user-data within {timeout:g} s. Tried: {report}")
        if report != last_said:
            last_said = report
            log.info("no user-data yet", tried=report)
        pause(PAUSE)


def parse(raw: bytes) -> "UserData | Stock":
    """User-data out of the bytes that a file or a metadata service gave. Raises UserDataError saying what is wrong."""
    text = _text(raw)
    if text.startswith(_STOCK):
        return _stock(text)
    document = _document(text)
    version = document.get("peerpods")
    if type(version) is not int or version != VERSION:  # `true` equals 1
        raise UserDataError(f"its version ('peerpods') is {version!r}; this guest understands {VERSION}")
    return UserData(_token(document), _worker_ca(document), _port(document))


def _from_file(file: str) -> "UserData | Stock":
    try:
        with open(file, "rb") as stream:
            found = parse(stream.read(imds.MOST + 1))
    except (OSError, UserDataError) as error:
        raise UserDataError(f"the user-data in {file} cannot be used: {error}") from error
    log.info("user-data read", source=file)
    return found


def _ask(imds_url: str, sources: tuple[imds.Source, ...]) -> "tuple[UserData | Stock | None, list[str]]":
    """One round over the metadata services: what was found, or what each of them answered."""
    tried, fault = [], None
    for source in sources:
        try:
            found = parse(imds.fetch(source, imds_url))
        except imds.ImdsError as error:
            tried.append(f"{source.cloud} metadata at {imds_url}: {error}")
            if not error.answered:  # they share one address: where nobody answers, nobody else will
                break
        except UserDataError as error:
            fault = fault or UserDataError(f"the user-data that {source.cloud} metadata gave cannot be used: {error}")
        else:
            log.info("user-data read", source=f"{source.cloud} metadata")
            return found, []
    if fault is not None:
        raise fault
    return None, tried


def _text(raw: bytes) -> bytes:
    text = raw.strip()
    if not text:
        raise UserDataError("it is empty")
    return text if text.startswith((b"{", _STOCK)) else _unbase64(text)


def _stock(text: bytes) -> "Stock":
    from podvm_images.guest import stock  # few workers need it, and every pod's start would wait for it

    try:
        return stock.parse(text)
    except stock.StockFault as fault:
        raise UserDataError(str(fault)) from None


def _document(text: bytes) -> dict[str, Any]:
    if len(text) > names.USER_DATA_LIMIT:
        raise UserDataError(f"it has {len(text)} bytes; {names.USER_DATA_LIMIT} is the limit")
    try:
        document = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserDataError(f"it is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise UserDataError("it is not a JSON object")
    return document


def _unbase64(text: bytes) -> bytes:
    try:
        decoded = base64.b64decode(b"".join(text.split()), validate=True).strip()
    except binascii.Error:
        decoded = b""
    if not decoded.startswith((b"{", _STOCK)):
        raise UserDataError("it is neither a JSON object nor a #cloud-config, nor base64 of one")
    return decoded


def _token(document: dict[str, Any]) -> bytes:
    value = document.get("launch_token")
    try:
        token = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except ValueError:
        token = b""
    if len(token) != TOKEN_BYTES:  # the value itself must not be printed
        raise UserDataError(f"its 'launch_token' is not base64 of {TOKEN_BYTES} bytes")
    return token


def _worker_ca(document: dict[str, Any]) -> str:
    value = document.get("worker_ca")
    if not isinstance(value, str) or "-----BEGIN CERTIFICATE-----" not in value:
        raise UserDataError("its 'worker_ca' is not a certificate in PEM")
    return value


def _port(document: dict[str, Any]) -> int:
    value = document.get("port", names.GUEST_PORT)
    if type(value) is not int or not 1 <= value <= 65535:
        raise UserDataError(f"its 'port' is {value!r}, not a number from 1 to 65535")
    return value
