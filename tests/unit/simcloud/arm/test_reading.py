"""What is there to choose from: sizes, images, prices; and lists across types."""

import json
import urllib.parse
import urllib.request
from typing import Any

import pytest

from tests.unit.simcloud.arm.arm_client import GROUP, Account, refused
from tests.unit.simcloud.arm.test_requests import group, send

COMMUNITY = "peerpods-051c10ad-0000-4000-8000-051c10ad0003"


def capabilities(sku: Any) -> dict[str, str]:
    return {each.name: each.value for each in sku.capabilities}


def test_sizes_are_listed_with_zones_families_and_capabilities(lasting: Account) -> None:
    found = list(lasting.compute.resource_skus.list(filter="location eq 'eastus'"))
    sizes = {sku.name: sku for sku in found if sku.resource_type == "virtualMachines"}
    assert len(sizes) >= 25
    assert len(found) > len(sizes)  # disks are listed too
    snp, tdx, gpu, arm = (
        sizes[name] for name in ("Standard_DC2as_v5", "Standard_DC2es_v6", "Standard_NC4as_T4_v3", "Standard_D2ps_v5")
    )
    assert (snp.family, snp.location_info[0].zones) == ("standardDCASv5Family", ["1", "2", "3"])
    assert capabilities(snp)["ConfidentialComputingType"] == "SNP"
    assert (capabilities(snp)["vCPUs"], capabilities(snp)["MemoryGB"]) == ("2", "8")
    assert (capabilities(tdx)["ConfidentialComputingType"], tdx.location_info[0].zones) == ("TDX", ["2", "3"])
    assert capabilities(gpu)["GPUs"] == "1"
    assert capabilities(arm)["CpuArchitectureType"] == "Arm64"
    assert "ConfidentialComputingType" not in capabilities(arm)
    assert list(lasting.compute.resource_skus.list(filter="location eq 'westus2'")) == []
    with refused("InvalidFilterInQueryString"):
        list(lasting.compute.resource_skus.list(filter="name eq 'x'"))


def test_the_networks_usages_count_what_there_is(lasting: Account) -> None:
    told = {each.name.value: (each.current_value, each.limit) for each in lasting.network.usages.list("eastus")}
    assert told["NetworkInterfaces"] == (1, 65536)
    assert told["PublicIPAddresses"] == (0, 1000)


def test_images_are_read_in_all_their_places(lasting: Account) -> None:
    compute = lasting.compute
    definition = compute.gallery_images.get(GROUP, "peerpods", "podvm")
    assert (definition.hyper_v_generation, definition.architecture) == ("V2", "x64")
    assert [(f.name, f.value) for f in definition.features] == [
        ("SecurityType", "TrustedLaunchAndConfidentialVmSupported")
    ]
    assert compute.gallery_image_versions.get(GROUP, "peerpods", "podvm", "1.0.0").id == lasting.cloud.facts["image"]
    assert compute.images.get(GROUP, "podvm-managed").hyper_v_generation == "V2"
    versions = list(compute.community_gallery_image_versions.list("eastus", COMMUNITY, "podvm"))
    assert [each.name for each in versions] == ["1.0.0"]
    assert compute.community_gallery_images.get("eastus", COMMUNITY, "podvm-arm64").properties.architecture == "Arm64"
    offered = compute.virtual_machine_images.list("eastus", "Canonical", "ubuntu-24_04-lts", "server")
    assert compute.virtual_machine_images.get(
        "eastus", "Canonical", "ubuntu-24_04-lts", "cvm", offered[0].name
    ).features[0].value == "ConfidentialVmSupported"  # fmt: skip
    with refused("ParentResourceNotFound", status=404):
        compute.gallery_image_versions.get(GROUP, "peerpods", "nothing", "1.0.0")
    with refused("ResourceNotFound", status=404):
        compute.gallery_image_versions.get(GROUP, "peerpods", "podvm", "9.9.9")
    with refused("NotFound", status=404):
        compute.community_gallery_images.get("eastus", "other", "podvm")


def test_resources_are_found_by_tag_and_type(account: Account) -> None:
    account.launch(root={"tags": {"cluster": "one"}})
    account.nic("free", tags={"Cluster": "two"})

    def found(text: str) -> list[str]:
        query = urllib.parse.urlencode({"api-version": "2021-04-01", "$filter": text})
        return [each["name"] for each in send(account, f"{group(account)}/resources?{query}")[1]["value"]]

    assert found("tagName eq 'cluster' and tagValue eq 'one'")[0] == "vm"
    assert len(found("tagName eq 'cluster' and tagValue eq 'one'")) == 2  # and its disk
    assert found("tagName eq 'cluster' and tagValue eq 'two'") == ["free"]
    assert set(found("tagName eq 'cluster'")) >= {"vm", "free"}
    assert found("resourceType eq 'Microsoft.Network/networkInterfaces'") == ["vm-nic", "free"]
    path = f"{group(account)}/resources?api-version=2021-04-01&$filter=colour"
    assert send(account, path)[1]["error"]["code"] == "InvalidFilterInQueryString"


def test_the_group_and_the_subscription_can_be_read(lasting: Account) -> None:
    assert send(lasting, group(lasting) + "?api-version=2021-04-01")[1]["location"] == "eastus"
    whole = group(lasting).partition("/resourceGroups")[0]
    assert send(lasting, whole + "?api-version=2022-12-01")[1]["state"] == "Enabled"
    provider = whole + "/providers/Microsoft.Compute?api-version=2021-04-01"
    assert send(lasting, provider)[1]["registrationState"] == "Registered"


# -- prices ---------------------------------------------------------------------------------------


def prices(account: Account, text: str) -> list[dict[str, Any]]:
    """All pages; asked without a token."""
    url: str | None = account.cloud.endpoint_url + "/api/retail/prices?" + urllib.parse.urlencode({"$filter": text})
    found = []
    while url:
        with urllib.request.urlopen(url, timeout=10) as answer:
            page = json.load(answer)
        found += page["Items"]
        url = page["NextPageLink"]
    return found


def test_prices_are_for_all_and_come_in_pages(lasting: Account) -> None:
    everything = prices(lasting, "serviceName eq 'Virtual Machines' and armRegionName eq 'eastus'")
    assert len(everything) > 100
    one = prices(lasting, "armSkuName eq 'Standard_DC2as_v5' and priceType eq 'Consumption'")
    linux = [each for each in one if "Windows" not in each["productName"]]
    told = {each["skuName"]: each["retailPrice"] for each in linux}
    assert told == {"DC2as v5": 0.086, "DC2as v5 Spot": 0.0172, "DC2as v5 Low Priority": 0.0172}
    assert prices(lasting, "armRegionName eq 'mars'") == []


def test_a_price_filter_may_have_or_and_parentheses(lasting: Account) -> None:
    text = "priceType eq 'Consumption' and (armSkuName eq 'Standard_B2s' or armSkuName eq 'Standard_D2s_v5')"
    assert {each["armSkuName"] for each in prices(lasting, text)} == {"Standard_B2s", "Standard_D2s_v5"}


@pytest.mark.parametrize(
    "text", ["colour eq 'red'", "armSkuName", "armSkuName eq", "(armSkuName eq 'x'", "armSkuName ne 'x'"]
)
def test_a_price_filter_that_cannot_be_read_is_refused(lasting: Account, text: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        prices(lasting, text)
    with caught.value as answer:
        assert answer.code == 400
