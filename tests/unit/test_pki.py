"""The node's certificate authority."""

import datetime as dt
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from adaptor import pki
from adaptor.pki import NodePki, PkiError


def test_the_identity_outlives_a_restart(tmp_path: Path) -> None:
    first, second = NodePki.load(tmp_path / "pki"), NodePki.load(tmp_path / "pki")
    assert (first.ca_pem, first.worker) == (second.ca_pem, second.worker)


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    NodePki.load(tmp_path / "pki")
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "pki").iterdir()} == {0o600}


def test_a_worker_certificate_near_its_end_is_renewed_under_the_same_ca(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = NodePki.load(tmp_path / "pki")
    monkeypatch.setattr(pki, "_now", lambda: dt.datetime.now(dt.UTC) + dt.timedelta(days=300))
    new = NodePki.load(tmp_path / "pki")
    assert new.ca_pem == old.ca_pem
    assert new.worker != old.worker


def test_both_ends_verify_under_pythons_strictest_rules(tmp_path: Path) -> None:
    node = NodePki.load(tmp_path / "pki")
    server = node.issue_server("podvm-web-01234567")
    files = {}
    for name, identity in {"server": server, "worker": node.worker}.items():
        files[name] = tmp_path / f"{name}.pem"
        files[name].write_bytes(identity.key + identity.certificate)
    outer = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    inner = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inner.verify_mode = ssl.CERT_REQUIRED
    for context, name in ((outer, "worker"), (inner, "server")):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=node.ca_pem.decode())
        context.load_cert_chain(files[name])
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = outer.wrap_bio(a, b, server_hostname="podvm-web-01234567")
    guest = inner.wrap_bio(b, a, server_side=True)
    for _ in range(4):
        for end in (client, guest):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    assert client.getpeercert()
    assert guest.getpeercert()


def test_a_server_identity_is_for_its_vm_only(tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate(NodePki.load(tmp_path).issue_server("vm-1").certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["vm-1"]


@pytest.mark.parametrize(
    "content", [b"", b"rubbish", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_damaged_keys_are_reported_and_never_replaced(tmp_path: Path, content: bytes) -> None:
    NodePki.load(tmp_path / "pki")
    (tmp_path / "pki" / "ca.pem").write_bytes(content)
    with pytest.raises(PkiError, match="damaged"):
        NodePki.load(tmp_path / "pki")
    assert (tmp_path / "pki" / "ca.pem").read_bytes() == content


def test_keys_never_show(tmp_path: Path) -> None:
    assert "PRIVATE" not in repr(NodePki.load(tmp_path).worker)
