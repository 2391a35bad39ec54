"""The pod's disks in its VM: real file systems on loop devices, really mounted; a data hub on a real socket."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptor import names
from adaptor.errors import Code, InvalidRequest, StatusError
from adaptor.pki import NodePki
from adaptor.protos.guest_pb2 import Volume
from podvm_images.guest import volumes
from podvm_images.guest.programs import Programs
from podvm_images.guest.volumes import Demands, Volumes, check, demands
from tests.unit.guest.peers import Dial, guest, pod, refusal
from tests.worlds import attached, cdh
from tests.worlds.attached import MIB, Attached, volume
from tests.worlds.cdh import LUKS, Hub

ENCRYPTED = {"key_id": "default/key/1"}


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Attached]:
    with attached.attached(tmp_path) as machine:
        yield machine


def of(vm: Attached, patience: float = 5.0) -> Volumes:
    return Volumes(Programs(), str(vm.volumes), str(vm.root / "cdh.sock"), root=str(vm.root), device_timeout=patience)


async def refused(vm: Attached, wanted: Volume, patience: float = 0.3) -> str:
    with pytest.raises(StatusError) as caught:
        await of(vm, patience).mount([wanted], None)
    return caught.value.message


def raw(device: str, at: int = 0, size: int = 4096) -> bytes:
    with open(device, "rb") as disk:
        disk.seek(at)
        return disk.read(size)


# -- plain disks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fs_type", ["ext4", "ext3", "xfs"])
async def test_a_blank_disk_gets_its_file_system_and_what_is_written_outlives_the_pod(
    vm: Attached, fs_type: str
) -> None:
    if subprocess.run(["sh", "-c", f"command -v mkfs.{fs_type}"], check=False, stdout=subprocess.DEVNULL).returncode:
        pytest.skip(f"mkfs.{fs_type} is not installed")
    vm.disk("vol-0", 320 * MIB if fs_type == "xfs" else 64 * MIB)
    first = of(vm)
    await first.mount([volume(fs_type=fs_type)], None)
    (vm.volumes / "vol-0/kept").write_text("data")
    first.release()
    assert not vm.mounted("vol-0")
    await of(vm).mount([volume(fs_type=fs_type)], None)
    assert (vm.volumes / "vol-0/kept").read_text() == "data"


async def test_mounting_again_changes_nothing(vm: Attached) -> None:
    vm.disk("vol-0")
    mine = of(vm)
    await mine.mount([volume()], None)
    await mine.mount([volume()], None)
    mine.release()
    assert not vm.mounted("vol-0")
    mine.release()


async def test_disks_are_told_apart_by_their_serials(vm: Attached) -> None:
    first, second = vm.disk("b"), vm.disk("a")
    await of(vm).mount([volume("vol-0", "a"), volume("vol-1", "b")], None)
    devices = {os.stat(vm.volumes / name).st_dev for name in ("vol-0",)}, {os.stat(vm.volumes / "vol-1").st_dev}
    assert devices == ({os.stat(second).st_rdev}, {os.stat(first).st_rdev})


async def test_a_disk_that_comes_late_is_waited_for(vm: Attached) -> None:
    device = vm.device()
    mounting = asyncio.create_task(of(vm).mount([volume()], None))
    await asyncio.sleep(0.3)
    assert not mounting.done()
    vm.attach(device, "vol-0")
    await mounting
    assert vm.mounted("vol-0")


async def test_a_disk_that_never_comes_is_named_with_what_was_looked_for(vm: Attached) -> None:
    assert await refused(vm, volume()) == (
        "the pod's disk disk vol-0 (vol-0) cannot be used: no block device with serial or name 'vol-0' came up in the "
        "VM: the cloud may not have attached it"
    )


@pytest.mark.parametrize("content", [b"\1", LUKS, b"XFSB"])
async def test_a_disk_that_holds_anything_else_is_refused_and_not_written_to(vm: Attached, content: bytes) -> None:
    device = vm.disk("vol-0")
    with open(device, "r+b") as disk:
        disk.write(content)
    before = raw(device, size=64 * MIB)
    assert "ext4 was asked for. Only a disk that is provably blank is formatted" in await refused(vm, volume())
    assert raw(device, size=64 * MIB) == before


async def test_a_file_system_without_its_superblock_is_not_formatted_anew(vm: Attached) -> None:
    device = vm.disk("vol-0")
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    with open(device, "r+b") as disk:
        disk.write(bytes(4096))
    assert "it holds data that is no file system known here" in await refused(vm, volume())


async def test_a_file_system_that_cannot_be_mounted_is_left_as_it_is(vm: Attached) -> None:
    device = vm.disk("vol-0")
    with open(device, "r+b") as disk:
        disk.seek(1024 + 56)
        disk.write(b"\x53\xef")
    before = raw(device)
    assert "mount ended with status" in await refused(vm, volume())
    assert raw(device) == before


async def test_a_disk_that_is_mounted_elsewhere_is_refused(vm: Attached, tmp_path: Path) -> None:
    device = vm.disk("vol-0")
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    (vm.volumes / "elsewhere").mkdir(parents=True)
    subprocess.run(["mount", device, str(vm.volumes / "elsewhere")], check=True)
    assert "Device or resource busy" in await refused(vm, volume())


async def test_a_read_only_disk_is_mounted_so_and_never_formatted(vm: Attached) -> None:
    vm.disk("vol-0")
    assert "it holds nothing" in await refused(vm, volume(read_only=True))
    writer = of(vm)
    await writer.mount([volume()], None)
    writer.release()
    await of(vm).mount([volume(read_only=True, fs_group=2000)], None)
    with pytest.raises(OSError, match="Read-only"):
        (vm.volumes / "vol-0/x").write_text("x")


async def test_the_pods_group_owns_the_volume(vm: Attached) -> None:
    vm.disk("vol-0")
    await of(vm).mount([volume(fs_group=2000)], None)
    found = os.stat(vm.volumes / "vol-0")
    assert (found.st_gid, oct(found.st_mode & 0o7777)) == (2000, oct(0o2775))


# -- encrypted disks ------------------------------------------------------------------------------------


async def test_a_blank_disk_is_encrypted_by_the_data_hub_and_opened_by_it_later(vm: Attached) -> None:
    device, hub = vm.disk("vol-0"), Hub(vm.device())
    async with cdh.serving(hub, vm.root / "cdh.sock"):
        first = of(vm)
        await first.mount([volume(**ENCRYPTED)], None)
        (vm.volumes / "vol-0/kept").write_text("data")
        first.release()
        await of(vm).mount([volume(**ENCRYPTED)], None)
    assert (vm.volumes / "vol-0/kept").read_text() == "data"
    assert [asked["sourceType"] for asked in hub.asked] == ["empty", "encrypted"]
    assert hub.asked[0]["devicePath"] == str(vm.root / "dev" / os.path.basename(device))
    assert hub.asked[0] | {"devicePath": "", "sourceType": ""} == {
        "devicePath": "",
        "sourceType": "",
        "targetType": "fileSystem",
        "encryptionType": "luks2",
        "filesystemType": "ext4",
        "key": "kbs:///default/key/1",
        "mapperName": "peerpods-vol-0",
    }


@pytest.mark.parametrize("make", [["mkfs.ext4", "-q"], ["dd", "if=/dev/urandom", "bs=4k", "count=1", "status=none"]])
async def test_a_disk_with_data_is_never_formatted_to_encrypt_it(vm: Attached, make: list[str]) -> None:
    device, hub = vm.disk("vol-0"), Hub(vm.device())
    subprocess.run([*make, f"of={device}" if make[0] == "dd" else device], check=True)
    async with cdh.serving(hub, vm.root / "cdh.sock"):
        assert "only LUKS is opened" in await refused(vm, volume(**ENCRYPTED))
    assert not hub.asked


async def test_a_key_that_is_not_released_is_told(vm: Attached) -> None:
    vm.disk("vol-0")
    hub = Hub(vm.device())
    async with cdh.serving(hub, vm.root / "cdh.sock"):
        message = await refused(vm, volume(key_id="default/key/2"))
    assert "cannot open it with the key kbs:///default/key/2: kbs: resource not found" in message
    assert not vm.mounted("vol-0")


async def test_a_data_hub_that_only_says_so_is_not_believed(vm: Attached) -> None:
    vm.disk("vol-0")
    hub = Hub(vm.device())
    hub.lies = True
    async with cdh.serving(hub, vm.root / "cdh.sock"):
        assert "says that it is mounted, and it is not" in await refused(vm, volume(**ENCRYPTED))


async def test_a_data_hub_that_comes_late_is_waited_for_and_one_that_never_does_is_named(vm: Attached) -> None:
    vm.disk("vol-0")
    hub = Hub(vm.device())
    with pytest.raises(StatusError, match=r"data hub does not answer at .*cdh\.sock"):
        await of(vm).mount([volume(**ENCRYPTED)], 0.5)
    mounting = asyncio.create_task(of(vm).mount([volume(**ENCRYPTED)], None))
    await asyncio.sleep(0.3)
    async with cdh.serving(hub, vm.root / "cdh.sock"):
        await mounting
    assert vm.mounted("vol-0")


# -- Bind and the pod's end -----------------------------------------------------------------------------


async def test_bind_mounts_and_the_sandboxs_end_unmounts_before_the_agent_hears(
    vm: Attached, tmp_path: Path, worker_ca: bytes, dial: Dial
) -> None:
    vm.disk("vol-0")
    async with guest(tmp_path / "guest", worker_ca, volumes=of(vm)) as world:
        worker = await dial(world)
        assert (await worker.hello()).volumes
        await worker.bind(pod(volumes=[volume()]))
        assert vm.mounted("vol-0")
        assert not world.agent.calls
        await worker.call(names.AGENT_SERVICE, "DestroySandbox")
        assert not vm.mounted("vol-0")
        assert world.agent.calls == [(1, names.AGENT_SERVICE, "DestroySandbox")]


async def test_a_disk_that_cannot_be_used_fails_bind_with_the_reason(
    vm: Attached, tmp_path: Path, worker_ca: bytes, dial: Dial
) -> None:
    async with guest(tmp_path / "guest", worker_ca, volumes=of(vm, 0.3)) as world:
        worker = await dial(world)
        error = await refusal(worker.bind(pod(volumes=[volume()])))
        assert error.code == Code.DEADLINE_EXCEEDED
        assert "the pod's disk disk vol-0 (vol-0) cannot be used: no block device" in error.message


async def test_a_volume_that_is_none_is_refused_before_the_vm_is_bound(
    tmp_path: Path, worker_ca: bytes, dial: Dial
) -> None:
    async with guest(tmp_path / "guest", worker_ca) as world:
        worker = await dial(world)
        error = await refusal(worker.bind(pod(volumes=[volume("../etc")])))
        assert (error.code, world.files()) == (Code.INVALID_ARGUMENT, set())
        await worker.bind(pod())


# -- what a worker may ask ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"name": "../../etc"}, "is not called vol-<number>"),
        ({"name": "vol-0/x"}, "is not called vol-<number>"),
        ({"name": "vol-0\n"}, "is not called vol-<number>"),
        ({"fs_type": "vfat"}, "asks for 'vfat'"),
        ({"fs_type": "-oexec"}, "asks for"),
        ({"key_id": "../../x"}, "has the key"),
        ({"key_id": "host:8080/a/b"}, "has the key"),
        ({"serial": "../sda"}, "has the serial"),
    ],
)
def test_names_from_the_wire_lead_nowhere_else(wrong: dict[str, str], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        check([volume(**{"serial": "x", **wrong})], Demands())


def test_a_volume_that_could_be_any_disk_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="neither serial nor LUN"):
        check([Volume(name="vol-0", fs_type="ext4")], Demands())
    check([Volume(name="vol-0", fs_type="ext4", lun=0)], Demands())


def test_two_volumes_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="is there twice"):
        check([volume(), volume()], Demands())


def test_initdata_may_demand_encryption_and_name_the_keys() -> None:
    assert demands("") == Demands()
    assert demands("encrypted = true") == Demands(True)
    only = demands('keys = ["default/key/1"]')
    assert only == Demands(True, ("default/key/1",))
    for wanted in (Demands(True), only):
        check([volume(key_id="default/key/1")], wanted)
        with pytest.raises(InvalidRequest, match="initdata demands"):
            check([volume()], wanted)
    with pytest.raises(InvalidRequest, match="does not allow"):
        check([volume(key_id="default/key/2")], only)


@pytest.mark.parametrize("text", ["[", "encrypted = 1", "keys = 'x'", "keys = [1]", "encrypt = true"])
def test_demands_that_are_not_understood_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=volumes.DEMANDS):
        demands(text)


async def test_bind_holds_the_worker_to_what_initdata_demands(tmp_path: Path, worker_ca: bytes, dial: Dial) -> None:
    initdata = b'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"volumes.toml" = "encrypted = true"\n'
    async with guest(tmp_path / "guest", worker_ca) as world:
        worker = await dial(world)
        error = await refusal(worker.bind(pod(initdata=initdata, volumes=[volume()])))
        assert "is not encrypted, and the pod's initdata demands that it is" in error.message
        assert world.files() == set()


@pytest.fixture
def worker_ca(pki: NodePki) -> bytes:
    return pki.ca_pem
