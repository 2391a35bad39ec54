"""The cache of packages: checked, kept by hash, gone on with after whatever stopped a fetch."""

import errno
import hashlib
from pathlib import Path

import pytest

from podvm_images.image.faults import BuildFault
from podvm_images.image.lock import Package
from podvm_images.image.store import Store

CONTENT = {name: f"package {name}".encode() for name in ("a1", "b2", "c3")}


def package(name: str) -> Package:
    content = CONTENT[name]
    return Package(name, "1", f"pool/main/{name}.deb", len(content), hashlib.sha256(content).hexdigest())


ALL = [package(name) for name in CONTENT]


def bring(wanted: Package, target: Path) -> None:
    target.write_bytes(CONTENT[wanted.name])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "files")


def test_what_was_fetched_is_not_fetched_again(store: Store) -> None:
    sizes: list[int] = []
    store.fetch(ALL, bring, sizes.append)
    assert sorted(sizes) == sorted(each.size for each in ALL)
    assert [store.path(each).read_bytes() for each in ALL] == list(CONTENT.values())
    store.fetch(ALL, lambda _wanted, _target: pytest.fail("it is there already"), sizes.append)


def test_after_a_failure_only_the_rest_is_fetched_and_every_failure_is_told(store: Store) -> None:
    def failing(wanted: Package, target: Path) -> None:
        if wanted.name != "b2":
            raise BuildFault(f"{wanted.name} did not come")
        bring(wanted, target)

    with pytest.raises(BuildFault) as caught:
        store.fetch(ALL, failing, lambda _size: None)
    assert str(caught.value) == "a1 did not come\nc3 did not come"
    assert [each.name for each in store.missing(ALL)] == ["a1", "c3"]


def test_another_file_than_the_locks_is_refused_and_not_kept(store: Store, tmp_path: Path) -> None:
    def another(_wanted: Package, target: Path) -> None:
        target.write_bytes(b"another")

    with pytest.raises(BuildFault, match=r"a1\.deb is not the file that the lock names"):
        store.fetch(ALL[:1], another, lambda _size: None)
    assert store.missing(ALL[:1]) == ALL[:1]
    assert [path for path in (tmp_path / "files").rglob("*") if path.is_file()] == []


def test_a_full_disk_is_said_with_the_file_that_had_no_room(store: Store) -> None:
    def full(_wanted: Package, _target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(BuildFault, match=r"a1\.deb cannot be kept: .*No space left on device"):
        store.fetch(ALL[:1], full, lambda _size: None)


def test_two_packages_of_one_name_do_not_share_a_place(store: Store) -> None:
    other = Package("a1", "2", "pool/main/a1.deb", 1, "0" * 64)
    assert store.path(other) != store.path(ALL[0])
