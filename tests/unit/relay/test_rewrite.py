"""What the worker changes in agent calls."""

import json

from adaptor import names
from adaptor.protos.agent_pb2 import CreateContainerRequest
from adaptor.protos.relay_pb2 import DirectVolume, Rewrites
from adaptor.protos.ttrpc_pb2 import Request
from adaptor.relay import rewrite
from adaptor.relay.splice import Answer, Splice
from adaptor.ttrpc.frames import HEADER
from tests.worlds.tunnel import call

WITH_GPUS = Rewrites(all_gpus=True)
UNKNOWN = b"\xfa\x3f\x05later"  # field 1023, a string: of a kata that this program was not written for


def rewritten(message: bytes) -> CreateContainerRequest:
    out = b"".join(Splice(rewrite.rules(WITH_GPUS)).requests(memoryview(call(1, "CreateContainer", message))))
    return CreateContainerRequest.FromString(Request.FromString(out[HEADER.size :]).payload)


def test_a_sandbox_without_gpus_has_no_rules_at_all() -> None:
    assert not rewrite.rules(Rewrites())


def test_every_gpu_is_named_beside_the_annotations_that_are_there() -> None:
    request = CreateContainerRequest(container_id="c1")
    request.oci.annotations["io.kubernetes.cri.container-type"] = "container"
    request.oci.process.args.append("sh")
    expected = CreateContainerRequest()
    expected.CopyFrom(request)
    expected.oci.annotations[names.CDI_PEER_PODS] = names.CDI_ALL_GPUS
    assert rewritten(request.SerializeToString()) == expected


def test_fields_of_a_newer_kata_survive_at_every_depth() -> None:
    request = CreateContainerRequest(container_id="c1")
    request.oci.MergeFromString(UNKNOWN)
    request.oci.linux.MergeFromString(UNKNOWN)
    request.MergeFromString(UNKNOWN)
    out = rewritten(request.SerializeToString())
    assert out.oci.annotations[names.CDI_PEER_PODS] == names.CDI_ALL_GPUS
    assert out.SerializeToString().count(UNKNOWN) == 3


def test_other_calls_of_a_sandbox_with_gpus_pass_untouched() -> None:
    data = memoryview(call(1, "StartContainer", b"") + call(3, "CreateContainer", b"", service="grpc.Health"))
    (piece,) = Splice(rewrite.rules(WITH_GPUS)).requests(data)
    assert piece is data


def test_a_request_that_cannot_be_decoded_passes_for_the_agent_to_judge() -> None:
    broken = call(1, "CreateContainer", b"\xff\xff\xff")
    assert b"".join(Splice(rewrite.rules(WITH_GPUS)).requests(memoryview(broken))) == broken


# -- volumes ----------------------------------------------------------------------------------------

DATA_PATH = "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/data/mount"
DATA = DirectVolume(name="vol-0", path=DATA_PATH, fs_type="ext4", lun="0", disk_id="vol-abc", device="vol-abc")
SECRET = DirectVolume(
    name="vol-1",
    path=DATA_PATH.replace("data", "secret"),
    fs_type="xfs",
    lun="1",
    disk_id="vol-def",
    fs_group="1000",
    encrypt_type="luks2",
    key_id="default/key/1",
)


def container(*mounts: tuple[str, str]) -> CreateContainerRequest:
    request = CreateContainerRequest(container_id="c1")
    for source, destination in mounts:
        request.oci.mounts.add(source=source, destination=destination, type="bind", options=["rbind", "rw"])
    return request


def passed(request: CreateContainerRequest, rewrites: Rewrites) -> CreateContainerRequest:
    rule = rewrite.rules(rewrites)[names.AGENT_SERVICE, "CreateContainer"]
    verdict = rule(request.SerializeToString())
    assert isinstance(verdict, bytes), verdict
    return CreateContainerRequest.FromString(verdict)


def refused(request: CreateContainerRequest, rewrites: Rewrites) -> str:
    verdict = rewrite.rules(rewrites)[names.AGENT_SERVICE, "CreateContainer"](request.SerializeToString())
    assert isinstance(verdict, Answer)
    assert verdict.error is not None
    return verdict.error.message


def test_a_stock_guest_is_told_of_the_containers_disks_in_upstreams_words() -> None:
    out = passed(
        container((SECRET.path, "/secret"), ("/x", "/x"), (DATA.path, "/data")), Rewrites(volumes=[DATA, SECRET])
    )
    assert json.loads(out.oci.annotations["io.confidentialcontainers.org.cloud_volumes"]) == {
        "vol-0": {"mount_point": "/data", "fs_type": "ext4", "lun": "0", "disk_id": "vol-abc"},
        "vol-1": {
            "mount_point": "/secret",
            "fs_type": "xfs",
            "lun": "1",
            "disk_id": "vol-def",
            "fs_group": "1000",
            "encrypt_type": "luks2",
            "key_id": "default/key/1",
        },
    }
    targets = out.oci.annotations["io.confidentialcontainers.org.peerpodvolumes.target_path"]
    assert targets == f"{DATA.path},{SECRET.path}"
    assert [mount.source for mount in out.oci.mounts] == [SECRET.path, "/x", DATA.path]


def test_a_container_that_mounts_no_disk_is_not_told_of_any() -> None:
    request = container(("/x", "/x"))
    assert passed(request, Rewrites(volumes=[DATA])) == request


def test_a_shim_that_gives_the_records_device_is_understood() -> None:
    assert names.CLOUD_VOLUMES in passed(container(("vol-abc", "/data")), Rewrites(volumes=[DATA])).oci.annotations


def test_our_own_guest_has_mounted_it_so_every_mount_comes_from_there() -> None:
    own = DirectVolume(read_only=True, guest_path="/run/cloud-volumes/vol-0")
    own.MergeFrom(DATA)
    request = container((DATA.path, "/data"), (DATA.path, "/again"))
    request.oci.mounts[1].type = "ext4"
    del request.oci.mounts[1].options[:]
    first, second = passed(request, Rewrites(volumes=[own])).oci.mounts
    assert (first.source, first.type, list(first.options)) == (own.guest_path, "bind", ["rbind", "rw", "ro"])
    assert (second.source, second.type, list(second.options)) == (own.guest_path, "bind", ["rbind", "ro"])


def test_gpus_and_volumes_go_together() -> None:
    out = passed(container((DATA.path, "/data")), Rewrites(all_gpus=True, volumes=[DATA]))
    assert {names.CDI_PEER_PODS, names.CLOUD_VOLUMES} <= set(out.oci.annotations)


def test_a_part_of_a_disk_is_refused_for_its_data_would_go_nowhere() -> None:
    part = "/var/lib/kubelet/pods/uid/volume-subpaths/data/web/0"
    assert f"subPath, {part}" in refused(container((part, "/data")), Rewrites(volumes=[DATA]))
    other = container(("/var/lib/kubelet/pods/uid/volume-subpaths/config/web/0", "/config"))
    assert passed(other, Rewrites(volumes=[DATA])) == other


def test_a_stock_guest_cannot_mount_one_disk_twice_in_a_container() -> None:
    twice = container((DATA.path, "/data"), (DATA.path, "/again"))
    assert "twice" in refused(twice, Rewrites(volumes=[DATA]))


def test_a_csi_volume_is_refused_where_nobody_could_tell_whose_it_is() -> None:
    rewrites = Rewrites(volumes_unknown=True)
    assert f"mounts the CSI volume {DATA.path}, and no disk was attached" in refused(
        container((DATA.path, "/d")), rewrites
    )
    other = container(("/x", "/x"))
    assert passed(other, rewrites) == other
