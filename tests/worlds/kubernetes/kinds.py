"""Which resources there are: the built-in ones as a table, those of CRDs as they come."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tests.worlds.kubernetes import schema


@dataclass(frozen=True, slots=True)
class Kind:
    """A resource of one group and version."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    subresources: frozenset[str] = frozenset()
    generation: bool = False  # counts changes of everything but metadata and status
    custom: str = ""  # the name of the CRD that made it

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


# version, then resources: plural, Kind, flags: c(luster-wide), s(tatus subresource), g(eneration)
_BUILT_IN: Final = {
    "v1": """
        namespaces Namespace cs; nodes Node cs; pods Pod sg; events Event -; secrets Secret -; configmaps ConfigMap -
        serviceaccounts ServiceAccount -; limitranges LimitRange -; resourcequotas ResourceQuota s; services Service s
        endpoints Endpoints -; persistentvolumes PersistentVolume cs; persistentvolumeclaims PersistentVolumeClaim s""",
    "apps/v1": """
        deployments Deployment sg; daemonsets DaemonSet sg; statefulsets StatefulSet sg; replicasets ReplicaSet sg""",
    "batch/v1": "jobs Job sg; cronjobs CronJob sg",
    "coordination.k8s.io/v1": "leases Lease -",
    "discovery.k8s.io/v1": "endpointslices EndpointSlice -",
    "node.k8s.io/v1": "runtimeclasses RuntimeClass c",
    "scheduling.k8s.io/v1": "priorityclasses PriorityClass cg",
    "storage.k8s.io/v1": "storageclasses StorageClass c; csidrivers CSIDriver c; volumeattachments VolumeAttachment cs",
    "policy/v1": "poddisruptionbudgets PodDisruptionBudget sg",
    "networking.k8s.io/v1": "networkpolicies NetworkPolicy g; ingresses Ingress sg",
    "rbac.authorization.k8s.io/v1": """
        roles Role -; rolebindings RoleBinding -; clusterroles ClusterRole c; clusterrolebindings ClusterRoleBinding c""",
    "admissionregistration.k8s.io/v1": """
        mutatingwebhookconfigurations MutatingWebhookConfiguration cg
        validatingwebhookconfigurations ValidatingWebhookConfiguration cg
        mutatingadmissionpolicies MutatingAdmissionPolicy cg
        mutatingadmissionpolicybindings MutatingAdmissionPolicyBinding cg
        validatingadmissionpolicies ValidatingAdmissionPolicy csg
        validatingadmissionpolicybindings ValidatingAdmissionPolicyBinding cg""",
    "apiextensions.k8s.io/v1": "customresourcedefinitions CustomResourceDefinition csg",
}
_ACTIONS: Final = {"pods": {"binding", "eviction", "resize", "log", "exec"}, "serviceaccounts": {"token"}}


def _built_in() -> Iterator[Kind]:
    for api_version, text in _BUILT_IN.items():
        group, _, version = api_version.rpartition("/")
        for entry in text.replace("\n", ";").split(";"):
            if not entry.strip():
                continue
            plural, kind, flags = entry.split()
            subresources = {"status"} if "s" in flags else set()
            subresources |= _ACTIONS.get(plural, set())
            yield Kind(group, version, plural, kind, "c" not in flags, frozenset(subresources), "g" in flags)


def of_crd(crd: dict[str, Any]) -> Iterator[tuple[Kind, schema.Schema]]:
    """What a CRD serves: a kind and a schema for each version."""
    spec = crd["spec"]
    for version in spec["versions"]:
        if version.get("served"):
            kind = Kind(
                spec["group"],
                version["name"],
                spec["names"]["plural"],
                spec["names"]["kind"],
                spec["scope"] == "Namespaced",
                frozenset(version.get("subresources") or {}),
                generation=True,
                custom=crd["metadata"]["name"],
            )
            yield kind, version["schema"]["openAPIV3Schema"]


class Kinds:
    """Every resource that is served now, by where it is found and by what objects call it."""

    def __init__(self) -> None:
        self._by_path: dict[tuple[str, str, str], Kind] = {}
        self._by_name: dict[tuple[str, str], Kind] = {}
        self._schemas: dict[Kind, schema.Schema] = {}
        for kind in _built_in():
            self._add(kind)

    def _add(self, kind: Kind) -> None:
        self._by_path[kind.group, kind.version, kind.plural] = kind
        self._by_name[kind.api_version, kind.kind] = kind

    def add_crd(self, crd: dict[str, Any]) -> None:
        self.remove_crd(crd["metadata"]["name"])
        for kind, its_schema in of_crd(crd):
            self._add(kind)
            self._schemas[kind] = its_schema

    def remove_crd(self, name: str) -> list[Kind]:
        gone = [kind for kind in self if kind.custom == name]
        for kind in gone:
            del self._by_path[kind.group, kind.version, kind.plural]
            del self._by_name[kind.api_version, kind.kind]
            del self._schemas[kind]
        return gone

    def at(self, group: str, version: str, plural: str) -> Kind | None:
        return self._by_path.get((group, version, plural))

    def called(self, api_version: str, kind: str) -> Kind | None:
        return self._by_name.get((api_version, kind))

    def schema(self, kind: Kind) -> schema.Schema:
        return self._schemas[kind] if kind.custom else schema.built_in(kind.api_version, kind.kind)

    def __iter__(self) -> Iterator[Kind]:
        return iter(list(self._by_path.values()))
