"""A disk becomes an AMI: whole, once, and gone on with where it was cut off."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from providers import images
from providers.aws import uploads
from providers.aws.uploads import BLOCK, AwsImages
from providers.base import ImageFile
from providers.errors import Denied, InvalidSpec, ProviderError, Transient
from tests.contract.aws_world import AwsWorld
from tests.worlds.upload import Watched, disk, in_haste

SIZE = 6 * 1024 * 1024 + 4096  # its last block is not a whole one
# Blocks 0, 1, 2, 5 and the last, 12; the seam of two blocks, a lone byte.
FILLED = ((100, 2 * BLOCK), (5 * BLOCK + 7, 1), (SIZE - 9, 9))
NUMBERS = [0, 1, 2, 5, 12]


@pytest.fixture
def image(tmp_path: Path) -> ImageFile:
    return disk(tmp_path / "podvm.raw", SIZE, FILLED)


Opened = Callable[[], AwsImages]


@pytest.fixture
async def opened(world: AwsWorld) -> AsyncIterator[Opened]:
    async with AsyncExitStack() as closing:

        def open() -> AwsImages:
            made = AwsImages(world.config, in_haste)
            closing.push_async_callback(made.aclose)
            return made

        yield open


def puts(world: AwsWorld) -> int:
    return list(world.cloud.calls).count("PutSnapshotBlock")


def record(image: ImageFile) -> Path:
    return image.path.with_name("podvm.raw.aws-upload")


async def snapshots(world: AwsWorld, image: ImageFile) -> list[dict[str, Any]]:
    marked = [{"Name": "tag:peerpods-image", "Values": [image.digest]}]
    return list((await world.ask("describe_snapshots", OwnerIds=["self"], Filters=marked))["Snapshots"])


async def content(world: AwsWorld, snapshot: str) -> bytes:
    """All bytes of a snapshot, as EBS gives them back."""
    config = world.config
    session = boto3.Session(region_name=config.region)
    ebs = session.client("ebs", endpoint_url=config.endpoint_url)

    def read() -> bytes:
        whole = bytearray(SIZE // BLOCK * BLOCK + BLOCK)
        for each in ebs.list_snapshot_blocks(SnapshotId=snapshot)["Blocks"]:
            index = each["BlockIndex"]
            got = ebs.get_snapshot_block(SnapshotId=snapshot, BlockIndex=index, BlockToken=each["BlockToken"])
            whole[index * BLOCK : (index + 1) * BLOCK] = got["BlockData"].read()
        return bytes(whole)

    try:
        return await asyncio.to_thread(read)
    finally:
        ebs.close()


async def test_a_disk_becomes_an_image_that_boots_by_uefi_with_a_tpm_and_is_launched_by_its_id(
    world: AwsWorld, opened: Opened, image: ImageFile
) -> None:
    watched = Watched()
    made = await opened().upload(image, watched)
    (shown,) = (await world.ask("describe_images", ImageIds=[made]))["Images"]
    assert (shown["BootMode"], shown["TpmSupport"], shown["ImdsSupport"]) == ("uefi", "v2.0", "v2.0")
    assert (shown["Architecture"], shown["EnaSupport"], shown["Name"]) == ("x86_64", True, "peerpods-podvm-test")
    assert {"Key": "peerpods-image", "Value": image.digest} in shown["Tags"]
    (snapshot,) = await snapshots(world, image)
    assert shown["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"] == snapshot["SnapshotId"]
    assert (await content(world, snapshot["SnapshotId"]))[:SIZE] == image.path.read_bytes()
    assert puts(world) == len(NUMBERS)  # blocks of zeros are not sent
    assert watched.of("sending blocks")[0] == (0, len(NUMBERS) * BLOCK)
    assert watched.of("sending blocks")[-1] == (len(NUMBERS) * BLOCK, len(NUMBERS) * BLOCK)
    assert watched.of("reading the disk")[-1] == (SIZE, SIZE)
    assert not record(image).exists()
    launched = await world.provider.create(replace(world.spec(), image=made), "token-1")
    assert launched.image == made


async def test_a_finished_image_is_found_and_nothing_is_sent(world: AwsWorld, opened: Opened, image: ImageFile) -> None:
    made = await opened().upload(image, Watched())
    before = len(world.cloud.calls)
    assert await opened().find(image.digest) == made
    assert await opened().upload(image, Watched()) == made
    assert set(list(world.cloud.calls)[before:]) == {"DescribeImages"}
    assert await opened().find("0" * 64) == ""


async def test_an_upload_that_was_cut_off_sends_only_what_is_missing(
    world: AwsWorld, opened: Opened, image: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "WORKERS", 1)
    world.cloud.faults.next(action="PutSnapshotBlock", times=3, delay=0)
    world.cloud.faults.next(action="PutSnapshotBlock", error="AccessDeniedException")
    with pytest.raises(Denied, match=r"cannot write block 5 of snap-\w+"):
        await opened().upload(image, Watched())
    assert puts(world) == 4
    (begun,) = await snapshots(world, image)
    assert begun["State"] == "pending"
    watched = Watched()
    await opened().upload(image, watched)
    assert puts(world) == 4 + 2
    assert watched.of("sending blocks")[0] == (3 * BLOCK, 5 * BLOCK)
    (snapshot,) = await snapshots(world, image)
    assert snapshot["SnapshotId"] == begun["SnapshotId"]
    assert (await content(world, begun["SnapshotId"]))[:SIZE] == image.path.read_bytes()


@pytest.mark.parametrize(
    ("action", "fault"),
    [
        ("StartSnapshot", {"lose_reply": True}),
        ("StartSnapshot", {"error": "ConcurrentLimitExceededException"}),
        ("PutSnapshotBlock", {"lose_reply": True, "times": 3}),
        ("PutSnapshotBlock", {"error": "RequestThrottledException", "times": 4}),
        ("PutSnapshotBlock", {"error": "ResourceNotFoundException"}),  # not known everywhere yet
        ("PutSnapshotBlock", {"error": "InternalServerException"}),
        ("CompleteSnapshot", {"lose_reply": True}),
        ("CompleteSnapshot", {"http_status": 503}),
        ("DescribeSnapshots", {"garbage": True, "http_status": 502}),
        ("RegisterImage", {"lose_reply": True}),
    ],
)
async def test_what_passes_is_asked_again_and_nothing_is_made_twice(
    world: AwsWorld, opened: Opened, image: ImageFile, action: str, fault: dict[str, Any]
) -> None:
    world.cloud.faults.next(action=action, **fault)
    made = await opened().upload(image, Watched())
    owned = (await world.ask("describe_images", Owners=["self"]))["Images"]
    assert [each["ImageId"] for each in owned if each["Name"] == image.name] == [made]
    (snapshot,) = await snapshots(world, image)
    assert (await content(world, snapshot["SnapshotId"]))[:SIZE] == image.path.read_bytes()


async def test_a_fault_that_lasts_is_told_with_what_it_was_about(
    world: AwsWorld, opened: Opened, image: ImageFile
) -> None:
    world.cloud.faults.next(action="StartSnapshot", error="InternalServerException", times=1000)
    with pytest.raises(Transient, match="cannot start a snapshot"):
        await opened().upload(image, Watched())
    assert list(world.cloud.calls).count("StartSnapshot") == 10


async def test_a_lost_record_costs_the_blocks_again_but_no_second_snapshot(
    world: AwsWorld, opened: Opened, image: ImageFile
) -> None:
    world.cloud.faults.next(action="CompleteSnapshot", error="AccessDeniedException")
    with pytest.raises(Denied, match="ebs:CompleteSnapshot"):
        await opened().upload(image, Watched())
    record(image).unlink()
    await opened().upload(image, Watched())
    assert puts(world) == 2 * len(NUMBERS)
    assert len(await snapshots(world, image)) == 1


async def test_a_record_of_another_disk_is_not_believed(
    world: AwsWorld, opened: Opened, image: ImageFile, tmp_path: Path
) -> None:
    world.cloud.faults.next(action="CompleteSnapshot", error="AccessDeniedException")
    with pytest.raises(Denied):
        await opened().upload(image, Watched())
    other = disk(tmp_path / "podvm.raw", SIZE, ((0, 5),))
    made = await opened().upload(other, Watched())
    assert puts(world) == len(NUMBERS) + 1
    assert await opened().find(other.digest) == made
    assert await opened().find(image.digest) == ""


async def test_a_forged_record_makes_no_image_and_the_next_upload_begins_anew(
    world: AwsWorld, opened: Opened, image: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says of every block that it has arrived, with the right hash; EBS counts and knows better."""
    world.cloud.faults.next(action="PutSnapshotBlock", error="AccessDeniedException", times=100)
    with pytest.raises(Denied):
        await opened().upload(image, Watched())
    world.cloud.faults.clear()
    pieces = images.survey(image.path, BLOCK, Watched())
    lines = [f"{index} {digest.hex()}\n" for index, digest in pieces.hashes.items()]
    record(image).write_text(record(image).read_text().splitlines(keepends=True)[0] + "".join(lines))
    with pytest.raises(InvalidSpec, match=r"snap-\w+ held was not the whole disk; it has been deleted"):
        await opened().upload(image, Watched())
    assert await snapshots(world, image) == []
    assert await opened().find(image.digest) == ""
    made = await opened().upload(image, Watched())
    assert await opened().find(image.digest) == made


async def test_a_snapshot_that_has_run_out_of_time_is_begun_anew(
    world: AwsWorld, opened: Opened, image: ImageFile
) -> None:
    world.cloud.faults.next(action="CompleteSnapshot", error="AccessDeniedException")
    with pytest.raises(Denied):
        await opened().upload(image, Watched())
    (begun,) = await snapshots(world, image)
    world.cloud.age(begun["SnapshotId"], 86_401)
    await opened().upload(image, Watched())
    states = {each["SnapshotId"]: each["State"] for each in await snapshots(world, image)}
    assert states.pop(begun["SnapshotId"]) == "error"
    assert list(states.values()) == ["completed"]


async def test_a_disk_that_changes_on_the_way_is_not_sent(
    world: AwsWorld, opened: Opened, image: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = images.survey

    def survey(*given: Any) -> images.Pieces:
        pieces = real(*given)
        with image.path.open("r+b") as file:
            file.seek(5 * BLOCK)
            file.write(b"changed")
        return pieces

    monkeypatch.setattr(images, "survey", survey)
    with pytest.raises(InvalidSpec, match="has changed while it was being uploaded"):
        await opened().upload(image, Watched())


async def test_a_name_that_another_disk_has_is_told(world: AwsWorld, opened: Opened, image: ImageFile) -> None:
    await opened().upload(image, Watched())
    other = disk(image.path.with_name("other.raw"), SIZE, ((0, 5),))
    with pytest.raises(InvalidSpec, match="another disk's image: choose another --name"):
        await opened().upload(other, Watched())


async def test_an_empty_or_missing_disk_is_refused_before_anything_is_made(
    world: AwsWorld, opened: Opened, tmp_path: Path
) -> None:
    with pytest.raises(InvalidSpec, match="is empty"):
        await opened().upload(disk(tmp_path / "empty.raw", SIZE, ()), Watched())
    with pytest.raises(ProviderError, match="cannot read"):
        await opened().upload(ImageFile(tmp_path / "nothing.raw", "0" * 64, "x"), Watched())
    assert "StartSnapshot" not in list(world.cloud.calls)
