"""What the chart's pods may do, as a scanner would ask: nothing without a reason that is written down here."""

import re
from typing import Any

import pytest

from tests.unit.manifests import charts
from tests.unit.manifests.test_objects import each_set, of_kind, pod_specs

NODE_PARTS = {"peerpods-adaptor", "peerpods-relay", "peerpods-wireguard"}
CAPABILITIES = {
    # setns(2) into a pod's network namespace, the tunnels' devices there, and to see that they carry frames
    "peerpods-adaptor": ["SYS_ADMIN", "NET_ADMIN", "NET_RAW"],
    "peerpods-wireguard": ["NET_ADMIN"],  # its device
}


@each_set
def test_no_container_has_more_than_it_needs(name: str) -> None:
    for which, _, spec in pod_specs(charts.rendered(name)):
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostPID", "hostIPC"} & spec.keys()
        for container in spec["containers"]:
            context = container["securityContext"]
            assert not context.get("privileged")
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"]["drop"] == ["ALL"]
            assert context["capabilities"].get("add", []) == CAPABILITIES.get(which, [])


@each_set
def test_only_the_parts_of_a_node_are_root_and_on_its_network(name: str) -> None:
    for which, _, spec in pod_specs(charts.rendered(name)):
        assert spec.get("hostNetwork", False) == (which in NODE_PARTS)
        if which in NODE_PARTS:
            continue
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert not [each for each in spec["volumes"] if "hostPath" in each]


@each_set
def test_of_the_host_only_these_paths_are_written(name: str) -> None:
    """Sockets that kata's shim shares, the journal, and kubelet's device plugins where that is chosen."""
    written = {
        "/run/peerpod",
        "/run/kata-remote",
        "/var/lib/peerpods",
        "/var/lib/other",
        "/var/lib/kubelet/device-plugins",
        "/run/wireguard",
        "/dev/net/tun",
    }
    for which, _, spec in pod_specs(charts.rendered(name)):
        paths = {each["name"]: each["hostPath"]["path"] for each in spec["volumes"] if "hostPath" in each}
        for container in spec["containers"]:
            for mount in container["volumeMounts"]:
                if mount["name"] in paths and not mount.get("readOnly"):
                    assert paths[mount["name"]] in written, which
    assert "/" not in paths.values()


@each_set
def test_every_container_says_what_it_needs(name: str) -> None:
    for which, _, spec in pod_specs(charts.rendered(name)):
        for container in spec["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), which
            if which not in {
                "peerpods-relay",
                "peerpods-wireguard",
            }:  # killed for memory they would cut off a node's pods
                assert "memory" in container["resources"]["limits"], which


@each_set
def test_images_are_of_a_version(name: str) -> None:
    for which, _, spec in pod_specs(charts.rendered(name)):
        for container in spec["containers"]:
            assert re.fullmatch(r"\S+(:[^:/@]+|@sha256:[0-9a-f]{64})", container["image"]), which
            assert not container["image"].endswith(":latest"), which


@each_set
def test_a_token_is_only_where_the_api_server_is_called(name: str) -> None:
    objects = charts.rendered(name)
    mounted = {
        each["metadata"]["name"]: each["automountServiceAccountToken"] for each in of_kind(objects, "ServiceAccount")
    }
    assert {account for account, mounts in mounted.items() if mounts} == {
        "peerpods-adaptor",
        "peerpods-controller",
        "peerpods-uninstall",
    }


def rules(name: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{each['kind']} {each['metadata']['name']}", rule)
        for each in of_kind(charts.rendered(name), "Role", "ClusterRole")
        for rule in each["rules"]
    ]


@each_set
def test_no_rule_has_a_wildcard_or_lets_anybody_rise(name: str) -> None:
    for where, rule in rules(name):
        words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        assert not [word for word in words if "*" in word], where
        assert not words & {"escalate", "bind", "impersonate", "deletecollection"}, where
        assert not words & {"pods/exec", "pods/attach", "serviceaccounts/token", "nodes/proxy"}, where


@each_set
def test_secrets_are_reached_by_name_only(name: str) -> None:
    for where, rule in rules(name):
        if "secrets" not in rule["resources"]:
            continue
        all_of_them = not rule.get("resourceNames")
        assert not all_of_them or (name == "azure" and where == "ClusterRole peerpods-adaptor"), where
        assert not {"list", "watch", "create"} & set(rule["verbs"]), where


def test_reading_every_secret_is_a_choice_that_is_told_loudly() -> None:
    """pull_secrets: own, which the set azure has and the default has not."""
    assert "EVERY Secret of the cluster" in charts.template(charts.values("azure")).stdout
    assert "EVERY Secret" not in charts.template(charts.values("aws")).stdout
    assert "EVERY Secret" in (charts.CHART / "templates" / "NOTES.txt").read_text()
    assert "secrets" in {
        resource for where, rule in rules("azure") if "adaptor" in where for resource in rule["resources"]
    }
    assert "secrets" not in {
        resource for where, rule in rules("aws") if "adaptor" in where for resource in rule["resources"]
    }


@pytest.mark.parametrize(("name", "mounted"), [("aws", True), ("everything", True), ("azure", False), ("gcp", False)])
def test_kubelets_credentials_are_mounted_only_where_they_are_used(name: str, mounted: bool) -> None:
    for which, _, spec in pod_specs(charts.rendered(name)):
        found = [each["name"] for each in spec["volumes"] if each["name"].startswith("kubelet-")]
        assert bool(found) == (mounted and which == "peerpods-adaptor")


def test_the_webhook_does_not_see_its_own_authoritys_key() -> None:
    spec = next(spec for which, _, spec in pod_specs(charts.rendered("aws")) if which == "peerpods-webhook")
    items = next(each["secret"]["items"] for each in spec["volumes"] if each["name"] == "certificates")
    assert {each["key"] for each in items} == {"tls.crt", "tls.key"}


def test_credentials_stand_in_a_secret_only() -> None:
    secret = charts.values("everything")["credentials"]["values"]["AWS_SECRET_ACCESS_KEY"]
    holders = [each["kind"] for each in charts.rendered("everything") if secret in str(each)]
    assert holders == ["Secret"]
