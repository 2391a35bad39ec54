import datetime as dt
import hashlib
import hmac
import os
import ssl

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from adaptor.relay import tls
from podvm_images.guest import identity


def test_the_certificate_is_for_the_key_and_signed_by_it() -> None:
    me = identity.generate()
    certificate = x509.load_pem_x509_certificate(me.certificate)
    certificate.verify_directly_issued_by(certificate)
    public = certificate.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.curve.name == "secp256r1"
    assert ssl.PEM_cert_to_DER_cert(me.certificate.decode()) == me.der
    tls.guest_server(me.certificate, me.key, me.certificate)  # OpenSSL takes the pair


def test_a_clock_that_is_years_off_does_not_make_the_certificate_invalid() -> None:
    certificate = x509.load_der_x509_certificate(identity.generate().der)
    assert certificate.not_valid_before_utc <= dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
    assert certificate.not_valid_after_utc >= dt.datetime(2200, 1, 1, tzinfo=dt.UTC)


def test_two_vms_never_share_a_key() -> None:
    one, other = identity.generate(), identity.generate()
    assert one.key != other.key
    assert one.der != other.der


def test_the_key_is_not_in_the_repr() -> None:
    assert "PRIVATE" not in repr(identity.generate())


def test_the_launch_proof_is_what_the_worker_computes() -> None:
    token, nonce, certificate = os.urandom(32), os.urandom(16), os.urandom(300)
    message = b"peerpods launch proof v1\0" + nonce + hashlib.sha256(certificate).digest()
    assert identity.launch_proof(token, nonce, certificate) == hmac.new(token, message, hashlib.sha256).digest()
    assert identity.launch_proof(token, nonce[:-1], certificate) != identity.launch_proof(token, nonce, certificate)
