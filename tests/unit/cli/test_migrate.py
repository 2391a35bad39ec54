"""`peerpods migrate`: what upstream's adaptor was told, ours is told as well, or somebody hears why not."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from adaptor import config, upstream_env
from adaptor.cli import migration
from adaptor.cli.reference import value_text
from adaptor.errors import InvalidRequest
from providers import registry
from providers.settings import MISSING
from tests.unit.manifests import charts

SECRET = "c2VjcmV0LW9mLW1pbmU="
AWS = {
    "CLOUD_PROVIDER": "aws",
    "PODVM_AMI_ID": "ami-0123456789abcdef0",
    "PODVM_INSTANCE_TYPES": "m6a.xlarge,m6a.2xlarge",
    "AWS_SG_IDS": "sg-0123456789abcdef0,sg-1123456789abcdef0",
    "DISABLECVM": "true",
    "PROXY_TIMEOUT": "1m30s",
    "VXLAN_PORT": "9000",
    "EXTERNAL_NETWORK_VIA_PODVM": "true",
    "POD_SUBNET_CIDRS": "10.244.0.0/16,10.96.0.0/12",
    "TAGS": "team=a,cost=b",
    "ROOT_VOLUME_SIZE": "40",
    "PEERPODS_LIMIT_PER_NODE": "20",
    "INITDATA": 'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"a" = "x"\n',
    "SSH_KP_NAME": "",
}
GCP = {
    "CLOUD_PROVIDER": "gcp",
    "PODVM_IMAGE_NAME": "podvm",
    "GCP_PROJECT_ID": "my-project",
    "GCP_ZONE": "europe-west4-a",
    "GCP_MACHINE_TYPE": "n2d-standard-4",
    "GCP_CONFIDENTIAL_TYPE": "SEV_SNP",
    "USE_PUBLIC_IP": "true",
    "RUNTIMECLASS_NAME": "kata-other",
}
AZURE = {
    "CLOUD_PROVIDER": "azure",
    "AZURE_REGION": "westeurope",
    "AZURE_RESOURCE_GROUP": "rg",
    "AZURE_SUBSCRIPTION_ID": "01234567-89ab-cdef-0123-456789abcdef",
    "AZURE_IMAGE_ID": "/CommunityGalleries/g/Images/i/Versions/1.0.0",
    "AZURE_SUBNET_ID": "/subscriptions/s/resourceGroups/n/providers/Microsoft.Network/virtualNetworks/v/subnets/s",
    "AZURE_INSTANCE_SIZES": "Standard_DC4as_v5",
    "ENABLE_SECURE_BOOT": "true",
}


def config_map(variables: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "peer-pods-cm"}, "data": variables}


def done(*documents: Any) -> migration.Migration:
    return migration.migrate(migration.gather(documents))


def values(made: migration.Migration) -> dict[str, Any]:
    """As a person has them who reads the file, with what had to be decided."""
    read: dict[str, Any] = yaml.safe_load(migration.text(made))
    assert read == made.values
    read["image"]["repository"] = "registry.example/peerpods"
    read["config"]["node"]["cluster"] = "mine"
    return read


def toml(given: dict[str, Any]) -> str:
    objects = charts.render(given)
    found = next(each for each in objects if each["metadata"]["name"] == "peerpods-config")
    return str(found["data"]["peerpods.toml"])


@pytest.mark.parametrize("variables", [AWS, GCP, AZURE], ids=["aws", "gcp", "azure"])
def test_the_chart_tells_the_adaptor_what_the_configmap_told_it(variables: dict[str, str], tmp_path: Path) -> None:
    """The same settings come out of the environment and of the rendered chart."""
    (tmp_path / "peerpods.toml").write_text(toml(values(done(config_map(variables)))))
    node = {"NODE_NAME": "n"}
    before = config.load(None, {**variables, **node})
    after = config.load(str(tmp_path / "peerpods.toml"), node)
    told = [key for key, source in before.sources.items() if source in variables]
    assert len(told) >= len([value for value in variables.values() if value]) - 1
    assert dict_of(after, told) == dict_of(before, told)
    assert after.guest.flavor == "upstream", "the pod VM images are still upstream's"


def dict_of(found: config.Config, keys: list[str]) -> dict[str, Any]:
    tables = dict(found.tables())
    return {key: getattr(tables[key.partition(".")[0]], key.partition(".")[2]) for key in keys}


@pytest.mark.parametrize("cloud", list(registry.BUILT_IN))
def test_no_name_that_is_honoured_is_called_unknown(cloud: str) -> None:
    for name, (table, key, rule, default) in migration.aliases(cloud).items():
        if name == "CLOUD_PROVIDER":
            continue
        value = "x" if default in (MISSING, None, (), "") or rule.secret else value_text(default).strip('"')
        made = done(config_map({"CLOUD_PROVIDER": cloud, name: value}))
        assert not [each for each in made.dropped if "nothing here reads it" in each], name
        told = [*made.dropped, *made.decide, *map(str, made.comments.values())]
        assert [each for each in told if name in each] or key in made.values["config"].get(table, {}), name


def test_a_way_out_that_this_cloud_does_not_have_or_that_lacks_its_networks_is_to_be_decided() -> None:
    decide = done(config_map({**AZURE, "EXTERNAL_NETWORK_VIA_PODVM": "true"})).decide
    assert [each for each in decide if "azure's VMs have one network card" in each]
    assert [each for each in decide if "config.network.pod_subnets" in each]
    made = done(config_map(AWS))
    assert made.values["config"]["aws"]["secondary_interface"] is True
    assert made.values["config"]["network"]["external_network"] == "nic"
    assert not [each for each in made.decide if "network" in each]


def test_every_name_of_upstreams_without_an_effect_is_told_with_the_reason() -> None:
    unused = [*upstream_env.REFUSED, *upstream_env.IGNORED]
    made = done(config_map({**AWS, **{each.name: "something" for each in unused}}))
    for each in unused:
        assert [line for line in (*made.dropped, *made.decide) if each.name in line and each.why in line], each.name
    refused = {each.name for each in upstream_env.REFUSED}
    assert {line.partition("=")[0] for line in made.decide if "not on offer" in line} == refused


def test_of_two_names_of_a_setting_the_stronger_counts() -> None:
    made = done(config_map({**AWS, "AWS_DEFAULT_REGION": "us-east-1", "AWS_REGION": "eu-west-1"}))
    assert made.values["config"]["aws"]["region"] == "eu-west-1"
    assert "AWS_DEFAULT_REGION: AWS_REGION counts before it" in made.dropped


def test_a_value_that_upstream_passed_over_needs_a_decision() -> None:
    made = done(config_map({**AWS, "ROOT_VOLUME_SIZE": "thirty"}))
    assert [line for line in made.decide if line.startswith("ROOT_VOLUME_SIZE=thirty is not a whole number")]
    assert "root_volume_gib" not in made.values["config"]["aws"]


def test_no_value_of_a_secret_is_shown() -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "peer-pods-secret"},
        "data": {"AWS_ACCESS_KEY_ID": SECRET, "AWS_REGION": SECRET, "ODD": SECRET},
    }
    chart = {"providerSecrets": {"aws": {"AWS_SECRET_ACCESS_KEY": SECRET}}}
    made = done(config_map({**AWS, "AWS_SESSION_TOKEN": SECRET}), secret, chart)
    text = migration.text(made)
    assert SECRET not in text
    assert "AWS_ACCESS_KEY_ID, AWS_REGION, AWS_SECRET_ACCESS_KEY, ODD" in text
    assert made.values["credentials"] == {"existingSecret": "peer-pods-secret"}
    assert [line for line in made.decide if line.startswith("AWS_SESSION_TOKEN is a credential")]
    assert [line for line in made.dropped if line.startswith("ODD of the Secret")]


def test_a_credential_among_the_settings_is_not_shown_either() -> None:
    made = done(config_map({**GCP, "GCP_CREDENTIALS": SECRET}))
    assert SECRET not in migration.text(made)
    assert [line for line in made.decide if line.startswith("GCP_CREDENTIALS is a credential")]


def test_the_values_of_upstreams_chart_move_too() -> None:
    chart = {
        "provider": "aws",
        "providerConfigs": {"aws": {"PODVM_AMI_ID": "ami-0123456789abcdef0", "DISABLECVM": True}, "gcp": {"X": "y"}},
        "tlsProfile": {"minVersion": "1.2"},
        "limit": 20,
        "image": {"name": "quay.example/caa", "tag": "v1"},
        "daemonset": {"podLabels": {"a": "b"}, "updateStrategy": {"type": "RollingUpdate"}},
        "resourceCtrl": {"enabled": True, "serviceAccount": {"annotations": {"c": "d"}}},
        "webhook": {
            "enabled": True,
            "replicas": 3,
            "targetRuntimeClass": "kata-mine",
            "failurePolicy": "Ignore",
            "certManager": {"enabled": True},
            "odd": 1,
        },
        "secrets": {"mode": "reference", "existingSecretName": "mine"},
        "kata-deploy": {"enabled": True},
    }
    made = done(chart)
    found = values(made)
    assert found["config"]["aws"] == {"image": "ami-0123456789abcdef0", "confidential": False}
    assert found["config"]["kubernetes"]["runtime_classes"] == ["kata-mine"]
    assert found["webhook"] == {"replicas": 3, "failurePolicy": "Ignore", "certManager": {"enabled": True}}
    assert found["adaptor"]["podLabels"] == {"a": "b"}
    assert found["controller"]["serviceAccount"]["annotations"] == {"c": "d"}
    assert found["credentials"]["existingSecret"] == "mine"
    said = "\n".join(made.dropped)
    for name in ("limit", "image", "daemonset.updateStrategy", "webhook.odd", "kata-deploy", "TLS_MIN_VERSION"):
        assert name in said, name
    selected = next(
        each
        for each in charts.render(found)
        if each["metadata"]["name"] == "peerpods-adaptor" and each["kind"] == "DaemonSet"
    )
    assert selected["spec"]["template"]["spec"]["nodeSelector"] == {"node.kubernetes.io/worker": ""}


def test_a_cluster_without_a_webhook_stays_without_one() -> None:
    found = values(done(config_map(AWS), {"webhook": {"enabled": False}}))
    assert not [each for each in charts.render(found) if each["kind"].endswith("WebhookConfiguration")]


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([], "no CLOUD_PROVIDER is given"),
        ([config_map({"CLOUD_PROVIDER": "ibmcloud"})], '"ibmcloud" is not supported: known here are aws, azure, gcp'),
        ([{"kind": "Pod"}], "a Pod says nothing about the adaptor"),
        (["text"], "no table"),
    ],
)
def test_what_cannot_be_migrated_is_told(documents: list[Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        done(*documents)


def peerpods(text: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "adaptor", "migrate", *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_it_reads_what_kubectl_gives_for_both_at_once() -> None:
    both = {
        "kind": "List",
        "items": [config_map(AWS), {"kind": "Secret", "metadata": {"name": "s"}, "data": {"ODD": "eA=="}}],
    }
    answer = peerpods(yaml.safe_dump(both))
    assert answer.returncode == 0
    assert yaml.safe_load(answer.stdout)["credentials"]["existingSecret"] == "s"
    assert "to decide: config.node.cluster" in answer.stderr


def test_a_file_that_is_no_yaml_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "secret.yaml").write_text(f"data:\n  key: [{SECRET}\n")
    answer = peerpods("", str(tmp_path / "secret.yaml"))
    assert answer.returncode == 1
    assert "is not YAML, line" in answer.stderr
    assert SECRET not in answer.stderr
    assert "cannot be read" in peerpods("", str(tmp_path / "none.yaml")).stderr
