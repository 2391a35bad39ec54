"""The node's own certificate authority: who may talk to this node's pod VMs.

The CA and the worker's certificate live in `<state_dir>/pki` (0600 in a 0700 directory) and outlive restarts, so that
VMs started before a restart still accept this worker. Guests of our own make their keys themselves; only stock
upstream images need a server key from here (`issue_server`).
"""

import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from adaptor.errors import AdaptorError

# A VM's clock may be minutes off before it has synchronised; a certificate must not look "not yet valid" to it.
CLOCK_SKEW: Final = dt.timedelta(hours=24)
_CA_LIFE: Final = dt.timedelta(days=3650)
_LEAF_LIFE: Final = dt.timedelta(days=365)
# Renewed at a start with less than this left: no pod VM should live longer than that after one.
_RENEW_BEFORE: Final = dt.timedelta(days=120)


class PkiError(AdaptorError):
    """The node's keys cannot be read or written."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its private key, PEM. Shown nowhere."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Identity(secret)"


class NodePki:
    """The node's CA, and the worker's identity towards its pod VMs.

    `NodePki.load(directory)` makes what is missing. Raises PkiError naming the file and what to do.
    """

    def __init__(self, ca: Identity, worker: Identity) -> None:
        self._ca_key = private_key(ca.key)
        self._ca = x509.load_pem_x509_certificate(ca.certificate)
        self.ca_pem = ca.certificate
        self.worker = worker

    @classmethod
    def load(cls, directory: Path) -> "NodePki":
        """Read the node's identity from `directory`, making or renewing what must be."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            ca = _read(directory, "ca") or _write(directory, "ca", make_ca("peerpods node CA", _CA_LIFE))
            pki = cls(ca, worker=ca)
            worker = _read(directory, "worker")
            if worker is None or not pki._still_good(worker):
                worker = _write(
                    directory,
                    "worker",
                    pki._issue("peerpods worker", ExtendedKeyUsageOID.CLIENT_AUTH, None, _LEAF_LIFE),
                )
        except OSError as error:
            raise PkiError(
                f"cannot use the node's keys in {directory}: {error}; the directory must be writable"
            ) from error
        except ValueError as error:
            raise PkiError(
                f"the node's keys in {directory} are damaged ({error}); restore them from a backup, or delete the "
                "directory once no pod runs on this node"
            ) from error
        pki.worker = worker
        return pki

    def issue_server(self, name: str) -> Identity:
        """A server identity for the VM called `name`, for images that cannot make their own key."""
        return self._issue(name, ExtendedKeyUsageOID.SERVER_AUTH, name, _CA_LIFE)

    def _still_good(self, identity: Identity) -> bool:
        certificate = x509.load_pem_x509_certificate(identity.certificate)
        ours = certificate.issuer == self._ca.subject and signed_by(certificate, self._ca)
        return ours and certificate.not_valid_after_utc - _now() > _RENEW_BEFORE

    def _issue(
        self, common_name: str, usage: x509.ObjectIdentifier, dns_name: str | None, life: dt.timedelta
    ) -> Identity:
        return issue(self._ca, self._ca_key, common_name, usage, [dns_name] if dns_name else [], life)


def make_ca(common_name: str, life: dt.timedelta, now: dt.datetime | None = None) -> Identity:
    """A certificate authority that signs leafs only, good from `now` on."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = _builder(common_name, name, key, life, now).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    # Python 3.13 verifies strictly (VERIFY_X509_STRICT) and refuses a CA without a key usage.
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return Identity(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def issue(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    common_name: str,
    usage: x509.ObjectIdentifier,
    dns_names: Sequence[str],
    life: dt.timedelta,
    now: dt.datetime | None = None,
) -> Identity:
    """A leaf of `ca` with a key of its own, good from `now` on."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(common_name, ca.subject, key, life, now).add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
    )
    if dns_names:
        names = x509.SubjectAlternativeName([x509.DNSName(each) for each in dns_names])
        builder = builder.add_extension(names, critical=False)
    return Identity(_pem(builder.sign(ca_key, hashes.SHA256())), _key_pem(key))


def _builder(
    common_name: str,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    life: dt.timedelta,
    now: dt.datetime | None,
) -> x509.CertificateBuilder:
    began = now or _now()
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(began - CLOCK_SKEW)
        .not_valid_after(began + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` signed it."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # any reason makes it not ours: cryptography raises several kinds
        return False
    return True


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The CA's key. Raises ValueError for what is none."""
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the CA's key is not an elliptic-curve key")
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read(directory: Path, name: str) -> Identity | None:
    """The identity in one file, key and certificate together: half of one can never be left by a crash."""
    try:
        pem = (directory / f"{name}.pem").read_bytes()
    except FileNotFoundError:
        return None
    marker = b"-----BEGIN CERTIFICATE-----"
    key, _, rest = pem.partition(marker)
    identity = Identity(marker + rest, key)
    certificate = x509.load_pem_x509_certificate(identity.certificate)
    public = serialization.load_pem_private_key(identity.key, password=None).public_key()
    if certificate.public_key() != public:
        raise ValueError(f"{name}.pem holds a key and a certificate that do not belong together")
    return identity


def _write(directory: Path, name: str, identity: Identity) -> Identity:
    temporary = directory / f".{name}.pem.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(identity.key + identity.certificate)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / f"{name}.pem")
    return identity
