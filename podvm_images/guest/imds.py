"""The metadata services of the clouds: where each keeps user-data, and which of them this machine likely has.

Every cloud answers at the same link-local address, so asking the wrong one is answered "no", quickly. What the firmware
(DMI) says is therefore only a hint for the order: an instance of simcloud shows its host's.
"""

import http.client
import os
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

DMI: Final = "/sys/class/dmi/id"
URL: Final = "http://169.254.169.254"  # no name service in between: it may come up later, or lie
# Seconds for a connection or an answer. A metadata service is on this very host and answers in milliseconds; one that
# drops packets (a hop limit, a missing route) must not eat the time of the others.
TIMEOUT: Final = 2.0
# Bytes that are read at most: no cloud gives a VM more.
MOST: Final = 256 << 10


class ImdsError(Exception):
    """No user-data from here. `answered` says whether anything answered at that address at all."""

    def __init__(self, message: str, *, answered: bool) -> None:
        super().__init__(message)
        self.answered = answered


@dataclass(frozen=True, slots=True)
class Source:
    """One cloud's way to user-data: a GET with `headers`, after a PUT for a token where the cloud wants one."""

    cloud: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    token_path: str = ""
    token_headers: dict[str, str] = field(default_factory=dict)
    token_header: str = ""  # the GET's header that carries the token
    hints: frozenset[str] = frozenset()  # what this cloud's firmware says of itself


# Amazon's first version, a GET without a token, is not asked: instances can be, and should be, set to refuse it.
AWS: Final = Source(
    "AWS",
    "/latest/user-data",
    token_path="/latest/api/token",  # noqa: S106 - a path
    token_headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"},
    token_header="X-aws-ec2-metadata-token",  # noqa: S106 - a header's name
    hints=frozenset({"Amazon EC2"}),
)
AZURE: Final = Source(
    "Azure",
    "/metadata/instance/compute/userData?api-version=2021-01-01&format=text",
    {"Metadata": "true"},
    hints=frozenset({"7783-7084-3265-9085-8269-3286-77", "Microsoft Corporation"}),
)
GCP: Final = Source(
    "GCP",
    "/computeMetadata/v1/instance/attributes/user-data",
    {"Metadata-Flavor": "Google"},
    hints=frozenset({"Google Compute Engine", "Google"}),
)


def candidates(dmi: str = DMI) -> tuple[Source, ...]:
    """Every source, the one that the firmware tables under `dmi` speak for first."""
    said = {_line(os.path.join(dmi, name)) for name in ("sys_vendor", "product_name", "chassis_asset_tag")}
    return tuple(sorted((AWS, AZURE, GCP), key=lambda source: not (source.hints & said)))


def fetch(source: Source, base: str = URL) -> bytes:
    """The user-data that `source` has, as the cloud hands it out (at most MOST + 1 bytes). Raises ImdsError."""
    where = urlsplit(base)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=TIMEOUT)
    try:
        headers = dict(source.headers)
        if source.token_path:
            token = _ask(connection, "PUT", source.token_path, source.token_headers)
            headers[source.token_header] = token.decode("latin-1")
        user_data = _ask(connection, "GET", source.path, headers)
    finally:
        connection.close()
    if not user_data.strip():  # Azure's answer for a VM that was given none
        raise ImdsError(f"GET {source.path} answered with nothing", answered=True)
    return user_data


def _ask(connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str]) -> bytes:
    try:
        connection.connect()  # one connection a request: some metadata services close it after each answer
    except OSError as error:
        raise ImdsError(f"nobody answers ({error})", answered=False) from error
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read(MOST + 1)
        if response.length and len(body) <= MOST:  # a bounded read takes a cut for the end
            raise http.client.IncompleteRead(body, response.length)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ImdsError(f"{method} {path} failed ({type(error).__name__}: {error})", answered=True) from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise ImdsError(f"{method} {path} answered {response.status}", answered=True)
    return body


def _line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.readline().strip()
    except OSError:
        return ""
