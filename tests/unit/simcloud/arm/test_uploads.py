"""Direct uploads and galleries of simcloud's Azure: what Azure refuses is refused."""

import asyncio
import urllib.error
import urllib.request
from typing import Any

import pytest

from providers.azure import arm
from providers.errors import InvalidSpec, ProviderError
from tests.contract import azure_world
from tests.contract.azure_world import AzureWorld

SIZE = (20 << 20) + 512


@pytest.fixture
async def world() -> Any:
    async with azure_world.world() as made:
        yield made


def disk(size: int = SIZE, **changes: Any) -> dict[str, Any]:
    properties = {
        "creationData": {"createOption": "Upload", "uploadSizeBytes": size},
        "osType": "Linux",
        "hyperVGeneration": "V2",
        **changes,
    }
    return {"location": "eastus", "properties": properties}


def path(world: AzureWorld, kind: str) -> str:
    return f"{world.config.group_id}/providers/Microsoft.Compute/{kind}"


async def begun(world: AzureWorld) -> str:
    """A disk's link."""
    at = path(world, "disks/d1")
    await world.admin.put(at, arm.DISKS_API, disk(), "a disk")
    answer = await world.admin.post(
        f"{at}/beginGetAccess", arm.DISKS_API, "its link", {"access": "Write", "durationInSeconds": 3600}
    )
    assert answer.status == 202
    return str((await world.admin.get(answer.headers["Location"], arm.DISKS_API, "its link")).body["accessSAS"])


def put(link: str, first: int, data: bytes, **headers: str) -> int:
    asked = {"x-ms-version": "2021-12-02", "x-ms-page-write": "update", **headers}
    asked.setdefault("Range", f"bytes={first}-{first + len(data) - 1}")
    request = urllib.request.Request(f"{link}&comp=page", data=data, method="PUT", headers=asked)
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (disk(SIZE - 512), "whole MiB"),
        (disk(SIZE - (1 << 20)), "at least 20"),
        (disk(diskSizeGB=8), "diskSizeGB follows"),
        (disk(securityProfile={"securityType": "ConfidentialVM_VMGuestStateOnlyEncryptedWithPlatformKey"}), "confid"),
    ],
)
async def test_a_disk_that_cannot_be_uploaded_is_refused(world: AzureWorld, body: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidSpec, match=why):
        await world.admin.put(path(world, "disks/d1"), arm.DISKS_API, body, "a disk")


async def test_pages_are_whole_inside_the_disk_and_as_their_hash_says(world: AzureWorld) -> None:
    link, page = await begun(world), b"x" * 512
    cases: list[tuple[tuple[int, bytes], dict[str, Any], int]] = [
        ((0, page), {}, 201),
        ((SIZE - 512, page), {}, 201),
        ((SIZE, page), {}, 416),
        ((100, page), {}, 416),
        ((0, page[:-1]), {}, 416),
        ((0, page), {"Range": "bytes=0-1023"}, 400),
        ((0, page), {"Content-MD5": "AAAA"}, 400),
        ((0, page), {"x-ms-page-write": "clear"}, 400),
        ((0, page), {"Authorization": "Bearer x"}, 403),
    ]
    for given, headers, status in cases:
        assert await asyncio.to_thread(put, link, *given, **headers) == status, (given[0], headers)
    assert await asyncio.to_thread(put, link.replace("sig=", "sig=0"), 0, page) == 403
    with pytest.raises(ProviderError, match="active shared access"):
        await world.admin.delete(path(world, "disks/d1"), arm.DISKS_API, "away")
    await world.admin.post(path(world, "disks/d1/endGetAccess"), arm.DISKS_API, "closing")
    assert await asyncio.to_thread(put, link, 0, page) == 403


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"features": [{"name": "SecurityType", "value": "Confidential"}]}, "SecurityType 'Confidential' is invalid"),
        ({"hyperVGeneration": "V1"}, "needs hyperVGeneration V2"),
        ({"identifier": None}, "identifier"),
    ],
)
async def test_a_definition_that_makes_no_sense_is_refused(
    world: AzureWorld, changes: dict[str, Any], why: str
) -> None:
    properties = {
        "osType": "Linux",
        "osState": "Generalized",
        "hyperVGeneration": "V2",
        "identifier": {"publisher": "a", "offer": "b", "sku": "c"},
        "features": [{"name": "SecurityType", "value": "ConfidentialVmSupported"}],
        **changes,
    }
    body = {"location": "eastus", "properties": {key: value for key, value in properties.items() if value}}
    with pytest.raises(InvalidSpec, match=why):
        await world.admin.put(path(world, "galleries/peerpods/images/mine"), arm.GALLERIES_API, body, "a definition")


async def test_a_version_comes_from_a_disk_that_is_done_and_fits(world: AzureWorld) -> None:
    await begun(world)

    async def version(definition: str) -> None:
        source = {"source": {"id": path(world, "disks/d1")}}
        body = {"location": "eastus", "properties": {"storageProfile": {"osDiskImage": source}}}
        at = path(world, f"galleries/peerpods/images/{definition}/versions/2.0.0")
        await world.admin.put(at, arm.GALLERIES_API, body, "a version")

    with pytest.raises(ProviderError, match="is ActiveUpload"):
        await version("podvm")
    await world.admin.post(path(world, "disks/d1/endGetAccess"), arm.DISKS_API, "closing")
    with pytest.raises(InvalidSpec, match="hyperVGeneration V2 is not"):
        await version("podvm-gen1")
    with pytest.raises(InvalidSpec, match="with guest state"):
        await version("podvm-cvm")
    await version("podvm")
