"""Values that cannot be meant are refused before anything is installed, with what to write instead."""

from typing import Any

import pytest
import yaml

from tests import chart
from tests.unit.manifests import charts


def changed(path: str, value: Any, name: str = "aws") -> dict[str, Any]:
    given = charts.values(name)
    *way, last = path.split(".")
    holder = given
    for part in way:
        holder = holder.setdefault(part, {})
    holder[last] = value
    return given


def test_the_schema_is_made_of_the_settings() -> None:
    """When this fails: `make docs`."""
    assert chart.SCHEMA.read_text() == chart.text()


@pytest.mark.parametrize("name", charts.names())
def test_helm_has_no_objection(name: str) -> None:
    version = "1.36.0" if name == "policy" else "1.34.0"
    done = charts.run("lint", "--strict", str(charts.CHART), "--kube-version", version, given=charts.values(name))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("config.node.clustr", "x", "clustr"),
        ("config.nodes", {}, "nodes"),
        ("config.aws.imagee", "x", "imagee"),
        ("config.node.name", "x", "name"),
        ("config.gcp", {"credentials": "{}"}, "credentials"),
        ("config.azure", {"client_secret": "x"}, "client_secret"),
        ("config.webhook.certificates", "/x", "certificates"),
        ("config.webhook.mode", "stripp", "mode"),
        ("config.kubernetes.capacity", "both", "capacity"),
        ("config.kubernetes.runtime_classes", [], "runtime_classes"),
        ("webhook.timeoutSeconds", 10, "timeoutSeconds"),
        ("webhook.failurePolicy", "fail", "failurePolicy"),
        ("adaptor.resource", {}, "resource"),
        ("adaptor.resources.limit", {}, "limit"),
        ("relay.livenessProbe", {}, "livenessProbe"),
        ("relay.updateStrategy", "Recreate", "updateStrategy"),
        ("image.digest", "abc", "digest"),
        ("admission", "mutating", "admission"),
        ("limit", 10, "limit"),
        ("credentials.values", {"A": 1}, "values"),
    ],
)
def test_a_slip_of_the_pen_is_refused(path: str, value: Any, said: str) -> None:
    done = charts.template(changed(path, value))
    assert done.returncode != 0
    assert "schema" in done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("image.repository", "", "image.repository must be given"),
        ("config.cloud.provider", "", "config.cloud.provider must be given"),
        ("config.node.cluster", "", "config.node.cluster must be given"),
        ("admission", "policy", "needs Kubernetes 1.36"),
        ("admission", "none", "nothing that asks for kata.peerpods.io/vm"),
        ("runtimeClass.vmInOverhead", True, "needs runtimeClass.create"),
        ("credentials", {"existingSecret": "a", "values": {"B": "c"}}, "which one counts"),
    ],
)
def test_what_contradicts_itself_is_refused_with_what_to_do(path: str, value: Any, said: str) -> None:
    done = charts.template(changed(path, value))
    assert done.returncode != 0
    assert said in done.stderr


def test_a_quota_without_a_webhook_is_refused() -> None:
    done = charts.template(changed("config.quota", {"cluster": "pods=1"}, "policy"), "1.36.0")
    assert "config.quota needs admission: webhook" in done.stderr


def test_the_webhook_free_mode_counts_vms_in_the_runtime_class() -> None:
    given = changed("admission", "none")
    given["runtimeClass"] = {"create": True, "vmInOverhead": True}
    objects = charts.render(given)
    classes = [each for each in objects if each["kind"] == "RuntimeClass"]
    assert [each["overhead"]["podFixed"]["kata.peerpods.io/vm"] for each in classes] == ["1"]
    assert not [each for each in objects if "webhook" in each["metadata"]["name"]]
    assert not [each for each in objects if each["kind"].endswith("WebhookConfiguration")]


def test_an_older_cluster_gets_no_policy_that_it_does_not_know() -> None:
    kinds = {each["kind"] for each in charts.render(charts.values("aws"), "1.29.0")}
    assert "ValidatingAdmissionPolicy" not in kinds
    assert "MutatingWebhookConfiguration" in kinds


def test_what_admits_pods_knows_every_runtime_class() -> None:
    expressions = [
        webhook["matchConditions"][0]["expression"]
        for each in charts.rendered("everything")
        if each["kind"].endswith("WebhookConfiguration")
        for webhook in each["webhooks"]
    ]
    assert len(expressions) == 2
    assert all("['kata-remote', 'kata-remote-snp']" in each for each in expressions)


def test_relays_can_be_pinned_to_an_image_of_their_own() -> None:
    images = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]["containers"][0]["image"]
        for each in charts.rendered("everything")
        if each["kind"] in ("DaemonSet", "Deployment")
    }
    for pinned in ("peerpods-relay", "peerpods-wireguard"):
        assert images.pop(pinned) == "registry.example/peerpods:1.2.0"
    assert set(images.values()) == {"registry.example/peerpods:1.2.3"}
    azure = next(each for each in charts.rendered("azure") if each["kind"] == "DaemonSet")
    digest = charts.values("azure")["image"]["digest"]
    assert azure["spec"]["template"]["spec"]["containers"][0]["image"] == f"registry.example/peerpods@{digest}"


def test_refusing_can_be_turned_off() -> None:
    kinds = [each["kind"] for each in charts.render(changed("config.webhook", {"refuse": False}))]
    assert "ValidatingWebhookConfiguration" not in kinds
    assert "MutatingWebhookConfiguration" in kinds


def test_extras_of_other_clusters_reach_the_pods() -> None:
    objects = charts.rendered("gcp")
    accounts = {each["metadata"]["name"]: each for each in objects if each["kind"] == "ServiceAccount"}
    for name in ("peerpods-adaptor", "peerpods-controller", "peerpods-uninstall"):
        assert "iam.gke.io/gcp-service-account" in accounts[name]["metadata"]["annotations"]
    pods = {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in objects if each["kind"] == "Job"}
    assert {"federation"} <= {each["name"] for each in pods["peerpods-uninstall"]["volumes"]}


def test_every_value_is_explained_where_it_stands() -> None:
    """values.yaml is the page that people read: every key of the schema but Kubernetes' own is in it."""
    text = (charts.CHART / "values.yaml").read_text()
    stated = yaml.safe_load(text)
    properties = chart.schema()["properties"]
    assert stated.keys() == properties.keys() - {"global"}
    for name, inner in properties.items():
        if name not in ("config", "global", "commonLabels", "imagePullSecrets") and "properties" in inner:
            assert stated[name].keys() == inner["properties"].keys(), name
