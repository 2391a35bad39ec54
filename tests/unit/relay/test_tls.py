"""Who gets through the handshake, at either end."""

import asyncio
import hashlib
import socket
import ssl

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from adaptor.errors import InvalidRequest
from adaptor.relay import tls
from tests.worlds.tunnel import Certificate, Pki, issue


async def shake_hands(
    client: ssl.SSLContext, server: ssl.SSLContext, name: str | None = None
) -> tuple[ssl.SSLSocket | BaseException, ssl.SSLSocket | BaseException]:
    """Both ends after the handshake and one byte each way; or what stopped them. Sockets are closed."""
    near, far = socket.socketpair()
    ends = tls.wrap(client, near, name), tls.wrap(server, far)

    async def greet(end: ssl.SSLSocket) -> ssl.SSLSocket:
        try:
            await tls.handshake(end)
            await tls.write_all(end, b"!")
            assert await tls.read_exactly(end, 1) == b"!"
        except OSError:
            end.close()
            raise
        return end

    results = await asyncio.gather(*(greet(end) for end in ends), return_exceptions=True)
    for end in ends:
        end.close()
    return results[0], results[1]


def guest(pki: Pki, certificate: Certificate | None = None) -> ssl.SSLContext:
    own = certificate or pki.guest
    return tls.guest_server(own.pem, own.key, pki.ca.pem)


def worker(pki: Pki) -> ssl.SSLContext:
    return tls.own_client(pki.worker.certificate, pki.worker.key)


async def test_a_worker_and_its_guest_agree_on_tls_13_and_our_protocol(pki: Pki) -> None:
    near, far = await shake_hands(worker(pki), guest(pki))
    assert isinstance(near, ssl.SSLSocket)
    assert isinstance(far, ssl.SSLSocket)


async def test_the_worker_can_tell_guests_apart_by_their_certificates(pki: Pki) -> None:
    near, far = socket.socketpair()
    with tls.wrap(worker(pki), near) as link, tls.wrap(guest(pki), far) as end:
        await asyncio.gather(tls.handshake(link), tls.handshake(end))
        assert tls.speaks_our_protocol(link)
        assert tls.fingerprint(link) == hashlib.sha256(pki.guest.der).digest()
        assert (link.version(), end.version()) == ("TLSv1.3", "TLSv1.3")


@pytest.mark.parametrize("intruder", ["of another node", "self-signed", "without a certificate"])
async def test_the_guest_lets_in_nobody_but_its_worker(pki: Pki, intruder: str) -> None:
    stranger = issue("worker", issue("worker ca", ca=True) if intruder == "of another node" else None)
    client = tls.own_client(stranger.pem, stranger.key)
    if intruder == "without a certificate":
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
    near, far = await shake_hands(client, guest(pki))
    assert isinstance(near, OSError)
    assert isinstance(far, ssl.SSLError)


async def test_neither_end_goes_below_tls_13(pki: Pki) -> None:
    old_client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old_client.check_hostname = False
    old_client.verify_mode = ssl.CERT_NONE
    old_client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert isinstance((await shake_hands(old_client, guest(pki)))[1], ssl.SSLError)
    old_server = guest(pki, issue("old guest"))
    old_server.minimum_version = ssl.TLSVersion.TLSv1_2
    old_server.maximum_version = ssl.TLSVersion.TLSv1_2
    assert isinstance((await shake_hands(worker(pki), old_server))[0], ssl.SSLError)


@pytest.mark.parametrize(("name", "version"), [("podvm", ssl.TLSVersion.TLSv1_2), ("podvm", ssl.TLSVersion.TLSv1_3)])
async def test_an_upstream_vm_is_accepted_by_its_name_in_either_version(
    pki: Pki, name: str, version: ssl.TLSVersion
) -> None:
    certificate, trust = pki.upstream(name)
    server = guest(pki, certificate)
    server.minimum_version = server.maximum_version = version
    client = tls.upstream_client(pki.worker.certificate, pki.worker.key, trust.ca)
    near, _ = await shake_hands(client, server, trust.server_name)
    assert isinstance(near, ssl.SSLSocket)
    refused, _ = await shake_hands(client, server, "another-podvm")
    assert isinstance(refused, ssl.SSLCertVerificationError)


async def test_an_upstream_vm_of_another_ca_is_refused(pki: Pki) -> None:
    impostor = issue("podvm", issue("worker ca", ca=True))
    client = tls.upstream_client(pki.worker.certificate, pki.worker.key, pki.ca.pem)
    refused, _ = await shake_hands(client, guest(pki, impostor), "podvm")
    assert isinstance(refused, ssl.SSLCertVerificationError)


async def test_reading_exactly_leaves_the_rest_on_the_link(pki: Pki) -> None:
    near, far = socket.socketpair()
    with tls.wrap(worker(pki), near) as link, tls.wrap(guest(pki), far) as end:
        await asyncio.gather(tls.handshake(link), tls.handshake(end))
        await tls.write_all(end, b"one frame, and the next")
        assert await tls.read_exactly(link, 9) == b"one frame"
        assert link.recv(100) == b", and the next"


def test_tunnels_of_one_identity_share_one_context(pki: Pki) -> None:
    other = issue("other worker", pki.ca)
    assert worker(pki) is worker(pki)
    assert worker(pki) is not tls.own_client(other.pem, other.key)


def test_keys_that_cannot_be_used_are_refused_with_the_reason(pki: Pki) -> None:
    locked = pki.guest.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    for certificate, key in [
        (b"", b""),
        (pki.guest.pem, b"no key"),
        (pki.guest.pem, issue("other").key),
        (pki.guest.pem, locked),
    ]:
        with pytest.raises(InvalidRequest, match="TLS certificate and key can not be used: "):
            tls.own_client(certificate, key)
    with pytest.raises(InvalidRequest, match="CA certificate can not be used: "):
        tls.guest_server(pki.guest.pem, pki.guest.key, b"no ca")
