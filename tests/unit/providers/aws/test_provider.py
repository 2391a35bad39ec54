"""What is EC2's own about its provider, with the real SDK against simcloud; the rest is the contract suite's."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from providers.aws import provider as module
from providers.aws.provider import AwsProvider
from providers.base import InstanceState, LaunchSpec, Tee
from providers.errors import Denied, InvalidSpec, NotFound, Transient
from tests.contract import aws_world
from tests.contract.aws_world import AwsWorld
from tests.contract.world import Verb, arrival


@pytest.fixture
async def world() -> AsyncIterator[AwsWorld]:
    async with aws_world.world() as made:
        yield made


def opened(world: AwsWorld, **settings: Any) -> AwsProvider:
    provider = world.opened(replace(world.config, **settings), world.owner)
    assert isinstance(provider, AwsProvider)
    return provider


async def launched(world: AwsWorld, provider: Any, spec: LaunchSpec) -> Any:
    """The instance as EC2 describes it to its admin."""
    made = await provider.create(spec, "token-1")
    answer = await world.ask("describe_instances", InstanceIds=[made.id])
    return answer["Reservations"][0]["Instances"][0]


async def test_metadata_answers_session_tokens_one_hop_away_only(world: AwsWorld) -> None:
    options = (await launched(world, world.provider, world.spec()))["MetadataOptions"]
    assert (options["HttpEndpoint"], options["HttpTokens"]) == ("enabled", "required")
    assert options["HttpPutResponseHopLimit"] == 1


async def test_volume_and_interface_carry_the_tags_and_go_with_the_instance(world: AwsWorld) -> None:
    seen = await launched(world, world.provider, world.spec())
    volumes = [mapping["Ebs"] for mapping in seen["BlockDeviceMappings"]]
    assert volumes
    assert all(volume["DeleteOnTermination"] for volume in volumes)
    described = await world.ask("describe_volumes", VolumeIds=[volumes[0]["VolumeId"]])
    interfaces = await world.ask(
        "describe_network_interfaces", NetworkInterfaceIds=[seen["NetworkInterfaces"][0]["NetworkInterfaceId"]]
    )
    owner = {"Key": "peerpods-node", "Value": world.owner.node}
    assert owner in described["Volumes"][0]["Tags"]
    assert owner in interfaces["NetworkInterfaces"][0]["TagSet"]


async def test_the_root_volume_is_as_large_as_asked(world: AwsWorld) -> None:
    seen = await launched(world, opened(world, root_volume_gib=77), world.spec())
    root = next(m["Ebs"] for m in seen["BlockDeviceMappings"] if m["DeviceName"] == seen["RootDeviceName"])
    described = await world.ask("describe_volumes", VolumeIds=[root["VolumeId"]])
    assert described["Volumes"][0]["Size"] == 77


async def test_a_confidential_node_launches_with_snp_unless_told_otherwise(world: AwsWorld) -> None:
    provider = opened(world, confidential=True)
    seen = await launched(world, provider, world.spec())
    assert seen["CpuOptions"]["AmdSevSnp"] == "enabled"
    made = await provider.create(world.spec(tee=Tee.NONE), "token-2")
    answer = await world.ask("describe_instances", InstanceIds=[made.id])
    assert answer["Reservations"][0]["Instances"][0].get("CpuOptions", {}).get("AmdSevSnp") != "enabled"


async def test_a_confidential_node_offers_what_can_be_confidential(world: AwsWorld) -> None:
    assert {offer.instance_type for offer in await opened(world, confidential=True).offerings()} == {"m6a.large"}
    everything = await world.provider.offerings()
    assert list(dict.fromkeys(o.instance_type for o in everything)) == ["m6a.large", "m7g.large", "g5.xlarge"]


async def test_a_configured_type_that_does_not_exist_is_named(world: AwsWorld) -> None:
    with pytest.raises(NotFound, match=r"m6a\.tiny"):
        await opened(world, instance_types=("m6a.tiny",)).offerings()


async def test_the_configured_image_is_the_one_of_a_spec_without(world: AwsWorld) -> None:
    made = await world.provider.create(world.spec(image=""), "token-1")
    assert made.image == world.config.image


async def test_an_image_is_read_about_once(world: AwsWorld) -> None:
    await asyncio.gather(*(world.provider.create(world.spec(), f"token-{number}") for number in range(4)))
    assert list(world.cloud.calls).count("DescribeImages") == 1


async def test_a_plain_launch_asks_nothing_about_types(world: AwsWorld) -> None:
    await world.provider.create(world.spec(), "token-1")
    assert sorted(set(world.cloud.calls) - {"DescribeSubnets", "DescribeSecurityGroups"}) == [
        "DescribeImages",
        "RunInstances",
    ]


async def test_one_who_gives_up_waiting_for_offerings_does_not_spoil_it_for_others(world: AwsWorld) -> None:
    world.hold_reply(Verb.OFFERINGS)
    impatient = asyncio.create_task(world.provider.offerings())
    patient = asyncio.create_task(world.provider.offerings())
    await arrival(world, Verb.OFFERINGS)
    impatient.cancel()
    assert {offer.instance_type for offer in await patient} == {"m6a.large", "m7g.large", "g5.xlarge"}
    assert impatient.cancelled()
    assert world.calls(Verb.OFFERINGS) == 1


async def test_a_create_cancelled_before_its_turn_is_never_made(world: AwsWorld) -> None:
    provider = opened(world, api_concurrency=1)
    await provider.create(world.spec(), "token-1")
    world.hold_reply(Verb.LIST)
    occupying = asyncio.create_task(provider.list())
    await arrival(world, Verb.LIST)
    queued = asyncio.create_task(provider.create(world.spec(), "token-2"))
    await asyncio.sleep(0)
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    await occupying
    assert len(await provider.list()) == 1
    assert world.calls(Verb.CREATE) == 1


async def test_closing_lets_the_call_under_way_finish(world: AwsWorld) -> None:
    provider = opened(world)
    await provider.list()
    before = world.calls(Verb.CREATE)
    world.hold_reply(Verb.CREATE)
    under_way = asyncio.create_task(provider.create(world.spec(), "token-1"))
    await arrival(world, Verb.CREATE)
    await provider.aclose()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("aws_")]
    assert (await under_way).id
    assert world.calls(Verb.CREATE) == before + 1


async def test_an_answer_that_does_not_come_is_given_up(world: AwsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_TIMEOUT", 0.1)
    provider = opened(world)
    world.hold_reply(Verb.LIST)
    with pytest.raises(Transient, match="timeout"):
        await provider.list()
    assert world.calls(Verb.LIST) == 1


async def test_a_body_that_is_no_answer_of_ec2_is_transient(world: AwsWorld) -> None:
    for action, ask in (
        ("RunInstances", lambda: world.provider.create(world.spec(), "token-1")),
        ("DescribeInstances", world.provider.list),
        ("TerminateInstances", lambda: world.provider.delete(world.unknown_id)),
    ):
        world.cloud.faults.next(action=action, http_status=200, garbage=True)
        with pytest.raises(Transient):
            await ask()


async def test_the_dead_instance_of_a_token_is_found_while_ec2_shows_it(world: AwsWorld) -> None:
    made = await world.provider.create(world.spec(), "token-1")
    await world.provider.create(world.spec(), "token-2")
    await world.provider.delete(made.id)
    world.cloud.faults.next(action="RunInstances", error="IdempotentInstanceTerminated")
    again = await world.provider.create(world.spec(), "token-1")
    assert (again.id, again.state) == (made.id, InstanceState.GONE)


async def test_a_dead_instance_that_ec2_has_forgotten_is_refused_and_not_replaced(world: AwsWorld) -> None:
    world.cloud.faults.next(action="RunInstances", error="IdempotentInstanceTerminated")
    with pytest.raises(InvalidSpec) as caught:
        await world.provider.create(world.spec(), "token-1")
    assert caught.value.code == "IdempotentInstanceTerminated"
    assert world.calls(Verb.CREATE) == 1


async def test_a_delete_before_ec2_knows_the_instance_everywhere_is_not_taken_for_done(world: AwsWorld) -> None:
    made = await world.provider.create(world.spec(), "token-1")
    world.cloud.faults.next(action="TerminateInstances", error="InvalidInstanceID.NotFound")
    with pytest.raises(Transient, match="so new"):
        await world.provider.delete(made.id)
    await world.provider.delete(made.id)
    assert list(await world.provider.list()) == []
    world.cloud.faults.next(action="TerminateInstances", error="InvalidInstanceID.NotFound")
    await world.provider.delete(made.id)


async def test_missing_credentials_are_denied_and_say_so(
    world: AwsWorld, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(Denied, match="credentials"):
        await opened(world).list()


async def test_a_profile_that_does_not_exist_is_denied_with_its_name(world: AwsWorld) -> None:
    with pytest.raises(Denied, match="no-such-profile"):
        await opened(world, profile="no-such-profile").list()


@pytest.mark.parametrize("setting", ["region", "subnet_ids"])
async def test_what_neither_settings_nor_node_tell_is_named(
    world: AwsWorld, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(InvalidSpec, match=rf"set aws\.{setting}"):
        await opened(world, **{setting: None if setting == "region" else ()}).create(world.spec(), "token-1")
    assert world.calls(Verb.CREATE) == 0


async def test_without_groups_the_node_itself_is_asked(world: AwsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(InvalidSpec, match=r"aws\.security_group_ids"):
        await opened(world, security_group_ids=()).create(world.spec(), "token-1")


async def test_calls_say_who_makes_them(world: AwsWorld) -> None:
    provider = opened(world)
    await provider.list()
    assert "peerpods" in provider._client("ec2").meta.config.user_agent
