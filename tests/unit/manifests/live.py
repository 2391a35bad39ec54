"""A real cluster, where KUBECONFIG names one: plain JSON over lightkube's own connection, and callers by impersonation."""

import os
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import pytest

KUBECONFIG: Final = os.environ.get("KUBECONFIG", "")
needed = pytest.mark.skipif(not KUBECONFIG, reason="policies run in a real API server only: set KUBECONFIG")

ADMISSION: Final = "/apis/admissionregistration.k8s.io/v1"
RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
PATHS: Final = {
    "MutatingAdmissionPolicy": f"{ADMISSION}/mutatingadmissionpolicies",
    "MutatingAdmissionPolicyBinding": f"{ADMISSION}/mutatingadmissionpolicybindings",
    "ValidatingAdmissionPolicy": f"{ADMISSION}/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": f"{ADMISSION}/validatingadmissionpolicybindings",
    "ClusterRole": f"{RBAC}/clusterroles",
    "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
}
_PATCHES: Final = {"merge": "application/merge-patch+json", "json": "application/json-patch+json"}


class Cluster:
    """Every call answers (HTTP status, object)."""

    def __init__(self) -> None:
        from lightkube import Client, KubeConfig

        self._http = Client(config=KubeConfig.from_file(KUBECONFIG))._client._client
        self._made: list[str] = []

    def call(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None, **query: str
    ) -> tuple[int, Any]:
        answer = self._http.request(method, path, json=body, params=query, headers=dict(headers or {}))
        return answer.status_code, answer.json()

    def make(self, path: str, body: Any) -> None:
        """For as long as the test lasts; in place of one that an earlier run has left."""
        own = f"{path}/{body['metadata']['name']}"
        status, said = self.call("POST", path, body)
        if status == 409 and path in PATHS.values():
            self.call("DELETE", own)
            status, said = self.call("POST", path, body)
        assert status in (201, 409), said
        self._made.append(own)

    def drop(self, count: int) -> None:
        """The last `count` that were made."""
        for _ in range(count):
            self.call("DELETE", self._made.pop())

    def version(self) -> tuple[int, int]:
        _, found = self.call("GET", "/version")
        return int(found["major"]), int(found["minor"].rstrip("+"))

    def close(self) -> None:
        self.drop(len(self._made))
        self._http.close()


def acting_as(account: str, namespace: str, node: str = "") -> dict[str, str]:
    """Headers of a pod's token: with `node`, one that is bound to a pod there."""
    found = {"Impersonate-User": f"system:serviceaccount:{namespace}:{account}"}
    if node:
        found[f"Impersonate-Extra-{quote('authentication.kubernetes.io/node-name', safe='')}"] = node
    return found


def patching(kind: str, headers: Mapping[str, str]) -> dict[str, str]:
    return {**headers, "Content-Type": _PATCHES[kind]}
