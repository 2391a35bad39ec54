"""An apt of our own against a mirror on loopback: what it fetches, and what it says when the mirror has something else."""

import hashlib
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from podvm_images.image.apt import Apt
from podvm_images.image.faults import BuildFault
from podvm_images.image.lock import Package

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="this host has no apt (package apt)")

CONTENT = b"a package" * 1000
PATH = "pool/main/p/pack/pack_1_amd64.deb"
PACK = Package("pack", "1", PATH, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """(the mirror's directory, its URL)."""
    root = tmp_path / "mirror"
    (root / PATH).parent.mkdir(parents=True)
    (root / PATH).write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield root, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def apt(tmp_path: Path, url: str) -> Apt:
    return Apt.make(tmp_path / "apt", "trixie", "amd64", [url])


def test_a_file_is_fetched_from_the_mirror_that_was_named(tmp_path: Path, served: tuple[Path, str]) -> None:
    apt(tmp_path, served[1]).fetch(PACK, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == CONTENT


def test_a_file_that_has_changed_is_not_taken(tmp_path: Path, served: tuple[Path, str]) -> None:
    (served[0] / PATH).write_bytes(CONTENT[::-1])
    with pytest.raises(BuildFault, match="is not the file that the lock names"):
        apt(tmp_path, served[1]).fetch(PACK, tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_of_a_file_that_is_gone_it_is_said_what_helps(tmp_path: Path, served: tuple[Path, str]) -> None:
    (served[0] / PATH).unlink()
    with pytest.raises(BuildFault, match=r"is gone from .*Take the lock anew .*--mirror"):
        apt(tmp_path, served[1]).fetch(PACK, tmp_path / "got")


def test_a_mirror_that_nobody_answers_at_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildFault, match=r"cannot be fetched from http://127\.0\.0\.1:1: .*connect"):
        apt(tmp_path, "http://127.0.0.1:1").fetch(PACK, tmp_path / "got")


def test_the_second_mirror_is_asked_when_the_first_has_it_not(tmp_path: Path, served: tuple[Path, str]) -> None:
    mirrors = [f"{served[1]}/elsewhere", served[1]]
    Apt.make(tmp_path / "apt", "trixie", "amd64", mirrors).fetch(PACK, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == CONTENT


def test_a_lock_is_taken_from_no_mirror_that_is_not_signed(tmp_path: Path, served: tuple[Path, str]) -> None:
    lists = served[0] / "dists/trixie"
    (lists / "main/binary-amd64").mkdir(parents=True)
    (lists / "main/binary-amd64/Packages").write_text("")
    (lists / "Release").write_text("Suite: trixie\n")
    with pytest.raises(BuildFault, match="not signed"):
        apt(tmp_path, served[1]).update()
