"""Keeps the webhook's certificates: the Secret with CA and serving certificate, and the configurations' caBundles.

The webhook's pods mount tls.crt and tls.key of the Secret, and nothing more of it.
"""

import base64
import binascii
import datetime as dt
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from adaptor import names, pki
from adaptor.clock import Clock
from adaptor.config import Controller
from adaptor.controller import rotation
from adaptor.controller.api import MUTATING, SECRET, VALIDATING, Api, Kind, Object
from adaptor.controller.rotation import Pace, Step, Stock
from adaptor.kube.errors import Absent, Outdated, Rejected, Taken
from adaptor.pki import Identity
from adaptor.telemetry import logs, metrics

# Seconds between looks: a caBundle that somebody overwrote refuses pods until the next one.
_LOOK: Final = 10.0

log = logs.get("controller.certificates")


class Certificates:
    """One per leader."""

    def __init__(self, api: Api, settings: Controller, namespace: str, clock: Clock, pace: Pace | None = None) -> None:
        self._api = api
        self._settings = settings
        self._namespace = namespace
        self._clock = clock
        self._pace = pace or Pace()
        self._service = (namespace, settings.webhook_service)
        self._names = _names(settings.webhook_service, namespace)
        self._trusted: tuple[bytes, float] | None = None  # the bundle that every configuration has, and since when

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._clock.sleep(0.0 if await self.look() else _LOOK)

    async def look(self) -> bool:
        """One look, and one step if it is time for one. Whether something was done. Raises: KubernetesError."""
        found = await self._secret()
        data = _decoded(found)
        stock = rotation.read(data)
        await self._spread(stock)
        step = rotation.decide(stock, self._names, self._now(), self._trusted_for(stock), self._pace)
        if stock.serving is not None:
            metrics.CERTIFICATE_EXPIRES.set(stock.serving.not_valid_after_utc.timestamp())
        if step is Step.NOTHING:
            return False
        try:
            await self._write(found, {**data, **self._after(step, stock)})
        except (Outdated, Taken):
            return True  # another wrote it: look again
        log.info("the webhook's certificates took a step", step=step.value)
        return True

    def _after(self, step: Step, stock: Stock) -> Mapping[str, bytes]:
        now = self._now()
        if step is Step.DROP_OLD:
            return {rotation.CA_CERTIFICATE: rotation.bundle(stock.authorities[:1])}
        if step is Step.NEW_SERVING:
            assert stock.signing is not None
            return self._serving(stock.signing, now)
        ca = pki.make_ca(f"peerpods webhook CA {secrets.token_hex(4)}", dt.timedelta(seconds=self._pace.authority), now)
        # What was trusted stays so, for what is served stays served. Older ones than those go.
        still_good = [each for each in stock.authorities if each.not_valid_after_utc > now][:2]
        fresh = {
            rotation.CA_CERTIFICATE: ca.certificate + rotation.bundle(still_good),
            rotation.CA_KEY: ca.key,
        }
        return fresh if still_good and stock.serving else {**fresh, **self._serving(ca, now)}

    def _serving(self, ca: Identity, now: dt.datetime) -> Mapping[str, bytes]:
        made = pki.issue(
            x509.load_pem_x509_certificate(ca.certificate),
            pki.private_key(ca.key),
            "peerpods webhook",  # names are in the extension; a common name has room for 64 characters
            ExtendedKeyUsageOID.SERVER_AUTH,
            self._names,
            dt.timedelta(seconds=self._pace.serving),
            now,
        )
        return {rotation.CERTIFICATE: made.certificate, rotation.KEY: made.key}

    async def _spread(self, stock: Stock) -> None:
        """Have every configuration trust every CA of the stock."""
        if not stock.authorities:
            self._trusted = None
            return
        wanted = rotation.bundle(stock.authorities)
        changed = False
        for name in self._settings.webhook_configurations:
            for kind in (MUTATING, VALIDATING):
                with suppress(Absent):
                    configuration = await self._api.get(kind, name)
                    changed |= await self._trust(kind, configuration, base64.b64encode(wanted).decode())
        if changed or self._trusted is None or self._trusted[0] != wanted:
            self._trusted = (wanted, self._clock.now())

    async def _trust(self, kind: Kind, configuration: Object, wanted: str) -> bool:
        operations = rotation.patches(configuration, self._service, wanted)
        if not operations:
            return False
        name = configuration["metadata"]["name"]
        with suppress(Rejected):  # the list of webhooks changed meanwhile: the next look sees it
            await self._api.patch(kind, name, operations)
            log.info("told the API server which CA to trust", configuration=name, kind=str(kind))
        return True

    def _trusted_for(self, stock: Stock) -> float | None:
        if self._trusted is None or self._trusted[0] != rotation.bundle(stock.authorities):
            return None
        return self._clock.now() - self._trusted[1]

    async def _secret(self) -> Object:
        try:
            return await self._api.get(SECRET, names.WEBHOOK_TLS, self._namespace)
        except Absent:
            return {}

    async def _write(self, found: Object, data: Mapping[str, bytes]) -> None:
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        if found:
            await self._api.replace(SECRET, {**found, "data": encoded})
            return
        metadata = {"name": names.WEBHOOK_TLS, "namespace": self._namespace}
        await self._api.create(
            SECRET,
            {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls", "data": encoded},
        )

    def _now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._clock.wall(), dt.UTC)


def _names(service: str, namespace: str) -> tuple[str, ...]:
    """The API server calls it by the first."""
    full = f"{service}.{namespace}.svc"
    return full, f"{full}.cluster.local", f"{service}.{namespace}", service


def _decoded(secret: Object) -> dict[str, bytes]:
    found = {}
    for key, value in (secret.get("data") or {}).items():
        with suppress(binascii.Error, ValueError):
            found[key] = base64.b64decode(value)
    return found
