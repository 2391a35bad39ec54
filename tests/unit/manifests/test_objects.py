"""Every object of the chart is one that Kubernetes takes, and they fit together."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.unit.manifests import charts
from tests.unit.manifests.charts import Object

VERSIONS = {"policy": "1.36", "aws": "1.30", "azure": "1.34"}
OTHERS = ("monitoring.coreos.com/v1", "cert-manager.io/v1")  # kinds of other projects, whose schemas are not at hand
each_set = pytest.mark.parametrize("name", charts.names())


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def pod_specs(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """(name, pod's metadata, pod's spec) of all that makes pods."""
    for each in of_kind(objects, "DaemonSet", "Deployment", "Job"):
        template = each["spec"]["template"]
        yield each["metadata"]["name"], template["metadata"], template["spec"]


def named(objects: list[Object], kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in of_kind(objects, kind)}


@each_set
def test_kubernetes_own_schema_takes_every_object(name: str) -> None:
    for each in charts.rendered(name):
        if each["apiVersion"] not in OTHERS:
            kubernetes_validate.validate(each, VERSIONS.get(name, "1.33"), strict=True)


@each_set
def test_no_two_objects_are_the_same(name: str) -> None:
    keys = [(each["kind"], each["metadata"]["name"]) for each in charts.rendered(name)]
    assert len(keys) == len(set(keys))


@each_set
def test_objects_are_where_they_belong_and_labelled(name: str) -> None:
    cluster_wide = {
        "ClusterRole",
        "ClusterRoleBinding",
        "RuntimeClass",
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
        "MutatingAdmissionPolicy",
        "MutatingAdmissionPolicyBinding",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    for each in charts.rendered(name):
        expected = None if each["kind"] in cluster_wide else charts.NAMESPACE
        assert each["metadata"].get("namespace") == expected, each["metadata"]
        assert each["metadata"]["labels"]["app.kubernetes.io/name"] == "peerpods"


@each_set
def test_whoever_selects_pods_finds_them(name: str) -> None:
    objects = charts.rendered(name)
    labels = [metadata["labels"] for _, metadata, _ in pod_specs(objects)]
    for each in objects:
        spec = each.get("spec", {})
        selector = spec.get("selector", spec.get("podSelector"))
        if not selector or each["kind"] == "Job":
            continue
        wanted = selector if each["kind"] == "Service" else selector["matchLabels"]
        found = [each for each in labels if wanted.items() <= each.items()]
        many = each["metadata"]["name"] == "peerpods-metrics"
        assert len(found) == 1 or (many and found), f"{each['kind']} {each['metadata']['name']} selects {len(found)}"


@each_set
def test_a_controllers_selector_matches_its_own_pods(name: str) -> None:
    for each in of_kind(charts.rendered(name), "DaemonSet", "Deployment"):
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert each["spec"]["selector"]["matchLabels"].items() <= labels.items()


@each_set
def test_what_pods_refer_to_exists(name: str) -> None:
    objects = charts.rendered(name)
    made_by_cert_manager = {each["spec"]["secretName"] for each in of_kind(objects, "Certificate")}
    secrets = named(objects, "Secret") | made_by_cert_manager
    for which, _, spec in pod_specs(objects):
        assert spec["serviceAccountName"] in named(objects, "ServiceAccount"), which
        volumes = {each["name"]: each for each in spec["volumes"]}
        for volume in volumes.values():
            if (config := volume.get("configMap")) and not config.get("optional"):
                assert config["name"] in named(objects, "ConfigMap"), which
            if secret := volume.get("secret"):
                assert secret["secretName"] in secrets, which
        for container in spec["containers"]:
            mounted = [each["name"] for each in container["volumeMounts"]]
            assert sorted(mounted) == sorted(volumes), f"{which}: what is declared is mounted, once"
            paths = [each["mountPath"] for each in container["volumeMounts"]]
            assert len(paths) == len(set(paths)), which
            for source in container.get("envFrom", []):
                assert source["secretRef"]["name"] in secrets, which


@each_set
def test_ports_lead_to_containers(name: str) -> None:
    objects = charts.rendered(name)
    ports = {
        metadata["labels"]["app.kubernetes.io/component"]: {
            port["name"] for container in spec["containers"] for port in container.get("ports", [])
        }
        for _, metadata, spec in pod_specs(objects)
    }
    for _, metadata, spec in pod_specs(objects):
        own = ports[metadata["labels"]["app.kubernetes.io/component"]]
        for container in spec["containers"]:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                assert port is None or isinstance(port, int) or port in own
    for each in of_kind(objects, "Service"):
        component = each["spec"]["selector"]["app.kubernetes.io/component"]
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports[component]
    for each in of_kind(objects, "NetworkPolicy"):
        component = each["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        assert {port["port"] for rule in each["spec"]["ingress"] for port in rule["ports"]} <= ports[component]
    for each in of_kind(objects, "PodMonitor"):
        for component in each["spec"]["selector"]["matchExpressions"][0]["values"]:
            assert {endpoint["port"] for endpoint in each["spec"]["podMetricsEndpoints"]} <= ports[component]


@each_set
def test_webhook_configurations_call_the_service_that_there_is(name: str) -> None:
    objects = charts.rendered(name)
    services = {
        each["metadata"]["name"]: {port["port"] for port in each["spec"]["ports"]}
        for each in of_kind(objects, "Service")
    }
    for each in of_kind(objects, "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        assert each["metadata"]["name"] == "peerpods", "config.controller.webhook_configurations"
        for webhook in each["webhooks"]:
            service = webhook["clientConfig"]["service"]
            assert service["port"] in services[service["name"]]
            assert service["namespace"] == charts.NAMESPACE
            assert "caBundle" not in webhook["clientConfig"], "an upgrade would reset it"
            assert webhook["timeoutSeconds"] <= 5
            assert webhook["sideEffects"] == "None"
            assert webhook["matchConditions"]
            excluded = webhook["namespaceSelector"]["matchExpressions"][0]
            assert {charts.NAMESPACE, "kube-system"} <= set(excluded["values"])


def test_the_certificate_names_the_service() -> None:
    certificate = of_kind(charts.rendered("azure"), "Certificate")[0]["spec"]
    assert f"peerpods-webhook.{charts.NAMESPACE}.svc" in certificate["dnsNames"]
    injected = {
        each["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
        for each in charts.rendered("azure")
        if each["kind"].endswith("WebhookConfiguration")
    }
    assert injected == {f"{charts.NAMESPACE}/peerpods-webhook"}
    issuer = of_kind(charts.rendered("azure"), "Issuer")[0]
    assert (certificate["issuerRef"]["kind"], certificate["issuerRef"]["name"]) == (
        "Issuer",
        issuer["metadata"]["name"],
    )


@each_set
def test_a_policy_and_its_binding_come_together(name: str) -> None:
    objects = charts.rendered(name)
    for kind in ("MutatingAdmissionPolicy", "ValidatingAdmissionPolicy"):
        bound = {each["spec"]["policyName"] for each in of_kind(objects, f"{kind}Binding")}
        assert bound == named(objects, kind)


@each_set
def test_bindings_bind_roles_and_accounts_that_there_are(name: str) -> None:
    objects = charts.rendered(name)
    for each in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        assert each["roleRef"]["name"] in named(objects, each["roleRef"]["kind"])
        for subject in each["subjects"]:
            assert subject["namespace"] == charts.NAMESPACE
            assert subject["name"] in named(objects, "ServiceAccount")


def test_the_crd_takes_what_the_adaptor_writes() -> None:
    """structurally: what the API server would prune or refuse."""
    from adaptor.kube import peerpod

    definition = yaml.safe_load((charts.CHART / "crds" / "peerpods.yaml").read_text())
    kubernetes_validate.validate(definition, "1.34", strict=True)
    version = definition["spec"]["versions"][0]
    schema: dict[str, Any] = json.loads(json.dumps(version["schema"]["openAPIV3Schema"]))
    for part in ("spec", "status"):
        schema["properties"][part]["additionalProperties"] = False
    value = peerpod.PeerPod(
        name="a-1",
        namespace="x",
        cloud="aws",
        instance_id="i-1",
        node="n",
        sandbox="s" * 64,
        pod_name="a",
        pod_uid="u",
        token="t",
        phase="running",
        instance_type="m6a.large",
        zone="z",
        purchase="spot",
        tee="snp",
        price=0.0864,
        address="10.0.0.1",
        reason="r",
        times={"created": "2026-01-01T00:00:00Z"},
        conditions=(peerpod.Condition("Ready", True, "Bound", "m", "2026-01-01T00:00:00Z"),),
    )
    jsonschema.validate({**peerpod.to_object(value), "status": peerpod.status(value)}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"spec": {"instanceld": "typo"}}, schema)


def test_nothing_in_the_chart_is_left_out_of_the_package() -> None:
    ignored = (charts.CHART / ".helmignore").read_text().split()
    assert not [path for path in charts.CHART.rglob("*") for end in ignored if Path(path).match(end)]
