"""ValidatingAdmissionPolicies with their bindings, as far as cel.py reads them; no parameters."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tests.worlds.kubernetes import cel, selectors
from tests.worlds.kubernetes.kinds import Kinds
from tests.worlds.kubernetes.refusals import Refusal, forbidden
from tests.worlds.kubernetes.store import Object, Store
from tests.worlds.kubernetes.webhooks import Attributes, review_request, ruled

_GROUP: Final = "admissionregistration.k8s.io"
_CODES: Final = {"Unauthorized": 401, "Forbidden": 403, "RequestEntityTooLarge": 413, "Invalid": 422}


class _Lazy(Mapping[str, Any]):
    """A policy's `variables`: each is evaluated when it is first asked for."""

    def __init__(self, expressions: Mapping[str, str], given: Mapping[str, Any]) -> None:
        self._expressions, self._given = expressions, {**given, "variables": self}
        self._known: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = cel.evaluate(self._expressions[name], self._given)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._expressions)

    def __len__(self) -> int:
        return len(self._expressions)


class Policies:
    """Judges one request after all mutation."""

    def __init__(self, store: Store, kinds: Kinds) -> None:
        policies = kinds.at(_GROUP, "v1", "validatingadmissionpolicies")
        bindings = kinds.at(_GROUP, "v1", "validatingadmissionpolicybindings")
        namespaces = kinds.at("", "v1", "namespaces")
        assert policies is not None
        assert bindings is not None
        assert namespaces is not None
        self._store, self._policies, self._bindings, self._namespaces = store, policies, bindings, namespaces

    def demand(self, attributes: Attributes) -> None:
        """Raises the refusal of the first validation that does not hold."""
        for stored in self._store.all(self._bindings):
            binding = stored.object
            policy = self._store.get(self._policies, "", binding["spec"]["policyName"])
            if policy is None or "Deny" not in binding["spec"].get("validationActions", ()):
                continue
            constraints = policy.object["spec"].get("matchConstraints"), binding["spec"].get("matchResources")
            if all(self._meant(one, attributes) for one in constraints if one):
                self._judge(policy.object, binding, attributes)

    def _meant(self, constraints: dict[str, Any], attributes: Attributes) -> bool:
        rules = constraints.get("resourceRules")
        if rules and not any(ruled(rule, attributes) for rule in rules):
            return False
        labels: dict[str, str] = {}
        if attributes.call.namespace:
            namespace = self._store.get(self._namespaces, "", attributes.call.namespace)
            labels = (namespace.object["metadata"].get("labels") or {}) if namespace else {}
        sides = [side for side in (attributes.object, attributes.old) if side]
        return selectors.matches(constraints.get("namespaceSelector"), labels) and any(
            selectors.matches(constraints.get("objectSelector"), side["metadata"].get("labels") or {}) for side in sides
        )

    def _judge(self, policy: Object, binding: Object, attributes: Attributes) -> None:
        spec = policy["spec"]
        request = review_request(attributes, uid="")
        given: dict[str, Any] = {"object": request["object"], "oldObject": request["oldObject"], "request": request}
        strict = spec.get("failurePolicy", "Fail") == "Fail"
        try:
            if not all(cel.evaluate(one["expression"], given) for one in spec.get("matchConditions") or ()):
                return
            given["variables"] = _Lazy({one["name"]: one["expression"] for one in spec.get("variables") or ()}, given)
            for validation in spec.get("validations") or ():
                if not cel.evaluate(validation["expression"], given):
                    said = _message(validation, given)
                    raise _denied(policy, binding, attributes, said, validation.get("reason", "Invalid"))
        except cel.Wrong as error:
            if strict:
                raise _denied(
                    policy, binding, attributes, f"an expression resulted in error: {error}", "Invalid"
                ) from error


def _message(validation: Mapping[str, str], given: Mapping[str, Any]) -> str:
    if "messageExpression" in validation:
        return str(cel.evaluate(validation["messageExpression"], given))
    return validation.get("message") or f"failed expression: {validation['expression']}"


def _denied(policy: Object, binding: Object, attributes: Attributes, said: str, reason: str) -> Refusal:
    names = policy["metadata"]["name"], binding["metadata"]["name"]
    why = f"ValidatingAdmissionPolicy '{names[0]}' with binding '{names[1]}' denied request: {said}"
    call = attributes.call
    told = forbidden(call.kind, call.name or (attributes.object.get("metadata") or {}).get("name", ""), why)
    return Refusal(_CODES.get(reason, 422), told.message, reason=reason, details=told.details)
