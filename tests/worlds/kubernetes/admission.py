"""Admission in the API server's own order: what is built in, mutating webhooks (and all again after a change), then
validation: limits, policies, validating webhooks, and quota last."""

import copy
from dataclasses import dataclass
from typing import Any, Final

from adaptor.clock import Clock
from tests.worlds.kubernetes import pods, quantity
from tests.worlds.kubernetes.access import Access, Wish
from tests.worlds.kubernetes.kinds import Kind, Kinds
from tests.worlds.kubernetes.policies import Policies
from tests.worlds.kubernetes.quota import Quotas
from tests.worlds.kubernetes.refusals import forbidden, not_found
from tests.worlds.kubernetes.store import Object, Store
from tests.worlds.kubernetes.webhooks import Attributes, Dispatcher

__all__ = ["Admission", "Attributes"]
_ETERNAL: Final = frozenset({"default", "kube-system", "kube-public", "kube-node-lease"})
_POD_SIZES: Final = ("Pod", "Container")


@dataclass(slots=True)
class Options:
    """What clusters differ in."""

    owner_permission: bool = False  # OwnerReferencesPermissionEnforcement, OpenShift's default


class Admission:
    """Mutates and judges one request at a time."""

    def __init__(self, store: Store, kinds: Kinds, access: Access, clock: Clock) -> None:
        self.options = Options()
        self.dispatcher = Dispatcher(store, kinds, clock)
        self._store, self._kinds, self._access = store, kinds, access
        self._quotas, self._policies = Quotas(store, kinds), Policies(store, kinds)

    async def mutate(self, attributes: Attributes) -> None:
        """Changes `attributes.object`; raises a Refusal."""
        self._built_in(attributes)
        if attributes.operation == "DELETE" or not attributes.hooked:
            return
        if await self.dispatcher.mutate(attributes, again=False):
            self._built_in(attributes)
            await self.dispatcher.mutate(attributes, again=True)

    async def validate(self, attributes: Attributes) -> None:
        """Raises a Refusal."""
        if _is_new_pod(attributes):
            self._within_limits(attributes)
            self._runtime_overhead(attributes)
        if self.options.owner_permission and attributes.operation != "DELETE":
            self._owners(attributes)
        if attributes.hooked:
            self._policies.demand(attributes)
            await self.dispatcher.validate(attributes)
        if _is_new_pod(attributes):
            self._quotas.demand(attributes)

    def charge(self, attributes: Attributes) -> None:
        """Quota once more, as close to the write as can be: two writers may have been told yes."""
        if _is_new_pod(attributes):
            self._quotas.demand(attributes)

    def _built_in(self, attributes: Attributes) -> None:
        self._namespace(attributes)
        if _is_new_pod(attributes):
            self._limit_defaults(attributes)
            self._service_account(attributes)
            self._priority(attributes)
            self._runtime_class(attributes)

    # -- namespaces -------------------------------------------------------------------------------

    def _namespace(self, attributes: Attributes) -> None:
        call = attributes.call
        if call.kind.plural == "namespaces":
            if attributes.operation == "DELETE" and call.name in _ETERNAL:
                raise forbidden(call.kind, call.name, "this namespace may not be deleted")
            return
        if attributes.operation != "CREATE" or not call.namespace:
            return
        found = self._get("", "namespaces", "", call.namespace)
        if found is None:
            raise not_found(self._kind("", "namespaces"), call.namespace)
        if found["metadata"].get("deletionTimestamp"):
            name = attributes.object["metadata"].get("name", "")
            why = f"unable to create new content in namespace {call.namespace} because it is being terminated"
            raise forbidden(call.kind, name, why)

    # -- LimitRanger ------------------------------------------------------------------------------

    def _limits(self, namespace: str) -> list[dict[str, Any]]:
        kind = self._kind("", "limitranges")
        return [item for one in self._store.all(kind, namespace) for item in one.object["spec"].get("limits") or ()]

    def _limit_defaults(self, attributes: Attributes) -> None:
        for item in self._limits(attributes.call.namespace):
            if item["type"] != "Container":
                continue
            for _, container in pods.containers(attributes.object["spec"]):
                resources = container.setdefault("resources", {})
                for what, default in (("requests", "defaultRequest"), ("limits", "default")):
                    for name, value in (item.get(default) or {}).items():
                        resources.setdefault(what, {}).setdefault(name, value)

    def _within_limits(self, attributes: Attributes) -> None:
        pod = attributes.object
        problems: list[str] = []
        for item in self._limits(attributes.call.namespace):
            if item["type"] == "Container":
                for _, container in pods.containers(pod["spec"]):
                    problems += _outside(item, container.get("resources") or {}, "Container")
            elif item["type"] == "Pod":
                sums = {what: pods.container_requests(pod["spec"], what) for what in ("requests", "limits")}
                problems += _outside(item, sums, "Pod")
        if problems:
            said = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
            raise forbidden(attributes.call.kind, pod["metadata"].get("name", ""), said)

    # -- what else comes to a new pod -------------------------------------------------------------

    def _service_account(self, attributes: Attributes) -> None:
        spec, namespace = attributes.object["spec"], attributes.call.namespace
        name = spec.setdefault("serviceAccountName", "default")
        spec["serviceAccount"] = name
        account = self._get("", "serviceaccounts", namespace, name)
        if account is None:
            why = f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
            raise forbidden(attributes.call.kind, attributes.object["metadata"].get("name", ""), why)
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = copy.deepcopy(account["imagePullSecrets"])

    def _priority(self, attributes: Attributes) -> None:
        spec = attributes.object["spec"]
        name = spec.get("priorityClassName")
        if not name or name.startswith("system-"):
            return
        found = self._get("scheduling.k8s.io", "priorityclasses", "", name)
        if found is None:
            why = f"no PriorityClass with name {name} was found"
            raise forbidden(attributes.call.kind, attributes.object["metadata"].get("name", ""), why)
        spec["priority"] = found["value"]

    def _runtime(self, attributes: Attributes) -> Object | None:
        name = attributes.object["spec"].get("runtimeClassName")
        if not name:
            return None
        found = self._get("node.k8s.io", "runtimeclasses", "", name)
        if found is None:
            pod = attributes.object["metadata"].get("name", "")
            why = f'pod rejected: RuntimeClass "{name}" not found'
            raise forbidden(attributes.call.kind, pod, why)
        return found

    def _runtime_class(self, attributes: Attributes) -> None:
        found, spec = self._runtime(attributes), attributes.object["spec"]
        if found is None:
            return
        if fixed := (found.get("overhead") or {}).get("podFixed"):
            if spec.get("overhead") and not _same(spec["overhead"], fixed):
                raise forbidden(
                    attributes.call.kind,
                    attributes.object["metadata"].get("name", ""),
                    "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
                )
            spec["overhead"] = copy.deepcopy(fixed)
        scheduling = found.get("scheduling") or {}
        for key, value in (scheduling.get("nodeSelector") or {}).items():
            if spec.setdefault("nodeSelector", {}).setdefault(key, value) != value:
                why = f"pod rejected: conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {spec['nodeSelector'][key]}"
                raise forbidden(attributes.call.kind, attributes.object["metadata"].get("name", ""), why)
        for toleration in scheduling.get("tolerations") or ():
            if toleration not in spec.setdefault("tolerations", []):
                spec["tolerations"].append(copy.deepcopy(toleration))

    def _runtime_overhead(self, attributes: Attributes) -> None:
        found, spec = self._runtime(attributes), attributes.object["spec"]
        fixed = ((found or {}).get("overhead") or {}).get("podFixed") or {}
        if attributes.operation == "CREATE" and not _same(spec.get("overhead") or {}, fixed):
            said = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
            if found is None:
                said = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
            raise forbidden(attributes.call.kind, attributes.object["metadata"].get("name", ""), said)

    # -- guards -----------------------------------------------------------------------------------

    def _owners(self, attributes: Attributes) -> None:
        """Who blocks an owner's deletion must be one who may set the owner's finalizers."""
        call = attributes.call
        held = (attributes.old or {}).get("metadata", {}).get("ownerReferences", [])
        for ref in attributes.object["metadata"].get("ownerReferences", ()):
            kind = self._kinds.called(ref["apiVersion"], ref["kind"])
            if not ref.get("blockOwnerDeletion") or ref in held or kind is None:
                continue
            wish = Wish("update", kind, call.namespace if kind.namespaced else "", ref["name"], "finalizers")
            if not self._access.allowed(call.user, wish):
                why = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>"
                raise forbidden(call.kind, attributes.object["metadata"].get("name", ""), why)

    # -- looking up -------------------------------------------------------------------------------

    def _kind(self, group: str, plural: str) -> Kind:
        kind = self._kinds.at(group, "v1", plural)
        assert kind is not None
        return kind

    def _get(self, group: str, plural: str, namespace: str, name: str) -> Object | None:
        stored = self._store.get(self._kind(group, plural), namespace, name)
        return stored.object if stored else None


def _is_new_pod(attributes: Attributes) -> bool:
    return (
        attributes.call.kind.plural == "pods" and attributes.operation == "CREATE" and not attributes.call.subresource
    )


def _same(one: dict[str, str], other: dict[str, str]) -> bool:
    return {k: quantity.parse(v) for k, v in one.items()} == {k: quantity.parse(v) for k, v in other.items()}


def _outside(item: dict[str, Any], resources: dict[str, Any], what: str) -> list[str]:
    """How a container's or a pod's resources break one limit, in LimitRanger's words."""
    found = []
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for name, least in (item.get("min") or {}).items():
        if name not in requests:
            found.append(f"minimum {name} usage per {what} is {least}.  No request is specified")
        elif quantity.parse(requests[name]) < quantity.parse(least):
            found.append(f"minimum {name} usage per {what} is {least}, but request is {requests[name]}")
    for name, most in (item.get("max") or {}).items():
        if name not in limits:
            found.append(f"maximum {name} usage per {what} is {most}.  No limit is specified")
        elif quantity.parse(limits[name]) > quantity.parse(most):
            found.append(f"maximum {name} usage per {what} is {most}, but limit is {limits[name]}")
    for name, ratio in (item.get("maxLimitRequestRatio") or {}).items():
        asked = quantity.parse(requests.get(name, "0"))
        if asked and quantity.parse(limits.get(name, "0")) / asked > quantity.parse(ratio):
            found.append(f"{name} max limit to request ratio per {what} is {ratio}")
    return found
