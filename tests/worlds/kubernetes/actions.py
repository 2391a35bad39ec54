"""Subresources that are deeds: bind a pod, evict it, ask for a token; and reviews of who may do what."""

import copy
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tests.worlds.kubernetes import selectors
from tests.worlds.kubernetes.access import User, Wish
from tests.worlds.kubernetes.calls import Call
from tests.worlds.kubernetes.deletes import Deletes
from tests.worlds.kubernetes.kinds import Kind
from tests.worlds.kubernetes.refusals import Refusal, bad_request, conflict
from tests.worlds.kubernetes.store import Object, copied
from tests.worlds.kubernetes.writes import Core

SUCCESS: Final[Object] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


class Actions:
    """Each takes a POST to a subresource and returns the answer's body."""

    def __init__(self, core: Core, deletes: Deletes) -> None:
        self._core, self._deletes = core, deletes
        self._verbs: dict[tuple[str, str], Callable[[Call], Awaitable[Object]]] = {
            ("pods", "binding"): self.bind,
            ("pods", "eviction"): self.evict,
            ("serviceaccounts", "token"): self.token,
        }

    async def do(self, call: Call) -> Object:
        verb = self._verbs.get((call.kind.plural, call.subresource))
        if verb is None:
            raise Refusal(405, "the server does not allow this method on the requested resource")
        return await verb(call)

    async def bind(self, call: Call) -> Object:
        target = (call.decoded().get("target") or {}).get("name")
        if not target:
            raise bad_request("target.name: Required value")
        stored = self._core.find(call.kind, call.namespace, call.name)
        pod = copied(stored)
        if pod["spec"].get("nodeName"):
            why = f'pod {call.name} is already assigned to node "{pod["spec"]["nodeName"]}"'
            raise conflict(call.kind, call.name, why)
        if pod["metadata"].get("deletionTimestamp"):
            raise conflict(call.kind, call.name, f"pod {call.name} is being deleted, cannot be assigned to a host")
        if pod["spec"].get("schedulingGates"):
            raise conflict(call.kind, call.name, f"pod {call.name} has non-empty .spec.schedulingGates")
        if call.dry_run:
            return SUCCESS
        pod["spec"]["nodeName"] = target
        condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": self._core.now()}
        pod["status"]["conditions"] = [
            *(one for one in pod["status"].get("conditions", ()) if one["type"] != "PodScheduled"),
            condition,
        ]
        self._core.store.put(call.kind, pod, stored.owners)
        return SUCCESS

    async def evict(self, call: Call) -> Object:
        """A deletion that disruption budgets may forbid."""
        stored = self._core.find(call.kind, call.namespace, call.name)
        pod, options = stored.object, call.decoded().get("deleteOptions") or {}
        if pod["status"].get("phase") not in ("Succeeded", "Failed") and _ready(pod):
            for budget in self._budgets(pod):
                if self._room(budget, call) <= 0:
                    raise Refusal(
                        429,
                        "Cannot evict pod as it would violate the pod's disruption budget.",
                        details={
                            "causes": [
                                {
                                    "reason": "DisruptionBudget",
                                    "message": f"The disruption budget {budget['metadata']['name']} needs more healthy pods",
                                }
                            ]
                        },
                    )
        if not call.dry_run:
            self._deletes.begin(call.kind, stored, options.get("propagationPolicy"), options.get("gracePeriodSeconds"))
        return SUCCESS

    def _budgets(self, pod: Object) -> list[Object]:
        kind = self._core.kinds.at("policy", "v1", "poddisruptionbudgets")
        assert kind is not None
        found = [stored.object for stored in self._core.store.all(kind, pod["metadata"]["namespace"])]
        labels = pod["metadata"].get("labels") or {}
        return [one for one in found if selectors.matches((one.get("spec") or {}).get("selector"), labels)]

    def _room(self, budget: Object, call: Call) -> int:
        """How many more may be disrupted now."""
        spec = budget["spec"]
        covered = [
            stored.object
            for stored in self._core.store.all(call.kind, call.namespace)
            if selectors.matches(spec.get("selector"), stored.object["metadata"].get("labels") or {})
        ]
        healthy = sum(1 for pod in covered if _ready(pod) and not pod["metadata"].get("deletionTimestamp"))
        if "maxUnavailable" in spec:
            return healthy - (len(covered) - _share(spec["maxUnavailable"], len(covered)))
        return healthy - _share(spec.get("minAvailable", 1), len(covered))

    async def token(self, call: Call) -> Object:
        account = self._core.find(call.kind, call.namespace, call.name).object
        request = call.decoded()
        if not isinstance(request, dict) or request.get("kind", "TokenRequest") != "TokenRequest":
            raise bad_request("the object provided is unrecognized (must be of type TokenRequest)")
        token, expires = self._core.access.request(account, request.get("spec") or {})
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": call.name, "namespace": call.namespace, "creationTimestamp": self._core.now()},
            "spec": request.get("spec") or {},
            "status": {"token": token, "expirationTimestamp": expires},
        }

    def review(self, user: User, plural: str, body: Any) -> Object:
        """SelfSubjectReview, SelfSubjectAccessReview and SubjectAccessReview."""
        if plural == "selfsubjectreviews":
            return {**body, "status": {"userInfo": user.review()}}
        spec = body.get("spec") or {}
        if plural == "subjectaccessreviews":
            user = User(spec.get("user", ""), tuple(spec.get("groups") or ()))
        asked = spec.get("resourceAttributes") or {}
        group, name = asked.get("group", ""), asked.get("resource", "")
        kind = next((one for one in self._core.kinds if (one.group, one.plural) == (group, name)), None)
        kind = kind or Kind(group, asked.get("version", ""), name, name)
        wish = Wish(
            asked.get("verb", ""), kind, asked.get("namespace", ""), asked.get("name", ""), asked.get("subresource", "")
        )
        answer = copy.deepcopy(body)
        answer["status"] = {"allowed": self._core.access.allowed(user, wish)}
        return dict(answer)


def _ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _share(figure: int | str, of: int) -> int:
    """Percentages are rounded up."""
    return figure if isinstance(figure, int) else -(-of * int(figure.rstrip("%")) // 100)
