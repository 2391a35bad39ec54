"""A pod VM image into Azure: pages of a fixed VHD into a managed disk, and that into a version of a gallery's image.

No storage account is needed: the disk itself takes the upload. It carries the image's hash as a tag, as does the version;
by that they are found again. The disk is deleted when the version has its copy.
"""

import asyncio
import functools
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from providers import images, retry, tags
from providers.azure.arm import DISKS_API, GALLERIES_API, Answer, Arm, reading
from providers.azure.config import AzureConfig
from providers.azure.errors import refused
from providers.azure.pages import PIECE, Pages
from providers.base import ImageFile, Progress
from providers.errors import InvalidSpec, NotFound, ProviderError

Sleep = Callable[[float], Awaitable[None]]

WORKERS: Final = 8  # pieces under way
# What a version may be launched as: a disk without guest state, for confidential VMs and others. (ConfidentialVM, which
# looks righter, is for images taken of confidential VMs, guest state and all.)
SECURITY: Final = "ConfidentialVmSupported"
_PLACE: Final = re.compile(r"([A-Za-z0-9][\w.]{0,79})/([A-Za-z0-9][\w.-]{0,79})", re.ASCII)
_ATTEMPTS: Final = 10
_LOOK: Final = 5.0  # seconds between looks at what takes minutes
_LINK_LIFE: Final = 86_400  # seconds
_FREE: Final = "Unattached"  # of a disk: its upload is over
_ARCHITECTURES: Final = {"x86_64": "x64", "arm64": "Arm64"}


def open(config: AzureConfig, place: str) -> "AzureImages":
    """No call is made yet. Raises: InvalidSpec."""
    found = _PLACE.fullmatch(place)
    if found is None:
        raise InvalidSpec(f"--into {place!r}: for Azure this is GALLERY/DEFINITION, of azure.resource_group")
    return AzureImages(config, found[1], found[2])


class AzureImages:
    """`providers.base.SupportsImages` for one image definition of one gallery."""

    form = "vhd"

    def __init__(self, config: AzureConfig, gallery: str, definition: str, sleep: Sleep = asyncio.sleep) -> None:
        self._config = config
        self._sleep = sleep
        self._arm = Arm(config)
        compute = f"{config.group_id}/providers/Microsoft.Compute"
        self._gallery = f"{compute}/galleries/{gallery}"
        self._definition = f"{self._gallery}/images/{definition}"
        self._disks = f"{compute}/disks"

    async def find(self, digest: str) -> str:
        """See SupportsImages.find."""
        return next((each["id"] for each in await self._versions(digest) if _state(each) == "Succeeded"), "")

    async def upload(self, image: ImageFile, progress: Progress) -> str:
        """See SupportsImages.upload."""
        if found := await self.find(image.digest):
            return found
        ledger = images.Ledger.open(image, "azure")
        await self._prepare(image)
        disk = self._disk(image.digest)
        pieces = await asyncio.to_thread(images.survey, image.path, PIECE, progress)
        begun = [each for each in await self._versions(image.digest) if _state(each) in ("Creating", "Updating")]
        if not begun:
            await self._fill(disk, image, ledger, pieces, progress)
        made = await self._publish(disk, image, begun[0]["id"] if begun else "", progress)
        await self._delete(disk)
        ledger.remove()
        return made

    async def tidy(self, digest: str) -> None:
        """See SupportsImages.tidy: the disk."""
        await self._delete(self._disk(digest))

    async def aclose(self) -> None:
        """See SupportsImages.aclose."""
        await self._arm.aclose()

    # -- the gallery ------------------------------------------------------------------------------

    async def _versions(self, digest: str) -> list[Mapping[str, Any]]:
        """The definition's versions of this image; none where there is no definition yet."""
        return [each for each in await self._all_versions() if (each.get("tags") or {}).get(tags.IMAGE) == digest]

    async def _all_versions(self) -> list[Mapping[str, Any]]:
        try:
            doing = "cannot list the image's versions"
            return list(
                await self._again(lambda: self._arm.items(f"{self._definition}/versions", GALLERIES_API, doing))
            )
        except NotFound:
            return []

    async def _prepare(self, image: ImageFile) -> None:
        """Have a gallery, and in it a definition that suits. Raises: InvalidSpec for one that does not."""
        name, region = self._gallery.rpartition("/")[2], self._config.region
        if await self._get(self._gallery, GALLERIES_API, "cannot look at the gallery") is None:
            doing = f"cannot make the gallery {name}"
            await self._put(self._gallery, GALLERIES_API, {"location": region, "properties": {}}, doing)
        wanted = {
            "osType": "Linux",
            "osState": "Generalized",
            "hyperVGeneration": "V2",
            "architecture": _ARCHITECTURES[image.architecture],
        }
        features = [{"name": "SecurityType", "value": SECURITY}]
        known = await self._get(self._definition, GALLERIES_API, "cannot look at the image definition")
        if known is None:
            identifier = {"publisher": "peerpods", "offer": name, "sku": self._definition.rpartition("/")[2]}
            properties = {**wanted, "identifier": identifier, "features": features}
            body = {"location": region, "properties": properties}
            await self._put(self._definition, GALLERIES_API, body, "cannot make the image definition")
            return
        has = known["properties"]
        security = {each["name"]: each["value"] for each in has.get("features") or []}.get("SecurityType", "")
        other = [
            f"{key} is {has.get(key)}, not {value}" for key, value in wanted.items() if has.get(key, value) != value
        ]
        if "confidentialvmsupported" not in security.lower():
            other.append(f"its SecurityType is {security or 'not given'}, not {SECURITY}")
        if other:
            raise InvalidSpec(
                f"the image definition {self._definition} does not suit: {'; '.join(other)}. Name another with --into"
            )

    async def _publish(self, disk: str, image: ImageFile, begun: str, progress: Progress) -> str:
        """The version made of the disk. `begun`: one that Azure is making already, after a lost answer."""
        version = begun
        if not begun:
            version = f"{self._definition}/versions/{_next([each['name'] for each in await self._all_versions()])}"
            source = {"source": {"id": disk}, "hostCaching": "ReadOnly"}
            regions = [{"name": self._config.region, "regionalReplicaCount": 1}]
            body = {
                "location": self._config.region,
                "tags": _tags(image),
                "properties": {
                    "storageProfile": {"osDiskImage": source},
                    "publishingProfile": {"targetRegions": regions, "excludeFromLatest": False},
                },
            }
            await self._again(lambda: self._arm.put(version, GALLERIES_API, body, "cannot make the image's version"))
        progress("waiting for the gallery", 0, 0)
        while True:
            shown = await self._get(version, GALLERIES_API, "cannot look at the image's version")
            if shown is None:
                raise ProviderError(f"{version} has gone while it was being made: upload again")
            if _state(shown) == "Succeeded":
                return version
            if _state(shown) in ("Failed", "Canceled"):
                raise ProviderError(f"Azure could not make {version}: delete it, and upload again")
            await self._sleep(_LOOK)

    # -- the disk ---------------------------------------------------------------------------------

    def _disk(self, digest: str) -> str:
        return f"{self._disks}/peerpods-upload-{digest[:16]}"

    async def _fill(
        self, disk: str, image: ImageFile, ledger: images.Ledger, pieces: images.Pieces, progress: Progress
    ) -> None:
        """Have a disk that holds all pieces and takes no more."""
        doing = f"cannot upload to the disk {disk.rpartition('/')[2]}"
        known = await self._get(disk, DISKS_API, doing)
        told = set(pieces.hashes) - set(ledger.missing(pieces)) if ledger.target == disk else set()
        if known is not None and not _goes_on(known, image, pieces):
            if _state_of_disk(known) == _FREE and told == set(pieces.hashes):
                return  # all of it had arrived, and the link was closed
            await self._delete(disk)
            known, told = None, set()
        if known is None:
            told = set()
            await self._put(disk, DISKS_API, _body(self._config, image, pieces), f"{doing}: it cannot be made")
        ledger.target, ledger.arrived = disk, {index: pieces.hashes[index].hex() for index in told}
        ledger.write()
        link = Pages(await self._link(disk, doing))
        try:
            if told:  # what the record says has arrived must be there
                ranges = await self._again(lambda: link.written(doing))
                ledger.arrived = {n: digest for n, digest in ledger.arrived.items() if _covered(ranges, n, pieces)}
                ledger.write()
            await self._send(link, ledger, pieces, progress)
        finally:
            await link.aclose()
        await self._end_access(disk, doing)

    async def _send(self, link: Pages, ledger: images.Ledger, pieces: images.Pieces, progress: Progress) -> None:
        async def put(index: int) -> None:
            data = await asyncio.to_thread(pieces.read, index)
            first = index * PIECE
            content = data[: pieces.size - first]
            await self._again(functools.partial(link.put, first, content, "cannot send pages"))

        told = functools.partial(progress, "sending pages")
        await images.send_missing(ledger, pieces, put, told, length=PIECE, workers=WORKERS)

    async def _link(self, disk: str, doing: str) -> str:
        """What opens the disk for writing: a secret."""
        body = {"access": "Write", "durationInSeconds": _LINK_LIFE}
        answer = await self._finish(lambda: self._arm.post(f"{disk}/beginGetAccess", DISKS_API, doing, body), doing)
        with reading(doing):
            output = answer.body.get("properties", {}).get("output", answer.body)
            return str(output["accessSAS"])

    async def _end_access(self, disk: str, doing: str) -> None:
        await self._finish(lambda: self._arm.post(f"{disk}/endGetAccess", DISKS_API, doing), doing)
        while (shown := await self._get(disk, DISKS_API, doing)) is not None and _state_of_disk(shown) != _FREE:
            await self._sleep(_LOOK)

    async def _delete(self, disk: str) -> None:
        doing = f"cannot delete the disk {disk.rpartition('/')[2]}"
        if await self._get(disk, DISKS_API, doing) is None:
            return
        await self._finish(lambda: self._arm.post(f"{disk}/endGetAccess", DISKS_API, doing), doing)
        await self._again(lambda: self._arm.delete(disk, DISKS_API, doing))
        while await self._get(disk, DISKS_API, doing) is not None:
            await self._sleep(_LOOK)

    # -- calls ------------------------------------------------------------------------------------

    async def _again(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """The answer; asked again where that may help."""
        async for attempt in retry.retrying(self._sleep, retry.attempts(_ATTEMPTS)):
            with attempt:
                return await ask()
        raise AssertionError("the last attempt raises")

    async def _get(self, path: str, api: str, doing: str) -> Mapping[str, Any] | None:
        try:
            answer = await self._again(lambda: self._arm.get(path, api, doing))
        except NotFound:
            return None
        with reading(doing):
            return dict(answer.body)

    async def _put(self, path: str, api: str, body: Mapping[str, Any], doing: str) -> None:
        """Have it made, and wait until it is."""
        await self._again(lambda: self._arm.put(path, api, dict(body), doing))
        while (shown := await self._get(path, api, doing)) is None or _state(shown) not in ("Succeeded", ""):
            if shown is not None and _state(shown) in ("Failed", "Canceled"):
                raise ProviderError(f"{doing}: Azure says no more than that it has {_state(shown).lower()}")
            await self._sleep(_LOOK)

    async def _finish(self, begin: Callable[[], Awaitable[Answer]], doing: str) -> Answer:
        """An action's last answer: Azure says 202 and where to ask until it has one."""
        answer: Answer = await self._again(begin)
        where = answer.headers.get("Location") or answer.headers.get("Azure-AsyncOperation") or ""
        while answer.status == 202 and where:
            answer = await self._again(lambda: self._arm.get(where, DISKS_API, doing))
            if isinstance(answer.body, dict) and answer.body.get("status") in ("Failed", "Canceled"):
                raise refused(answer.body.get("error") or {}, doing)
            if answer.status == 202:
                await self._sleep(1.0)
        return answer


def _body(config: AzureConfig, image: ImageFile, pieces: images.Pieces) -> dict[str, Any]:
    properties = {
        "creationData": {"createOption": "Upload", "uploadSizeBytes": pieces.size},
        "osType": "Linux",
        "hyperVGeneration": "V2",
        "supportedCapabilities": {"architecture": _ARCHITECTURES[image.architecture]},
    }
    return {
        "location": config.region,
        "sku": {"name": "StandardSSD_LRS"},
        "tags": _tags(image),
        "properties": properties,
    }


def _tags(image: ImageFile) -> dict[str, str]:
    return {tags.IMAGE: image.digest, "Name": image.name}


def _state(shown: Mapping[str, Any]) -> str:
    return str((shown.get("properties") or {}).get("provisioningState") or "")


def _state_of_disk(shown: Mapping[str, Any]) -> str:
    return str((shown.get("properties") or {}).get("diskState") or "")


def _goes_on(shown: Mapping[str, Any], image: ImageFile, pieces: images.Pieces) -> bool:
    """Whether this disk waits for this image's pages."""
    size = ((shown.get("properties") or {}).get("creationData") or {}).get("uploadSizeBytes")
    ours = (shown.get("tags") or {}).get(tags.IMAGE) == image.digest and size == pieces.size
    return ours and _state_of_disk(shown) in ("ReadyToUpload", "ActiveUpload")


def _covered(ranges: list[tuple[int, int]], index: int, pieces: images.Pieces) -> bool:
    first, end = index * PIECE, min((index + 1) * PIECE, pieces.size)
    for start, stop in sorted(ranges):
        if start <= first < stop:
            first = stop
    return first >= end


def _next(names: list[str]) -> str:
    """The version after all of these."""
    known = [tuple(map(int, found.groups())) for each in names if (found := re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", each))]
    major, minor, patch = max(known, default=(1, 0, -1))
    return f"{major}.{minor}.{patch + 1}"
