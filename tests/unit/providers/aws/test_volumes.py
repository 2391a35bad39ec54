"""What is EC2's own about volumes; the rest is the contract suite's."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest

from providers.aws import volumes
from providers.base import Device, Volume
from providers.errors import InvalidSpec, NotFound, ProviderError, Quota, Transient
from tests.contract.aws_world import AwsWorld
from tests.contract.world import until_running


async def running(world: AwsWorld, **changes: Any) -> str:
    made = await world.provider.create(world.spec(zone=world.zones[0], **changes), "token-1")
    await until_running(world.provider, made.id)
    return made.id


def attach(world: AwsWorld, instance: str, *ids: str) -> Any:
    provider: Any = world.provider
    return provider.attach(instance, [Volume(each) for each in ids])


async def attachments(world: AwsWorld, *ids: str) -> dict[str, list[tuple[str, bool]]]:
    found = (await world.ask("describe_volumes", VolumeIds=list(ids)))["Volumes"]
    return {
        each["VolumeId"]: [(held["Device"], held.get("DeleteOnTermination", False)) for held in each["Attachments"]]
        for each in found
    }


def test_the_guest_finds_a_volume_by_its_id_as_nvme_serial() -> None:
    assert volumes.device(Volume("vol-0123456789abcdef0")) == Device(serial="vol0123456789abcdef0")


async def test_a_machine_that_does_not_run_yet_is_asked_again(world: AwsWorld) -> None:
    volume = await world.disk(world.zones[0])
    instance = await running(world)
    world.cloud.faults.next(action="AttachVolume", error="IncorrectState")
    with pytest.raises(Transient, match=volume):
        await attach(world, instance, volume)
    await attach(world, instance, volume)


async def test_a_pending_machine_is_told_so() -> None:
    with pytest.raises(Transient, match="does not run yet"):
        await volumes.attach(Scripted({"describe_instances": [machine("pending")]}), "i-1", [Volume("vol-1")])


async def test_every_volume_gets_a_name_of_its_own_and_is_not_deleted_with_the_instance(world: AwsWorld) -> None:
    ids = [await world.disk(world.zones[0]) for _ in range(3)]
    instance = await running(world)
    await attach(world, instance, ids[0])
    await attach(world, instance, *ids)
    assert list(world.cloud.calls).count("AttachVolume") == 3
    found = await attachments(world, *ids)
    names = [name for held in found.values() for name, _ in held]
    assert len(set(names)) == 3
    assert all(name.startswith("/dev/sd") for name in names)
    assert not any(deleted for held in found.values() for _, deleted in held)


async def test_nothing_is_attached_while_one_of_them_cannot_be(world: AwsWorld) -> None:
    good, far = await world.disk(world.zones[0]), await world.disk(world.zones[1])
    instance = await running(world)
    with pytest.raises(InvalidSpec, match=far):
        await attach(world, instance, good, far)
    with pytest.raises(NotFound, match="vol-0123456789abcdef0"):
        await attach(world, instance, good, "vol-0123456789abcdef0")
    assert await attachments(world, good) == {good: []}


async def test_too_many_volumes_for_the_machine_is_a_limit(world: AwsWorld) -> None:
    volume = await world.disk(world.zones[0])
    instance = await running(world)
    world.cloud.faults.next(action="AttachVolume", error="AttachmentLimitExceeded")
    with pytest.raises(Quota, match=volume):
        await attach(world, instance, volume)


class Scripted:
    """EC2 with these answers to each method, the last one again and again."""

    def __init__(self, answers: Mapping[str, Sequence[Any]]) -> None:
        self.answers = {method: list(each) for method, each in answers.items()}
        self.asked: list[str] = []

    async def __call__(
        self,
        doing: str,
        method: str,
        request: dict[str, Any],
        read: Callable[[Mapping[str, Any]], Iterable[Any]],
        /,
        *,
        service: str = "ec2",
    ) -> Sequence[Any]:
        self.asked.append(method)
        script = self.answers[method]
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, ProviderError):
            raise answer
        return list(read(answer))


def machine(state: str = "running") -> dict[str, Any]:
    shape = {"InstanceId": "i-1", "State": {"Name": state}, "Placement": {"AvailabilityZone": "a"}}
    return {"Reservations": [{"Instances": [shape]}]}


def volume(state: str = "in-use", *, shared: bool = False, **held: str) -> dict[str, Any]:
    attached = [{"InstanceId": f"i-{name[1:]}", "State": each} for name, each in held.items()]
    shape = {"VolumeId": "vol-1", "AvailabilityZone": "a", "Size": 8, "State": state, "MultiAttachEnabled": shared}
    return {"Volumes": [{**shape, "Attachments": attached}]}


def ec2(*seen: dict[str, Any], attached: Any = None) -> Scripted:
    return Scripted({"describe_instances": [machine()], "describe_volumes": seen, "attach_volume": [attached or {}]})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "POLL", 0.001)


async def test_an_attachment_under_way_is_waited_for() -> None:
    cloud = ec2(volume("available"), volume(i1="attaching"), volume(i1="attaching"), volume(i1="attached"))
    await volumes.attach(cloud, "i-1", [Volume("vol-1")])
    assert cloud.asked.count("attach_volume") == 1
    assert cloud.asked.count("describe_volumes") == 4


async def test_an_attachment_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "LOOKS", 3)
    with pytest.raises(Transient, match="vol-1 to i-1 within"):
        await volumes.attach(ec2(volume(i1="attaching")), "i-1", [Volume("vol-1")])


async def test_a_volume_that_a_repeat_of_ours_attached_meanwhile_is_attached() -> None:
    busy = InvalidSpec("in use", code="VolumeInUse")
    cloud = ec2(volume("available"), volume(i1="attached"), attached=busy)
    await volumes.attach(cloud, "i-1", [Volume("vol-1")])


async def test_a_volume_that_another_machine_took_meanwhile_names_it() -> None:
    busy = InvalidSpec("in use", code="VolumeInUse")
    with pytest.raises(InvalidSpec, match="i-2 has the volume vol-1"):
        await volumes.attach(ec2(volume("available"), volume(i2="attached"), attached=busy), "i-1", [Volume("vol-1")])


@pytest.mark.parametrize("held", [{"i1": "detaching"}, {"i2": "detaching"}])
async def test_a_volume_that_is_being_detached_is_asked_for_again(held: dict[str, str]) -> None:
    with pytest.raises(Transient, match="detached"):
        await volumes.attach(ec2(volume("in-use", shared=False, **held)), "i-1", [Volume("vol-1")])


async def test_a_volume_made_for_several_machines_may_be_held_by_another() -> None:
    cloud = ec2(volume(shared=True, i2="attached"), volume(shared=True, i1="attached", i2="attached"))
    await volumes.attach(cloud, "i-1", [Volume("vol-1")])
    assert "attach_volume" in cloud.asked


@pytest.mark.parametrize(
    ("state", "kind"), [("creating", Transient), ("error", InvalidSpec), ("deleting", InvalidSpec)]
)
async def test_a_volume_that_is_not_ready_says_what_it_is(state: str, kind: type[ProviderError]) -> None:
    with pytest.raises(kind, match="creat" if state == "creating" else state):
        await volumes.attach(ec2(volume(state)), "i-1", [Volume("vol-1")])


async def test_no_volumes_are_no_calls() -> None:
    cloud = ec2(volume())
    await volumes.attach(cloud, "i-1", [])
    assert cloud.asked == []
