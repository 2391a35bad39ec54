"""Whole images, built three times from one lock: here, again, and as somebody else somewhere else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from podvm_images.image import lock, packages
from podvm_images.image.store import Store

pytestmark = pytest.mark.nightly

PROJECT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peerpods/image"
MOST_MB = 60  # of the disk, without real agents
AS_SOMEBODY_ELSE = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
SOURCES = ("adaptor", "podvm_images", "providers", "webhook")


@pytest.fixture(scope="module", autouse=True)
def _fetched() -> None:
    locked = lock.parse((PROJECT / "podvm_images/image/min.lock").read_text(), "min.lock")
    packages.locked_kernel(locked)
    if os.uname().machine != "x86_64" or shutil.which("dpkg-deb") is None:
        pytest.skip("min.lock is for Debian on amd64")
    if Store(CACHE / "files").missing([*locked.packages, *locked.wheels]):
        pytest.skip("these tests have no network: run `peerpods image build` first, which fills the cache")


def built(out: Path, project: Path, before: tuple[str, ...] = (), **environment: str) -> dict[str, Any]:
    """image.json of an image built by `project`'s program."""
    words = [sys.executable, "-m", "adaptor", "image", "build", "--cache", str(CACHE), "--out", str(out)]
    words += ["--work", str(out.parent / "work")]
    done = subprocess.run(
        [*before, *words],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((out / "image.json").read_text())
    return found


def test_two_builds_and_one_by_somebody_else_elsewhere_are_the_same_bytes(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "far" / "away"
    for project in (here, elsewhere):  # copies: whoever edits the sources meanwhile changes nothing here
        for name in SOURCES:
            shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    first = built(tmp_path / "one", here)
    assert set(first["hashes"]) == {"initrd", "podvm.efi", "podvm.raw", "root.erofs", "root.verity", "vmlinuz"}
    assert (tmp_path / "one/podvm.raw").stat().st_size <= MOST_MB * 1_000_000
    assert built(tmp_path / "two", here) == first
    shell = ("sh", "-c", 'umask 0027; exec "$@"', "sh")
    surroundings = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONDONTWRITEBYTECODE": "1"}
    third = built(elsewhere / "image", elsewhere, (*AS_SOMEBODY_ELSE, *shell), **surroundings)
    assert third == first
    for name in first["hashes"]:
        assert (elsewhere / "image" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert not list((tmp_path / "work").iterdir()), "the work directory is emptied"
