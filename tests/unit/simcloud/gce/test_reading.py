"""What is sold, listed, filtered and paged."""

from typing import Any

import pytest

from providers.simcloud.gce import listing
from providers.simcloud.gce.errors import Refused
from providers.simcloud.options import SimcloudError
from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.gce.owner import PROJECT, REGION, ZONE, Owner, owner_of, refused

IT: dict[str, Any] = {
    "name": "podvm-1",
    "status": "RUNNING",
    "labels": {"team": "blue", "peerpods-node": "n_1"},
    "canIpForward": False,
    "disks": [{"diskSizeGb": "10"}, {"diskSizeGb": "20"}],
    "guestCpus": 4,
}
TRUE = [
    'name = "podvm-1"', "name=podvm-1", "name:podvm", "name=podvm-*", "labels.team:*", "labels.team=blue",
    "labels.peerpods-node=n_1", "status!=TERMINATED", "(status = RUNNING) (labels.team = blue)",
    "status=TERMINATED OR labels.team=blue", "status=RUNNING AND NOT labels.team=red", "-labels.team=red",
    'name eq "podvm-1|podvm-2"', "name ne other.*", "disks.diskSizeGb=20", "guestCpus>=4", "guestCpus<10",
    "canIpForward=false", "", "labels.none!=x",
]  # fmt: skip
FALSE = [
    "name=podvm", "labels.none:*", "status!=RUNNING", "name eq podvm", "labels.team=blue AND status=STAGING",
    "(status=STAGING OR status=STOPPING) labels.team=blue", "guestCpus>4", "name ne podvm.*", "nonsense=1",
]  # fmt: skip


@pytest.mark.parametrize("text", TRUE)
def test_a_filter_that_matches(text: str) -> None:
    assert listing.test(text)(IT)


@pytest.mark.parametrize("text", FALSE)
def test_a_filter_that_does_not_match(text: str) -> None:
    assert not listing.test(text)(IT)


@pytest.mark.parametrize("text", ["name", "name=", "(name=a", "name=a)", "= a", "name eq [", "name ~ a", '"a"=b'])
def test_a_filter_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="Invalid list filter expression"):
        listing.test(text)


def test_lists_are_filtered_at_google(owner: Owner) -> None:
    for name, team in (("a", "blue"), ("b", "red"), ("c", "blue")):
        owner.insert(name=name, labels={"team": team})
    assert owner.names('labels.team = "blue"') == ["a", "c"]
    scopes = dict(owner.ask("Instances", "aggregated_list", filter='name eq "a|b"'))
    assert [each.name for each in scopes[f"zones/{ZONE}"].instances] == ["a", "b"]
    assert scopes["zones/us-central1-f"].warning.code == "NO_RESULTS_ON_PAGE"
    with refused("invalid", "filter"):
        owner.names("name ~ a")


def test_lists_come_in_pages(owner: Owner) -> None:
    for n in range(5):
        owner.insert(name=f"podvm-{n}")
    pages = list(owner.ask("Instances", "list", max_results=2).pages)
    assert [[each.name for each in page.items] for page in pages] == [
        ["podvm-0", "podvm-1"], ["podvm-2", "podvm-3"], ["podvm-4"],
    ]  # fmt: skip
    aggregated = owner.ask("Instances", "aggregated_list", max_results=2)
    assert sum(len(scoped.instances) for page in aggregated.pages for scoped in page.items.values()) == 5
    for wish, words in (({"max_results": 501}, "maxResults"), ({"page_token": "x"}, "pageToken")):
        with refused("invalid", words):
            owner.names(**wish)


def test_machine_types_are_what_google_says(owner: Owner) -> None:
    kinds = {kind.name: kind for kind in owner.ask("MachineTypes", "list")}
    assert len(kinds) > 50
    n2d, g2 = kinds["n2d-standard-2"], kinds["g2-standard-24"]
    assert (n2d.guest_cpus, n2d.memory_mb, n2d.architecture, n2d.zone) == (2, 8192, "X86_64", ZONE)
    assert [(a.guest_accelerator_type, a.guest_accelerator_count) for a in g2.accelerators] == [("nvidia-l4", 2)]
    assert kinds["t2a-standard-4"].architecture == "ARM64"
    with refused("notFound", "machineTypes/t2a-standard-1", 404):
        owner.ask("MachineTypes", "get", machine_type="t2a-standard-1", zone="us-central1-c")
    sold = dict(owner.ask("MachineTypes", "aggregated_list", filter="name = a2-ultragpu-1g"))
    assert {scope for scope, each in sold.items() if each.machine_types} == {f"zones/{ZONE}", "zones/us-central1-c"}


def test_the_places_are_there(owner: Owner) -> None:
    assert [zone.name[-1] for zone in owner.ask("Zones", "list")] == ["a", "b", "c", "f"]
    assert "AMD Milan" in owner.ask("Zones", "get").available_cpu_platforms
    assert [region.name for region in owner.ask("Regions", "list")] == [REGION]
    assert owner.ask("Projects", "get").default_service_account
    assert owner.ask("AcceleratorTypes", "get", accelerator_type="nvidia-l4").description == "NVIDIA L4"
    assert owner.ask("DiskTypes", "get", disk_type="pd-ssd").valid_disk_size == "10GB-65536GB"
    subnet = owner.ask("Subnetworks", "get", subnetwork="default")
    assert (subnet.ip_cidr_range, subnet.gateway_address) == ("172.31.0.0/20", "172.31.0.1")
    assert owner.ask("Networks", "get", network="default").subnetworks == [subnet.self_link]
    assert "default-allow-internal" in [rule.name for rule in owner.ask("Firewalls", "list")]
    assert list(owner.ask("Reservations", "list")) == []
    with refused("notFound", "subnetworks/none", 404):
        owner.ask("Subnetworks", "get", subnetwork="none")


def test_images_are_found_by_name_and_family(owner: Owner) -> None:
    image = owner.ask("Images", "get", image="peerpods-podvm-x86-64")
    assert (image.disk_size_gb, image.architecture, image.status) == (10, "X86_64", "READY")
    assert "TDX_CAPABLE" in [feature.type_ for feature in image.guest_os_features]
    assert owner.ask("Images", "get_from_family", family="peerpods-podvm").id == image.id
    assert owner.ask("Images", "get_from_family", project="debian-cloud", family="debian-12").architecture == "X86_64"
    assert len(list(owner.ask("Images", "list"))) == 2
    for method, wish in (("get", {"image": "none"}), ("get_from_family", {"family": "none"})):
        with refused("notFound", "none", 404):
            owner.ask("Images", method, **wish)


def test_resource_manager_tells_of_tags_and_hides_what_is_not_there(owner: Owner) -> None:
    assert owner.raw("GET", f"/v3/tagValues/namespaced?name={PROJECT}/team/blue")[1]["name"].startswith("tagValues/")
    assert owner.raw("GET", "/v3/tagKeys/281475000000001")[1]["shortName"] == "team"
    assert owner.raw("GET", "/v3/tagKeys/9")[0] == 403


def test_the_catalogue_has_prices_of_cores_and_memory(owner: Owner) -> None:
    path = "/v1/services/6F81-5844-456A/skus?pageSize=7"
    found, token = [], ""
    while True:
        page = owner.raw("GET", path + (f"&pageToken={token}" if token else ""))[1]
        found += page["skus"]
        if not (token := page["nextPageToken"]):
            break
    (core,) = [sku for sku in found if sku["description"].startswith("N2D AMD Instance Core")]
    price = core["pricingInfo"][0]["pricingExpression"]["tieredRates"][0]["unitPrice"]
    assert (price["units"], price["nanos"], core["category"]["usageType"]) == ("0", 27502000, "OnDemand")
    assert owner.raw("GET", "/v1/services/none/skus")[0] == 404


def test_another_region_has_its_own_zones() -> None:
    with running_in_thread(cloud="gce", region="europe-west4") as cloud, owner_of(cloud) as owner:
        assert [zone.name for zone in owner.ask("Zones", "list")] == [f"europe-west4-{letter}" for letter in "abc"]
        with refused("notFound", f"zones/{ZONE}", 404):
            owner.names()


def test_a_region_nobody_knows_is_no_cloud() -> None:
    with (
        pytest.raises(SimcloudError, match=r"no region 'moon-base1'"),
        running_in_thread(cloud="gce", region="moon-base1"),
    ):
        pass
