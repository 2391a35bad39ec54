"""What a mountInfo.json may say, and what is said of one that is wrong."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptor.errors import InvalidRequest
from adaptor.volumes import records
from adaptor.volumes.records import DirectVolume

PATH = "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/data/mount"


def parsed(record: Any, path: str = PATH) -> DirectVolume:
    return records.parse(
        record if isinstance(record, bytes) else json.dumps(record).encode(), path, "pod shop/web, file"
    )


def test_a_record_with_everything_becomes_a_volume() -> None:
    record = {
        "volume-type": "block",
        "device": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/fallback",
        "fstype": "xfs",
        "options": ["ro", "noatime"],
        "metadata": {
            "cloud-volume-path": "vol-0123",
            "fsGroup": "2000",
            "fsGroupChangePolicy": "OnRootMismatch",
            "encrypt-type": "LUKS2",
            "kbs-key-id": "default/key/1",
            "anything": "else",
        },
    }
    assert parsed(record) == DirectVolume(
        PATH, "vol-0123", "xfs", True, 2000, True, "default/key/1", str(record["device"])
    )


def test_the_least_record_names_a_disk() -> None:
    assert parsed({"device": "vol-1"}) == DirectVolume(PATH, "vol-1", device="vol-1")
    assert parsed({"device": "vol-1", "metadata": None, "options": None, "fstype": ""}).fs_type == "ext4"


def test_a_key_may_come_as_a_uri() -> None:
    metadata = {"encrypt-type": "luks", "kbs-key-id": "kbs:///default/key/1"}
    assert parsed({"device": "vol-1", "metadata": metadata}).key_id == "default/key/1"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        ([], "is not a JSON object"),
        ({}, "names no disk"),
        ({"device": ""}, "names no disk"),
        ({"device": 7}, '"device" is not a text'),
        ({"device": "/dev/sdb"}, "/dev/sdb is a device of this node and no disk of the cloud"),
        ({"device": "vol-1\n"}, "cannot be a cloud's id"),
        ({"device": "vol-1:ro"}, "cannot be a cloud's id"),
        ({"device": "vol-1", "fstype": "btrfs"}, "\"fstype\" is 'btrfs'; a pod VM mounts ext4, ext3, xfs"),
        ({"device": "vol-1", "fstype": ["ext4"]}, '"fstype" is not a text'),
        ({"device": "vol-1", "options": "ro"}, '"options" is not a list of texts'),
        ({"device": "vol-1", "metadata": []} | {"metadata": [1]}, '"metadata" is not an object of texts'),
        ({"device": "vol-1", "metadata": {"fsGroup": 7}}, '"metadata" is not an object of texts'),
        ({"device": "vol-1", "metadata": {"fsGroup": "-1"}}, "\"fsGroup\" is '-1'"),
        ({"device": "vol-1", "metadata": {"fsGroup": "4294967295"}}, '"fsGroup" is'),
        ({"device": "vol-1", "metadata": {"fsGroup": "²"}}, '"fsGroup" is'),
        ({"device": "vol-1", "metadata": {"fsGroupChangePolicy": "Never"}}, '"fsGroupChangePolicy" is'),
        ({"device": "vol-1", "metadata": {"encrypt-type": "luks2"}}, "\"kbs-key-id\" is ''"),
        ({"device": "vol-1", "metadata": {"kbs-key-id": "a/b/c"}}, "\"encrypt-type\" is ''"),
        ({"device": "vol-1", "metadata": {"encrypt-type": "zfs", "kbs-key-id": "a/b/c"}}, "\"encrypt-type\" is 'zfs'"),
        ({"device": "vol-1", "metadata": {"encrypt-type": "luks2", "kbs-key-id": "a/../c"}}, '"kbs-key-id" is'),
        ({"device": "vol-1", "metadata": {"encrypt-type": "luks2", "kbs-key-id": "a/b"}}, '"kbs-key-id" is'),
    ],
)
def test_a_wrong_record_is_named_with_what_is_wrong(record: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(record)
    assert str(caught.value).startswith("pod shop/web, file: ")
    assert reason in str(caught.value)


def test_a_raw_block_volume_is_refused_as_such() -> None:
    with pytest.raises(InvalidRequest, match="raw block volume"):
        parsed({"device": "vol-1"}, "/var/lib/kubelet/pods/uid/volumeDevices/kubernetes.io~csi/data")


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=5).map(json.dumps).map(str.encode)
)
def test_nothing_but_the_refusal_comes_of_garbage(text: bytes) -> None:
    with pytest.raises(InvalidRequest):
        records.parse(text, PATH, "file")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "device": st.text(max_size=20) | st.integers(),
            "fstype": st.sampled_from(["ext4", "xfs", "vfat", 3]),
            "options": st.lists(st.text(max_size=3)) | st.none(),
            "metadata": st.dictionaries(
                st.sampled_from(["fsGroup", "cloud-volume-path", "encrypt-type", "kbs-key-id"]), st.text(max_size=12)
            ),
        },
    )
)
def test_a_record_is_a_volume_that_can_be_used_or_is_refused(record: dict[str, Any]) -> None:
    try:
        volume = parsed(record)
    except InvalidRequest:
        return
    assert volume.disk
    assert volume.fs_type in records.FS_TYPES


def test_two_volumes_of_one_disk_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="pod shop/web: the volumes at /a and /b are the same disk vol-1"):
        records.check_together((DirectVolume("/a", "vol-1"), DirectVolume("/b", "vol-1")), "pod shop/web")


@pytest.mark.parametrize("padded", [True, False])
def test_a_directorys_name_is_the_path_with_or_without_padding(padded: bool) -> None:
    name = base64.urlsafe_b64encode(PATH.encode()).decode()
    assert records.decode(name if padded else name.rstrip("=")) == PATH


@pytest.mark.parametrize("name", ["", "not base64!", "YQ", "/w==", base64.urlsafe_b64encode(b"/a\0b").decode(), "ä"])
def test_what_is_no_path_is_no_record(name: str) -> None:
    assert records.decode(name) is None


def test_only_kubelets_places_of_csi_volumes_are_a_pods() -> None:
    assert records.pod_of(PATH) == "uid"
    assert records.pod_of("/data/pods/x/kubelet/pods/uid/volumes/kubernetes.io~csi/v") == "uid"
    assert records.pod_of("/var/lib/kubelet/pods/uid/volumes/kubernetes.io~configmap/v/mount") is None
    assert records.pod_of("/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/v/mount/../../x") is None
    assert records.volume_name(PATH) == "data"
