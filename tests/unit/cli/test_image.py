"""`peerpods image`: what it refuses before it fetches anything, and how it says so."""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from adaptor.cli import parser

PROGRAM = Path(sys.executable).resolve()


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str


Image = Callable[..., Answer]


@pytest.fixture
def image(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Image:
    """The command, in this process; its cache is tmp_path/cache."""

    def run(*arguments: str) -> Answer:
        try:
            status = parser.main(["image", *arguments, "--cache", str(tmp_path / "cache")])
        except SystemExit as end:  # argparse's own
            status = int(end.code or 0)
        return Answer(status, *capsys.readouterr())

    return run


@pytest.mark.parametrize("verb", ["lock", "build"])
def test_each_verb_explains_itself(verb: str, image: Image) -> None:
    answer = image(verb, "--help")
    assert answer.status == 0
    assert answer.out.startswith("usage: ")
    assert f"image {verb} [-h]" in answer.out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--release"], "never a release"),
        (["--kata-agent", str(PROGRAM)], "--kata-agent needs all three"),
        (["--kata-agent-sha256", "00"], "--kata-agent needs all three"),
        (
            ["--kata-agent", "/nonexistent", "--kata-agent-sha256", "00", "--kata-agent-version", "1"],
            "/nonexistent cannot be read",
        ),
        (
            ["--kata-agent", str(PROGRAM), "--kata-agent-sha256", "00", "--kata-agent-version", "1"],
            hashlib.sha256(PROGRAM.read_bytes()).hexdigest(),
        ),
        (["--lock", "/nonexistent.lock"], "there is no lock /nonexistent.lock: peerpods image lock makes one"),
    ],
)
def test_what_cannot_be_built_is_said_before_anything_is_fetched(
    arguments: list[str], why: str, image: Image, tmp_path: Path
) -> None:
    answer = image("build", "--architecture", "amd64", *arguments)
    assert answer.status != 0
    assert answer.err.startswith("peerpods: ")
    assert why in answer.err
    assert not (tmp_path / "cache").exists()


def test_every_fault_of_a_broken_lock_is_told_with_its_file(tmp_path: Path, image: Image) -> None:
    (tmp_path / "bad.lock").write_text('suite = "trixie"\narchitecture = "amd64"\nepoch = -1\npackage = []\n')
    answer = image("build", "--lock", str(tmp_path / "bad.lock"))
    assert answer.status == 1
    assert "bad.lock: epoch -1 is before 1970" in answer.err
    assert "bad.lock: it names no package" in answer.err


def test_release_and_debug_exclude_each_other(image: Image) -> None:
    assert "not allowed with" in image("build", "--release", "--debug").err
