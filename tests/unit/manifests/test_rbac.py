"""The roles allow the calls that the programs make, and no others."""

from collections.abc import Iterator
from typing import Any

import pytest

from adaptor import names
from tests.unit.manifests import charts
from tests.unit.manifests.test_objects import of_kind

PEERPODS = names.PEERPOD_GROUP
OWN = charts.NAMESPACE
Call = tuple[str, str, str, str, str]  # verb, API group, resource, name, namespace (empty: any)

ADAPTOR: list[Call] = [
    # kube/capacity.py
    ("get", "", "nodes", "n", ""),
    ("watch", "", "nodes", "n", ""),
    ("patch", "", "nodes/status", "n", ""),
    ("list", "", "pods", "", ""),
    # kube/pods.py, kube/events.py
    ("get", "", "pods", "p", "x"),
    ("create", "", "events", "", "x"),
    ("patch", "", "events", "e", "x"),
    # kube/peerpods.py
    *((verb, PEERPODS, "peerpods", "", "x") for verb in ("create", "get", "patch", "delete")),
    *((verb, PEERPODS, "peerpods", "", "") for verb in ("list", "watch")),
    ("patch", PEERPODS, "peerpods/status", "a", "x"),
]
ADAPTOR_OWN_SECRETS: list[Call] = [("get", "", "secrets", "s", "x"), ("get", "", "serviceaccounts", "a", "x")]
CONTROLLER: list[Call] = [
    # mirrors of pods, nodes, namespaces, PeerPods; leftovers.py; finisher.py
    *((verb, "", kind, "", "") for kind in ("pods", "nodes", "namespaces") for verb in ("get", "list", "watch")),
    *((verb, PEERPODS, "peerpods", "", "") for verb in ("get", "list", "watch", "patch", "delete")),
    # quota.py
    ("patch", "", "pods", "p", "x"),
    # voice.py
    ("create", "", "events", "", "x"),
    ("patch", "", "events", "e", "x"),
    # election.py
    ("create", "coordination.k8s.io", "leases", "", OWN),
    ("get", "coordination.k8s.io", "leases", names.LEASE, OWN),
    ("update", "coordination.k8s.io", "leases", names.LEASE, OWN),
]
OFFERINGS: list[Call] = [(verb, "", "configmaps", names.OFFERINGS, OWN) for verb in ("get", "update")]
BUNDLES: list[Call] = [
    (verb, "admissionregistration.k8s.io", kind, "peerpods", "")
    for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")
    for verb in ("get", "patch")
]
CERTIFICATES: list[Call] = [(verb, "", "secrets", names.WEBHOOK_TLS, OWN) for verb in ("get", "update")]
UNINSTALL: list[Call] = [
    *((verb, "apps", "daemonsets", "peerpods-adaptor", OWN) for verb in ("get", "delete")),
    *((verb, "apps", "deployments", "peerpods-controller", OWN) for verb in ("get", "delete")),
    ("delete", "coordination.k8s.io", "leases", names.LEASE, OWN),
    ("delete", "", "secrets", names.WEBHOOK_TLS, OWN),
    ("delete", "", "configmaps", names.OFFERINGS, OWN),
]
WANTED: dict[str, dict[str, list[Call]]] = {
    "aws": {
        "adaptor": ADAPTOR,
        "controller": [*CONTROLLER, *OFFERINGS, *BUNDLES, *CERTIFICATES],
        "uninstall": [*(call for call in CONTROLLER if call[2] != "leases"), *UNINSTALL],
    },
    "azure": {"adaptor": [*ADAPTOR, *ADAPTOR_OWN_SECRETS], "controller": [*CONTROLLER, *OFFERINGS, *BUNDLES]},
    "policy": {"adaptor": ADAPTOR, "controller": CONTROLLER},
}
CASES = [(name, account) for name, accounts in WANTED.items() for account in accounts]


def rules_of(name: str, account: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(namespace or empty, rule) of every role that is bound to it."""
    objects = charts.rendered(name)
    roles = {
        (each["kind"], each["metadata"]["name"]): each["rules"] for each in of_kind(objects, "Role", "ClusterRole")
    }
    for each in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        if account in [subject["name"].removeprefix("peerpods-") for subject in each["subjects"]]:
            for rule in roles[each["roleRef"]["kind"], each["roleRef"]["name"]]:
                yield each["metadata"].get("namespace", ""), rule


def allows(namespace: str, rule: dict[str, Any], call: Call) -> bool:
    verb, group, resource, name, where = call
    return (
        namespace in ("", where)
        and verb in rule["verbs"]
        and group in rule["apiGroups"]
        and resource in rule["resources"]
        and ("resourceNames" not in rule or name in rule["resourceNames"])
    )


@pytest.mark.parametrize(("name", "account"), CASES)
def test_every_call_is_allowed(name: str, account: str) -> None:
    rules = list(rules_of(name, account))
    refused = [call for call in WANTED[name][account] if not any(allows(*rule, call) for rule in rules)]
    assert refused == []


@pytest.mark.parametrize(("name", "account"), [case for case in CASES if case[1] != "uninstall"])
def test_nothing_is_allowed_that_nobody_does(name: str, account: str) -> None:
    calls = WANTED[name][account]
    spare = [
        (verb, resource)
        for namespace, rule in rules_of(name, account)
        for verb in rule["verbs"]
        for resource in rule["resources"]
        for group in rule["apiGroups"]
        if not [call for call in calls if call[:3] == (verb, group, resource) and allows(namespace, rule, call)]
    ]
    assert spare == []


@pytest.mark.parametrize("account", ["relay", "webhook"])
def test_who_calls_nobody_may_do_nothing(account: str) -> None:
    assert list(rules_of("aws", account)) == []
