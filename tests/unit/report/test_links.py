"""The clouds' pages of a VM."""

from types import SimpleNamespace

import pytest

from adaptor.report import links


@pytest.mark.parametrize(
    ("zone", "region", "host"),
    [
        ("eu-west-1b", "eu-west-1", "console.aws.amazon.com"),
        ("us-west-2-lax-1a", "us-west-2", "console.aws.amazon.com"),
        ("us-gov-west-1a", "us-gov-west-1", "console.amazonaws-us-gov.com"),
        ("cn-north-1a", "cn-north-1", "console.amazonaws.cn"),
    ],
)
def test_awss_page_is_in_its_region_and_partition(zone: str, region: str, host: str) -> None:
    expected = f"https://{region}.{host}/ec2/home?region={region}#InstanceDetails:instanceId=i-1"
    assert links.vm("aws", "i-1", zone) == expected
    assert links.vm("aws", "i-1", "", SimpleNamespace(region=region)) == expected
    assert links.vm("aws", "i-1", "") == ""


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("", "portal.azure.com"),
        ("https://management.usgovcloudapi.net", "portal.azure.us"),
        ("https://management.chinacloudapi.cn", "portal.azure.cn"),
    ],
)
def test_azures_page_takes_the_group(endpoint: str, host: str) -> None:
    settings = SimpleNamespace(group_id="/subscriptions/0-0/resourceGroups/my group", endpoint_url=endpoint)
    assert links.vm("azure", "podvm-web-1", "2", settings) == (
        f"https://{host}/#resource/subscriptions/0-0/resourceGroups/my%20group/providers/Microsoft.Compute"
        "/virtualMachines/podvm-web-1/overview"
    )
    assert links.vm("azure", "podvm-web-1", "2") == ""


def test_googles_page_takes_the_project() -> None:
    settings = SimpleNamespace(project="my-project")
    assert links.vm("gcp", "europe-west4-a/podvm-web-1", "europe-west4-a", settings) == (
        "https://console.cloud.google.com/compute/instancesDetail/zones/europe-west4-a/instances/podvm-web-1"
        "?project=my-project"
    )
    assert links.vm("gcp", "no-zone", "", settings) == ""


def test_a_simulated_or_unknown_cloud_has_no_page() -> None:
    assert links.vm("aws", "i-1", "us-east-1a", SimpleNamespace(endpoint_url="http://127.0.0.1:4566")) == ""
    assert links.vm("elsewhere", "i-1", "us-east-1a") == ""
    assert links.vm("aws", "", "us-east-1a") == ""


def test_an_id_cannot_change_the_pages_address() -> None:
    assert links.vm("aws", "i-1&x=#y/../", "us-east-1a").endswith("instanceId=i-1%26x%3D%23y%2F..%2F")
