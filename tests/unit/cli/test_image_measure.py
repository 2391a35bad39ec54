"""`peerpods image measure` and `verify` as a person meets them."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from adaptor.cli import parser
from podvm_images.image import finished
from podvm_images.image.measurements import Image
from tests.unit.image.disks import partition, small


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("image") / "out")


@pytest.fixture(scope="module")
def known(made: Path) -> Image:
    return finished.measured(made)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("other") / "out", line="quiet debug")


def test_measure_shows_what_an_operator_registers(made: Path, known: Image, capsys: pytest.CaptureFixture[str]) -> None:
    assert parser.main(["image", "measure", str(made)]) == 0
    shown = capsys.readouterr().out
    for title, value in (("PCR 4", known.pcr4), ("PCR 11", known.pcr11), ("root hash", known.root_hash)):
        assert any(line.startswith(title) and line.endswith(value) for line in shown.splitlines())
    assert "every block of the root is as its hash says" in shown
    assert parser.main(["image", "measure", str(made / "podvm.efi")]) == 0
    assert "every block" not in capsys.readouterr().out


def test_what_measure_writes_verify_believes(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parser.main(["image", "measure", "--json", str(made / "podvm.raw")]) == 0
    (tmp_path / "measurements.json").write_text(capsys.readouterr().out)
    assert parser.main(["image", "verify", str(made), str(tmp_path / "measurements.json")]) == 0
    assert capsys.readouterr().out == "they are the same\n"
    assert parser.main(["image", "verify", str(made / "podvm.efi"), str(tmp_path / "measurements.json")]) == 0
    assert "not compared, for only one of them tells: the root file system" in capsys.readouterr().out


def test_verify_says_in_words_what_differs_and_ends_with_status_1(made: Path, other: Path) -> None:
    command = [sys.executable, "-m", "adaptor", "image", "verify", str(made), str(other)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (1, "")
    assert lines[:2] == ["they differ:", "  the kernel's command line: only the second has debug"]
    assert not any("root hash" in line for line in lines)


def test_verify_tells_programs_the_same(made: Path, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parser.main(["image", "verify", "--json", str(made), str(other)]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["same"], answer["same_when_booted"], answer["not_compared"]) == (False, False, [])
    assert "the kernel's command line: only the second has debug" in answer["differences"]


def test_an_unused_part_of_the_disk_makes_no_difference_to_a_boot(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = bytearray((made / "podvm.raw").read_bytes())
    root = partition(disk, "podvm-root")
    disk[root.start + root.size - 1] = 1
    (tmp_path / "disk").write_bytes(disk)
    assert parser.main(["image", "verify", str(made / "podvm.raw"), str(tmp_path / "disk")]) == 1
    assert capsys.readouterr().out.startswith("they differ, but would measure the same when booted:\n  the whole disk")


def test_trustees_message_goes_out_and_what_is_lacking_is_told_apart_from_it(
    made: Path, known: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parser.main(["image", "measure", str(made), "--rvps", "az-snp-vtpm"]) == 0
    said = capsys.readouterr()
    assert json.loads(base64.b64decode(json.loads(said.out)["payload"]))["snp_pcr11"] == [known.pcr11]
    assert "which you must register:\n  measurement: base64 of the SNP launch measurement" in said.err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["measure", "/nowhere"], "/nowhere cannot be read: No such file or directory"),
        (["verify", "IMAGE", "/nowhere"], "/nowhere cannot be read: No such file or directory"),
        (["measure", "IMAGE", "--rvps", "tdx"], "nothing that tdx attests follows from the image alone"),
        (["measure", "IMAGE", "--also", "IMAGE"], "--also is for Trustee's message"),
        (["measure", "IMAGE", "--vcpus", "2"], "needs all of --ovmf, --vcpus and --vcpu-type"),
        (
            ["measure", "IMAGE/podvm.raw", "--direct", "--ovmf", "f", "--vcpus", "2", "--vcpu-type", "EPYC"],
            "--direct needs the directory of an image",
        ),
    ],
)
def test_what_cannot_be_done_is_explained_with_status_1(
    made: Path, capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    assert parser.main(["image", *(word.replace("IMAGE", str(made)) for word in words)]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.startswith("peerpods: ")) == ("", True)
    assert why in said.err
