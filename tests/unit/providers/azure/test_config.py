"""The [azure] settings and upstream's names for them."""

from collections.abc import Mapping
from typing import Any

import pytest

from providers.azure.config import AzureConfig, parse
from providers.settings import Faults

GROUP = "/subscriptions/00000000-0000-4000-8000-000000000001/resourceGroups/pods/providers"
SUBNET = f"{GROUP}/Microsoft.Network/virtualNetworks/net/subnets/pods"
IMAGE = f"{GROUP}/Microsoft.Compute/galleries/g/images/podvm/versions/1.0.0"
SUBSCRIPTION, CLIENT = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-0000000000cc"
LEAST: dict[str, Any] = {
    "subscription_id": SUBSCRIPTION,
    "resource_group": "pods",
    "region": "eastus",
    "subnet_id": SUBNET,
    "image": IMAGE,
}
UPSTREAM = {
    "AZURE_SUBSCRIPTION_ID": SUBSCRIPTION,
    "AZURE_TENANT_ID": "contoso.example",
    "AZURE_CLIENT_ID": CLIENT,
    "AZURE_CLIENT_SECRET": "hush",
    "AZURE_REGION": "eastus",
    "AZURE_RESOURCE_GROUP": "pods",
    "AZURE_SUBNET_ID": SUBNET,
    "AZURE_NSG_ID": f"{GROUP}/Microsoft.Network/networkSecurityGroups/n",
    "AZURE_IMAGE_ID": IMAGE,
    "AZURE_INSTANCE_SIZE": "Standard_DC4as_v5",
    "AZURE_INSTANCE_SIZES": "Standard_DC2as_v5,Standard_DC4as_v5",
    "SSH_USERNAME": "operator",
    "DISABLECVM": "true",
    "ENABLE_SECURE_BOOT": "true",
    "USE_PUBLIC_IP": "true",
    "ROOT_VOLUME_SIZE": "30",
    "TAGS": "team=blue,cost-centre=42",
}


def settings(table: Mapping[str, Any], **env: str) -> tuple[AzureConfig, Faults]:
    faults: Faults = []
    return parse(table, env, faults), faults


def test_upstreams_environment_alone_is_a_whole_configuration() -> None:
    config, faults = settings({}, **UPSTREAM)
    assert faults == []
    assert config == AzureConfig(
        subscription_id=SUBSCRIPTION,
        tenant_id="contoso.example",
        client_id=CLIENT,
        client_secret="hush",
        region="eastus",
        resource_group="pods",
        subnet_id=SUBNET,
        security_group_id=f"{GROUP}/Microsoft.Network/networkSecurityGroups/n",
        public_ip=True,
        image=IMAGE,
        instance_type="Standard_DC4as_v5",
        instance_types=("Standard_DC2as_v5", "Standard_DC4as_v5"),
        confidential=False,
        secure_boot=True,
        root_volume_gib=30,
        tags=(("cost-centre", "42"), ("team", "blue")),
        ssh_user="operator",
    )


def test_upstreams_names_rendered_empty_are_as_if_unset() -> None:
    config, faults = settings(LEAST, **dict.fromkeys(UPSTREAM, ""))
    assert (faults, config) == ([], AzureConfig(**LEAST))
    assert (config.instance_type, config.confidential, config.root_volume_gib) == ("Standard_DC2as_v5", True, None)


def test_upstreams_zone_is_honoured_here() -> None:
    assert settings(LEAST, AZURE_ZONE="2")[0].zones == ("2",)


def test_what_must_be_given_is_all_named_at_once() -> None:
    assert [fault.key for fault in settings({})[1]] == [f"azure.{key}" for key in (
        "subscription_id", "region", "resource_group", "subnet_id", "image"
    )]  # fmt: skip


def test_a_secret_in_the_file_is_refused_and_shown_nowhere() -> None:
    config, (fault,) = settings({**LEAST, "client_secret": "hush"})
    assert fault.key == "azure.client_secret"
    assert "AZURE_CLIENT_SECRET in the environment" in fault.allowed
    assert "hush" not in f"{fault} {config!r}"
    assert "hush" not in repr(settings({}, **UPSTREAM)[0])


def test_a_secret_without_its_tenant_and_client_is_told() -> None:
    (fault,) = settings(LEAST, AZURE_CLIENT_SECRET="hush")[1]
    assert "AZURE_TENANT_ID" in fault.allowed


def test_the_default_type_is_allowed_and_comes_first_and_once() -> None:
    assert settings({**LEAST, "instance_types": ["Standard_A1", "Standard_DC2as_v5"]})[0].allowed_types == (
        "Standard_DC2as_v5",
        "Standard_A1",
    )


@pytest.mark.parametrize(
    "image",
    [
        f"{GROUP}/Microsoft.Compute/images/podvm",
        f"{GROUP}/Microsoft.Compute/galleries/g/images/podvm",
        f"{GROUP}/microsoft.compute/Galleries/g/images/podvm/versions/latest",
        "/CommunityGalleries/cococommunity-42d8482d/Images/peerpod/Versions/1.2.3",
        "/SharedGalleries/1a2b3c-g/Images/peerpod/Versions/1.2.3",
    ],
)
def test_every_form_of_an_images_id_is_one(image: str) -> None:
    assert settings({**LEAST, "image": image})[1] == []


def test_words_of_azures_are_read_in_any_case_and_written_as_azure_does() -> None:
    config, faults = settings({**LEAST, "disk_encryption": "diskwithvmgueststate", "disk_type": "standardssd_lrs"})
    assert (faults, config.disk_encryption, config.disk_type) == ([], "DiskWithVMGuestState", "StandardSSD_LRS")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("subscription_id", "mine"),
        ("region", "East US"),
        ("zones", ["eastus-1"]),
        ("resource_group", "pods."),
        ("resource_group", "a/b"),
        ("subnet_id", "pods"),
        ("subnet_id", SUBNET.rpartition("/subnets")[0]),
        ("security_group_id", SUBNET),
        ("image", "podvm"),
        ("image", "/CommunityGalleries/g"),
        ("instance_type", "m6a.large"),
        ("confidential", "certainly"),
        ("disk_encryption", "everything"),
        ("disk_type", "UltraSSD_LRS"),
        ("root_volume_gib", 5000),
        ("tags", {"microsoft-team": "blue"}),
        ("tags", {"peerpods-node": "node-2"}),
        ("tags", {"Name": "mine"}),
        ("tags", {"k" * 513: "v"}),
        ("tags", {"a/b": "v"}),
        ("tags", {"k": "v" * 257}),
        ("ssh_user", "Admin User"),
        ("identity_ids", ["mine"]),
        ("host_group_id", f"{GROUP}/Microsoft.Compute/hostGroups/G/hosts/H"),
        ("disk_encryption_set_id", "des"),
        ("spot_max_price", -1),
        ("spot_max_price", "cheap"),
        ("endpoint_url", "localhost:5000"),
        ("allocation_check", "soon"),
        ("access_key", "AKIA"),
    ],
)
def test_a_value_azure_could_not_use_is_a_fault_under_its_key(key: str, value: object) -> None:
    _, faults = settings({**LEAST, key: value})
    assert [fault.key for fault in faults] == [f"azure.{key}"]


def test_one_host_and_a_group_of_hosts_exclude_each_other() -> None:
    group = f"{GROUP}/Microsoft.Compute/hostGroups/G"
    assert settings({**LEAST, "host_group_id": group})[1] == []
    (fault,) = settings({**LEAST, "host_group_id": group, "host_id": f"{group}/hosts/H"})[1]
    assert fault.key == "azure.host_id"


def test_no_root_size_is_the_images_own() -> None:
    for unset in (0, "", "0"):
        assert settings({**LEAST, "root_volume_gib": unset}) == (AzureConfig(**LEAST), [])
