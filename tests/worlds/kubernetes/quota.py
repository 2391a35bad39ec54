"""ResourceQuota: what pods use, overhead counted, and the refusal of what would be more."""

from fractions import Fraction

from tests.worlds.kubernetes import pods, quantity
from tests.worlds.kubernetes.kinds import Kinds
from tests.worlds.kubernetes.refusals import forbidden
from tests.worlds.kubernetes.store import Object, Store, Stored, copied
from tests.worlds.kubernetes.webhooks import Attributes

_ENDED = ("Succeeded", "Failed")


def usage(pod: Object) -> dict[str, Fraction]:
    """What a pod counts for, by the names that quotas use; nothing once it has ended."""
    if pod.get("status", {}).get("phase") in _ENDED:
        return {}
    used = {"pods": Fraction(1), "count/pods": Fraction(1)}
    for name, value in pods.asked(pod).items():
        used[f"requests.{name}"] = quantity.parse(value)
        if name in pods.NATIVE:
            used[name] = quantity.parse(value)
    for name, value in pods.asked(pod, "limits").items():
        if "/" not in name:
            used[f"limits.{name}"] = quantity.parse(value)
    return used


class Quotas:
    """Judges new pods, and keeps `status.used` as the quota controller would."""

    def __init__(self, store: Store, kinds: Kinds) -> None:
        self._store = store
        quotas, found = kinds.at("", "v1", "resourcequotas"), kinds.at("", "v1", "pods")
        assert quotas is not None
        assert found is not None
        self._quotas, self._pods = quotas, found

    def demand(self, attributes: Attributes) -> None:
        """Raises 403 in the quota's words."""
        namespace, pod = attributes.call.namespace, attributes.object
        wanted = usage(pod)
        for stored in self._store.all(self._quotas, namespace):
            quota = stored.object
            if not _in_scope(quota, pod):
                continue
            hard = (quota.get("spec") or {}).get("hard") or {}
            name, title = pod["metadata"].get("name", ""), quota["metadata"]["name"]
            if missing := sorted(key for key in hard if key not in wanted and _must_be_set(key)):
                listed = "; ".join(f"{key} for: {_names(pod)}" for key in missing)
                raise forbidden(attributes.call.kind, name, f"failed quota: {title}: must specify {listed}")
            used = self._used(quota)
            over = [
                key for key in sorted(hard) if key in wanted and used[key] + wanted[key] > quantity.parse(hard[key])
            ]
            if over:
                most = {key: quantity.parse(hard[key]) for key in over}
                parts = [
                    ",".join(f"{key}={_text(figures[key], hard[key])}" for key in over)
                    for figures in (wanted, used, most)
                ]
                said = f"exceeded quota: {title}, requested: {parts[0]}, used: {parts[1]}, limited: {parts[2]}"
                raise forbidden(attributes.call.kind, name, said)

    def _used(self, quota: Object) -> dict[str, Fraction]:
        total = dict.fromkeys((quota.get("spec") or {}).get("hard") or {}, Fraction(0))
        for stored in self._store.all(self._pods, quota["metadata"]["namespace"]):
            if _in_scope(quota, stored.object):
                for key, value in usage(stored.object).items():
                    if key in total:
                        total[key] += value
        return total

    def refresh(self, namespace: str) -> None:
        """Writes what is used into the status of the namespace's quotas."""
        for stored in list(self._store.all(self._quotas, namespace)):
            quota = stored.object
            hard = (quota.get("spec") or {}).get("hard") or {}
            used = {key: _text(value, hard[key]) for key, value in self._used(quota).items()}
            if quota.get("status") != {"hard": hard, "used": used}:
                self._write(stored, {"hard": hard, "used": used})

    def _write(self, stored: Stored, status: Object) -> None:
        obj = copied(stored)
        obj["status"] = status
        self._store.put(self._quotas, obj, stored.owners)


def _text(value: Fraction, like: str) -> str:
    return quantity.form(value, binary=like.endswith("i"))


def _must_be_set(key: str) -> bool:
    """Compute resources: who has a quota on them must say how much; extended ones count as nothing when unsaid."""
    name = key.removeprefix("requests.").removeprefix("limits.")
    return name in ("cpu", "memory")


def _names(pod: Object) -> str:
    return ",".join(container["name"] for _, container in pods.containers(pod["spec"]))


def _in_scope(quota: Object, pod: Object) -> bool:
    spec = quota.get("spec") or {}
    tests = {
        "BestEffort": pods.quality(pod) == "BestEffort",
        "NotBestEffort": pods.quality(pod) != "BestEffort",
        "Terminating": "activeDeadlineSeconds" in pod["spec"],
        "NotTerminating": "activeDeadlineSeconds" not in pod["spec"],
    }
    return all(tests.get(scope, True) for scope in spec.get("scopes") or ())
