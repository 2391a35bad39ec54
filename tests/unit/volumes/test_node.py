"""Which pod a sandbox is, and which of the node's direct volumes are its own."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from adaptor import names
from adaptor.errors import InvalidRequest
from adaptor.volumes.node import Found, NodeVolumes

MINE, OTHERS = "3f2a-mine", "77aa-other"


class Worker:
    def __init__(self, root: Path) -> None:
        self.records, self.bundles = root / "direct-volumes", root / "bundles"
        self.volumes = NodeVolumes(str(self.records), str(self.bundles))

    def path(self, uid: str, volume: str, kind: str = "kubernetes.io~csi") -> str:
        return f"/var/lib/kubelet/pods/{uid}/volumes/{kind}/{volume}/mount"

    def record(self, path: str, **content: Any) -> Path:
        directory = self.records / base64.urlsafe_b64encode(path.encode()).decode()
        directory.mkdir(parents=True)
        (directory / "mountInfo.json").write_text(json.dumps(content))
        return directory / "mountInfo.json"

    def bundle(self, sandbox: str, config: Any) -> None:
        (self.bundles / sandbox).mkdir(parents=True)
        (self.bundles / sandbox / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))

    def found(self, annotations: dict[str, str] | None = None) -> Found:
        return self.volumes.found("s1", "shop/web", annotations or {})


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


TOLD = {names.CRI_SANDBOX_UID: MINE}


def test_a_pod_gets_its_own_volumes_and_nobody_elses(worker: Worker) -> None:
    worker.record(worker.path(MINE, "b"), device="vol-b")
    worker.record(worker.path(OTHERS, "a"), device="vol-other")
    worker.record(worker.path(MINE, "a"), device="vol-a")
    assert [volume.disk for volume in worker.found(TOLD).volumes] == ["vol-a", "vol-b"]


def test_they_are_numbered_as_upstream_does_by_the_names_of_their_records(worker: Worker) -> None:
    files = {worker.record(worker.path(MINE, name), device=f"vol-{name}").parent.name: f"vol-{name}" for name in "zxy0"}
    assert [volume.disk for volume in worker.found(TOLD).volumes] == [files[name] for name in sorted(files)]


def test_another_pods_broken_record_is_not_this_ones_trouble(worker: Worker) -> None:
    worker.record(worker.path(OTHERS, "a")).write_text("{")
    worker.record(worker.path(MINE, "a", "kubernetes.io~configmap")).write_text("{")
    (worker.records / "no record").mkdir()
    (worker.records / "a-file").write_text("")
    assert worker.found(TOLD) == Found(MINE)


def test_a_broken_record_of_the_pods_names_pod_and_file(worker: Worker) -> None:
    file = worker.record(worker.path(MINE, "a"), device="vol-a", fstype="vfat")
    with pytest.raises(InvalidRequest) as caught:
        worker.found(TOLD)
    assert str(caught.value).startswith("the direct volume of pod shop/web at /var/lib/kubelet/pods/3f2a-mine/")
    assert str(file) in str(caught.value)


def test_a_record_without_its_file_or_an_endless_one_is_refused(worker: Worker) -> None:
    file = worker.record(worker.path(MINE, "a"), device="vol-a")
    file.write_text(" " * (65 << 10))
    with pytest.raises(InvalidRequest, match="longer than 65536 bytes"):
        worker.found(TOLD)
    file.unlink()
    with pytest.raises(InvalidRequest, match="No such file"):
        worker.found(TOLD)


def test_the_uid_is_in_containerds_bundle(worker: Worker) -> None:
    worker.bundle("s1", {"annotations": {names.CRI_SANDBOX_UID: MINE}})
    worker.record(worker.path(MINE, "a"), device="vol-a")
    assert [volume.disk for volume in worker.found().volumes] == ["vol-a"]


@pytest.mark.parametrize("name", [f"k8s_POD_web_shop_{MINE}_0", f"k8s_web_shop_{MINE}_0"])
def test_cri_o_tells_the_uid_by_itself(worker: Worker, name: str) -> None:
    assert worker.found({names.CRIO_SANDBOX_NAME: name}).uid == MINE


@pytest.mark.parametrize(
    "config", ["", "{", "[]", {}, {"annotations": None}, {"annotations": {names.CRI_SANDBOX_UID: 7}}]
)
def test_a_bundle_that_says_nothing_is_no_error(worker: Worker, config: Any) -> None:
    worker.bundle("s1", config)
    assert worker.found() == Found()


@pytest.mark.parametrize("uid", ["..", "a/b", "", " ", "x" * 65])
def test_what_cannot_be_a_uid_is_none(worker: Worker, uid: str) -> None:
    worker.bundle("s1", {"annotations": {names.CRI_SANDBOX_UID: uid}})
    assert worker.found().uid == ""


def test_without_a_uid_no_pod_gets_any_volume_and_that_is_said(worker: Worker) -> None:
    worker.record(worker.path(OTHERS, "a"), device="vol-other")
    assert worker.found() == Found(unknown=True)


def test_a_node_without_direct_volumes_needs_no_uid(worker: Worker) -> None:
    assert worker.found() == Found()
    worker.records.mkdir()
    assert worker.found() == Found()
