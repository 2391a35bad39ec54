"""From a tree to a disk, twice: the same bytes, and in them what was put there."""

import os
import shutil
import time
import uuid
from pathlib import Path

import pytest

from podvm_images.image import cpio, gpt, initrd, lock, pack, packages, recipe, tree
from podvm_images.image.faults import BuildFault
from podvm_images.image.pe import Executable
from podvm_images.image.store import Store
from podvm_images.image.tools import Tools, call
from podvm_images.image.verity import Verity
from tests.unit.image import efi

ROOM = Path(pack.__file__).parent
RECIPE = recipe.parse((ROOM / "min.toml").read_text(), "amd64", "min.toml")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peerpods/image"
EPOCH = 1_760_000_000
VERITY = Verity("aa" * 32, "bb" * 32, 7)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    """The locked ones, where a build has brought them into this machine's cache: no test fetches anything."""
    store, locked = Store(CACHE / "files"), lock.parse((ROOM / "min.lock").read_text(), "min.lock")
    wanted = packages.room(RECIPE, locked, "tools")
    if store.missing(wanted) or os.uname().machine != RECIPE.machine:
        pytest.skip("the locked tools are not in the cache: run `peerpods image build` once")
    target = tmp_path_factory.mktemp("tools") / "tree"
    tree.unpack([(each.name, store.path(each)) for each in wanted], target, {})
    return Tools(target, RECIPE)


def plant(root: Path) -> Path:
    for number in range(40):
        tree.put(root, f"usr/share/{number}/text", b"the same text, and its number: %d\n" % number * 200)
    tree.put(root, "usr/bin/program", b"\x7fELF" * 5000, executable=True)
    tree.link(root, "bin", "usr/bin")
    tree.settle(root)
    return root


def test_a_tree_made_at_another_time_with_another_umask_gives_the_same_file_system(
    tmp_path: Path, tools: Tools
) -> None:
    pack.root(plant(tmp_path / "one"), tmp_path / "one.erofs", tools, EPOCH)
    time.sleep(1.1)  # a second later: a time that got in would show
    before = os.umask(0o077)
    try:
        (tmp_path / "elsewhere").mkdir()
        shutil.copytree(plant(tmp_path / "elsewhere/two"), tmp_path / "elsewhere/three", symlinks=True)
        pack.root(tmp_path / "elsewhere/three", tmp_path / "two.erofs", tools, EPOCH)
    finally:
        os.umask(before)
    assert (tmp_path / "one.erofs").read_bytes() == (tmp_path / "two.erofs").read_bytes()
    found = [pack.hashes(tmp_path / f"{each}.erofs", tmp_path / f"{each}.verity", EPOCH) for each in ("one", "two")]
    assert found[0] == found[1]


def test_the_boot_partition_is_the_same_a_while_later(tmp_path: Path, tools: Tools) -> None:
    (tmp_path / "uki").write_bytes(b"MZ" * 5_000_000)
    pack.boot_partition(tmp_path / "uki", tmp_path / "one", RECIPE, tools, EPOCH)
    time.sleep(2.1)  # FAT counts in two seconds
    os.utime(tmp_path / "uki")
    pack.boot_partition(tmp_path / "uki", tmp_path / "two", RECIPE, tools, EPOCH)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert b"MZ" * 1000 in (tmp_path / "one").read_bytes()


def test_a_tools_own_words_reach_whoever_reads_the_error(tmp_path: Path, tools: Tools) -> None:
    with pytest.raises(BuildFault, match=r"^mkfs\.erofs ended with status 1: .*No such file"):
        pack.root(tmp_path / "gone", tmp_path / "x", tools, EPOCH)
    with pytest.raises(BuildFault, match=r"bring no program mkfs\.none"):
        tools.run("mkfs.none")


def test_a_program_sees_nothing_of_its_callers_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    before = os.umask(0o077)
    try:
        said = call(["sh", "-c", "umask; echo $TZ; env | grep -c LANG || true"])
    finally:
        os.umask(before)
    assert said.split() == ["0022", "UTC", "0"]


def test_a_disk_holds_each_part_where_its_table_says(tmp_path: Path) -> None:
    contents = {"esp": b"e" * 3000, "podvm-root": b"r" * (gpt.MIB + 1), "podvm-verity": b"v" * 4096}
    kinds = (gpt.ESP, gpt.ROOT["amd64"], gpt.VERITY["amd64"])
    parts = []
    for (name, content), kind in zip(contents.items(), kinds, strict=True):
        (tmp_path / name).write_bytes(content)
        parts.append((name, kind, tmp_path / name))
    pack.disk(parts, tmp_path / "one.raw")
    pack.disk(parts, tmp_path / "two.raw")
    disk = (tmp_path / "one.raw").read_bytes()
    assert disk == (tmp_path / "two.raw").read_bytes()
    size, found = gpt.read(disk[: gpt.MIB])
    assert size == len(disk)
    assert {each.name: disk[each.start :][: len(contents[each.name])] for each in found} == contents
    assert len({each.identity for each in found}) == 3


def test_the_uki_carries_kernel_initrd_and_the_roots_hash() -> None:
    line = pack.command_line(RECIPE, VERITY)
    assert line.endswith(f"podvm.roothash={'aa' * 32} podvm.salt={'bb' * 32} podvm.blocks=7")
    texts = {".osrel": "ID=debian\n", ".cmdline": line, ".uname": "6.12"}
    united = pack.unified(efi.executable([(".text", b"stub")]), b"kernel", b"initrd", texts)
    sections = Executable.parse(united).sections()
    assert sections[".cmdline"] == line.encode()
    assert (sections[".linux"], sections[".initrd"]) == (b"kernel", b"initrd")


def test_ids_are_the_same_for_ever_and_differ_from_each_other() -> None:
    assert pack.identity("root") == uuid.UUID("395096cc-2edc-5c3b-a686-6322897022de")
    assert pack.identity("root") != pack.identity("verity")


def test_an_initrd_whose_library_no_package_brings_is_refused(tmp_path: Path) -> None:
    for name in ("usr/bin/busybox", "usr/sbin/dmsetup"):
        tree.put(tmp_path, name, Path("/bin/sh").read_bytes(), executable=True)
    with pytest.raises(BuildFault, match=r"the initrd needs the library .*its package must be among"):
        initrd.build(tmp_path, "x86_64-linux-gnu", [], b"#!/bin/busybox sh\n")


def test_an_initrd_holds_its_modules_in_the_order_to_load_them(tmp_path: Path) -> None:
    for name in ("usr/bin/busybox", "usr/sbin/dmsetup"):
        tree.put(tmp_path, name, b"static", executable=True)
    archive = initrd.build(tmp_path, "x86_64-linux-gnu", [("b", "k/b.ko", b"B"), ("a", "k/a.ko", b"A")], b"#!init")
    assert archive.index(b"lib/initmod/order\0") > 0
    assert b"b\na\n" in archive
    assert archive == initrd.build(
        tmp_path, "x86_64-linux-gnu", [("b", "k/b.ko", b"B"), ("a", "k/a.ko", b"A")], b"#!init"
    )
    assert cpio.archive({}) != archive
