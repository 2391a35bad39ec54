"""A pod VM image into EC2: its blocks by the EBS direct API into a snapshot, and that registered as an AMI.

No bucket and no import role are needed, and blocks of zeros are never sent. The snapshot and the AMI carry the disk's
hash as a tag: by that they are found again, finished or not.
"""

import asyncio
import base64
import functools
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import boto3
from botocore.config import Config

from providers import images, retry, tags
from providers.aws import worker
from providers.aws.config import AwsConfig
from providers.aws.errors import translate
from providers.base import ImageFile, Progress
from providers.errors import InvalidSpec, NotFound, ProviderError, Transient

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]

BLOCK: Final = 512 << 10  # bytes; the API knows no other size
WORKERS: Final = 16  # blocks under way; one connection carries some ten a second
ROOT_DEVICE: Final = "/dev/xvda"
_GIB: Final = 1 << 30
# Minutes for which EBS keeps a snapshot that nothing is written to: an upload may be gone on with for a day.
_KEPT: Final = 1440
_ATTEMPTS: Final = 10  # of one call; with the pauses between them some two minutes
_LOOK: Final = 2.0  # seconds between looks at a snapshot that is being completed
_LOOKS: Final = 30  # at one that EBS would not complete: it may be doing so already
_AGAIN: Final = ("WRITE_REQUEST_TIMEOUT", "CONFLICTING_BLOCK_UPDATE")  # reasons of a ValidationException that pass


def open(config: AwsConfig, place: str) -> "AwsImages":
    """No call is made yet. Raises: InvalidSpec."""
    if place:
        raise InvalidSpec(f"EC2 keeps images in the region of the settings: --into {place} means nothing to it")
    return AwsImages(config)


class AwsImages:
    """`providers.base.SupportsImages` for EC2."""

    form = "raw"

    def __init__(self, config: AwsConfig, sleep: Sleep = asyncio.sleep) -> None:
        self._config = config
        self._sleep = sleep
        self._threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="aws-image")
        self._clients: dict[str, Any] = {}

    async def find(self, digest: str) -> str:
        """See SupportsImages.find."""
        request = {"Owners": ["self"], "Filters": _marked(digest)}
        found = await self._call("cannot look for the image", "ec2", "describe_images", request)
        usable = [each for each in found["Images"] if each["State"] in ("available", "pending")]
        return str(min(usable, key=lambda each: str(each["CreationDate"]))["ImageId"]) if usable else ""

    async def upload(self, image: ImageFile, progress: Progress) -> str:
        """See SupportsImages.upload."""
        if found := await self.find(image.digest):
            return found
        ledger = images.Ledger.open(image, "aws")
        snapshot = await self._complete(image)
        if not snapshot:
            pieces = await self._in_thread(lambda: images.survey(image.path, BLOCK, progress))
            await self._begin(image, ledger, pieces)
            await self._send(ledger, pieces, progress)
            await self._end(ledger, pieces, progress)
            snapshot = ledger.target
        made = await self._register(image, snapshot)
        ledger.remove()
        return made

    async def tidy(self, digest: str) -> None:
        """See SupportsImages.tidy: the snapshot is the image's, and nothing else was made."""

    async def aclose(self) -> None:
        """See SupportsImages.aclose."""
        await asyncio.to_thread(self._threads.shutdown)
        for client in self._clients.values():
            client.close()

    # -- the snapshot -----------------------------------------------------------------------------

    async def _snapshots(self, digest: str) -> dict[str, str]:
        """Those of this image: id -> state."""
        request = {"OwnerIds": ["self"], "Filters": _marked(digest)}
        found = await self._call("cannot look for the image's snapshot", "ec2", "describe_snapshots", request)
        return {each["SnapshotId"]: each["State"] for each in found["Snapshots"]}

    async def _complete(self, image: ImageFile) -> str:
        """A snapshot that holds the whole disk; empty where there is none."""
        return next((id for id, state in (await self._snapshots(image.digest)).items() if state == "completed"), "")

    async def _begin(self, image: ImageFile, ledger: images.Ledger, pieces: images.Pieces) -> None:
        """Have the ledger name a snapshot that takes blocks: the one begun before, or a new one."""
        known = await self._snapshots(image.digest)
        begun = [id for id, state in known.items() if state == "pending"]
        if ledger.target and ledger.target not in begun:  # cancelled by EBS, or deleted by somebody
            ledger = _emptied(ledger)
        if begun and ledger.target not in begun:
            # What it holds is not known here: each block is written again, over what may be there.
            ledger.target, ledger.arrived = begun[0], {}
        ledger.write()  # the token is on disk before it is used
        if ledger.target:
            return
        request = {
            "VolumeSize": -(-pieces.size // _GIB),
            "Description": f"{image.name}, being uploaded",
            "Tags": _tags(image),
            "ClientToken": ledger.token,
            "Timeout": _KEPT,
        }
        started = await self._call("cannot start a snapshot", "ebs", "start_snapshot", request)
        if started.get("BlockSize", BLOCK) != BLOCK:
            raise InvalidSpec(f"{started['SnapshotId']} takes blocks of {started['BlockSize']} bytes, not of {BLOCK}")
        ledger.target = str(started["SnapshotId"])
        ledger.write()

    async def _send(self, ledger: images.Ledger, pieces: images.Pieces, progress: Progress) -> None:
        put = functools.partial(self._put, ledger.target, pieces)
        told = functools.partial(progress, "sending blocks")
        await images.send_missing(ledger, pieces, put, told, length=BLOCK, workers=WORKERS)

    async def _put(self, snapshot: str, pieces: images.Pieces, index: int) -> None:
        data = await self._in_thread(lambda: pieces.read(index))
        request = {
            "SnapshotId": snapshot,
            "BlockIndex": index,
            "BlockData": data,
            "DataLength": BLOCK,
            "Checksum": base64.b64encode(pieces.hashes[index]).decode(),
            "ChecksumAlgorithm": "SHA256",
        }
        doing = f"cannot write block {index} of {snapshot}"
        # EBS may not know a snapshot everywhere that it has just started: NotFound passes.
        await self._call(doing, "ebs", "put_snapshot_block", request, passing=(NotFound,))

    async def _end(self, ledger: images.Ledger, pieces: images.Pieces, progress: Progress) -> None:
        """Have EBS count and check the blocks, and wait until the snapshot can be used."""
        snapshot = ledger.target
        request = {
            "SnapshotId": snapshot,
            "ChangedBlocksCount": len(pieces.hashes),
            "Checksum": base64.b64encode(hashlib.sha256(b"".join(pieces.hashes.values())).digest()).decode(),
            "ChecksumAlgorithm": "SHA256",
            "ChecksumAggregationMethod": "LINEAR",
        }
        try:
            await self._call(f"cannot complete {snapshot}", "ebs", "complete_snapshot", request)
        except InvalidSpec as error:
            if not await self._settled(snapshot):  # else it was asked for before, and the answer was lost
                await self._give_up(ledger, error)
        progress("waiting for the snapshot", 0, 0)
        while (state := await self._state(snapshot)) != "completed":
            if state != "pending":
                await self._give_up(ledger, ProviderError(f"{snapshot} has ended as {state}"))
            await self._sleep(_LOOK)

    async def _settled(self, snapshot: str) -> bool:
        """Whether it is complete, or will be within a minute."""
        for _ in range(_LOOKS):
            if await self._state(snapshot) != "pending":
                break
            await self._sleep(_LOOK)
        return await self._state(snapshot) == "completed"

    async def _state(self, snapshot: str) -> str:
        doing, request = f"cannot look at {snapshot}", {"SnapshotIds": [snapshot]}
        found = await self._call(doing, "ec2", "describe_snapshots", request, passing=(NotFound,))
        return str(found["Snapshots"][0]["State"])

    async def _give_up(self, ledger: images.Ledger, error: ProviderError) -> None:
        """What is in the snapshot is not the disk: away with it, and with the record that said so."""
        request = {"SnapshotId": ledger.target}
        ledger.remove()
        try:
            await self._call(f"cannot delete {ledger.target}", "ec2", "delete_snapshot", request)
        except NotFound:
            pass
        raise InvalidSpec(
            f"{error.message}: what {ledger.target} held was not the whole disk; it has been deleted. Upload again, from"
            " the beginning",
            code=error.code,
            request_id=error.request_id,
        ) from error

    # -- the image --------------------------------------------------------------------------------

    async def _register(self, image: ImageFile, snapshot: str) -> str:
        request = {
            "Name": image.name,
            "Description": f"peerpods pod VM, disk {image.digest}",
            "Architecture": image.architecture,
            "VirtualizationType": "hvm",
            "BootMode": "uefi",
            "TpmSupport": "v2.0",
            "ImdsSupport": "v2.0",
            "EnaSupport": True,
            "RootDeviceName": ROOT_DEVICE,
            "BlockDeviceMappings": [
                {
                    "DeviceName": ROOT_DEVICE,
                    "Ebs": {"SnapshotId": snapshot, "VolumeType": "gp3", "DeleteOnTermination": True},
                }
            ],
            "TagSpecifications": [{"ResourceType": "image", "Tags": _tags(image)}],
        }
        try:
            made = await self._call(f"cannot register {image.name}", "ec2", "register_image", request)
        except ProviderError as error:
            if error.code != "InvalidAMIName.Duplicate":
                raise
            if found := await self.find(image.digest):  # the answer to an earlier call was lost
                return found
            raise InvalidSpec(
                f"{error.message}; that is another disk's image: choose another --name", code=error.code
            ) from error
        return str(made["ImageId"])

    # -- calls ------------------------------------------------------------------------------------

    async def _call(
        self,
        doing: str,
        service: str,
        method: str,
        request: Mapping[str, Any],
        *,
        passing: tuple[type[ProviderError], ...] = (),
    ) -> Mapping[str, Any]:
        """The answer, all pages of it; asked again where that may help, for errors of `passing` too."""

        def ask() -> Any:
            try:
                client = self._client(service)
                if client.can_paginate(method):
                    return client.get_paginator(method).paginate(**request).build_full_result()
                return getattr(client, method)(**request)
            except ProviderError:
                raise
            except Exception as error:
                made = translate(error, doing)
                said = getattr(error, "response", None) or {}
                if said.get("Reason") in _AGAIN or isinstance(made, passing):
                    raise Transient(made.message, code=made.code, request_id=made.request_id) from error
                raise made from error

        async for attempt in retry.retrying(self._sleep, retry.attempts(_ATTEMPTS)):
            with attempt:
                return dict(await self._in_thread(ask))
        raise AssertionError("the last attempt raises")

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _client(self, service: str) -> Any:
        """Blocks. Raises: InvalidSpec. Two threads may both make one: the second is used by nobody else."""
        if service not in self._clients:
            session = boto3.Session(profile_name=self._config.profile, region_name=self._config.region)
            url = dict(self._config.endpoint_urls).get(service)
            self._clients[service] = session.client(
                service,
                region_name=session.region_name or worker.region(),
                endpoint_url=self._config.endpoint_url if service == "ec2" else url,
                config=Config(
                    user_agent_extra="peerpods",
                    max_pool_connections=WORKERS,
                    retries={"total_max_attempts": 1, "mode": "standard"},  # `_call` does that, and can be cancelled
                ),
            )
        return self._clients[service]


def _emptied(ledger: images.Ledger) -> images.Ledger:
    """The same record as at the beginning, with a token of its own."""
    fresh = images.Ledger(ledger.file, ledger.cloud, ledger.digest, ledger.size)
    ledger.token, ledger.target, ledger.arrived = fresh.token, "", {}
    return ledger


def _marked(digest: str) -> list[dict[str, Any]]:
    return [{"Name": f"tag:{tags.IMAGE}", "Values": [digest]}]


def _tags(image: ImageFile) -> list[dict[str, str]]:
    return [{"Key": tags.IMAGE, "Value": image.digest}, {"Key": "Name", "Value": image.name}]
