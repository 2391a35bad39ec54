"""The EBS direct API: snapshots written and read block by block, as strict as Amazon's.

Source: Amazon EBS user guide, "Use EBS direct APIs", and its API reference: block size, checksums, client tokens, what
must be there to complete, and that a snapshot that nothing is written to ends by itself.
"""

import base64
import hashlib
import json
import re
import time
from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from moto.ec2.models.elastic_block_store import Snapshot, Volume
from moto.ec2.utils import random_snapshot_id

from providers.simcloud.ec2 import tags
from providers.simcloud.ec2.account import Account
from providers.simcloud.ec2.errors import Refused
from providers.simcloud.exchange import Answer, Call

BLOCK: Final = 524_288
_COMPLETING: Final = 0.1  # seconds; Amazon takes some, sometimes a minute
_NO_VOLUME: Final = "vol-ffffffff"  # what EC2 shows for snapshots that were never a volume's
_JSON: Final = "application/json"
_STATUS: Final = {
    "AccessDeniedException": 403,
    "ResourceNotFoundException": 404,
    "ServiceQuotaExceededException": 402,
    "InternalServerException": 500,
    "ConflictException": 409,
}
_ROUTES: Final = (
    ("POST", r"/snapshots", "StartSnapshot"),
    ("PUT", r"/snapshots/(?P<id>[^/]+)/blocks/(?P<index>\d+)", "PutSnapshotBlock"),
    ("POST", r"/snapshots/completion/(?P<id>[^/]+)", "CompleteSnapshot"),
    ("GET", r"/snapshots/(?P<id>[^/]+)/blocks", "ListSnapshotBlocks"),
    ("GET", r"/snapshots/(?P<id>[^/]+)/blocks/(?P<index>\d+)", "GetSnapshotBlock"),
)


class Written(Snapshot):
    """A snapshot that was made by the direct API. Times are monotonic seconds."""

    def __init__(self, account: Account, asked: Mapping[str, Any]) -> None:
        size = int(asked["VolumeSize"])
        volume = cast("Any", Volume)(account, _NO_VOLUME, size, None)
        self._completed_at: float | None = None
        super().__init__(account, random_snapshot_id(), volume, asked.get("Description") or "")
        self.asked = dict(asked)
        self.blocks: dict[int, bytes] = {}
        self.puts = 0  # blocks received, repeated ones too
        self.touched_at = time.monotonic()

    @property
    def status(self) -> str:
        """pending, completed, or error for one that nobody wrote to for so long as its Timeout says."""
        if self._completed_at is not None:
            return "completed" if time.monotonic() >= self._completed_at else "pending"
        return "error" if time.monotonic() > self.touched_at + 60 * self.asked.get("Timeout", 60) else "pending"

    @status.setter
    def status(self, value: str) -> None:
        """Moto says completed of everything that it makes."""

    @property
    def state(self) -> str:
        return self.status

    def open_for_writing(self) -> bool:
        return self._completed_at is None and self.status == "pending"

    def complete(self) -> None:
        self._completed_at = time.monotonic() + _COMPLETING


def action(method: str, target: str) -> str:
    """What a request to this API asks for; empty for one to another."""
    return _route(method, target)[0]


def perform(call: Call, account: Account) -> Answer:
    """Raises: nothing; a refusal is an answer in this API's own form."""
    named, where = _route(call.method, call.target)
    try:
        match named:
            case "StartSnapshot":
                return _start(json.loads(call.body or b"{}"), account)
            case "PutSnapshotBlock":
                return _put(_writable(account, where["id"]), int(where["index"]), call)
            case "CompleteSnapshot":
                return _complete(_writable(account, where["id"]), call.headers)
            case "ListSnapshotBlocks":
                return _list(_readable(account, where["id"]), call.target)
            case "GetSnapshotBlock":
                return _get(_readable(account, where["id"]), int(where["index"]), call.target)
        raise Refused("ValidationException", f"simcloud does not play {call.method} {call.target}")
    except Refused as error:
        return refusal(error.code, str(error.message))


def refusal(code: str, message: str, status: int = 0, reason: str = "") -> Answer:
    """As this API refuses."""
    content = {"Message": message, **({"Reason": reason or "INVALID_PARAMETER_VALUE"} if code[0] == "V" else {})}
    headers = {"x-amzn-ErrorType": code, "x-amzn-RequestId": str(uuid4())}
    return Answer(status or _STATUS.get(code, 400), json.dumps(content).encode(), _JSON, headers, code)


def _start(asked: Mapping[str, Any], account: Account) -> Answer:
    size, timeout, token = asked.get("VolumeSize"), asked.get("Timeout", 60), asked.get("ClientToken") or ""
    if not isinstance(size, int) or not 1 <= size <= 65536:
        raise Refused("ValidationException", f"The volume size {size!r} is invalid; it is in GiB, 1 to 65536")
    if not isinstance(timeout, int) or not 10 <= timeout <= 4320:
        raise Refused("ValidationException", f"The timeout {timeout!r} is invalid; it is in minutes, 10 to 4320")
    marks = tags.check(asked.get("Tags") or [])
    if not token:
        raise Refused("ValidationException", "The request must contain a client token")
    for known in account.snapshots.values():
        if isinstance(known, Written) and known.asked.get("ClientToken") == token:
            if known.asked != asked:
                raise Refused("ConflictException", "The client token was used for a request with other parameters")
            return _started(known)
    made = Written(account, asked)
    account.snapshots[made.id] = made
    made.add_tags(marks)
    return _started(made)


def _started(snapshot: Written) -> Answer:
    content = {
        "SnapshotId": snapshot.id,
        "OwnerId": snapshot.owner_id,
        "Status": snapshot.status,
        "StartTime": snapshot.start_time.timestamp(),
        "VolumeSize": snapshot.volume.size,
        "BlockSize": BLOCK,
        "Tags": snapshot.asked.get("Tags") or [],
        "Description": snapshot.description,
    }
    return _answer(201, content)


def _put(snapshot: Written, index: int, call: Call) -> Answer:
    said, own = call.headers.get("x-amz-Checksum", ""), base64.b64encode(hashlib.sha256(call.body).digest()).decode()
    if call.headers.get("x-amz-Checksum-Algorithm") != "SHA256":
        raise Refused("ValidationException", "The checksum algorithm must be SHA256")
    if call.headers.get("x-amz-Data-Length") != str(BLOCK) or len(call.body) != BLOCK:
        raise Refused("ValidationException", f"A block has {BLOCK} bytes; this one has {len(call.body)}")
    if said != own:
        raise Refused("ValidationException", f"The checksum {said} is not that of the block, which is {own}")
    if (index + 1) * BLOCK > snapshot.volume.size << 30:
        raise Refused("ValidationException", f"Block {index} lies behind the end of the volume")
    snapshot.blocks[index] = call.body
    snapshot.puts += 1
    snapshot.touched_at = time.monotonic()
    return Answer(201, b"", _JSON, {"x-amz-Checksum": own, "x-amz-Checksum-Algorithm": "SHA256"})


def _complete(snapshot: Written, headers: Mapping[str, str]) -> Answer:
    count = headers.get("x-amz-ChangedBlocksCount", "")
    if count != str(len(snapshot.blocks)):
        raise Refused(
            "ValidationException",
            f"The changed blocks count {count} is not the {len(snapshot.blocks)} that were written",
        )
    if said := headers.get("x-amz-Checksum"):
        if headers.get("x-amz-Checksum-Algorithm") != "SHA256":
            raise Refused("ValidationException", "The checksum algorithm must be SHA256")
        if headers.get("x-amz-Checksum-Aggregation-Method") != "LINEAR":
            raise Refused("ValidationException", "The checksum aggregation method must be LINEAR")
        whole = hashlib.sha256(b"".join(hashlib.sha256(block).digest() for _, block in sorted(snapshot.blocks.items())))
        if said != base64.b64encode(whole.digest()).decode():
            raise Refused("ValidationException", "The checksum is not that of the blocks")
    snapshot.complete()
    return _answer(202, {"Status": snapshot.status})


def _list(snapshot: Written, target: str) -> Answer:
    asked = {key: values[0] for key, values in parse_qs(urlsplit(target).query).items()}
    most, start = int(asked.get("maxResults", 10000)), int(asked.get("pageToken", asked.get("startingBlockIndex", 0)))
    rest = sorted(index for index in snapshot.blocks if index >= start)
    shown = [{"BlockIndex": index, "BlockToken": _token(snapshot, index)} for index in rest[:most]]
    more = {"NextToken": str(rest[most])} if len(rest) > most else {}
    return _answer(200, {"Blocks": shown, "VolumeSize": snapshot.volume.size, "BlockSize": BLOCK, **more})


def _get(snapshot: Written, index: int, target: str) -> Answer:
    asked = parse_qs(urlsplit(target).query)
    if index not in snapshot.blocks or asked.get("blockToken") != [_token(snapshot, index)]:
        raise Refused("ValidationException", "The block token is invalid")
    block = snapshot.blocks[index]
    checksum = base64.b64encode(hashlib.sha256(block).digest()).decode()
    headers = {"x-amz-Data-Length": str(BLOCK), "x-amz-Checksum": checksum, "x-amz-Checksum-Algorithm": "SHA256"}
    return Answer(200, block, "application/octet-stream", headers)


def _token(snapshot: Written, index: int) -> str:
    return base64.urlsafe_b64encode(f"{snapshot.id}/{index}".encode()).decode().replace("-", "+").replace("_", "/")


def _known(account: Account, snapshot_id: str) -> Written:
    known = account.snapshots.get(snapshot_id)
    if not isinstance(known, Written):
        raise Refused("ResourceNotFoundException", f"The snapshot '{snapshot_id}' does not exist.")
    return known


def _writable(account: Account, snapshot_id: str) -> Written:
    known = _known(account, snapshot_id)
    if not known.open_for_writing():
        raise Refused("ValidationException", f"The snapshot '{snapshot_id}' takes no blocks: it is {known.status}")
    return known


def _readable(account: Account, snapshot_id: str) -> Written:
    known = _known(account, snapshot_id)
    if known.status != "completed":
        raise Refused("ValidationException", f"The snapshot '{snapshot_id}' is {known.status}, not completed")
    return known


def _route(method: str, target: str) -> tuple[str, dict[str, str]]:
    for verb, path, named in _ROUTES:
        if verb == method and (found := re.fullmatch(path, urlsplit(target).path)):
            return named, found.groupdict()
    return "", {}


def _answer(status: int, content: dict[str, Any]) -> Answer:
    return Answer(status, json.dumps(content).encode(), _JSON, {"x-amzn-RequestId": str(uuid4())})
