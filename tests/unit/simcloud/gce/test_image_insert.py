"""images.insert of simcloud: archives that are no disks are refused, as Google refuses them."""

import asyncio
import gzip
import io
import tarfile
from collections.abc import AsyncIterator
from typing import Any

import pytest
import requests

from providers.simcloud.cloud import Simcloud
from providers.simcloud.gce.storage import BUCKET
from providers.simcloud.testing import running


@pytest.fixture
async def cloud() -> AsyncIterator[Simcloud]:
    async with running(cloud="gce") as made:
        yield made


def archive(name: str = "disk.raw", size: int = 1 << 20) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as made:
        member = tarfile.TarInfo(name)
        member.size = size
        made.addfile(member, io.BytesIO(bytes(size)))
    return held.getvalue()


async def insert(cloud: Simcloud, data: bytes | None, **changes: Any) -> str:
    """The refusal's words; empty for none."""
    objects = cloud._cloud.storage.buckets[BUCKET]  # type: ignore[attr-defined]
    if data is not None:
        objects["a.tar.gz"] = data
    body = {"name": "mine", "rawDisk": {"source": f"https://storage.googleapis.com/{BUCKET}/a.tar.gz"}, **changes}
    url = f"{cloud.endpoint_url}/compute/v1/projects/{cloud.facts['project']}/global/images"
    answer = await asyncio.to_thread(requests.post, url, json=body, timeout=30)
    return "" if answer.ok else str(answer.json()["error"]["message"])


@pytest.mark.parametrize(
    ("data", "changes", "why"),
    [
        (None, {}, "was not found"),
        (b"no archive", {}, "cannot be read"),
        (gzip.compress(bytes(1024), mtime=0), {}, "one file, disk.raw"),
        (archive("podvm.raw"), {}, "one file, disk.raw"),
        (archive(), {}, "multiple of 1 GB"),
        (archive(), {"name": "Mine"}, "Must be a match of regex"),
        (archive(), {"guestOsFeatures": [{"type": "SEV_SNP"}]}, "SEV_SNP"),
        (archive(), {"rawDisk": {}}, "rawDisk.source"),
    ],
    ids=["none", "no archive", "no file in it", "another name", "too small", "its name", "a feature", "no source"],
)
async def test_what_is_no_image_is_refused(
    cloud: Simcloud, data: bytes | None, changes: dict[str, Any], why: str
) -> None:
    assert why in await insert(cloud, data, **changes)
