"""Finished images: measured in every form, and refused where any part is not what another part says."""

import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podvm_images.image import compare, finished, formats, measurements
from podvm_images.image.forms import ImageFault, recognise
from podvm_images.image.measurements import Image
from tests.unit.image.disks import image_of, partition, small


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("image") / "out")


@pytest.fixture(scope="module")
def known(made: Path) -> Image:
    return finished.measured(made)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_builds_directory_gives_the_hashes_of_its_files(made: Path, known: Image) -> None:
    assert (known.uki, known.root, known.verity, known.disk) == tuple(
        sha256(made / name) for name in ("podvm.efi", "root.erofs", "root.verity", "podvm.raw")
    )
    assert known.sections[".linux"].sha256 == sha256(made / "vmlinuz")
    assert known.sections[".initrd"].sha256 == sha256(made / "initrd")
    assert known.kernel_version == "6.12"
    assert f"podvm.roothash={known.root_hash}" in known.command_line


def test_a_uki_alone_gives_the_registers_of_its_disk(made: Path, known: Image) -> None:
    alone = finished.measured(made / "podvm.efi")
    assert alone == image_of(made)
    assert (alone.pcr4, alone.pcr11, alone.root_hash) == (known.pcr4, known.pcr11, known.root_hash)
    assert (alone.root, alone.disk) == ("", "")


def as_vhd(raw: Path, target: Path) -> None:
    formats.azure(raw, target, digest="ab" * 32)


def as_tar(raw: Path, target: Path) -> None:
    with tarfile.open(target, "w:gz", format=tarfile.GNU_FORMAT) as archive:
        archive.add(raw, "disk.raw")


def as_raw(raw: Path, target: Path) -> None:
    shutil.copyfile(raw, target)


def as_qcow2(raw: Path, target: Path) -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed (package qemu-utils)")
    subprocess.run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, target], check=True)


FORMS = [("raw", as_raw), ("vhd", as_vhd), ("tar", as_tar), ("qcow2", as_qcow2)]


@pytest.mark.parametrize(("form", "make"), FORMS)
def test_every_form_of_a_disk_measures_the_same(
    tmp_path: Path, made: Path, known: Image, form: str, make: Callable[[Path, Path], None]
) -> None:
    make(made / "podvm.raw", tmp_path / "disk")
    assert recognise(tmp_path / "disk") == form
    assert finished.measured(tmp_path / "disk") == known


@pytest.mark.parametrize(("form", "make"), FORMS)
def test_a_truncated_file_of_any_form_is_refused_by_name(
    tmp_path: Path, made: Path, form: str, make: Callable[[Path, Path], None]
) -> None:
    make(made / "podvm.raw", tmp_path / "disk")
    whole = (tmp_path / "disk").read_bytes()
    (tmp_path / "disk").write_bytes(whole[: len(whole) * 2 // 3 if form != "qcow2" else -70_000])
    with pytest.raises(ImageFault, match=r"/disk: .*(truncated|damaged|cannot read it)"):
        finished.measured(tmp_path / "disk")


def test_a_disk_that_lost_its_last_byte_is_truncated(tmp_path: Path, made: Path) -> None:
    (tmp_path / "cut").write_bytes((made / "podvm.raw").read_bytes()[:-1])
    with pytest.raises(ImageFault, match=r"speaks of (\d+) bytes, and \d+ are there: it is truncated"):
        finished.measured(tmp_path / "cut")


def test_a_disk_that_was_made_longer_is_the_same_in_an_archive_holes_and_all(
    tmp_path: Path, made: Path, known: Image
) -> None:
    longer = tmp_path / "longer"
    shutil.copyfile(made / "podvm.raw", longer)
    with longer.open("r+b") as file:
        file.truncate(longer.stat().st_size + (3 << 20) + 5)
    as_tar(longer, tmp_path / "tar")
    image = finished.measured(tmp_path / "tar")
    assert image == finished.measured(longer)
    assert image.disk == sha256(longer) != known.disk
    assert compare.same_when_booted(image, known)


def test_a_qcow2_that_leans_on_another_file_is_refused(tmp_path: Path, made: Path) -> None:
    as_qcow2(made / "podvm.raw", tmp_path / "base.qcow2")  # or is skipped
    for name, options in (("backed", ["-F", "qcow2", "-b", "base.qcow2"]), ("apart", ["-o", "data_file=data"])):
        size = [] if name == "backed" else ["5M"]
        command = ["qemu-img", "create", "-q", "-f", "qcow2", *options, name, *size]
        subprocess.run(command, check=True, cwd=tmp_path)
        with pytest.raises(ImageFault, match="it leans on another file"):
            finished.measured(tmp_path / name)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_disk_cut_anywhere_is_refused(tmp_path: Path, made: Path, data: st.DataObject) -> None:
    whole = (made / "podvm.raw").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ImageFault):
        finished.measured(tmp_path / "cut")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 200 * 4096 - 1))
def test_a_byte_flipped_anywhere_in_the_root_is_found_in_its_block(tmp_path: Path, made: Path, at: int) -> None:
    disk = bytearray((made / "podvm.raw").read_bytes())
    disk[partition(disk, "podvm-root").start + at] ^= 1
    (tmp_path / "bad").write_bytes(disk)
    with pytest.raises(ImageFault, match=rf"1 of its blocks of 4096 bytes are not as hashed \(block {at // 4096}\)"):
        finished.measured(tmp_path / "bad")


@pytest.mark.parametrize("blocks", [1, 2, 128, 129])
def test_a_root_of_any_number_of_blocks_is_checked_whole(tmp_path: Path, blocks: int) -> None:
    made = small(tmp_path / "out", root=b"r" * 4096 * blocks)
    assert finished.measured(made).root == sha256(made / "root.erofs")
    disk = bytearray((made / "podvm.raw").read_bytes())
    disk[partition(disk, "podvm-root").start + 4096 * blocks - 1] ^= 1
    (tmp_path / "bad").write_bytes(disk)
    with pytest.raises(ImageFault, match="its root"):
        finished.measured(tmp_path / "bad")


def test_damaged_hashes_are_told_from_a_damaged_root(tmp_path: Path, made: Path) -> None:
    disk = bytearray((made / "podvm.raw").read_bytes())
    disk[partition(disk, "podvm-verity").start + 2 * 4096 + 7] ^= 1
    (tmp_path / "bad").write_bytes(disk)
    with pytest.raises(ImageFault, match=r"its hashes \(partition podvm-verity\) are damaged, its root is not"):
        finished.measured(tmp_path / "bad")


def test_a_root_of_another_image_is_not_the_one_that_the_command_line_names(tmp_path: Path, made: Path) -> None:
    other = small(tmp_path / "other", root=b"other".ljust(4096, b"!") * 200)
    disk, theirs = bytearray((made / "podvm.raw").read_bytes()), (other / "podvm.raw").read_bytes()
    start = partition(disk, "podvm-root").start
    disk[start:] = theirs[start:]
    (tmp_path / "mixed").write_bytes(disk)
    with pytest.raises(ImageFault, match=r"its root and hashes are not those that its command line names"):
        finished.measured(tmp_path / "mixed")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("vmlinuz", "vmlinuz is another one than in the disk"),
        ("initrd", "initrd is another one than in the disk"),
        ("podvm.efi", "podvm.efi is another one than in the disk"),
        ("root.erofs", "root.erofs is another one than in the disk"),
    ],
)
def test_a_file_beside_the_disk_that_is_not_in_it_is_found(tmp_path: Path, made: Path, name: str, why: str) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    (copy / name).write_bytes(b"another")
    with pytest.raises(ImageFault, match=why):
        finished.measured(copy)
    (copy / name).unlink()
    with pytest.raises(ImageFault, match=why):
        finished.measured(copy)


def test_a_manifest_that_tells_of_another_image_is_found(tmp_path: Path, made: Path) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    fields = json.loads((copy / "image.json").read_text())
    fields["command_line"] += " debug"
    fields["hashes"]["podvm.raw"] = "00" * 32
    (copy / "image.json").write_text(json.dumps(fields))
    with pytest.raises(ImageFault, match=r"another hash of podvm\.raw; image\.json has the command line .* debug'"):
        finished.measured(copy)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is no image: .* it is empty"),
        (b"hello" * 1000, "its beginning is damaged"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "is zstd: unpack or convert it"),
        (b"MZ" + bytes(600), "no EFI executable"),
        (b"\x1f\x8b" + bytes(600), "archive is damaged or truncated"),
        (b"{}", "it is no image, but says what one is"),
    ],
)
def test_what_is_no_image_is_said_to_be_none(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ImageFault, match=why):
        finished.measured(tmp_path / "file")


def test_a_directory_without_an_image_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ImageFault, match=r"has no image\.json"):
        finished.measured(tmp_path)


def test_published_measurements_are_read_as_the_image_was(tmp_path: Path, known: Image) -> None:
    (tmp_path / "measurements.json").write_text(measurements.to_json(known))
    assert finished.read(tmp_path / "measurements.json") == known


@pytest.mark.nightly  # a GiB of nothing is hashed
def test_the_form_for_compute_engine_boots_the_same(tmp_path: Path, made: Path, known: Image) -> None:
    formats.google(made / "podvm.raw", tmp_path / "disk.tar.gz")
    assert compare.same_when_booted(finished.measured(tmp_path / "disk.tar.gz"), known)
