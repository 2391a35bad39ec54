"""A pod VM image into Compute Engine: an archive into a bucket, as one resumable upload, and that into an image.

Storage itself knows how much has arrived; the local record only keeps which upload it was. The image carries the disk's
hash as a label and in its description; the archive is deleted when the image has its copy.
"""

import asyncio
import base64
import hashlib
import json
import re
import tarfile
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from providers import images, retry, tags
from providers.base import ImageFile, Progress
from providers.errors import InvalidSpec, NotFound, ProviderError, Transient
from providers.gcp.api import MUTATE, Api
from providers.gcp.config import GcpConfig
from providers.gcp.errors import of_operation
from providers.throttle import Rank

Sleep = Callable[[float], Awaitable[None]]

STORAGE: Final = "https://storage.googleapis.com"
# Bytes sent at once: storage takes multiples of 256 KiB. What is under way when a connection breaks is sent again.
PIECE: Final = 8 << 20
FEATURES: Final = ("UEFI_COMPATIBLE", "GVNIC", "VIRTIO_SCSI_MULTIQUEUE")
CONFIDENTIAL: Final = ("SEV_CAPABLE", "SEV_SNP_CAPABLE", "SEV_LIVE_MIGRATABLE_V2", "TDX_CAPABLE")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_LABEL: Final = 63  # characters, one less than a hash has
_ATTEMPTS: Final = 10
_LOOK: Final = 3.0  # seconds between looks at the image being made
_READ: Final = 4 << 20
_LEAST_GIB: Final = 10  # no persistent disk is smaller, and a machine's gets the size that its image states
_ARCHITECTURES: Final = {"x86_64": "X86_64", "arm64": "ARM64"}


def open(config: GcpConfig, place: str) -> "GcpImages":
    """No call is made yet. Raises: InvalidSpec."""
    if not _BUCKET.fullmatch(place):
        raise InvalidSpec(f"--into {place!r}: for GCP this is the name of a bucket, where the archive lies meanwhile")
    return GcpImages(config, place)


class GcpImages:
    """`providers.base.SupportsImages` for one project, by way of one bucket."""

    form = "gcp"

    def __init__(self, config: GcpConfig, bucket: str, sleep: Sleep = asyncio.sleep) -> None:
        self._config = config
        self._bucket = bucket
        self._sleep = sleep
        self._api = Api(config)
        simulated = (config.endpoint_url or "").startswith("http:")
        self._storage = str(config.endpoint_url).rstrip("/") if simulated else STORAGE

    async def find(self, digest: str) -> str:
        """See SupportsImages.find."""
        asked = {"project": self._config.project, "filter": f'labels.{tags.IMAGE}="{digest[:_LABEL]}"'}
        found = await self._again(lambda: self._api.items("cannot look for the image", "images", asked))
        ours = [each for each in found if each.get("status") == "READY" and digest in each.get("description", "")]
        return f"projects/{self._config.project}/global/images/{ours[0]['name']}" if ours else ""

    async def upload(self, image: ImageFile, progress: Progress) -> str:
        """See SupportsImages.upload."""
        if found := await self.find(image.digest):
            return found
        ledger = images.Ledger.open(image, "gcp")
        checksum = await asyncio.to_thread(_md5, image.path)
        if not await self._is_there(image, ledger.size, checksum):
            await self._send(image, ledger, progress)
            if not await self._is_there(image, ledger.size, checksum):
                await self._forget(image.digest)
                ledger.remove()
                raise InvalidSpec(
                    f"what arrived in the bucket {self._bucket} is not {image.path}: it has been deleted. Did the file"
                    " change meanwhile? Upload again"
                )
        ledger.write()  # its token, before it is used
        made = await self._make(image, ledger, progress)
        await self._forget(image.digest)
        ledger.remove()
        return made

    async def tidy(self, digest: str) -> None:
        """See SupportsImages.tidy: the archive."""
        await self._forget(digest)

    async def aclose(self) -> None:
        """See SupportsImages.aclose."""
        await self._api.aclose()

    # -- the archive ------------------------------------------------------------------------------

    async def _is_there(self, image: ImageFile, size: int, checksum: str) -> bool:
        """Whether the bucket has all of this archive."""
        try:
            _, _, text = await self._call("cannot look into the bucket", "GET", self._object(image.digest))
            about = _parsed(text)
        except NotFound:
            return False
        return about.get("size") == str(size) and about.get("md5Hash") == checksum

    async def _send(self, image: ImageFile, ledger: images.Ledger, progress: Progress) -> None:
        """All of it, from where storage says that it has come to."""
        offset = await self._arrived(ledger) if self._ours(ledger.target) else None
        if offset is None:
            ledger.target, offset = await self._begin(image), 0
            ledger.write()
        progress("sending the archive", offset, ledger.size)
        tries = 0
        while offset < ledger.size:
            data = await asyncio.to_thread(_piece, image.path, offset)
            last = offset + len(data) - 1
            headers = {"Content-Range": f"bytes {offset}-{last}/{ledger.size}"}
            arrived: int | None
            try:
                # Not asked again by `_call`: how much of the piece has arrived is another question, for storage.
                status, told, _ = await self._api.send(
                    "cannot send the archive", "PUT", ledger.target, headers=headers, data=data
                )
                arrived = _range_end(told) if status == 308 else ledger.size
            except Transient:
                tries += 1
                if tries >= _ATTEMPTS:
                    raise
                arrived = await self._arrived(ledger)
            if arrived is None:
                raise Transient("storage has forgotten this upload: run the same again, it begins anew")
            tries = 0 if arrived > offset else tries
            if arrived <= offset and tries == 0:
                raise ProviderError("storage took nothing of what was sent: upload again")
            offset = arrived
            progress("sending the archive", offset, ledger.size)

    async def _begin(self, image: ImageFile) -> str:
        """A new upload's own URL, by which alone it is gone on with: kept like a secret."""
        url = f"{self._storage}/upload/storage/v1/b/{self._bucket}/o?uploadType=resumable"
        headers = {"Content-Type": "application/json", "X-Upload-Content-Type": "application/gzip"}
        body = json.dumps({"name": _name(image.digest), "metadata": {tags.IMAGE: image.digest}}).encode()
        _, told, _ = await self._call("cannot begin the upload", "POST", url, headers, body)
        made = str(told.get("Location", ""))
        if not self._ours(made):
            raise ProviderError("storage names no place to send the archive to")
        return made

    def _ours(self, url: str) -> bool:
        """Whether it is an upload to this bucket: a forged record must not send the credentials elsewhere."""
        return url.startswith(f"{self._storage}/upload/storage/v1/b/{self._bucket}/o?")

    async def _arrived(self, ledger: images.Ledger) -> int | None:
        """How many bytes storage has; None for an upload that it does not know any more."""
        headers = {"Content-Range": f"bytes */{ledger.size}"}
        try:
            status, told, _ = await self._call("cannot go on with the upload", "PUT", ledger.target, headers)
        except (NotFound, ProviderError) as error:
            if isinstance(error, NotFound) or error.code in ("410", "Gone"):
                return None
            raise
        return _range_end(told) if status == 308 else ledger.size

    async def _forget(self, digest: str) -> None:
        try:
            await self._call("cannot delete the archive", "DELETE", self._object(digest))
        except NotFound:
            pass

    def _object(self, digest: str) -> str:
        return f"{self._storage}/storage/v1/b/{self._bucket}/o/{quote(_name(digest), safe='')}"

    # -- the image --------------------------------------------------------------------------------

    async def _make(self, image: ImageFile, ledger: images.Ledger, progress: Progress) -> str:
        doing = f"cannot make the image {image.name}"
        features = FEATURES + (CONFIDENTIAL if image.architecture == "x86_64" else ())
        resource = {
            "name": image.name,
            "description": f"peerpods pod VM, disk {image.digest}",
            "labels": {tags.IMAGE: image.digest[:_LABEL]},
            "architecture": _ARCHITECTURES[image.architecture],
            "guest_os_features": [{"type_": each} for each in features],
            "disk_size_gb": max(_LEAST_GIB, await asyncio.to_thread(_disk_gib, image.path)),
            "raw_disk": {"source": f"{STORAGE}/{self._bucket}/{_name(image.digest)}", "container_type": "TAR"},
        }
        asked = {
            "project": self._config.project,
            "request_id": str(uuid.UUID(hex=ledger.token)),
            "image_resource": resource,
        }
        try:
            made = await self._again(
                lambda: self._api.ask(doing, "images", "insert_unary", asked, takes=MUTATE, rank=Rank.CREATE)
            )
        except ProviderError as error:
            if "already exists" not in error.message:
                raise
            if found := await self.find(image.digest):
                return found
            raise InvalidSpec(f"{error.message}; choose another --name, or wait until it is ready") from error
        progress("waiting for the image", 0, 0)
        look = {"project": self._config.project, "operation": made["name"]}
        while made.get("status") != "DONE":
            await self._sleep(_LOOK)
            made = await self._again(lambda: self._api.ask(doing, "global_operations", "get", look))
        if (failure := of_operation(made, doing)) is not None:
            ledger.remove()  # its token stands for the failure
            raise failure
        return f"projects/{self._config.project}/global/images/{image.name}"

    # -- calls ------------------------------------------------------------------------------------

    async def _call(
        self, doing: str, method: str, url: str, headers: Mapping[str, str] | None = None, data: bytes = b""
    ) -> tuple[int, Mapping[str, str], str]:
        return tuple(await self._again(lambda: self._api.send(doing, method, url, headers=headers or {}, data=data)))

    async def _again(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """The answer; asked again where that may help."""
        async for attempt in retry.retrying(self._sleep, retry.attempts(_ATTEMPTS)):
            with attempt:
                return await ask()
        raise AssertionError("the last attempt raises")


def _name(digest: str) -> str:
    return f"peerpods-podvm-{digest}.tar.gz"


def _range_end(told: Mapping[str, str]) -> int:
    """Bytes that have arrived, as storage says it: `Range: bytes=0-524287`; no such header is none."""
    found = re.fullmatch(r"bytes=0-(\d+)", told.get("Range", ""))
    return int(found[1]) + 1 if found else 0


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        raise Transient("the answer is not Google's own") from None
    return found if isinstance(found, dict) else {}


def _piece(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(PIECE)
    except OSError as error:
        raise InvalidSpec(f"cannot read {path}: {error.strerror}") from None
    if not data:
        raise InvalidSpec(f"{path} became shorter while it was being uploaded")
    return data


def _disk_gib(path: Path) -> int:
    """Of the disk in the archive. Raises: InvalidSpec."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            first = archive.next()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InvalidSpec(f"{path} is no gzipped tar archive: {error}") from None
    if first is None or first.name != "disk.raw":
        raise InvalidSpec(f"{path} does not begin with disk.raw")
    return -(-first.size >> 30)


def _md5(path: Path) -> str:
    """As storage tells it of what it has. Raises: InvalidSpec."""
    whole = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while data := file.read(_READ):
                whole.update(data)
    except OSError as error:
        raise InvalidSpec(f"cannot read {path}: {error.strerror}") from None
    return base64.b64encode(whole.digest()).decode()
