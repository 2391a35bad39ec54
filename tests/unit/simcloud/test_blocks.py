"""The EBS direct API and RegisterImage of simcloud: what Amazon refuses is refused."""

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from providers.simcloud.ec2.blocks import BLOCK
from tests.unit.simcloud.ec2_client import Account, _session, eventually, refused

DATA = b"block".ljust(BLOCK, b"\0")


def checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


class Ebs:
    """The real SDK's client, and a snapshot that has begun."""

    def __init__(self, api: Any) -> None:
        self.api = api
        self.id = self.start()

    def start(self, **changes: Any) -> str:
        return str(self.api.start_snapshot(**{"VolumeSize": 1, "ClientToken": "token-1", **changes})["SnapshotId"])

    def put(self, index: int = 0, data: bytes = DATA, **changes: Any) -> None:
        right = {"DataLength": len(data), "Checksum": checksum(data), "ChecksumAlgorithm": "SHA256"}
        self.api.put_snapshot_block(
            **{"SnapshotId": self.id, "BlockIndex": index, "BlockData": data, **right, **changes}
        )

    def complete(self, count: int, **changes: Any) -> None:
        self.api.complete_snapshot(SnapshotId=self.id, ChangedBlocksCount=count, **changes)


@pytest.fixture
def ebs(account: Account) -> Iterator[Ebs]:
    api = _session().client("ebs", region_name=account.cloud.region, endpoint_url=account.cloud.endpoint_url)
    yield Ebs(api)
    api.close()


def refusal(code: str, status: int = 400) -> Any:
    return refused(code, status=status)


def test_a_token_starts_one_snapshot_and_no_other(ebs: Ebs) -> None:
    assert ebs.start() == ebs.id
    assert ebs.start(ClientToken="token-2") != ebs.id
    with refusal("ConflictException", 409):
        ebs.start(VolumeSize=2)


def test_a_block_must_be_whole_and_be_what_its_checksum_says(ebs: Ebs) -> None:
    with refusal("ValidationException"):
        ebs.put(data=DATA[:-1])
    with refusal("ValidationException"):
        ebs.put(Checksum=checksum(b"other"))
    with refusal("ValidationException"):
        ebs.put(index=2048)  # behind the first GiB
    with refusal("ResourceNotFoundException", 404):
        ebs.put(SnapshotId="snap-0123456789abcdef0")
    ebs.put(index=2047)


def test_only_what_is_all_there_is_completed(ebs: Ebs) -> None:
    ebs.put(0)
    ebs.put(3, b"other".ljust(BLOCK, b"\0"))
    whole = hashlib.sha256()
    for data in (DATA, b"other".ljust(BLOCK, b"\0")):
        whole.update(hashlib.sha256(data).digest())
    with refusal("ValidationException"):
        ebs.complete(1)
    linear = {"ChecksumAlgorithm": "SHA256", "ChecksumAggregationMethod": "LINEAR"}
    with refusal("ValidationException"):
        ebs.complete(2, Checksum=checksum(DATA), **linear)
    ebs.complete(2, Checksum=base64.b64encode(whole.digest()).decode(), **linear)
    with refusal("ValidationException"):
        ebs.put(5)  # too late


def test_what_is_not_complete_is_neither_read_nor_registered(account: Account, ebs: Ebs) -> None:
    ebs.put()
    with refusal("ValidationException"):
        ebs.api.list_snapshot_blocks(SnapshotId=ebs.id)
    image: dict[str, Any] = {
        "Name": "podvm",
        "BootMode": "uefi",
        "TpmSupport": "v2.0",
        "RootDeviceName": "/dev/xvda",
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": ebs.id}}],
    }
    with refused("IncorrectState", "pending"):
        account.ec2.register_image(**image)
    ebs.complete(1)
    eventually(lambda: account.ec2.describe_snapshots(SnapshotIds=[ebs.id])["Snapshots"][0]["State"] == "completed")
    with refused("InvalidParameterCombination", "TpmSupport"):
        account.ec2.register_image(**{**image, "BootMode": "legacy-bios"})
    with refused("InvalidAMIName.Malformed"):
        account.ec2.register_image(**{**image, "Name": "a;b;c"})
    account.ec2.register_image(**image)
    with refused("InvalidAMIName.Duplicate"):
        account.ec2.register_image(**image)
    with refused("InvalidSnapshot.InUse"):
        account.ec2.delete_snapshot(SnapshotId=ebs.id)
    blocks = ebs.api.list_snapshot_blocks(SnapshotId=ebs.id)["Blocks"]
    token = blocks[0]["BlockToken"]
    assert ebs.api.get_snapshot_block(SnapshotId=ebs.id, BlockIndex=0, BlockToken=token)["BlockData"].read() == DATA


def test_a_snapshot_that_nobody_writes_to_ends(account: Account, ebs: Ebs) -> None:
    account.cloud.age(ebs.id, 3601)
    assert account.ec2.describe_snapshots(SnapshotIds=[ebs.id])["Snapshots"][0]["State"] == "error"
    with refusal("ValidationException"):
        ebs.put()
