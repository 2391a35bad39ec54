"""The next step of the webhook's certificates. Pure: a fold of what the Secret holds and the configurations trust.

    new CA beside the old ──► every configuration trusts both, for a while ──► new serving certificate
                                                          ──► an hour later: the old CA goes

Each step is safe by itself and follows from what is stored, so a controller may end between any two. Whatever
certificate a webhook process still serves is trusted by whatever caBundle an API server still has.
"""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from adaptor import pki
from adaptor.pki import Identity

CA_CERTIFICATE: Final = "ca.crt"  # keys of the Secret; all CAs that are to be trusted, the one that signs first
CA_KEY: Final = "ca.key"
CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"


class Step(StrEnum):
    """What to do next."""

    NOTHING = "nothing"
    NEW_AUTHORITY = "new authority"
    NEW_SERVING = "new serving certificate"
    DROP_OLD = "drop the old authority"


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds."""

    authority: float = 730 * 86_400.0  # of life
    serving: float = 90 * 86_400.0
    # For which every configuration must have trusted the new CA: API servers learn of a change by watch, in a second.
    settle: float = 60.0
    # From a new serving certificate until no webhook serves the old one: kubelet takes up to two minutes to bring a
    # Secret into a pod, and an hour costs nothing.
    overlap: float = 3600.0


@dataclass(frozen=True, slots=True)
class Stock:
    """What of the Secret can be used. None: missing, or unusable."""

    authorities: tuple[x509.Certificate, ...] = ()  # to be trusted, the one that signs first
    signing: Identity | None = None  # the first of them, with its key
    serving: x509.Certificate | None = None  # that its key fits to


def read(data: Mapping[str, bytes]) -> Stock:
    """Of the Secret's data; what cannot be read counts as missing."""
    authorities = tuple(each for each in certificates(data.get(CA_CERTIFICATE, b"")) if _is_authority(each))
    signing = None
    with suppress(ValueError, TypeError):
        key = pki.private_key(data.get(CA_KEY, b""))
        if authorities and authorities[0].public_key() == key.public_key():
            signing = Identity(_pem(authorities[0]), data[CA_KEY])
    serving = None
    with suppress(ValueError, TypeError):
        found = x509.load_pem_x509_certificate(data.get(CERTIFICATE, b""))
        own = serialization.load_pem_private_key(data.get(KEY, b""), password=None)
        serving = found if found.public_key() == own.public_key() else None
    return Stock(authorities, signing, serving)


def certificates(pem: bytes) -> list[x509.Certificate]:
    """Those in a bundle that can be read, in order."""
    found = []
    for part in pem.split(_BEGIN)[1:]:
        with suppress(ValueError):
            found.append(x509.load_pem_x509_certificate(_BEGIN + part))
    return found


def bundle(authorities: Sequence[x509.Certificate]) -> bytes:
    """The PEM of these: what a caBundle must be. Made of what was read, so that no garbage gets there."""
    return b"".join(map(_pem, authorities))


def decide(stock: Stock, names: Collection[str], now: dt.datetime, trusted_for: float | None, pace: Pace) -> Step:
    """`trusted_for` is for how many seconds every configuration has had the bundle of this stock; None: not all have."""
    if stock.signing is None or _expired(stock.authorities[0], now):
        return Step.NEW_AUTHORITY
    rotating = len(stock.authorities) > 1
    if not rotating and _is_due(stock.authorities[0], now):
        return Step.NEW_AUTHORITY
    serving = stock.serving
    if serving is None or _expired(serving, now) or not any(pki.signed_by(serving, each) for each in stock.authorities):
        return Step.NEW_SERVING  # nobody can be served with what there is
    of_newest = pki.signed_by(serving, stock.authorities[0])
    if not of_newest or _is_due(serving, now) or not set(names) <= _names(serving):
        return Step.NEW_SERVING if trusted_for is not None and trusted_for >= pace.settle else Step.NOTHING
    if rotating and (now - _issued(serving)).total_seconds() >= pace.overlap:
        return Step.DROP_OLD
    return Step.NOTHING


def patches(configuration: Mapping[str, Any], service: tuple[str, str], wanted: str) -> list[dict[str, Any]]:
    """The JSON patch after which each webhook of `service` (namespace, name) has `wanted` (base64) as its caBundle;
    empty when they have. Webhooks of others are left alone."""
    operations: list[dict[str, Any]] = []
    for index, webhook in enumerate(configuration.get("webhooks") or ()):
        client = webhook.get("clientConfig") or {}
        called = client.get("service") or {}
        if (called.get("namespace"), called.get("name")) != service or client.get("caBundle") == wanted:
            continue
        operations.append({"op": "test", "path": f"/webhooks/{index}/name", "value": webhook.get("name")})
        operations.append({"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": wanted})
    return operations


def _is_authority(certificate: x509.Certificate) -> bool:
    with suppress(x509.ExtensionNotFound, ValueError):
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    return False


def _issued(certificate: x509.Certificate) -> dt.datetime:
    return certificate.not_valid_before_utc + pki.CLOCK_SKEW


def _is_due(certificate: x509.Certificate, now: dt.datetime) -> bool:
    """Two thirds of its life are over."""
    life = certificate.not_valid_after_utc - _issued(certificate)
    return now >= _issued(certificate) + life * 2 / 3


def _expired(certificate: x509.Certificate, now: dt.datetime) -> bool:
    return now >= certificate.not_valid_after_utc


def _names(certificate: x509.Certificate) -> set[str]:
    with suppress(x509.ExtensionNotFound, ValueError):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return set(names.get_values_for_type(x509.DNSName))
    return set()


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
