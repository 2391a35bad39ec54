"""The tree that becomes the root: unpacked, trimmed, settled, and looked at for what is missing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from podvm_images.image import tree
from podvm_images.image.faults import BuildFault

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="this host has no dpkg-deb (package dpkg)")


def package(directory: Path, name: str, files: dict[str, str]) -> Path:
    """A real .deb."""
    inside = directory / f"{name}.d"
    for path, text in {
        "DEBIAN/control": f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: x\n",
        **files,
    }.items():
        (inside / path).parent.mkdir(parents=True, exist_ok=True)
        (inside / path).write_text(text)
    target = directory / f"{name}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", inside, target], check=True, capture_output=True)
    return target


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}


@needs_dpkg
def test_of_a_package_whose_files_are_named_nothing_else_goes_in(tmp_path: Path) -> None:
    whole = package(tmp_path, "whole", {"usr/bin/one": "1", "usr/share/two": "2"})
    part = package(tmp_path, "part", {"usr/bin/three": "3", "usr/bin/four": "4"})
    tree.unpack([("whole", whole), ("part", part)], tmp_path / "root", {"part": ["usr/bin/th*"]})
    assert files(tmp_path / "root") == {"usr/bin/one", "usr/share/two", "usr/bin/three"}


@needs_dpkg
def test_a_file_that_a_package_has_no_longer_is_named(tmp_path: Path) -> None:
    part = package(tmp_path, "part", {"usr/bin/three": "3"})
    with pytest.raises(BuildFault, match="part has no usr/bin/gone"):
        tree.unpack([("part", part)], tmp_path / "root", {"part": ["usr/bin/gone"]})


@needs_dpkg
def test_a_damaged_package_is_told_with_dpkgs_words(tmp_path: Path) -> None:
    (tmp_path / "bad.deb").write_bytes(b"no archive")
    with pytest.raises(BuildFault, match="dpkg-deb"):
        tree.unpack([("bad", tmp_path / "bad.deb")], tmp_path / "root", {})


def test_trimming_takes_the_directories_that_it_empties(tmp_path: Path) -> None:
    for name in ("usr/share/doc/a/b", "usr/share/keep", "usr/lib/x.a", "etc/apt/apt.conf.d/01"):
        tree.put(tmp_path, name, b"")
    tree.trim(tmp_path, ["usr/share/doc/*", "usr/lib/*.a", "etc/apt/*"])
    assert files(tmp_path) == {"usr/share/keep"}
    assert not (tmp_path / "usr/share/doc").exists()
    assert not (tmp_path / "etc/apt").exists()


def test_modes_show_neither_umask_nor_set_user_id(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        tree.put(tmp_path, "usr/bin/program", b"", executable=True)
        tree.put(tmp_path, "usr/share/text", b"")
        (tmp_path / "usr/bin/program").chmod(0o4711)
        (tmp_path / "usr/share/text").chmod(0o600)
        tree.settle(tmp_path)
    finally:
        os.umask(before)
    modes = {
        name: (tmp_path / name).stat().st_mode & 0o7777 for name in ("usr", "usr/bin/program", "usr/share/text", "proc")
    }
    assert modes == {"usr": 0o755, "usr/bin/program": 0o755, "usr/share/text": 0o644, "proc": 0o755}


def test_a_pipe_cannot_be_in_an_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BuildFault, match="pipe"):
        tree.settle(tmp_path)


def test_a_library_that_is_not_there_is_named_with_who_needs_it(tmp_path: Path) -> None:
    shutil.copy("/bin/sh", tmp_path / "sh")
    assert "libc.so.6 (needed by sh)" in tree.lacking(tmp_path, "x86_64-linux-gnu")
    for name in ("libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"):
        tree.put(tmp_path, f"usr/lib/x86_64-linux-gnu/{name}", b"")
    assert tree.lacking(tmp_path, "x86_64-linux-gnu") == []


def test_the_certificates_become_one_file(tmp_path: Path) -> None:
    for name, text in (("mozilla/B.crt", b"b\n"), ("mozilla/A.crt", b"a\n")):
        tree.put(tmp_path, f"usr/share/ca-certificates/{name}", text)
    tree.trust(tmp_path)
    assert files(tmp_path) == {"etc/ssl/certs/ca-certificates.crt"}
    assert (tmp_path / "etc/ssl/certs/ca-certificates.crt").read_bytes() == b"a\nb\n"


def test_files_of_ours_keep_whether_they_are_programs(tmp_path: Path) -> None:
    tree.put(tmp_path / "from", "sbin/init", b"#!", executable=True)
    tree.put(tmp_path / "from", "etc/x", b"")
    tree.overlay(tmp_path / "from", tmp_path / "to")
    assert os.access(tmp_path / "to/sbin/init", os.X_OK)
    assert not os.access(tmp_path / "to/etc/x", os.X_OK)
