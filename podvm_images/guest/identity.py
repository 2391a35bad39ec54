"""This VM's key and certificate: made at start, kept in memory, gone with the program.

Nobody signs the certificate. The worker believes it because Hello binds it to the launch token, and pins it from then
on; attestation evidence, where enabled, binds the same certificate.
"""

import datetime as dt
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from adaptor import names

COMMON_NAME: Final = "peerpods-guest"
# The certificate lives as long as its VM, and a VM's clock may be years off until it is set. Nobody decides by these
# dates: the worker pins the certificate.
_NOT_BEFORE: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_NOT_AFTER: Final = dt.datetime(9999, 12, 31, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Identity:
    """`certificate` and `key` in PEM, and the certificate in DER as the peer sees it."""

    certificate: bytes
    key: bytes = field(repr=False)
    der: bytes


def generate() -> Identity:
    """A new P-256 key and its self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .sign(key, hashes.SHA256())
    )
    return Identity(
        certificate=certificate.public_bytes(Encoding.PEM),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        der=certificate.public_bytes(Encoding.DER),
    )


def launch_proof(token: bytes, nonce: bytes, certificate: bytes) -> bytes:
    """What only a holder of the launch `token` can say of this DER `certificate`, fresh for this `nonce`."""
    bound = names.LAUNCH_PROOF_LABEL + nonce + hashlib.sha256(certificate).digest()
    return hmac.digest(token, bound, "sha256")
