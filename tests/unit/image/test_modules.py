"""Modules in the order in which they can be loaded."""

import lzma

import pytest

from podvm_images.image.modules import ModuleMissing, canonical, closure, depends

TREE = {
    "virtio_net": "virtio,net-failover",
    "net_failover": "failover",
    "failover": "",
    "virtio": "",
    "erofs": "lz4_decompress",
    "loop_a": "loop_b",
    "loop_b": "loop-a",
}


def module(needs: str) -> bytes:
    return b"\x7fELF...\0license=GPL\0depends=" + needs.encode() + b"\0vermagic=6.12\0"


FILES = {name: f"kernel/{name.replace('_', '-')}.ko.xz" for name in TREE}
CONTENT = {FILES[name]: lzma.compress(module(needs)) for name, needs in TREE.items()}


def names(*wanted: str, builtin: frozenset[str] = frozenset()) -> list[str]:
    return [name for name, _ in closure(wanted, FILES, builtin, CONTENT.__getitem__)]


def test_what_a_module_needs_comes_before_it_and_once() -> None:
    assert names("virtio-net", "failover") == ["virtio", "failover", "net_failover", "virtio_net"]


def test_what_is_built_in_is_not_loaded() -> None:
    assert names("virtio_net", "erofs", builtin=frozenset({"virtio", "lz4_decompress"})) == [
        "failover",
        "net_failover",
        "virtio_net",
        "erofs",
    ]


def test_contents_come_decompressed() -> None:
    assert closure(["virtio"], FILES, frozenset(), CONTENT.__getitem__) == [("virtio", module(""))]


def test_a_missing_module_is_named_with_the_one_that_needs_it() -> None:
    with pytest.raises(ModuleMissing, match=r"no module lz4_decompress, which erofs needs"):
        names("erofs")
    with pytest.raises(ModuleMissing, match=r"no module nvme: is this"):
        names("nvme")


def test_modules_that_need_each_other_end_the_search() -> None:
    with pytest.raises(ModuleMissing, match="loop_a -> loop_b -> loop_a need each other"):
        names("loop_a")


def test_a_damaged_module_is_named() -> None:
    with pytest.raises(ValueError, match=r"kernel/virtio\.ko\.xz is damaged"):
        closure(["virtio"], FILES, frozenset(), lambda _: b"not xz")


def test_a_module_without_the_field_needs_nothing() -> None:
    assert depends(b"\x7fELF") == []
    assert canonical("drivers/net/virtio-net.ko.xz") == canonical("virtio_net") == "virtio_net"
