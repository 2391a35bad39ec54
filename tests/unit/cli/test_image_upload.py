"""`peerpods image formats` and `upload`: from a built directory to files and to an id, by the real command line."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptor.cli.parser import main
from adaptor.cli.progress import Bars
from podvm_images.image import gpt
from podvm_images.image.manifest import Manifest, to_json
from providers.simcloud.cloud import Simcloud
from providers.simcloud.testing import running_in_thread
from tests.unit.image.test_formats import disk


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """What `peerpods image build` leaves, as far as it matters here."""
    directory = tmp_path / "image"
    directory.mkdir()
    raw = disk(directory / "podvm.raw")
    (directory / "vmlinuz").write_bytes(b"kernel")
    (directory / "initrd").write_bytes(b"initrd")
    hashes = (("podvm.raw", hashlib.sha256(raw.read_bytes()).hexdigest()),)
    manifest = Manifest("amd64", "min", release=False, development_agent=True, kernel_version="6.12", command_line="x",
                        root_hash="0" * 64, hashes=hashes)  # fmt: skip
    (directory / "image.json").write_text(to_json(manifest))
    return directory


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Simcloud]:
    with running_in_thread() as cloud:
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("NODE_NAME", "node-1")
        config = tmp_path / "peerpods.toml"
        _, table = cloud.settings()
        config.write_text(f'[cloud]\nprovider = "aws"\n[aws]\nendpoint_urls = "{table["endpoint_urls"]}"\n')
        monkeypatch.setattr("adaptor.names.CONFIG_FILE", str(config))
        yield cloud


def test_an_image_is_uploaded_once_and_its_id_is_all_that_is_printed(
    ec2: Simcloud, built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No image is configured: this makes the first one."""
    assert main(["image", "upload", str(built)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("ami-")
    assert len(out.splitlines()) == 1
    assert f'aws.image = "{out.strip()}"' in err
    assert "sending blocks: 100 % of" in err
    assert main(["image", "upload", str(built), "--json", "--cloud", "aws"]) == 0
    out_again, err = capsys.readouterr()
    told = json.loads(out_again)
    assert (told["cloud"], told["image"], told["made"]) == ("aws", out.strip(), False)
    assert "sending" not in err
    assert list(ec2.calls).count("StartSnapshot") == 1


def test_a_disk_that_is_not_the_one_of_the_manifest_is_not_uploaded(
    ec2: Simcloud, built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (built / "podvm.raw").open("r+b") as file:
        file.write(b"x")
    assert main(["image", "upload", str(built)]) == 1
    assert "is not the disk that image.json speaks of" in capsys.readouterr().err
    assert list(ec2.calls) == []


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--name", "Pod_VM"], "--name Pod_VM: 3 to 63 of"),
        (["--into", "somewhere"], "--into somewhere means nothing"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_asked(
    ec2: Simcloud, built: Path, capsys: pytest.CaptureFixture[str], more: list[str], why: str
) -> None:
    assert main(["image", "upload", str(built), *more]) == 1
    assert why in capsys.readouterr().err
    assert list(ec2.calls) == []


def test_a_refusal_of_the_cloud_says_what_is_missing(
    ec2: Simcloud, built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ec2.faults.next(action="StartSnapshot", error="AccessDeniedException")
    assert main(["image", "upload", str(built)]) == 1
    assert "ebs:StartSnapshot" in capsys.readouterr().err


def test_forms_are_made_where_asked_for_and_named(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = built.parent / "forms"
    forms = ["--form", "vhd", "--form", "gcp", "--form", "direct", "--output", str(output)]
    assert main(["image", "formats", str(built), *forms]) == 0
    names = ["podvm.vhd", "podvm.tar.gz", "vmlinuz", "initrd"]
    assert capsys.readouterr().out.splitlines() == [str(output / name) for name in names]
    assert sorted(each.name for each in output.iterdir()) == sorted(names)
    assert (output / "podvm.vhd").stat().st_size == (built / "podvm.raw").stat().st_size + gpt.SECTOR


def test_a_directory_that_no_build_made_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "formats", str(tmp_path), "--form", "vhd"]) == 1
    assert "`peerpods image build` makes one" in capsys.readouterr().err


def test_without_a_terminal_there_is_a_line_for_each_tenth() -> None:
    stream = io.StringIO()
    with Bars(stream) as progress:
        for done in range(1001):
            progress("sending blocks", done << 20, 1000 << 20)
        progress("waiting for the snapshot", 0, 0)
        progress("waiting for the snapshot", 0, 0)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "sending blocks: 0 % of 1000 MiB"
    assert lines[10:] == ["sending blocks: 100 % of 1000 MiB", "waiting for the snapshot"]


def test_at_a_terminal_there_are_bars() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Bars(stream) as progress:
        progress("sending blocks", 1 << 20, 2 << 20)
        progress("sending blocks", 2 << 20, 2 << 20)
    assert "2.0/2.0 MiB" in stream.getvalue()
