"""The webhook's certificates: real TLS handshakes by whoever trusts any caBundle of then, with any certificate of then."""

import asyncio
import base64
import datetime as dt
import ssl
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from adaptor import names, pki
from adaptor.config import Controller
from adaptor.controller import rotation
from adaptor.controller.api import MUTATING, SECRET, VALIDATING
from adaptor.controller.certificates import Certificates
from adaptor.controller.rotation import Pace, Step, Stock
from adaptor.kube.errors import KubernetesError, Outdated
from tests.worlds.loop import VirtualLoop, virtually
from tests.worlds.objects import Objects

T = TypeVar("T")

HOST = "peerpods-webhook.peerpods.svc"
NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
# Real time stands still for TLS, so these end long after a test; what is short is what the controller waits for.
PACE = Pace(settle=60.0, overlap=600.0)


def configuration(*bundles: str, service: str = "peerpods-webhook") -> dict[str, Any]:
    client: dict[str, Any] = {"service": {"namespace": "peerpods", "name": service}}
    webhooks = [
        {"name": f"w{index}", "clientConfig": {**client, **({"caBundle": bundle} if bundle else {})}}
        for index, bundle in enumerate(bundles)
    ]
    return {"metadata": {"name": "peerpods"}, "webhooks": webhooks}


def shakes_hands(bundle: bytes, certificate: bytes, key: bytes, directory: Path) -> None:
    """One TLS handshake in memory, verified as the API server does. Raises ssl.SSLError."""
    (directory / "pem").write_bytes(certificate + key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "pem")
    client = ssl.create_default_context(cadata=bundle.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(back, there, server_hostname=HOST),
        server.wrap_bio(there, back, server_side=True),
    ]
    for _ in range(5):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ends[0].getpeercert()


class Dated:
    """Virtual time that begins today: TLS judges certificates by the machine's own clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._offset = dt.datetime.now(dt.UTC).timestamp() - loop.now()

    def now(self) -> float:
        return self._loop.now()

    def wall(self) -> float:
        return self._loop.now() + self._offset

    async def sleep(self, seconds: float) -> None:
        await self._loop.sleep(seconds)


class World:
    def __init__(self, directory: Path, pace: Pace = PACE) -> None:
        self.loop = Dated(VirtualLoop.running())
        self.api = Objects(self.loop)
        self.directory = directory
        self.certificates = self.controller(pace)

    def controller(self, pace: Pace = PACE) -> Certificates:
        return Certificates(self.api, Controller(), "peerpods", self.loop, pace)

    def install(self, *bundles: str) -> None:
        for kind in (MUTATING, VALIDATING):
            self.api.put(kind, configuration(*(bundles or ("",))))

    @property
    def secret(self) -> dict[str, bytes]:
        found = self.api.at(SECRET, names.WEBHOOK_TLS, "peerpods")
        assert found is not None
        return {key: base64.b64decode(value) for key, value in found["data"].items()}

    @property
    def bundle(self) -> bytes:
        found = self.api.at(MUTATING, "peerpods")
        assert found is not None
        return base64.b64decode(found["webhooks"][0]["clientConfig"]["caBundle"])

    def admits(self, bundle: bytes | None = None, secret: dict[str, bytes] | None = None) -> None:
        served = secret or self.secret
        shakes_hands(bundle or self.bundle, served["tls.crt"], served["tls.key"], self.directory)


def test_a_fresh_cluster_gets_a_ca_a_certificate_and_bundles_and_keeps_them(tmp_path: Path) -> None:
    @virtually
    async def run() -> None:
        world = World(tmp_path)
        world.install("", "Zm9v")  # the second is garbage, which the API server takes
        while await world.certificates.look():
            pass
        await world.certificates.look()
        world.admits()
        first = world.secret
        assert set(first) == {"ca.crt", "ca.key", "tls.crt", "tls.key"}
        for kind in (MUTATING, VALIDATING):
            found = world.api.at(kind, "peerpods")
            assert found is not None
            assert {each["clientConfig"]["caBundle"] for each in found["webhooks"]} == {
                base64.b64encode(first["ca.crt"]).decode()
            }
        writes = len(world.api.writes)
        for _ in range(100):
            await world.loop.sleep(100)
            assert not await world.certificates.look()
        assert len(world.api.writes) == writes
        assert world.secret == first

    run()


def test_no_admission_is_dropped_at_any_moment_of_a_rotation(tmp_path: Path) -> None:
    """API servers may be a minute behind with caBundles, webhooks ten minutes with the certificate."""

    @virtually
    async def run() -> None:
        pace = Pace(authority=6 * 3600.0, serving=3 * 3600.0, settle=60.0, overlap=600.0)
        world = World(tmp_path, pace)
        world.install()
        for _ in range(3):
            await world.certificates.look()
        bundles: list[tuple[float, bytes]] = [(world.loop.now(), world.bundle)]
        served: list[tuple[float, dict[str, bytes]]] = [(world.loop.now(), world.secret)]
        while len(bundles) < 3:
            await world.loop.sleep(10)
            await world.certificates.look()
            now = world.loop.now()
            if world.bundle != bundles[-1][1]:
                bundles.append((now, world.bundle))
            if world.secret["tls.crt"] != served[-1][1]["tls.crt"]:
                served.append((now, world.secret))
            for bundle in _possible(bundles, now, 50.0):
                for secret in _possible(served, now, 590.0):
                    assert _is_trusted(bundle, secret["tls.crt"])
        # Old; old and new; new. Of the CA's first life the serving certificate had two, and the third is the new CA's.
        assert [len(rotation.certificates(each)) for _, each in bundles] == [1, 2, 1]
        assert len(served) == 3
        for trusted, shown in ((0, 0), (0, 1), (1, 1), (1, 2), (2, 2)):
            world.admits(bundles[trusted][1], served[shown][1])
        with pytest.raises(ssl.SSLError):
            world.admits(bundles[2][1], served[1][1])

    run()


def _possible(history: list[tuple[float, T]], now: float, late: float) -> list[T]:
    """What somebody may have who is up to `late` seconds behind."""
    past = [each for at, each in history if now - at > late]
    return past[-1:] + [each for at, each in history if now - at <= late]


def _is_trusted(bundle: bytes, certificate: bytes) -> bool:
    (leaf,) = rotation.certificates(certificate)
    return any(pki.signed_by(leaf, each) for each in rotation.certificates(bundle))


@pytest.mark.parametrize("verb", ["create", "replace", "patch", "get"])
@pytest.mark.parametrize("lost", [False, True])
def test_a_controller_that_ends_after_any_call_is_followed_by_one_that_goes_on(
    tmp_path: Path, verb: str, lost: bool
) -> None:
    @virtually
    async def run() -> None:
        world = World(tmp_path, PACE)
        world.install()
        for moment in range(24):
            if moment % 2:
                pass
            elif lost:
                world.api.lose[verb] = 1
            else:
                world.api.refuse[verb].append(KubernetesError("500"))
            try:
                await world.controller().look()
            except KubernetesError:
                pass
            await world.loop.sleep(30)
            if moment == 7:
                held = world.api.at(SECRET, names.WEBHOOK_TLS, "peerpods")
                assert held is not None
                held["data"]["ca.key"] = ""  # from here on a new CA must come
        world.api.lose.clear()
        world.api.refuse.clear()
        last = world.controller()
        for _ in range(100):
            await last.look()
            await world.loop.sleep(30)
        world.admits()
        assert len(rotation.certificates(world.secret["ca.crt"])) == 1

    run()


@pytest.mark.parametrize("data", [None, {}, {"tls.crt": "", "tls.key": ""}, {"tls.crt": "?", "ca.crt": "Zm9v"}])
def test_a_secret_that_the_chart_made_is_filled_and_keeps_what_else_it_has(tmp_path: Path, data: Any) -> None:
    @virtually
    async def run() -> None:
        world = World(tmp_path)
        world.install()
        metadata = {"name": names.WEBHOOK_TLS, "namespace": "peerpods", "labels": {"a": "b"}}
        world.api.put(SECRET, {"metadata": metadata, "type": "Opaque", **({} if data is None else {"data": data})})
        for _ in range(3):
            await world.certificates.look()
        world.admits()
        found = world.api.at(SECRET, names.WEBHOOK_TLS, "peerpods")
        assert found is not None
        assert (found["type"], found["metadata"]["labels"]) == ("Opaque", {"a": "b"})

    run()


def test_two_controllers_at_once_make_one_ca(tmp_path: Path) -> None:
    @virtually
    async def run() -> None:
        world = World(tmp_path)
        world.install()
        others = [world.controller() for _ in range(4)]
        for _ in range(5):
            await asyncio.gather(*(each.look() for each in others))
        assert len([verb for _, verb, key in world.api.writes if key[0] == "Secret"]) == 1
        world.admits()

    run()


def test_what_somebody_wrote_over_a_bundle_is_put_right(tmp_path: Path) -> None:
    @virtually
    async def run() -> None:
        world = World(tmp_path)
        world.install()
        for _ in range(3):
            await world.certificates.look()
        right = world.bundle
        world.install("Zm9v")
        await world.certificates.look()
        assert world.bundle == right

    run()


def test_webhooks_of_others_in_the_same_configuration_are_left_alone() -> None:
    found = configuration("eA==")
    found["webhooks"].append({"name": "url", "clientConfig": {"url": "https://x", "caBundle": "eA=="}})
    found["webhooks"].append({"name": "bare"})
    assert rotation.patches(configuration("eA==", service="other"), ("peerpods", "peerpods-webhook"), "bmV3") == []
    assert [each["path"] for each in rotation.patches(found, ("peerpods", "peerpods-webhook"), "bmV3")] == [
        "/webhooks/0/name",
        "/webhooks/0/clientConfig/caBundle",
    ]


def test_a_configuration_that_changed_meanwhile_is_read_again(tmp_path: Path) -> None:
    @virtually
    async def run() -> None:
        world = World(tmp_path)
        world.install()
        world.api.refuse["replace"].append(Outdated("changed"))
        for _ in range(4):
            await world.certificates.look()
        world.admits()

    run()


def stock(*, ca_days: float = 0, serving_days: float = 0, host: str = HOST) -> Stock:
    """Of a CA and a certificate made so many days ago."""
    ca = pki.make_ca("ca", dt.timedelta(days=730), NOW - dt.timedelta(days=ca_days))
    (authority,) = rotation.certificates(ca.certificate)
    made = pki.issue(
        authority,
        pki.private_key(ca.key),
        "webhook",
        ExtendedKeyUsageOID.SERVER_AUTH,
        [host],
        dt.timedelta(days=90),
        NOW - dt.timedelta(days=serving_days),
    )
    return rotation.read({"ca.crt": ca.certificate, "ca.key": ca.key, "tls.crt": made.certificate, "tls.key": made.key})


@pytest.mark.parametrize(
    ("found", "trusted_for", "step"),
    [
        (Stock(), None, Step.NEW_AUTHORITY),
        (stock(), 0.0, Step.NOTHING),
        (stock(serving_days=59), 1e6, Step.NOTHING),
        (stock(serving_days=61), 1e6, Step.NEW_SERVING),
        (stock(serving_days=61), None, Step.NOTHING),
        (stock(serving_days=61), 59.0, Step.NOTHING),
        (stock(serving_days=91), None, Step.NEW_SERVING),  # nobody trusts it any more: there is nothing to wait for
        (stock(host="elsewhere"), 1e6, Step.NEW_SERVING),
        (stock(ca_days=486), 1e6, Step.NOTHING),
        (stock(ca_days=487), None, Step.NEW_AUTHORITY),
        (stock(ca_days=731), None, Step.NEW_AUTHORITY),
    ],
)
def test_the_table_of_steps(found: Stock, trusted_for: float | None, step: Step) -> None:
    assert rotation.decide(found, [HOST], NOW, trusted_for, PACE) is step


def test_a_secret_full_of_nonsense_counts_as_empty() -> None:
    begin = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    for data in ({}, {"ca.crt": b"foo", "ca.key": b"\0", "tls.crt": begin, "tls.key": b""}, {"ca.crt": begin * 3}):
        assert rotation.read(data) == Stock()


def test_a_key_that_does_not_fit_its_certificate_is_not_used() -> None:
    one, other = pki.make_ca("a", dt.timedelta(days=1), NOW), pki.make_ca("b", dt.timedelta(days=1), NOW)
    found = rotation.read(
        {"ca.crt": one.certificate, "ca.key": other.key, "tls.crt": one.certificate, "tls.key": other.key}
    )
    assert len(found.authorities) == 1
    assert (found.signing, found.serving) == (None, None)


def test_a_leaf_in_the_bundle_of_cas_is_not_trusted() -> None:
    found = stock()
    assert found.serving is not None
    leaf = rotation.bundle([found.serving])
    assert rotation.read({"ca.crt": leaf}).authorities == ()
