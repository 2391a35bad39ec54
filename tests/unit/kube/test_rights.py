"""Whether this node may do in the cluster what it will have to."""

from collections.abc import Callable

import pytest
from lightkube import AsyncClient

from adaptor.config import Kubernetes
from adaptor.kube import rights
from providers.base import Grade
from tests.worlds.kubernetes.world import World

Connect = Callable[..., AsyncClient]


async def test_an_account_with_every_right_is_told_so(connect: Connect) -> None:
    client = connect()
    (found,) = await rights.findings(client, Kubernetes())
    assert (found.grade, found.message) == (Grade.OK, "the API server answers, and all 16 rights are there")
    await client.aclose()


async def test_each_missing_right_is_named_with_what_is_lost_without_it(connect: Connect, world: World) -> None:
    await world.create(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "half"},
            "rules": [
                {"apiGroups": [""], "resources": ["pods", "nodes", "nodes/status"], "verbs": ["*"]},
                {"apiGroups": ["confidentialcontainers.org"], "resources": ["peerpods"], "verbs": ["*"]},
            ],
        }
    )
    subject = {"kind": "ServiceAccount", "namespace": "peerpods", "name": "adaptor"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "half"}
    await world.create(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "half"},
            "roleRef": role,
            "subjects": [subject],
        }
    )
    client = connect(world.service_account("peerpods", "adaptor"))
    found = await rights.findings(client, Kubernetes(pull_secrets="off"))
    assert [each.subject for each in found] == [
        "right to patch peerpods/status.confidentialcontainers.org",
        "right to create events",
        "right to patch events",
    ]
    assert all(each.grade is Grade.WARNING and "ClusterRole" in each.fix for each in found)
    assert "pods' owners are told" in found[1].message
    await client.aclose()


async def test_an_api_server_that_is_away_is_a_warning_for_pods_start_all_the_same(
    connect: Connect, world: World
) -> None:
    client = connect()
    await world.server.stop()
    (found,) = await rights.findings(client, Kubernetes())
    assert found.grade is Grade.WARNING
    assert "no usable answer" in found.message
    await client.aclose()


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        (Kubernetes(events=False), {"create events", "patch events"}),
        (Kubernetes(pull_secrets="node"), {"get secrets", "get serviceaccounts"}),
        (Kubernetes(capacity="device-plugin"), {"watch nodes", "patch nodes/status"}),
        (Kubernetes(capacity="off"), {"watch nodes", "patch nodes/status", "get nodes", "list pods"}),
    ],
)
def test_what_is_turned_off_needs_no_rights(settings: Kubernetes, missing: set[str]) -> None:
    everything = {str(each) for each in rights.needed(Kubernetes())}
    assert everything - {str(each) for each in rights.needed(settings)} == missing
