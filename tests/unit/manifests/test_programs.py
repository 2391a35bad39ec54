"""What the chart's pods start is what this program is: its verbs, its settings, its environment, its paths."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from adaptor import config, daemon, names, upstream_env
from adaptor.cli import parser
from adaptor.podnet.wireguard_device import PROGRAM, SOCKETS
from providers import registry
from providers.settings import settings_of
from tests.unit.manifests import charts
from tests.unit.manifests.test_objects import each_set, of_kind, pod_specs

# What SDKs read themselves.
OF_SDKS = ("AWS_", "AZURE_", "GOOGLE_")


def known_environment() -> set[str]:
    clouds = [type(registry.parse_config(name, {}, {}, [])) for name in registry.BUILT_IN]
    return {name for room in (*config.ROOMS.values(), *clouds) for _, rule in settings_of(room) for name in rule.env}


def toml(name: str) -> str:
    objects = charts.rendered(name)
    return str(
        next(each for each in of_kind(objects, "ConfigMap") if each["metadata"]["name"] == "peerpods-config")["data"][
            "peerpods.toml"
        ]
    )


def loaded(name: str, tmp_path: Path) -> config.Config:
    path = tmp_path / "peerpods.toml"
    path.write_text(toml(name))
    environment = {"NODE_NAME": "node-1", "POD_NAMESPACE": charts.NAMESPACE}
    return config.load(str(path), environment)


@each_set
def test_every_argument_is_one_that_the_command_takes(name: str) -> None:
    for which, _, spec in pod_specs(charts.rendered(name)):
        for container in spec["containers"]:
            assert "command" not in container, f"{which}: the image's entry point is peerpods"
            chosen = parser.build().parse_args(container["args"])
            assert chosen.run


@each_set
def test_every_variable_is_one_that_is_read(name: str) -> None:
    known = known_environment() | {"POD_NAME"}
    ignored = {each.name for each in (*upstream_env.IGNORED, *upstream_env.REFUSED)}
    for which, _, spec in pod_specs(charts.rendered(name)):
        for container in spec["containers"]:
            for variable in container.get("env", []):
                assert variable["name"] in known or variable["name"].startswith(OF_SDKS), which
                assert variable["name"] not in ignored


@each_set
def test_the_configuration_is_accepted_without_a_remark(name: str, tmp_path: Path) -> None:
    found = loaded(name, tmp_path)
    assert found.warnings == ()
    assert found.kubernetes.enabled == "on"
    assert found.kubernetes.namespace == charts.NAMESPACE
    assert not found.node.spawn_relay, "a relay that an adaptor's container starts would end with it"


def test_the_configuration_says_what_the_values_say(tmp_path: Path) -> None:
    found = loaded("everything", tmp_path)
    assert found.guest.initdata == charts.values("everything")["config"]["guest"]["initdata"]
    assert dict(found.settings.tags) == {"team": "storage"}
    assert found.guest.link_grace == 90.0
    assert found.quota.cluster == (("pods", 100), ("vcpus", 400))
    assert found.webhook.quota
    assert loaded("gcp", tmp_path).selection.max_price == 0.4
    assert not loaded("azure", tmp_path).controller.webhook_certificates, "cert-manager's"


@each_set
def test_numbers_stay_numbers_and_texts_texts(name: str) -> None:
    """Helm's own numbers are floats: 16 must not become 16.0."""
    given = charts.values(name)["config"]
    written = tomllib.loads(toml(name))
    for table, keys in given.items():
        for key, value in keys.items():
            assert written[table][key] == value
            assert type(written[table][key]) is type(value)


def _inside(path: str, mounts: dict[str, Any]) -> bool:
    return any(path == each or path.startswith(each.rstrip("/") + "/") for each in mounts)


@each_set
def test_every_path_of_the_configuration_is_mounted(name: str, tmp_path: Path) -> None:
    found = loaded(name, tmp_path)
    specs = {which: spec for which, _, spec in pod_specs(charts.rendered(name))}
    mounts = {
        which: {each["mountPath"]: each for each in spec["containers"][0]["volumeMounts"]}
        for which, spec in specs.items()
    }
    node = found.node
    adaptor = mounts["peerpods-adaptor"]
    for path in (node.hypervisor_socket, node.pods_dir, node.relay_socket, node.state_dir, found.volumes.bundles):
        assert _inside(path, adaptor), path
    assert _inside("/run/netns", adaptor)
    assert adaptor["/run/netns"]["mountPropagation"] == "HostToContainer"
    for path in (node.pods_dir, node.relay_socket):
        assert _inside(path, mounts["peerpods-relay"]), path
    relay = parser.build().parse_args(specs["peerpods-relay"]["containers"][0]["args"])
    assert relay.socket == node.relay_socket
    assert _inside(relay.serving_file, mounts["peerpods-relay"])
    assert specs["peerpods-relay"]["containers"][0]["readinessProbe"]["exec"]["command"][-1] == relay.serving_file
    if found.kubernetes.pull_secrets == "node":
        assert found.kubernetes.kubelet_kubeconfig in adaptor
    if found.kubernetes.capacity == "device-plugin":
        assert "/var/lib/kubelet/device-plugins" in adaptor
    if "peerpods-webhook" in mounts:
        assert found.webhook.certificates in mounts["peerpods-webhook"]
        assert found.webhook.offerings is not None
        assert _inside(found.webhook.offerings, mounts["peerpods-webhook"])


@each_set
def test_a_path_inside_the_pod_is_the_hosts_own(name: str) -> None:
    """Paths of sockets are told to kata's shim, which is not in the pod."""
    for _, _, spec in pod_specs(charts.rendered(name)):
        hosts = {each["name"]: each["hostPath"]["path"] for each in spec["volumes"] if "hostPath" in each}
        for mount in spec["containers"][0]["volumeMounts"]:
            assert hosts.get(mount["name"], mount["mountPath"]) == mount["mountPath"]


@each_set
def test_kubelet_probes_the_address_that_is_listened_on(name: str, tmp_path: Path) -> None:
    listen = loaded(name, tmp_path).http.listen
    assert listen is not None
    spec = next(spec for which, _, spec in pod_specs(charts.rendered(name)) if which == "peerpods-adaptor")
    probe = spec["containers"][0]["readinessProbe"]["httpGet"]
    assert (probe["host"], probe["port"]) == ("127.0.0.1", listen[1])
    assert spec["containers"][0]["ports"][0]["containerPort"] == listen[1]


def test_metrics_are_on_the_nodes_address_only_when_they_are_asked_for(tmp_path: Path) -> None:
    assert loaded("aws", tmp_path).http.listen == ("127.0.0.1", 8000)
    assert loaded("azure", tmp_path).http.listen == ("", 8000)


@pytest.mark.parametrize("name", ["aws", "everything"])
def test_a_stopping_adaptor_has_the_time_it_takes(name: str) -> None:
    specs = {which: spec for which, _, spec in pod_specs(charts.rendered(name))}
    assert specs["peerpods-adaptor"]["terminationGracePeriodSeconds"] > daemon.DRAIN + 5
    job = next(each for each in of_kind(charts.rendered(name), "Job"))
    seconds = parser.build().parse_args(job["spec"]["template"]["spec"]["containers"][0]["args"]).seconds
    assert job["spec"]["activeDeadlineSeconds"] > seconds


def with_network(**network: str) -> list[charts.Object]:
    given = charts.values("aws")
    given["config"]["network"] = network
    return charts.render(given)


def test_wireguard_go_runs_where_it_may_be_needed_and_nowhere_else() -> None:
    for network in (
        {},
        {"encryption": "off", "wireguard": "userspace"},
        {"encryption": "required", "wireguard": "kernel"},
    ):
        objects = with_network(**network)
        assert "peerpods-wireguard" not in {each["metadata"]["name"] for each in of_kind(objects, "DaemonSet")}
        assert "/run/wireguard" not in str(objects)
    for kind in ("auto", "userspace"):
        objects = with_network(encryption="required", wireguard=kind)
        specs = {which: spec for which, _, spec in pod_specs(objects)}
        chosen = parser.build().parse_args(specs["peerpods-wireguard"]["containers"][0]["args"])
        assert chosen.kind == kind
        for which in ("peerpods-wireguard", "peerpods-adaptor"):
            mounts = {each["mountPath"]: each for each in specs[which]["containers"][0]["volumeMounts"]}
            assert not mounts[SOCKETS.removeprefix("/var")].get("readOnly"), (
                "wireguard-go's own choice, by Debian's link"
            )
        assert specs["peerpods-wireguard"]["hostNetwork"], "its device is the node's"


def test_no_upgrade_takes_a_nodes_wireguard_go_away() -> None:
    objects = charts.rendered("everything")
    sets = {each["metadata"]["name"]: each["spec"] for each in of_kind(objects, "DaemonSet")}
    assert sets["peerpods-wireguard"]["updateStrategy"] == {"type": "OnDelete"}
    container = sets["peerpods-wireguard"]["template"]["spec"]["containers"][0]
    assert "livenessProbe" not in container
    assert container["image"].endswith(":1.2.0")
    annotations = sets["peerpods-wireguard"]["template"]["metadata"]["annotations"]
    assert "checksum/config" not in annotations


def test_the_image_brings_wireguard_go() -> None:
    recipe = (charts.CHART.parent / "images" / "Containerfile").read_text()
    assert f"--no-install-recommends {PROGRAM}" in recipe


def test_two_adaptors_never_share_a_state_directory_and_a_new_relay_stands_beside_the_old() -> None:
    sets = {each["metadata"]["name"]: each["spec"] for each in of_kind(charts.rendered("aws"), "DaemonSet")}
    assert sets["peerpods-adaptor"]["updateStrategy"]["rollingUpdate"]["maxSurge"] == 0
    assert sets["peerpods-relay"]["updateStrategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    container = sets["peerpods-relay"]["template"]["spec"]["containers"][0]
    assert "livenessProbe" not in container, "it would end every pod of a node whose relay is slow"
    assert "ports" not in container, "two pods of one node could not both have them"
    everything = {
        each["metadata"]["name"]: each["spec"] for each in of_kind(charts.rendered("everything"), "DaemonSet")
    }
    assert everything["peerpods-relay"]["updateStrategy"] == {"type": "OnDelete"}


def test_a_change_of_the_configuration_starts_those_anew_who_read_it() -> None:
    def checksum(given: dict[str, Any]) -> dict[str, str]:
        return {
            which: metadata["annotations"].get("checksum/config", "")
            for which, metadata, _ in pod_specs(charts.render(given))
        }

    before = charts.values("aws")
    after = charts.values("aws")
    after["config"]["aws"]["image"] = "ami-1123456789abcdef0"
    one, other = checksum(before), checksum(after)
    changed = {which for which in one if one[which] != other[which]}
    assert changed == {"peerpods-adaptor", "peerpods-webhook", "peerpods-controller"}, "and the relay is left alone"


def test_the_chart_is_of_this_version_and_names_are_the_programs() -> None:
    import yaml

    import adaptor as package

    chart = yaml.safe_load((charts.CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (package.__version__, package.__version__)
    objects = charts.rendered("aws")
    assert names.OFFERINGS in {each["metadata"]["name"] for each in of_kind(objects, "ConfigMap")}
    assert names.WEBHOOK_TLS in {each["metadata"]["name"] for each in of_kind(objects, "Secret")}
    leases = [
        rule
        for each in of_kind(objects, "Role")
        for rule in each["rules"]
        if "leases" in rule["resources"] and "resourceNames" in rule
    ]
    assert all(rule["resourceNames"] == [names.LEASE] for rule in leases)


def test_the_webhooks_port_and_certificates_are_the_programs_defaults() -> None:
    objects = charts.rendered("aws")
    spec = next(spec for which, _, spec in pod_specs(objects) if which == "peerpods-webhook")
    assert spec["containers"][0]["ports"][0]["containerPort"] == config.Webhook().listen[1]
    assert config.Webhook().certificates in {each["mountPath"] for each in spec["containers"][0]["volumeMounts"]}
    assert config.Controller().webhook_service in {each["metadata"]["name"] for each in of_kind(objects, "Service")}
