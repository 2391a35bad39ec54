"""The world: a store, an API server before it, and the hands with which tests reach into it."""

import asyncio
import contextlib
import functools
import ipaddress
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from adaptor.clock import Clock, RealClock
from tests.worlds.kubernetes import access as accounts
from tests.worlds.kubernetes import quota
from tests.worlds.kubernetes.access import ADMIN, SYSTEM, Access, User
from tests.worlds.kubernetes.admission import Admission
from tests.worlds.kubernetes.api import Api
from tests.worlds.kubernetes.faults import Faults
from tests.worlds.kubernetes.garbage import Collector
from tests.worlds.kubernetes.kinds import Kind, Kinds
from tests.worlds.kubernetes.server import Server
from tests.worlds.kubernetes.store import Event, Object, Store
from tests.worlds.kubernetes.writes import Core

NAMESPACES: Final = ("default", "kube-system", "kube-public", "kube-node-lease")


class World:
    """`async with World() as world:`, then `world.client(...)` is for tests/contract/kubernetes; here is what lies below.

    `store` holds the objects, `faults` what goes wrong next, `admission.options` what clusters differ in,
    `admission.dispatcher` the webhooks' calls and where their Services are, `server.requests` what was asked.
    """

    def __init__(self, clock: Clock | None = None, *, tls: bool = True) -> None:
        self.clock = clock or RealClock()
        self.store, self.kinds, self.faults = Store(), Kinds(), Faults()
        self.access = Access(self.store, self.kinds, self.clock)
        self.admission = Admission(self.store, self.kinds, self.access, self.clock)
        self.api = Api(Core(self.store, self.kinds, self.access, self.admission, self.clock))
        self.collector = Collector(self.api.core, self.api.deletes)
        self.server = Server(self.api, self.access, self.faults, _context() if tls else None)
        self._tls = tls
        self._tasks: list[asyncio.Task[None]] = []
        self._quotas = quota.Quotas(self.store, self.kinds)
        self.store.listeners.append(self._written)

    async def __aenter__(self) -> Self:
        await self.server.start()
        self._tasks.append(asyncio.create_task(self.collector.run()))
        for name in NAMESPACES:
            await self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.admission.dispatcher.close()
        await self.server.stop()

    def _written(self, event: Event) -> None:
        """What follows a write at once: a CRD is served, quotas are counted."""
        if event.kind.plural == "customresourcedefinitions" and event.type == "ADDED":
            self.kinds.add_crd(event.object)
            self._establish(event)
        elif event.kind.plural == "customresourcedefinitions" and event.type == "MODIFIED":
            self.kinds.add_crd(event.object)
        elif event.kind.plural == "pods" or (event.kind.plural == "resourcequotas" and event.type != "DELETED"):
            self._quotas.refresh(event.object["metadata"]["namespace"])

    def _establish(self, event: Event) -> None:
        names = dict(event.object["spec"]["names"])
        now = self.api.core.now()
        conditions = [
            {"type": name, "status": "True", "reason": reason, "message": "", "lastTransitionTime": now}
            for name, reason in (("NamesAccepted", "NoConflicts"), ("Established", "InitialNamesAccepted"))
        ]
        versions = [one["name"] for one in event.object["spec"]["versions"] if one.get("storage")]
        obj = {**event.object, "metadata": dict(event.object["metadata"])}
        obj["status"] = {"acceptedNames": names, "conditions": conditions, "storedVersions": versions}
        self.store.put(event.kind, obj, [])

    # -- ways in ----------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.server.port}"

    def user(self, name: str, *groups: str, node: str = "") -> str:
        """A token of a person or a component; `node`: as if of a pod on that node."""
        extra: Mapping[str, Sequence[str]] = {"authentication.kubernetes.io/node-name": [node]} if node else {}
        return self.access.token(User(name, (*groups, "system:authenticated"), extra=extra))

    def service_account(self, namespace: str, name: str, *, node: str = "") -> str:
        """A token of a service account, which need not exist."""
        extra: Mapping[str, Sequence[str]] = {"authentication.kubernetes.io/node-name": [node]} if node else {}
        return self.access.token(accounts.service_account(namespace, name, extra=extra))

    def admin(self) -> str:
        return self.access.token(ADMIN)

    def kubeconfig(self, path: Path, token: str, namespace: str = "default") -> Path:
        """Writes one, with the CA inside."""
        ca = _authority()[0]
        cluster: dict[str, Any] = {"server": self.url}
        if self._tls:
            import base64

            cluster["certificate-authority-data"] = base64.b64encode(ca).decode()
        name = "world"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
            "current-context": name,
        }
        path.write_text(yaml.safe_dump(document))
        path.chmod(0o600)
        return path

    def in_cluster(self, folder: Path, token: str, namespace: str) -> dict[str, str]:
        """Lays out a service account's folder; returns the environment that goes with it."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "token").write_text(token)
        (folder / "namespace").write_text(namespace)
        (folder / "ca.crt").write_bytes(_authority()[0])
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.server.port)}

    # -- hands ------------------------------------------------------------------------------------

    def kind(self, api_version: str, kind: str) -> Kind:
        found = self.kinds.called(api_version, kind)
        if found is None:
            raise LookupError(f"this world serves no {kind} of {api_version}")
        return found

    async def create(self, obj: Object, user: User = SYSTEM) -> Object:
        """As a client would, through admission and checks; raises a Refusal."""
        kind = self.kind(obj["apiVersion"], obj["kind"])
        namespace = obj["metadata"].get("namespace", "default") if kind.namespaced else ""
        return await self.api.direct(
            "create", kind, namespace, body=obj, user=user, query={"fieldValidation": "Strict"}
        )

    async def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        patch: Object,
        *,
        subresource: str = "",
        user: User = SYSTEM,
        manager: str = "",
    ) -> Object:
        """A merge patch."""
        query = {"fieldManager": manager} if manager else {}
        return await self.api.direct(
            "patch", kind, namespace, name, patch,
            subresource=subresource, content_type="application/merge-patch+json", user=user, query=query,
        )  # fmt: skip

    async def install(self, path: Path) -> None:
        """Every object of a YAML file."""
        for document in yaml.safe_load_all(path.read_text()):
            if document:
                await self.create(document)

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        stored = self.store.get(kind, namespace, name)
        return stored.object if stored else None


# -- certificates ---------------------------------------------------------------------------------


def issue(
    names: Sequence[str], signer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate for hosts and addresses; without a signer an authority of that name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer[0].subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if signer is None:
        usage = dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        builder = builder.add_extension(x509.KeyUsage(True, key_cert_sign=True, crl_sign=True, **usage), critical=True)
    else:
        builder = builder.add_extension(x509.SubjectAlternativeName([_san(name) for name in names]), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer[1].public_key()), critical=False
        )
    return builder.sign(signer[1] if signer else key, hashes.SHA256()), key


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def server_context(certificate: bytes, key: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as held:
        held.write(certificate + key)
        held.flush()
        context.load_cert_chain(held.name)
    return context


@functools.cache
def _authority() -> tuple[bytes, tuple[x509.Certificate, ec.EllipticCurvePrivateKey]]:
    """One for the whole run: making it takes longer than a world."""
    made = issue(["kubernetes"])
    return pem(made[0]), made


@functools.cache
def _context() -> ssl.SSLContext:
    hosts = ["127.0.0.1", "localhost", "kubernetes.default.svc"]
    certificate, key = issue(hosts, _authority()[1])
    return server_context(pem(certificate), key_pem(key))
