"""What the contract suite does not ask of every cloud: Google's operations, its economy of calls, its leftovers."""

import asyncio
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from providers import tags
from providers.base import Device, InstanceState, Purchase, ResourceKind, Tee, Volume
from providers.errors import Capacity, InvalidSpec, Quota, Throttled, Transient, Unsupported
from providers.gcp import marks
from providers.gcp.api import LIST
from providers.gcp.provider import GcpProvider
from providers.throttle import Observer
from tests.contract import gcp_world
from tests.contract.gcp_world import ZONES, GcpWorld
from tests.contract.world import Verb

WARMED = ("images.get", "machineTypes.aggregatedList", "zones.get")  # asked once in a provider's life


def opened(world: GcpWorld, **changes: Any) -> GcpProvider:
    made = world.opened(replace(world.config, **changes), world.owner)
    assert isinstance(made, GcpProvider)
    return made


def calls(world: GcpWorld) -> Counter[str]:
    return Counter(each for each in world.cloud.calls if each not in WARMED)


async def insert_operation(world: GcpWorld) -> str:
    """The name of the newest insert's operation."""
    found = await world.ask("GET", f"zones/{ZONES[0]}/operations")
    return str([each["name"] for each in found["items"] if each["operationType"] == "insert"][-1])


# -- how many calls -------------------------------------------------------------------------------


async def test_a_pod_costs_three_calls(world: GcpWorld) -> None:
    made = await world.provider.create(world.spec(), "token-1")
    assert made.addresses
    await world.provider.delete(made.id)
    assert calls(world) == {"instances.insert": 1, "instances.get": 1, "instances.delete": 1}


async def test_a_zone_that_takes_its_time_costs_one_look_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gcp_world.world(boot_delay="400ms") as world:  # of which half until it has hardware
        monkeypatch.setattr("providers.gcp.provider.LOOKS", (0.05, 0.3, 0.5))
        made = await world.provider.create(world.spec(), "token-1")
        assert made.addresses
        await world.provider.delete(made.id)
        assert calls(world).total() <= 4, calls(world)


async def test_a_throttled_look_is_looked_again_and_nothing_is_inserted_twice(world: GcpWorld) -> None:
    world.cloud.faults.next(action="instances.get", error="rateLimitExceeded", times=2)
    made = await world.provider.create(world.spec(), "token-1")
    assert made.addresses
    assert calls(world) == {"instances.insert": 1, "instances.get": 3}


async def test_looks_that_are_never_answered_are_not_taken_for_an_end(
    world: GcpWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("providers.gcp.provider.LOOKS", (0.01, 0.01))
    made = await world.provider.create(world.spec(), "token-1")
    world.cloud.faults.next(action="instances.get", http_status=503, times=3)
    with pytest.raises(Transient):  # a repeat: its operation is done already
        await opened(world).create(world.spec(), "token-1")
    assert (await opened(world).create(world.spec(), "token-1")).id == made.id


async def test_creates_that_wait_together_look_together(world: GcpWorld) -> None:
    await world.provider.create(world.spec(), "first")
    before = calls(world)
    made = await asyncio.gather(*(world.provider.create(world.spec(), f"token-{n}") for n in range(12)))
    spent = calls(world) - before
    assert len({each.id for each in made}) == 12
    assert spent["instances.insert"] == 12
    assert spent["instances.get"] + spent["instances.aggregatedList"] <= 6


async def test_describes_that_meet_are_one_call(world: GcpWorld) -> None:
    made = [await world.provider.create(world.spec(), f"token-{n}") for n in range(3)]
    before = calls(world)
    seen = await asyncio.gather(*(world.provider.get([each.id]) for each in made))
    assert [list(found) for found in seen] == [[each.id] for each in made]
    assert calls(world) - before == {"instances.aggregatedList": 1}


# -- no room ------------------------------------------------------------------------------------------


async def test_a_zone_without_room_is_found_out_within_the_create_and_the_next_zone_is_tried() -> None:
    async with gcp_world.world(boot_delay="60ms") as world:
        world.cloud.faults.capacity("n2d-standard-2", ZONES[0], free=0)
        with pytest.raises(Capacity, match="does not have enough resources") as caught:
            await world.provider.create(world.spec(zone=ZONES[0]), "token-1")
        assert caught.value.code == "ZONE_RESOURCE_POOL_EXHAUSTED"
        assert (await world.provider.create(world.spec(zone=ZONES[1]), "token-2")).zone == ZONES[1]
        assert len(await world.provider.list()) == 1


async def test_a_quota_that_is_met_in_the_operation_is_said(world: GcpWorld) -> None:
    world.cloud.faults.quota(vcpus=1)
    with pytest.raises(Quota, match="CPUS"):
        await world.provider.create(world.spec(), "token-1")
    assert list(await world.provider.list()) == []


async def test_after_room_was_lacking_the_same_token_works_once_there_is_some(world: GcpWorld) -> None:
    """Google remembers the failed operation under its request id: a repeat must not be answered with it for ever."""
    world.cloud.faults.capacity("n2d-standard-2", free=0)
    with pytest.raises(Capacity):
        await world.provider.create(world.spec(), "token-1")
    world.cloud.faults.clear()
    made = await world.provider.create(world.spec(), "token-1")
    assert made.state in (InstanceState.PENDING, InstanceState.RUNNING)


async def test_a_restarted_node_is_told_of_the_old_failure_first_and_can_go_on(world: GcpWorld) -> None:
    world.cloud.faults.capacity("n2d-standard-2", free=0)
    with pytest.raises(Capacity):
        await world.provider.create(world.spec(), "token-1")
    world.cloud.faults.clear()
    successor = opened(world)
    with pytest.raises(Capacity):
        await successor.create(world.spec(), "token-1")
    assert (await successor.create(world.spec(), "token-1")).id


async def test_a_restarted_node_finds_what_the_second_attempt_made(world: GcpWorld) -> None:
    world.cloud.faults.capacity("n2d-standard-2", free=0)
    with pytest.raises(Capacity):
        await world.provider.create(world.spec(), "token-1")
    world.cloud.faults.clear()
    made = await world.provider.create(world.spec(), "token-1")
    assert (await opened(world).create(world.spec(), "token-1")).id == made.id


async def test_a_tee_that_only_google_knows_the_zone_lacks_is_another_offerings_turn(world: GcpWorld) -> None:
    provider = opened(world, machine_types=("a3-highgpu-1g",), zones=("us-central1-c",))
    with pytest.raises(Capacity, match="us-central1-c"):
        await provider.create(world.spec(instance_type="a3-highgpu-1g", tee=Tee.TDX, zone="us-central1-c"), "token-1")
    assert list(await provider.list()) == []


# -- once only, later than Google remembers --------------------------------------------------------------


async def test_a_repeat_after_the_request_id_was_forgotten_meets_the_name(world: GcpWorld) -> None:
    made = await world.provider.create(world.spec(), "token-1")
    world.cloud.age(await insert_operation(world), 7200)
    assert (await opened(world).create(world.spec(), "token-1")).id == made.id
    with pytest.raises(InvalidSpec, match="other parameters"):
        await opened(world).create(world.spec(user_data=b"other"), "token-1")
    assert len(await world.provider.list()) == 1


async def test_an_instance_of_that_name_which_is_not_ours_is_not_taken(world: GcpWorld) -> None:
    name = marks.resource_name(world.spec().name, "token-1")
    planted = await world.plant(ResourceKind.INSTANCE, {})
    shape = await world.ask("GET", f"zones/{ZONES[0]}/instances/{planted.partition('/')[2]}")
    body = {key: shape[key] for key in ("machineType", "networkInterfaces")}
    body["networkInterfaces"] = [{"network": "global/networks/default"}]
    disk = {"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": world.config.image}}
    await world.ask("POST", f"zones/{ZONES[0]}/instances", {"name": name, "disks": [disk], **body})
    with pytest.raises(InvalidSpec, match="is not what this token launched"):
        await world.provider.create(world.spec(), "token-1")


async def test_what_is_deleted_before_google_shows_it_is_not_taken_for_gone() -> None:
    async with gcp_world.world(visible_after="10s") as world:
        with pytest.raises(Transient):
            await world.provider.create(world.spec(), "token-1")
        id = f"{ZONES[0]}/{marks.resource_name(world.spec().name, 'token-1')}"
        with pytest.raises(Transient, match="so new"):
            await world.provider.delete(id)


async def test_what_a_node_has_deleted_is_gone_to_it_while_google_still_shows_it() -> None:
    async with gcp_world.world(shutdown_delay="10s") as world:
        made = await world.provider.create(world.spec(), "token-1")
        await world.provider.delete(made.id)
        assert (await world.ask("GET", f"zones/{ZONES[0]}/instances/{made.id.partition('/')[2]}"))[
            "status"
        ] == "STOPPING"
        assert (await world.provider.get([made.id]))[made.id].state is InstanceState.GONE
        assert list(await world.provider.list()) == []
        assert isinstance(world.provider, GcpProvider)
        assert made.id not in {each.id for each in await world.provider.resources()}


async def test_a_node_that_may_not_look_still_has_what_it_launched(world: GcpWorld) -> None:
    """Denied would say that there is no instance, and nobody would delete it."""
    world.cloud.faults.deny("compute.instances.get")
    made = await world.provider.create(world.spec(), "token-1")
    assert (made.state, made.addresses, made.tags[tags.TOKEN]) == (InstanceState.PENDING, (), "token-1")
    world.cloud.faults.clear()
    assert [each.id for each in await world.provider.list()] == [made.id]
    await world.provider.delete(made.id)
    assert list(await world.provider.list()) == []


async def test_a_type_that_the_zone_does_not_sell_is_unsupported_and_costs_nothing(world: GcpWorld) -> None:
    provider = opened(world, machine_types=("m3-ultramem-32",))
    with pytest.raises(Unsupported, match="not sold in us-central1-a"):
        await provider.create(world.spec(instance_type="m3-ultramem-32"), "token-1")
    assert not calls(world)["instances.insert"]


@pytest.mark.parametrize(
    ("image", "wish", "complaint"),
    [
        ("projects/peerpods-simcloud/global/images/peerpods-podvm-arm64", {}, "arm64"),
        (
            "projects/debian-cloud/global/images/debian-12-bookworm-v20261103",
            {"tee": Tee.SNP},
            "SEV_SNP_CAPABLE",
        ),
    ],
)
async def test_an_image_that_the_machine_cannot_boot_costs_nothing(
    world: GcpWorld, image: str, wish: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InvalidSpec, match=complaint):
        await world.provider.create(world.spec(image=image, **wish), "token-1")
    assert not calls(world)["instances.insert"]


# -- options against the simulator's rules -----------------------------------------------------------------


async def test_every_option_passes_the_clouds_own_checks(world: GcpWorld) -> None:
    provider = opened(
        world,
        spot=True,
        public_ip=True,
        disk_type="pd-ssd",
        root_volume_gib=20,
        extra_disks=("pd-balanced:30",),
        network_tags=("podvm",),
        labels=(("cost", "center-1"),),
        resource_tags=(("team", "blue"),),
        service_account="pod-vms@peerpods-simcloud.iam.gserviceaccount.com",
        secure_boot=True,
    )
    made = await provider.create(world.spec(tee=Tee.SNP, purchase=Purchase.SPOT, scratch_gib=5), "token-1")
    shape = await world.ask("GET", f"zones/{ZONES[0]}/instances/{made.id.partition('/')[2]}")
    assert shape["confidentialInstanceConfig"]["confidentialInstanceType"] == "SEV_SNP"
    assert shape["scheduling"]["provisioningModel"] == "SPOT"
    assert [int(disk["diskSizeGb"]) for disk in shape["disks"]] == [25, 30]
    assert shape["labels"]["cost"] == "center-1"
    assert len(made.addresses) == 2
    assert made.addresses[1] == shape["networkInterfaces"][0]["networkIP"]


@pytest.mark.parametrize(
    ("machine_type", "tee"), [("n2d-standard-2", Tee.SEV), ("n2d-standard-2", Tee.SNP), ("c3-standard-4", Tee.TDX)]
)
async def test_every_tee_passes_the_clouds_own_checks(world: GcpWorld, machine_type: str, tee: Tee) -> None:
    assert (await world.provider.create(world.spec(instance_type=machine_type, tee=tee), "token-1")).id


async def test_a_gpu_machine_and_an_n1_with_one_attached_pass(world: GcpWorld) -> None:
    provider = opened(world, machine_types=("n1-standard-4", "g2-standard-4"), gpu_type="nvidia-tesla-t4")
    for number, machine_type in enumerate(("n1-standard-4", "g2-standard-4")):
        assert (await provider.create(world.spec(instance_type=machine_type), f"token-{number}")).id
    offered = {o.gpu_model for o in await provider.offerings()}
    assert offered == {"", "nvidia-l4", "nvidia-tesla-t4"}


# -- volumes ---------------------------------------------------------------------------------------------


async def disk(world: GcpWorld, name: str) -> str:
    await world.ask("POST", f"zones/{ZONES[0]}/disks", {"name": name, "sizeGb": "10"})
    return f"projects/{world.config.project}/zones/{ZONES[0]}/disks/{name}"


async def test_a_volume_is_attached_by_the_create_and_outlives_the_machine(world: GcpWorld) -> None:
    provider = opened(world)
    id = await disk(world, "data")
    before = (await provider.disks([id, id + "-no", "nonsense"]))[id]
    assert (before.zone, before.size_gib, before.attached_to, before.shareable) == (ZONES[0], 10, (), False)
    spec = world.spec(volumes=(Volume(id),))
    made = await provider.create(spec, "token-1")
    await provider.attach(made.id, spec.volumes)
    assert (await provider.disks([id]))[id].attached_to == (made.id,)
    shape = await world.ask("GET", f"zones/{ZONES[0]}/instances/{made.id.partition('/')[2]}")
    assert shape["disks"][1]["deviceName"] == "volume-0"
    assert provider.device(spec, 0) == Device(serial="volume-0")
    await provider.delete(made.id)
    for _ in range(500):
        if not (await provider.disks([id]))[id].attached_to:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the volume was not let go")


async def test_a_volume_that_another_machine_has_is_refused(world: GcpWorld) -> None:
    id = await disk(world, "data")
    await world.provider.create(world.spec(volumes=(Volume(id),)), "token-1")
    with pytest.raises(InvalidSpec, match="data"):
        await world.provider.create(world.spec(volumes=(Volume(id),)), "token-2")


# -- a reserved address ------------------------------------------------------------------------------------


async def test_a_reserved_address_is_the_machines_and_is_freed_after_it(
    world: GcpWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("providers.gcp.addresses.TRIES", (0.01,) * 200)
    provider = opened(world, reserve_address=True)
    made = await provider.create(world.spec(), "token-1")
    (address,) = [each for each in await provider.resources() if each.kind is ResourceKind.ADDRESS]
    assert (address.attached_to, address.tags[tags.TOKEN]) == (made.id, "token-1")
    assert made.addresses[0] in address.facts
    assert (await provider.create(world.spec(), "token-1")).addresses == made.addresses
    assert calls(world)["addresses.insert"] == 2  # of which the second made nothing
    await provider.delete(made.id)
    for _ in range(500):
        if not [each for each in await provider.resources() if each.kind is ResourceKind.ADDRESS]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the address was not freed")


async def test_a_reserved_address_costs_six_calls(world: GcpWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("providers.gcp.addresses.TRIES", (0.3, 0.3))
    provider = opened(world, reserve_address=True)
    made = await provider.create(world.spec(), "token-1")
    await provider.delete(made.id)
    await asyncio.sleep(0.5)
    assert calls(world).total() == 6, calls(world)


async def test_a_reserved_address_is_freed_when_the_launch_is_refused(
    world: GcpWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("providers.gcp.addresses.TRIES", (0.01,) * 200)
    provider = opened(world, reserve_address=True)
    world.cloud.faults.next(action="instances.insert", error="forbidden")
    with pytest.raises(Exception, match="permission"):
        await provider.create(world.spec(), "token-1")
    for _ in range(500):
        if not await provider.resources():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the address was not freed")


async def test_an_address_that_an_adaptor_left_is_found_by_the_sweep_and_removed(world: GcpWorld) -> None:
    provider = opened(world, reserve_address=True)
    world.cloud.faults.next(action="instances.insert", error="rateLimitExceeded")
    with pytest.raises(Throttled):
        await provider.create(world.spec(), "token-1")
    (address,) = await provider.resources()
    assert (address.kind, address.attached_to) == (ResourceKind.ADDRESS, "")
    await provider.remove(address)
    assert list(await provider.resources()) == []


# -- settings that are wrong only at Google -----------------------------------------------------------------


async def test_a_family_is_resolved_to_its_newest_image(world: GcpWorld) -> None:
    family = "projects/peerpods-simcloud/global/images/family/peerpods-podvm"
    made = await world.provider.create(world.spec(image=family), "token-1")
    assert made.image == family


async def test_an_endpoint_that_is_none_is_told_from_a_refusal(world: GcpWorld) -> None:
    provider = opened(world, project="other-project")
    with pytest.raises(Exception, match="other-project"):
        await provider.list()


async def test_a_page_that_is_not_googles_is_not_an_empty_list(world: GcpWorld) -> None:
    world.cloud.faults.next(action="instances.aggregatedList", garbage=True)
    with pytest.raises(Transient):
        await world.provider.list()
    assert list(await world.provider.list()) == []


async def test_the_name_at_google_is_readable_and_its_own(world: GcpWorld) -> None:
    made = await world.provider.create(world.spec(), "token-1")
    assert re.fullmatch(rf"{ZONES[0]}/podvm-nginx-1a2b3c4d-[0-9a-f]{{12}}", made.id)


async def test_what_a_repeat_does_not_see_at_once_is_not_taken_for_gone() -> None:
    async with gcp_world.world(visible_after="150ms") as world:
        world.lose_reply(Verb.CREATE)
        with pytest.raises(Transient):
            await world.provider.create(world.spec(), "token-1")
        made = await opened(world).create(world.spec(), "token-1")
        assert made.state is not InstanceState.GONE


async def test_labels_alone_make_nothing_ours(world: GcpWorld) -> None:
    """Anybody may copy labels: an instance template does. The exact tags decide."""
    body = {
        "name": "forged",
        "machineType": f"zones/{ZONES[0]}/machineTypes/e2-medium",
        "labels": marks.of_owner(world.owner),
        "networkInterfaces": [{"network": "global/networks/default"}],
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": world.config.image}}],
    }
    await world.ask("POST", f"zones/{ZONES[0]}/instances", body)
    assert isinstance(world.provider, GcpProvider)
    assert list(await world.provider.list()) == []
    assert list(await world.provider.resources()) == []


async def test_whoever_counts_hears_of_a_throttled_call(world: GcpWorld) -> None:
    heard: list[str] = []

    class Ear(Observer):
        def backed_off(self, bucket: str) -> None:
            heard.append(bucket)

    provider = opened(world)
    provider.throttle.observer = Ear()
    world.cloud.faults.next(action="instances.aggregatedList", error="rateLimitExceeded")
    with pytest.raises(Throttled):
        await provider.list()
    assert heard == [LIST]
