"""What is Azure's own about its provider, with the real SDK against simcloud; launches are in test_launch.py."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from providers.azure import arm, credentials, prices
from providers.azure import provider as module
from providers.azure.config import AzureConfig
from providers.azure.provider import AzureProvider
from providers.base import InstanceState, Purchase, ResourceKind, SupportsQuota, SupportsVolumes, Tee, Volume
from providers.errors import Denied, InvalidSpec, NotFound, Throttled, Transient
from providers.throttle import Rank
from tests.contract import azure_world
from tests.contract.azure_world import AzureWorld
from tests.contract.world import Verb


@pytest.fixture
async def world() -> AsyncIterator[AzureWorld]:
    async with azure_world.world() as made:
        yield made


def opened(world: AzureWorld, **settings: Any) -> AzureProvider:
    provider = world.opened(replace(world.config, **settings), world.owner)
    assert isinstance(provider, AzureProvider)
    return provider


async def launched(world: AzureWorld, provider: AzureProvider, **changes: Any) -> Any:
    """The VM as Azure describes it to its admin."""
    made = await provider.create(world.spec(**changes), "token-1")
    return (await world.seen(ResourceKind.INSTANCE, made.id))["properties"]


@pytest.mark.parametrize("size", ["Standard_DC2as_v5", "Standard_DC2es_v6"])
@pytest.mark.parametrize("encryption", ["VMGuestStateOnly", "DiskWithVMGuestState"])
async def test_a_confidential_node_launches_confidential_vms(world: AzureWorld, size: str, encryption: str) -> None:
    provider = opened(world, confidential=True, instance_type=size, disk_encryption=encryption, secure_boot=True)
    seen = await launched(world, provider, instance_type=size)
    assert seen["securityProfile"]["securityType"] == "ConfidentialVM"
    assert seen["securityProfile"]["uefiSettings"] == {"secureBootEnabled": True, "vTpmEnabled": True}
    disk = seen["storageProfile"]["osDisk"]["managedDisk"]
    assert disk["securityProfile"]["securityEncryptionType"] == encryption


async def test_a_confidential_node_offers_what_can_be_confidential(world: AzureWorld) -> None:
    provider = opened(world, confidential=True, instance_type="Standard_DC2as_v5")
    assert list(dict.fromkeys((offer.instance_type, offer.tee) for offer in await provider.offerings())) == [
        ("Standard_DC2as_v5", Tee.SNP),
        ("Standard_DC2es_v6", Tee.TDX),
    ]


async def test_a_vm_is_in_the_zone_that_was_asked_for(world: AzureWorld) -> None:
    provider = opened(world, zones=("2", "1"), instance_types=())
    assert [offer.zone for offer in await provider.offerings()] == ["2", "1"]
    assert (await provider.create(world.spec(zone="1"), "token-1")).zone == "1"
    with pytest.raises(InvalidSpec, match="zone 3"):
        await provider.create(world.spec(zone="3"), "token-2")


async def test_spot_is_what_azure_is_asked_for(world: AzureWorld) -> None:
    provider = opened(world, spot=True)
    assert {offer.purchase for offer in await provider.offerings()} == set(Purchase)
    seen = await launched(world, provider, purchase=Purchase.SPOT)
    assert (seen["priority"], seen["evictionPolicy"]) == ("Spot", "Delete")


async def test_an_evicted_spot_vm_is_gone(world: AzureWorld) -> None:
    made = await opened(world, spot=True).create(world.spec(purchase=Purchase.SPOT), "token-1")
    world.cloud.faults.kill(made.id, "Spot eviction")
    assert list(await world.provider.list()) == []
    seen = (await world.provider.get([made.id])).get(made.id)
    assert seen is None or seen.state is InstanceState.GONE


async def test_a_vm_that_was_switched_off_is_stopped(world: AzureWorld) -> None:
    made = await world.provider.create(world.spec(), "token-1")
    path = f"{world.config.group_id}/providers/Microsoft.Compute/virtualMachines/{made.id}/powerOff"
    await world.admin._send("POST", path, arm.COMPUTE_API, "the admin switches it off", [], Rank.READ)
    seen = (await world.provider.get([made.id]))[made.id]
    assert seen.state is InstanceState.STOPPED
    assert seen.reason


@pytest.mark.parametrize(
    ("node", "pod", "scratch", "size"), [(None, None, 0, 0), (64, None, 0, 64), (64, 100, 0, 100), (None, None, 50, 50)]
)
async def test_the_os_disk_is_as_large_as_asked_and_never_less_than_the_image(
    world: AzureWorld, node: int | None, pod: int | None, scratch: int, size: int
) -> None:
    image = (await opened(world)._image(world.config.image)).size_gib
    assert image
    seen = await launched(world, opened(world, root_volume_gib=node), root_volume_gib=pod, scratch_gib=scratch)
    expected = image + scratch if scratch else max(image, size)
    assert seen["storageProfile"]["osDisk"]["diskSizeGB"] == expected


async def test_a_root_disk_smaller_than_the_image_is_the_images(world: AzureWorld) -> None:
    seen = await launched(world, opened(world, root_volume_gib=1))
    assert seen["storageProfile"]["osDisk"]["diskSizeGB"] > 1


async def test_scratch_on_an_image_of_unknown_size_is_refused_with_the_remedy(world: AzureWorld) -> None:
    latest = world.config.image.rpartition("/versions")[0]
    with pytest.raises(InvalidSpec, match=r"azure\.root_volume_gib"):
        await opened(world, image=latest).create(world.spec(image="", scratch_gib=5), "token-1")
    assert world.calls(Verb.CREATE) == 0


@pytest.mark.parametrize("key", ["image", "community_image"])
async def test_every_kind_of_image_tells_its_size(world: AzureWorld, key: str) -> None:
    assert (await opened(world)._image(world.cloud.facts[key])).size_gib


async def test_the_configured_image_is_the_one_of_a_spec_without(world: AzureWorld) -> None:
    assert (await world.provider.create(world.spec(image=""), "token-1")).image == world.config.image


async def test_an_image_of_the_wrong_architecture_is_refused_and_leaves_nothing(world: AzureWorld) -> None:
    with pytest.raises(InvalidSpec, match="Architecture"):
        await world.provider.create(world.spec(image=world.cloud.facts["arm_image"]), "token-1")
    assert [name for kind in ResourceKind for name in await world.names(kind)] == []


async def test_a_region_that_does_not_exist_is_named_before_anything_is_made(world: AzureWorld) -> None:
    with pytest.raises(InvalidSpec, match=r"eastus9.*azure\.region"):
        await opened(world, region="eastus9").create(world.spec(), "token-1")
    assert [name for kind in ResourceKind for name in await world.names(kind)] == []


async def test_one_machine_is_asked_about_at_most_every_few_seconds(
    world: AzureWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRESH", 5.0)
    made = await world.provider.create(world.spec(), "token-1")
    for _ in range(5):
        assert made.id in await world.provider.get([made.id])
    assert list(world.cloud.calls).count("VirtualMachines.Get") == 1
    await world.provider.delete(made.id)  # and after a delete at once
    assert (await world.provider.get([made.id]))[made.id].state is InstanceState.GONE


async def test_a_failed_look_is_not_kept(world: AzureWorld) -> None:
    world.refuse(Verb.GET, Throttled)
    with pytest.raises(Throttled):
        await world.provider.get([world.unknown_id])
    assert dict(await world.provider.get([world.unknown_id])) == {}


async def test_a_resource_group_that_does_not_exist_is_no_absent_machine(world: AzureWorld) -> None:
    lost = opened(world, resource_group="nowhere")
    for ask in (lost.get([world.unknown_id]), lost.delete(world.unknown_id), lost.list(), lost.resources()):
        with pytest.raises(NotFound, match="nowhere"):
            await ask


@pytest.mark.parametrize("garbage", [True, False])
async def test_a_body_that_is_no_answer_of_azure_is_transient(world: AzureWorld, garbage: bool) -> None:
    for action, ask in (
        ("VirtualMachines.CreateOrUpdate", lambda: world.provider.create(world.spec(), "token-1")),
        ("VirtualMachines.Get", lambda: world.provider.get([world.unknown_id])),
        ("VirtualMachines.List", world.provider.list),
        ("ResourceSkus.List", lambda: opened(world).offerings()),
    ):
        world.cloud.faults.next(action=action, http_status=200, garbage=garbage)
        with pytest.raises(Transient):
            await ask()


async def test_an_answer_that_does_not_come_is_given_up(world: AzureWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arm, "READ_TIMEOUT", 0.1)
    world.hold_reply(Verb.LIST)
    with pytest.raises(Transient):
        await opened(world).list()
    assert world.calls(Verb.LIST) == 1


async def test_calls_say_who_makes_them_and_are_made_once(world: AzureWorld) -> None:
    policies = [type(each).__name__ for each in arm._pipeline(None)]
    assert "AsyncRetryPolicy" not in policies
    assert "peerpods" in arm._pipeline(None)[2].user_agent
    world.refuse(Verb.LIST, Transient)
    with pytest.raises(Transient):
        await world.provider.list()
    assert world.calls(Verb.LIST) == 1


async def test_what_azure_says_is_left_holds_calls_back(world: AzureWorld) -> None:
    provider = opened(world)
    await provider.list()
    provider.throttle.told(arm.LIST_VMS, 0)
    assert not provider.throttle.free(arm.LIST_VMS)
    assert provider.throttle.free(arm.PUT_VM)


async def test_what_others_have_used_up_is_heard_of_before_a_refusal() -> None:
    async with azure_world.world(rate_limits=0.02) as world:  # five reads, and a sixth in two seconds
        for _ in range(4):
            await world.names(ResourceKind.INSTANCE)
        provider = opened(world)
        assert provider.throttle.free(arm.READ)
        await provider.list()
        assert not provider.throttle.free(arm.READ)


async def test_at_azures_real_limits_no_call_of_many_pods_is_refused() -> None:
    async with azure_world.world(rate_limits=1) as world:
        specs = [world.spec(name=f"podvm-{number}") for number in range(40)]
        made = await asyncio.gather(
            *(world.provider.create(spec, f"token-{number}") for number, spec in enumerate(specs))
        )
        assert len({each.id for each in made}) == 40
        await asyncio.gather(*(world.provider.delete(each.id) for each in made))
        assert list(await world.provider.list()) == []


# -- prices and quotas ------------------------------------------------------------------------------------


async def test_prices_are_the_lists_for_both_ways_of_paying(world: AzureWorld) -> None:
    url = f"{world.config.endpoint_url}/api/retail/prices"
    offers = await opened(world, prices=True, prices_url=url, spot=True).offerings()
    found = {(offer.instance_type, offer.purchase): offer.price for offer in offers}
    assert found["Standard_D2s_v5", Purchase.ON_DEMAND] == pytest.approx(0.096)
    spot = found["Standard_D2s_v5", Purchase.SPOT]
    assert spot is not None
    assert 0 < spot < 0.096
    assert None not in found.values()


async def test_prices_need_no_credentials_and_get_none(world: AzureWorld) -> None:
    url = f"{world.config.endpoint_url}/api/retail/prices"
    assert await prices.ask(replace(world.config, prices_url=url))
    assert "Identity.Token" not in world.cloud.calls


async def test_prices_of_many_sizes_are_all_read(world: AzureWorld) -> None:
    from providers.simcloud.arm.skus import SIZES

    url = f"{world.config.endpoint_url}/api/retail/prices"
    found = await prices.ask(replace(world.config, instance_types=tuple(SIZES), prices_url=url))
    assert {size for size, _ in found} == set(SIZES)


async def test_without_the_setting_no_price_is_asked_for(world: AzureWorld) -> None:
    assert {offer.price for offer in await world.provider.offerings()} == {None}
    assert "Prices.List" not in world.cloud.calls


def test_windows_and_the_old_low_priority_are_not_our_prices() -> None:
    def item(price: float, **more: str) -> dict[str, Any]:
        return {
            "armSkuName": "Standard_D2s_v5",
            "productName": "Dsv5",
            "skuName": "D2s v5",
            "retailPrice": price,
            **more,
        }

    items = [
        item(9.0, productName="Dsv5 Series Windows"),
        item(8.0, skuName="D2s v5 Low Priority"),
        item(7.0, armSkuName="Standard_E2s_v5"),
        item(0.02, skuName="D2s v5 Spot"),
        item(0.1),
    ]
    assert dict(prices.read(items, ["standard_d2s_v5"])) == {
        ("standard_d2s_v5", Purchase.SPOT): 0.02,
        ("standard_d2s_v5", Purchase.ON_DEMAND): 0.1,
    }


async def test_quotas_are_those_of_the_allowed_sizes_families(world: AzureWorld) -> None:
    assert isinstance(world.provider, SupportsQuota)
    await world.provider.create(world.spec(), "token-1")
    found = {each.name: each for each in await world.provider.quota()}
    family = found["standardDSv5Family"]
    assert (family.used, family.types) == (2, ("Standard_D2s_v5",))
    assert family.limit > 2
    assert "standardFSv2Family" not in found
    assert {"cores", "NetworkInterfaces"} <= set(found)


# -- disks --------------------------------------------------------------------------------------------------


async def test_disks_are_described_by_the_ids_that_were_asked_for(world: AzureWorld) -> None:
    name = await world.plant(ResourceKind.DISK, {})
    known = f"{world.config.group_id}/providers/Microsoft.Compute/disks/{name}"
    provider: Any = world.provider
    assert isinstance(provider, SupportsVolumes)
    found = await provider.disks([known, known + "x", "vol-1"])
    assert set(found) == {known}
    assert (found[known].size_gib, found[known].attached_to, found[known].shareable) == (8, (), False)


async def test_a_disk_that_the_create_did_not_attach_is_told(world: AzureWorld) -> None:
    provider: Any = world.provider
    made = await provider.create(world.spec(), "token-1")
    with pytest.raises(InvalidSpec, match="was not created with the disk"):
        await provider.attach(made.id, (Volume(await world.disk("1")),))
    asked = len(world.cloud.calls)
    await provider.attach(made.id, ())
    assert len(world.cloud.calls) == asked


# -- who asks -----------------------------------------------------------------------------------------------


def config(**settings: Any) -> AzureConfig:
    return AzureConfig(subscription_id="s", resource_group="g", region="eastus", subnet_id="n", image="i", **settings)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"tenant_id": "t", "client_id": "c", "client_secret": "x"}, "ClientSecretCredential"),
        ({"tenant_id": "t", "client_id": "c", "federated_token_file": "/f"}, "WorkloadIdentityCredential"),
        ({"client_id": "c"}, "ManagedIdentityCredential"),
        ({}, "ManagedIdentityCredential"),
    ],
)
async def test_the_credential_is_the_first_that_there_is(settings: dict[str, str], kind: str) -> None:
    _, credential = credentials.policy(config(**settings))
    assert type(credential).__name__ == kind
    await credential.close()


def test_plain_http_never_gets_real_credentials() -> None:
    settings = {"tenant_id": "t", "client_id": "c", "client_secret": "hush", "endpoint_url": "http://127.0.0.1:1"}
    policy, credential = credentials.policy(config(**settings))
    assert credential is None
    assert "hush" not in repr(vars(policy))


async def test_an_expired_token_is_denied_and_the_next_call_has_a_new_one(world: AzureWorld) -> None:
    await world.provider.list()
    world.cloud.faults.next(action="VirtualMachines.List", error="ExpiredAuthenticationToken")
    with pytest.raises(Denied, match="clock"):
        await world.provider.list()
    await world.provider.list()
    assert list(world.cloud.calls).count("Identity.Token") == 2


def test_the_key_that_azure_demands_is_rsa_and_the_same_for_all() -> None:
    first = credentials.public_key(config())
    assert first.startswith("ssh-rsa ")
    assert credentials.public_key(config()) == first


def test_a_configured_key_is_read_and_a_private_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("ssh-rsa AAAA operator\n")
    assert credentials.public_key(config(ssh_key_path=str(path))) == "ssh-rsa AAAA operator"
    path.write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    with pytest.raises(InvalidSpec, match="ssh_key_path"):
        credentials.public_key(config(ssh_key_path=str(path)))
    with pytest.raises(InvalidSpec, match="No such file"):
        credentials.public_key(config(ssh_key_path=str(tmp_path / "none")))


async def test_a_missing_managed_identity_is_denied_and_says_so(
    world: AzureWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", str(world.config.endpoint_url))
    world.cloud.faults.next(action="Identity.Token", error="invalid_request", http_status=400)
    with pytest.raises(Denied, match="identity"):
        await opened(world, endpoint_url="https://management.invalid", client_id=None).list()
