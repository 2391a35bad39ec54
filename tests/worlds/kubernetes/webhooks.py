"""Calling webhooks as the API server does: rules, selectors and conditions, TLS by the caBundle, JSON patches, who is
called again, and what a failure means."""

import asyncio
import base64
import binascii
import copy
import ssl
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
from cryptography import x509

from adaptor.clock import Clock
from tests.worlds.kubernetes import cel, patches, selectors
from tests.worlds.kubernetes.calls import Call
from tests.worlds.kubernetes.kinds import Kinds
from tests.worlds.kubernetes.refusals import Refusal, bad_request, internal
from tests.worlds.kubernetes.store import Object, Store

_GROUP: Final = "admissionregistration.k8s.io"


@dataclass(slots=True)
class Attributes:
    """One request on its way through admission; `object` is replaced as it changes."""

    call: Call
    operation: str
    object: Object
    old: Object | None
    called: set[str] = field(default_factory=set)  # webhooks to call again if something changes after them
    again: set[str] = field(default_factory=set)
    last: Object | None = None  # what the webhooks last left

    @property
    def hooked(self) -> bool:
        """Webhook and policy configurations are exempt, so that a bad one can be mended."""
        return self.call.kind.group != _GROUP


@dataclass(frozen=True, slots=True)
class Answered:
    """One call of a webhook, for tests to look at."""

    webhook: str
    request: Mapping[str, Any]
    response: Mapping[str, Any] | None
    error: str = ""


class Dispatcher:
    """`services`: where a Service's port is to be found, as {(namespace, name): (host, port)}."""

    def __init__(self, store: Store, kinds: Kinds, clock: Clock) -> None:
        self.services: dict[tuple[str, str], tuple[str, int]] = {}
        self.calls: list[Answered] = []
        self._store, self._kinds, self._clock = store, kinds, clock
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def mutate(self, attributes: Attributes, *, again: bool) -> bool:
        """Whether anything changed. `again`: the second round, of those only whose last word something has changed
        since."""
        changed = False
        if again and attributes.last is not None and attributes.object != attributes.last:
            self._call_again(attributes)
        for name, webhook in self._matching("mutatingwebhookconfigurations", attributes):
            if again and name not in attributes.again:
                continue
            before = attributes.object
            response = await self._review(webhook, attributes)
            if response is not None:
                self._patch(webhook, attributes, response)
            if attributes.object != before:
                changed = True
                self._call_again(attributes)
            if webhook.get("reinvocationPolicy") == "IfNeeded":
                attributes.called.add(name)
        attributes.last = copy.deepcopy(attributes.object)
        return changed

    @staticmethod
    def _call_again(attributes: Attributes) -> None:
        attributes.again |= attributes.called
        attributes.called.clear()

    async def validate(self, attributes: Attributes) -> None:
        for _, webhook in self._matching("validatingwebhookconfigurations", attributes):
            await self._review(webhook, attributes)

    # -- who is called ----------------------------------------------------------------------------

    def _matching(self, plural: str, attributes: Attributes) -> Iterator[tuple[str, dict[str, Any]]]:
        kind = self._kinds.at(_GROUP, "v1", plural)
        assert kind is not None
        for stored in list(self._store.all(kind)):
            for webhook in stored.object.get("webhooks") or ():
                if self._matches(webhook, attributes):
                    yield f"{stored.object['metadata']['uid']}/{webhook['name']}", webhook

    def _matches(self, webhook: dict[str, Any], attributes: Attributes) -> bool:
        call = attributes.call
        if not any(ruled(rule, attributes) for rule in webhook.get("rules") or ()):
            return False
        namespace = self._namespace(call)
        if not selectors.matches(webhook.get("namespaceSelector"), namespace):
            return False
        sides = [side for side in (attributes.object, attributes.old) if side]
        if not any(
            selectors.matches(webhook.get("objectSelector"), side["metadata"].get("labels") or {}) for side in sides
        ):
            return False
        return self._conditions(webhook, attributes)

    def _namespace(self, call: Call) -> dict[str, str]:
        if not call.namespace:
            return {}
        kind = self._kinds.at("", "v1", "namespaces")
        stored = self._store.get(kind, "", call.namespace) if kind else None
        labels: dict[str, str] = (stored.object["metadata"].get("labels") or {}) if stored else {}
        return labels

    @staticmethod
    def _conditions(webhook: dict[str, Any], attributes: Attributes) -> bool:
        """All must hold; one that is false settles it, an error is the failure policy's."""
        variables = {
            "object": attributes.object or None,
            "oldObject": attributes.old,
            "request": review_request(attributes, uid=""),
        }
        wrong = ""
        for condition in webhook.get("matchConditions") or ():
            try:
                if not cel.evaluate(condition["expression"], variables):
                    return False
            except cel.Wrong as error:
                wrong = wrong or f"expression '{condition['expression']}' resulted in error: {error}"
        if wrong and webhook["failurePolicy"] == "Fail":
            raise Refusal(403, f"{attributes.call.kind.plural} is forbidden: {wrong}")
        return not wrong

    # -- the call ---------------------------------------------------------------------------------

    async def _review(self, webhook: dict[str, Any], attributes: Attributes) -> dict[str, Any] | None:
        """The response, if it allows; None where a failed call is ignored. Raises a Refusal."""
        if attributes.call.dry_run and webhook["sideEffects"] not in ("None", "NoneOnDryRun"):
            raise bad_request(f'admission webhook "{webhook["name"]}" does not support dry run')
        request = review_request(attributes, uid=str(uuid.uuid4()))
        version = next(one for one in webhook["admissionReviewVersions"] if one in ("v1", "v1beta1"))
        review = {"kind": "AdmissionReview", "apiVersion": f"admission.k8s.io/{version}", "request": request}
        try:
            response = _understood(await self._post(webhook, review), review)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, ssl.SSLError) as error:
            said = str(error) or type(error).__name__
            self.calls.append(Answered(webhook["name"], request, None, said))
            if webhook["failurePolicy"] == "Ignore":
                return None
            raise internal(f'failed calling webhook "{webhook["name"]}": failed to call webhook: {said}') from error
        self.calls.append(Answered(webhook["name"], request, response))
        attributes.call.warnings += response.get("warnings") or ()
        if not response.get("allowed"):
            raise _denied(webhook["name"], response.get("status") or {})
        return response

    async def _post(self, webhook: dict[str, Any], review: dict[str, Any]) -> Any:
        config, seconds = webhook["clientConfig"], webhook["timeoutSeconds"]
        url, host = self._address(config)
        context = _context(config)
        if self._session is None:
            self._session = aiohttp.ClientSession()
        async with asyncio.timeout(seconds):
            async with self._session.post(
                f"{url}{'&' if '?' in url else '?'}timeout={seconds}s",
                data=msgspec.json.encode(review),
                headers={"Content-Type": "application/json", "Accept": "application/json"},
                ssl=context,
                server_hostname=host,
                allow_redirects=False,
            ) as answer:
                body = await answer.read()
                if not 200 <= answer.status < 300:
                    raise ValueError(f"the server answered {answer.status}: {body[:200]!r}")
                return msgspec.json.decode(body)

    def _address(self, config: dict[str, Any]) -> tuple[str, str]:
        """Where to post, and the name that the certificate must bear."""
        if "url" in config:
            return config["url"], urlsplit(config["url"]).hostname or ""
        service = config["service"]
        where = self.services.get((service["namespace"], service["name"]))
        if where is None:
            raise ValueError(f'service "{service["name"]}" not found')
        return (
            f"https://{where[0]}:{where[1]}{service.get('path', '/')}",
            f"{service['name']}.{service['namespace']}.svc",
        )

    @staticmethod
    def _patch(webhook: dict[str, Any], attributes: Attributes, response: dict[str, Any]) -> None:
        if not response.get("patch"):
            return
        if response.get("patchType") != "JSONPatch":
            raise internal(f'admission webhook "{webhook["name"]}" gave a patch without patchType JSONPatch')
        try:
            operations = msgspec.json.decode(base64.b64decode(response["patch"], validate=True))
            attributes.object = patches.json_patch(attributes.object, operations)
        except (Refusal, binascii.Error, msgspec.DecodeError) as error:
            raise internal(f'admission webhook "{webhook["name"]}": its patch cannot be applied: {error}') from error


def ruled(rule: dict[str, Any], attributes: Attributes) -> bool:
    call = attributes.call
    asked = call.kind.plural + (f"/{call.subresource}" if call.subresource else "")
    fits = {"*/*", asked} | ({"*"} if not call.subresource else {f"{call.kind.plural}/*", f"*/{call.subresource}"})
    scope = {"Namespaced": call.kind.namespaced, "Cluster": not call.kind.namespaced}.get(rule.get("scope", "*"), True)
    return (
        scope
        and bool({"*", attributes.operation} & set(rule.get("operations") or ()))
        and bool({"*", call.kind.group} & set(rule.get("apiGroups") or ()))
        and bool({"*", call.kind.version} & set(rule.get("apiVersions") or ()))
        and bool(fits & set(rule.get("resources") or ()))
    )


def review_request(attributes: Attributes, uid: str) -> dict[str, Any]:
    call = attributes.call
    kind = {"group": call.kind.group, "version": call.kind.version, "kind": call.kind.kind}
    resource = {"group": call.kind.group, "version": call.kind.version, "resource": call.kind.plural}
    request = {
        "uid": uid,
        "kind": kind,
        "resource": resource,
        "requestKind": kind,
        "requestResource": resource,
        "operation": attributes.operation,
        "userInfo": call.user.review(),
        "object": attributes.object or None,
        "oldObject": attributes.old,
        "dryRun": call.dry_run,
        "options": {"kind": f"{attributes.operation.title()}Options", "apiVersion": "meta.k8s.io/v1"},
    }
    name = call.name or (attributes.object.get("metadata") or {}).get("name", "")
    optional = {"name": name, "namespace": call.namespace, "subResource": call.subresource}
    return request | {key: value for key, value in optional.items() if value}


def _understood(answer: Any, review: dict[str, Any]) -> dict[str, Any]:
    """The response of an answer that fits; raises ValueError."""
    if not isinstance(answer, dict) or (answer.get("kind"), answer.get("apiVersion")) != (
        review["kind"],
        review["apiVersion"],
    ):
        raise ValueError(
            "received invalid webhook response: expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview"
        )
    response = answer.get("response")
    if not isinstance(response, dict):
        raise ValueError("webhook response was absent")
    if response.get("uid") != review["request"]["uid"]:
        raise ValueError(
            f"received invalid webhook response: expected response.uid={review['request']['uid']!r}, got {response.get('uid')!r}"
        )
    return response


def _denied(name: str, status: dict[str, Any]) -> Refusal:
    said = status.get("message") or status.get("reason")
    denied = f'admission webhook "{name}" denied the request'
    message = f"{denied}: {said}" if said else f"{denied} without explanation"
    return Refusal(max(status.get("code") or 0, 400), message, reason=status.get("reason") or "")


def _context(config: dict[str, Any]) -> ssl.SSLContext:
    """Trusts the bundle only. The API server takes any bytes as a bundle and fails at the call: so does this."""
    bundle = base64.b64decode(config.get("caBundle") or "")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not bundle:
        context.load_default_certs()
    elif b"-----BEGIN CERTIFICATE-----" in bundle:
        for certificate in x509.load_pem_x509_certificates(bundle):
            context.load_verify_locations(cadata=_pem(certificate))
    else:
        raise ValueError(
            "tls: failed to verify certificate: unable to load root certificates: unable to parse bytes as PEM block"
        )
    return context


def _pem(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()
