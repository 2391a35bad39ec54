"""A disk becomes an image of Compute Engine: whole, once, and gone on with where it was cut off."""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from podvm_images.image import formats
from providers.base import ImageFile, Tee
from providers.errors import Denied, InvalidSpec, ProviderError
from providers.gcp import uploads
from providers.gcp.config import GcpConfig
from providers.gcp.uploads import GcpImages
from providers.simcloud.gce.storage import BUCKET, Storage
from tests.contract import gcp_world
from tests.contract.gcp_world import GcpWorld
from tests.unit.image.test_formats import disk
from tests.worlds.upload import Watched, in_haste

PIECE = 256 << 10


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GcpWorld]:
    monkeypatch.setattr(uploads, "PIECE", PIECE)
    async with gcp_world.world() as made:
        yield made


@pytest.fixture
def image(tmp_path: Path) -> ImageFile:
    return archive(tmp_path, "podvm", b"first")


def archive(directory: Path, name: str, seed: bytes) -> ImageFile:
    """An archive of four pieces and a bit."""
    raw, packed = disk(directory / f"{name}.raw"), directory / f"{name}.tar.gz"
    with raw.open("r+b") as file:
        file.seek(5 << 20)
        file.write(hashlib.shake_256(seed).digest(4 * PIECE))  # which no packing makes smaller
    formats.google(raw, packed)
    assert 4 * PIECE < packed.stat().st_size < 5 * PIECE
    return ImageFile(packed, hashlib.sha256(raw.read_bytes()).hexdigest(), "peerpods-podvm-test")


Opened = Callable[[], GcpImages]


@pytest.fixture
async def opened(world: GcpWorld) -> AsyncIterator[Opened]:
    async with AsyncExitStack() as closing:

        def open() -> GcpImages:
            made = GcpImages(world.config, BUCKET, in_haste)
            closing.push_async_callback(made.aclose)
            return made

        yield open


def storage(world: GcpWorld) -> Storage:
    return world.cloud._cloud.storage  # type: ignore[no-any-return]


def record(image: ImageFile) -> Path:
    return image.path.with_name(f"{image.path.name}.gcp-upload")


async def test_a_disk_becomes_an_image_that_confidential_vms_boot_from(
    world: GcpWorld, opened: Opened, image: ImageFile
) -> None:
    watched, size = Watched(), image.path.stat().st_size
    made = await opened().upload(image, watched)
    assert made == f"projects/{world.config.project}/global/images/peerpods-podvm-test"
    shown = world.cloud._cloud.images.by_path[made]
    kinds = {each["type"] for each in shown["guestOsFeatures"]}
    assert {"UEFI_COMPATIBLE", "GVNIC", "SEV_CAPABLE", "SEV_SNP_CAPABLE", "TDX_CAPABLE"} <= kinds
    assert (shown["diskSizeGb"], shown["architecture"]) == ("10", "X86_64")
    assert storage(world).buckets[BUCKET] == {}  # the archive is gone
    assert watched.of("sending the archive")[-1] == (size, size)
    assert not record(image).exists()
    spec = replace(world.spec(), image=made, tee=Tee.SEV)
    assert (await world.provider.create(spec, "token-1")).image.endswith("peerpods-podvm-test")


async def test_a_finished_image_is_found_and_nothing_is_sent(world: GcpWorld, opened: Opened, image: ImageFile) -> None:
    assert await opened().find(image.digest) == ""
    made = await opened().upload(image, Watched())
    received = storage(world).received
    assert await opened().find(image.digest) == made
    assert await opened().upload(image, Watched()) == made
    assert storage(world).received == received == image.path.stat().st_size
    assert await opened().find(image.digest[:63] + "x") == ""  # the label is shorter than a hash


async def test_an_upload_that_was_cut_off_sends_only_what_is_missing(
    world: GcpWorld, opened: Opened, image: ImageFile
) -> None:
    world.cloud.faults.next(action="storage.uploads.write", times=2, delay=0)
    world.cloud.faults.next(action="storage.uploads.write", error="forbidden")
    with pytest.raises(Denied, match="cannot send the archive"):
        await opened().upload(image, Watched())
    assert storage(world).received == 2 * PIECE
    watched, size = Watched(), image.path.stat().st_size
    made = await opened().upload(image, watched)
    assert watched.of("sending the archive")[0] == (2 * PIECE, size)
    assert storage(world).received == size
    assert await opened().find(image.digest) == made


@pytest.mark.parametrize(
    ("action", "fault"),
    [
        ("storage.uploads.begin", {"lose_reply": True}),
        ("storage.uploads.write", {"lose_reply": True, "times": 2}),
        ("storage.uploads.write", {"http_status": 503, "times": 3}),
        ("storage.objects.get", {"error": "backendError"}),
        ("images.insert", {"lose_reply": True}),
        ("images.insert", {"error": "rateLimitExceeded"}),
        ("globalOperations.get", {"http_status": 502}),
        ("storage.objects.delete", {"lose_reply": True}),
    ],
)
async def test_what_passes_is_asked_again_and_nothing_is_made_twice(
    world: GcpWorld, opened: Opened, image: ImageFile, action: str, fault: dict[str, Any]
) -> None:
    world.cloud.faults.next(action=action, **fault)
    made = await opened().upload(image, Watched())
    ours = [path for path, each in world.cloud._cloud.images.by_path.items() if each.get("labels")]
    assert ours == [made]
    assert storage(world).received == image.path.stat().st_size
    assert storage(world).buckets[BUCKET] == {}


async def test_storage_may_keep_less_than_was_sent(world: GcpWorld, opened: Opened, image: ImageFile) -> None:
    storage(world).keep_only = 1000
    made = await opened().upload(image, Watched())
    assert await opened().find(image.digest) == made
    assert storage(world).received == image.path.stat().st_size


async def test_an_upload_that_storage_has_forgotten_is_begun_anew(
    world: GcpWorld, opened: Opened, image: ImageFile
) -> None:
    world.cloud.faults.next(action="storage.uploads.write", times=1, delay=0)
    world.cloud.faults.next(action="storage.uploads.write", error="forbidden")
    with pytest.raises(Denied):
        await opened().upload(image, Watched())
    storage(world).expire()
    await opened().upload(image, Watched())
    assert storage(world).received == PIECE + image.path.stat().st_size


async def test_a_forged_record_sends_nothing_to_another_place(
    world: GcpWorld, opened: Opened, image: ImageFile
) -> None:
    """The upload's URL would be given the credentials."""
    world.cloud.faults.next(action="storage.uploads.write", error="forbidden")
    with pytest.raises(Denied):
        await opened().upload(image, Watched())
    text = record(image).read_text()
    assert BUCKET in text
    assert record(image).stat().st_mode & 0o777 == 0o600
    record(image).write_text(text.replace(world.cloud.endpoint_url, "http://127.0.0.1:9"))
    await opened().upload(image, Watched())


async def test_a_file_that_changes_on_the_way_makes_no_image(world: GcpWorld, opened: Opened, image: ImageFile) -> None:
    world.cloud.faults.next(action="storage.uploads.write", times=1, delay=0)
    world.cloud.faults.next(action="storage.uploads.write", error="forbidden")
    with pytest.raises(Denied):
        await opened().upload(image, Watched())
    with image.path.open("r+b") as file:
        file.seek(100)
        file.write(b"changed")
    with pytest.raises(InvalidSpec, match=r"is not .*podvm\.tar\.gz: it has been deleted"):
        await opened().upload(image, Watched())
    assert storage(world).buckets[BUCKET] == {}
    assert await opened().find(image.digest) == ""


async def test_what_is_no_disk_is_refused_by_the_operation_and_told(
    world: GcpWorld, opened: Opened, image: ImageFile
) -> None:
    world.cloud.faults.next(action="images.insert", error="INTERNAL_ERROR")
    with pytest.raises(ProviderError, match="cannot make the image peerpods-podvm-test"):
        await opened().upload(image, Watched())
    made = await opened().upload(image, Watched())  # the archive is still there
    assert storage(world).received == image.path.stat().st_size
    assert await opened().find(image.digest) == made


async def test_a_name_that_another_disk_has_is_told(
    world: GcpWorld, opened: Opened, image: ImageFile, tmp_path: Path
) -> None:
    await opened().upload(image, Watched())
    with pytest.raises(InvalidSpec, match="choose another --name"):
        await opened().upload(archive(tmp_path, "other", b"second"), Watched())


async def test_an_archive_that_was_left_at_the_very_end_is_tidied_away(
    world: GcpWorld, opened: Opened, image: ImageFile
) -> None:
    world.cloud.faults.next(action="storage.objects.delete", error="forbidden")
    with pytest.raises(Denied, match="cannot delete the archive"):
        await opened().upload(image, Watched())
    assert len(storage(world).buckets[BUCKET]) == 1
    await opened().tidy(image.digest)
    assert storage(world).buckets[BUCKET] == {}


@pytest.mark.parametrize("place", ["", "Bucket", "a/b", "gs://bucket"])
def test_a_place_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(InvalidSpec, match="the name of a bucket"):
        uploads.open(GcpConfig.__new__(GcpConfig), place)
