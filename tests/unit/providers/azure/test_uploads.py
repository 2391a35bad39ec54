"""A disk becomes a version in a gallery: whole, once, and gone on with where it was cut off."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from providers import images
from providers.azure import arm, uploads
from providers.azure.config import AzureConfig
from providers.azure.pages import PIECE
from providers.azure.uploads import AzureImages
from providers.base import ImageFile, Tee
from providers.errors import Denied, InvalidSpec, ProviderError
from providers.simcloud.arm.state import DISK, GALLERY_IMAGE, GALLERY_VERSION, World
from tests.contract import azure_world
from tests.contract.azure_world import AzureWorld
from tests.worlds.upload import Watched, disk, in_haste

SIZE = (21 << 20) + 512  # as a fixed VHD has it
FILLED = ((100, PIECE), (3 * PIECE + 7, 1), (SIZE - 512, 512))  # pieces 0, 1, 3 and the last, 5
NUMBERS = [0, 1, 3, 5]


@pytest.fixture
async def world() -> AsyncIterator[AzureWorld]:
    async with azure_world.world() as made:
        yield made


@pytest.fixture
def image(tmp_path: Path) -> ImageFile:
    return disk(tmp_path / "podvm.vhd", SIZE, FILLED)


Opened = Callable[..., AzureImages]


@pytest.fixture
async def opened(world: AzureWorld) -> AsyncIterator[Opened]:
    async with AsyncExitStack() as closing:

        def open(gallery: str = "ours", definition: str = "podvm-min") -> AzureImages:
            made = AzureImages(world.config, gallery, definition, in_haste)
            closing.push_async_callback(made.aclose)
            return made

        yield open


def inside(world: AzureWorld) -> World:
    return world.cloud._cloud.world  # type: ignore[no-any-return]


def puts(world: AzureWorld) -> int:
    return list(world.cloud.calls).count("Pages.Put")


def kept(world: AzureWorld) -> list[bytes]:
    """What the disks that were made by upload hold, their order that of their making."""
    ours = world.cloud._cloud.uploads
    return [ours.content(each) for each in inside(world).all(DISK) if "uploadSizeBytes" in str(each.properties)]


async def test_a_disk_becomes_a_version_that_confidential_vms_boot_from(
    world: AzureWorld, opened: Opened, image: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = []
    monkeypatch.setattr(AzureImages, "_delete", _after(AzureImages._delete, lambda: sources.extend(kept(world))))
    watched = Watched()
    made = await opened().upload(image, watched)
    assert made.endswith("/galleries/ours/images/podvm-min/versions/1.0.0")
    assert sources == [image.path.read_bytes()]
    definition = inside(world).named(GALLERY_IMAGE, "peerpods", "ours", "podvm-min")
    assert definition.properties["hyperVGeneration"] == "V2"
    assert definition.properties["features"] == [{"name": "SecurityType", "value": "ConfidentialVmSupported"}]
    assert inside(world).named(GALLERY_VERSION, "peerpods", "ours", "podvm-min", "1.0.0").tags["peerpods-image"]
    assert kept(world) == []  # the disk is gone
    assert puts(world) == len(NUMBERS)
    assert watched.of("sending pages")[-1] == (len(NUMBERS) * PIECE, len(NUMBERS) * PIECE)
    assert not image.path.with_name("podvm.vhd.azure-upload").exists()
    confidential = replace(world.spec(), image=made, instance_type="Standard_DC2as_v5", tee=Tee.SNP)
    assert (await world.provider.create(confidential, "token-1")).image == made


def _after(method: Any, look: Callable[[], None]) -> Any:
    async def both(*given: Any) -> None:
        look()
        await method(*given)

    return both


async def test_a_finished_image_is_found_and_the_next_one_is_the_next_version(
    world: AzureWorld, opened: Opened, image: ImageFile, tmp_path: Path
) -> None:
    assert await opened().find(image.digest) == ""  # there is not even a gallery
    made = await opened().upload(image, Watched())
    sent = puts(world)
    assert await opened().find(image.digest) == made
    assert await opened().upload(image, Watched()) == made
    assert puts(world) == sent
    other = disk(tmp_path / "other.vhd", SIZE, ((0, 5), (SIZE - 512, 512)))
    assert (await opened().upload(other, Watched())).endswith("/versions/1.0.1")


async def test_an_upload_that_was_cut_off_sends_only_what_is_missing(
    world: AzureWorld, opened: Opened, image: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "WORKERS", 1)
    world.cloud.faults.next(action="Pages.Put", times=2, delay=0)
    world.cloud.faults.next(action="Pages.Put", error="AuthorizationFailed")
    with pytest.raises(Denied, match="cannot send pages"):
        await opened().upload(image, Watched())
    assert puts(world) == 3
    watched = Watched()
    made = await opened().upload(image, watched)
    assert puts(world) == 3 + 2
    assert watched.of("sending pages")[0] == (2 * PIECE, 4 * PIECE)
    assert await opened().find(image.digest) == made


@pytest.mark.parametrize(
    ("action", "fault"),
    [
        ("Disks.CreateOrUpdate", {"lose_reply": True}),
        ("Disks.BeginGetAccess", {"error": "TooManyRequests"}),
        ("Pages.Put", {"lose_reply": True, "times": 2}),
        ("Pages.Put", {"http_status": 503, "times": 3}),
        ("Pages.Put", {"error": "InternalError"}),
        ("Disks.EndGetAccess", {"lose_reply": True}),
        ("GalleryImageVersions.CreateOrUpdate", {"lose_reply": True}),
        ("GalleryImageVersions.Get", {"garbage": True}),
        ("Disks.Delete", {"http_status": 502}),
    ],
)
async def test_what_passes_is_asked_again_and_nothing_is_made_twice(
    world: AzureWorld, opened: Opened, image: ImageFile, action: str, fault: dict[str, Any]
) -> None:
    world.cloud.faults.next(action=action, **fault)
    made = await opened().upload(image, Watched())
    versions = [each.id for each in inside(world).all(GALLERY_VERSION) if "/ours/" in each.id]
    assert versions == [made]
    assert kept(world) == []


async def test_of_a_forged_record_nothing_is_believed_that_the_disk_does_not_hold(
    world: AzureWorld, opened: Opened, image: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.cloud.faults.next(action="Pages.Put", error="AuthorizationFailed", times=100)
    with pytest.raises(Denied):
        await opened().upload(image, Watched())
    world.cloud.faults.clear()
    pieces = images.survey(image.path, PIECE, Watched())
    record = image.path.with_name("podvm.vhd.azure-upload")
    lines = [f"{index} {digest.hex()}\n" for index, digest in pieces.hashes.items()]
    record.write_text(record.read_text().splitlines(keepends=True)[0] + "".join(lines))
    before, sources = puts(world), []
    monkeypatch.setattr(AzureImages, "_delete", _after(AzureImages._delete, lambda: sources.extend(kept(world))))
    await opened().upload(image, Watched())
    assert puts(world) - before == len(NUMBERS)
    assert sources == [image.path.read_bytes()]


async def test_a_disk_that_was_closed_half_full_is_made_anew(
    world: AzureWorld, opened: Opened, image: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "WORKERS", 1)
    world.cloud.faults.next(action="Pages.Put", times=1, delay=0)
    world.cloud.faults.next(action="Pages.Put", error="AuthorizationFailed")
    with pytest.raises(Denied):
        await opened().upload(image, Watched())
    (begun,) = [each for each in inside(world).all(DISK) if each.name.startswith("peerpods-upload")]
    await world.admin.post(f"{begun.id}/endGetAccess", arm.DISKS_API, "closing it")
    await opened().upload(image, Watched())
    assert puts(world) == 2 + len(NUMBERS)


async def test_a_definition_that_does_not_suit_is_refused_before_anything_is_sent(
    world: AzureWorld, opened: Opened, image: ImageFile
) -> None:
    with pytest.raises(InvalidSpec, match=r"hyperVGeneration is V1, not V2; its SecurityType is not given"):
        await opened("peerpods", "podvm-gen1").upload(image, Watched())
    with pytest.raises(InvalidSpec, match="architecture is x64, not Arm64"):
        await opened("peerpods", "podvm").upload(replace(image, architecture="arm64"), Watched())
    assert "Disks.CreateOrUpdate" not in list(world.cloud.calls)


async def test_the_link_is_in_no_error_and_in_no_file(world: AzureWorld, opened: Opened, image: ImageFile) -> None:
    world.cloud.faults.next(action="Pages.Put", error="Strange", times=100)
    with pytest.raises(ProviderError) as caught:
        await opened().upload(image, Watched())
    for text in (
        str(caught.value),
        repr(caught.value.__cause__),
        image.path.with_name("podvm.vhd.azure-upload").read_text(),
    ):
        assert "sig=" not in text


async def test_a_disk_that_was_left_at_the_very_end_is_tidied_away(
    world: AzureWorld, opened: Opened, image: ImageFile
) -> None:
    world.cloud.faults.next(action="Disks.Delete", error="AuthorizationFailed")
    with pytest.raises(Denied, match="cannot delete the disk peerpods-upload-"):
        await opened().upload(image, Watched())
    assert len(kept(world)) == 1
    assert await opened().find(image.digest)
    await opened().tidy(image.digest)
    assert kept(world) == []


@pytest.mark.parametrize("place", ["", "gallery", "a/b/c", "-/x", "my-gallery/x"])
def test_a_place_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(InvalidSpec, match="GALLERY/DEFINITION"):
        uploads.open(AzureConfig.__new__(AzureConfig), place)
