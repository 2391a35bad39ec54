"""CopyFile below one base, and what takes its traces away."""

import os
import stat
from pathlib import Path

import pytest

from adaptor.errors import Code, StatusError
from adaptor.protos import agent_pb2
from podvm_images.guest.development_agent import files, ledger
from podvm_images.guest.development_agent.files import Tree
from podvm_images.guest.development_agent.ledger import Ledger


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "run/agent").mkdir(parents=True)
    return tmp_path / "run"


@pytest.fixture
def notes(base: Path) -> Ledger:
    return Ledger(f"{base}/agent/ledger")


@pytest.fixture
def tree(base: Path, notes: Ledger) -> Tree:
    return Tree(str(base), notes, f"{base}/agent")


def request(
    path: Path, data: bytes = b"", *, size: int | None = None, mode: int = 0o100644, offset: int = 0
) -> agent_pb2.CopyFileRequest:
    return agent_pb2.CopyFileRequest(
        path=str(path),
        data=data,
        file_size=len(data) if size is None else size,
        file_mode=mode,
        dir_mode=0x80000000 | 0o750,
        offset=offset,
        uid=os.getuid(),
        gid=os.getgid(),
    )


def refused(tree: Tree, asked: agent_pb2.CopyFileRequest) -> str:
    with pytest.raises(StatusError) as refusal:
        tree.copy(asked)
    assert refusal.value.code == Code.INVALID_ARGUMENT
    return refusal.value.message


def test_a_file_appears_whole_with_its_mode_and_its_parents(base: Path, tree: Tree) -> None:
    tree.copy(request(base / "a/b/file", b"data", mode=0o100640))
    assert (base / "a/b/file").read_bytes() == b"data"
    assert stat.S_IMODE((base / "a/b/file").stat().st_mode) == 0o640
    assert stat.S_IMODE((base / "a/b").stat().st_mode) == 0o750


def test_go_file_modes_are_understood() -> None:
    assert files.posix_of_go(0x80000000 | 0o750) == 0o750
    assert files.posix_of_go(1 << 23 | 1 << 22 | 1 << 20 | 0o755) == 0o7755


def test_a_file_in_pieces_is_absent_until_the_last_one(base: Path, tree: Tree) -> None:
    tree.copy(request(base / "f", b"one", size=6))
    assert not (base / "f").exists()
    tree.copy(request(base / "f", b"two", size=6, offset=3))
    assert (base / "f").read_bytes() == b"onetwo"
    assert [path.name for path in base.iterdir() if path.is_file()] == ["f"]


def test_pieces_may_come_twice(base: Path, tree: Tree) -> None:
    for _ in range(2):
        tree.copy(request(base / "f", b"one", size=6))
    for _ in range(2):
        tree.copy(request(base / "f", b"two", size=6, offset=3))
    assert (base / "f").read_bytes() == b"onetwo"


def test_a_piece_that_does_not_follow_the_last_is_refused(base: Path, tree: Tree) -> None:
    assert "came before those from 0" in refused(tree, request(base / "f", b"two", size=6, offset=3))
    tree.copy(request(base / "f", b"o", size=6))
    assert "only 1 have arrived" in refused(tree, request(base / "f", b"two", size=6, offset=3))


def test_a_piece_outside_of_its_file_is_refused(base: Path, tree: Tree) -> None:
    assert "outside of a file of 2 bytes" in refused(tree, request(base / "f", b"two", size=2))
    assert "outside" in refused(tree, request(base / "f", b"two", offset=-1))


def test_a_newer_file_replaces_an_older_one_in_one_step(base: Path, tree: Tree) -> None:
    tree.copy(request(base / "f", b"a longer old one"))
    with (base / "f").open("rb") as held:
        tree.copy(request(base / "f", b"new"))
        assert held.read() == b"a longer old one"
    assert (base / "f").read_bytes() == b"new"


def test_an_empty_file_takes_one_call(base: Path, tree: Tree) -> None:
    tree.copy(request(base / "f"))
    assert (base / "f").read_bytes() == b""


def test_a_name_may_be_as_long_as_the_kernel_allows(base: Path, tree: Tree) -> None:
    tree.copy(request(base / ("x" * 255), b"data"))
    assert (base / ("x" * 255)).read_bytes() == b"data"


def test_directories_and_links_are_made_and_made_again(base: Path, tree: Tree) -> None:
    for target in (b"one", b"two"):
        tree.copy(request(base / "d", mode=stat.S_IFDIR | 0o1711))
        tree.copy(request(base / "d/link", target, mode=stat.S_IFLNK | 0o777))
    assert stat.S_IMODE((base / "d").stat().st_mode) == 0o1711
    assert os.readlink(base / "d/link") == "two"


def test_a_device_is_refused(base: Path, tree: Tree) -> None:
    assert "no file, directory or symbolic link" in refused(tree, request(base / "d", mode=stat.S_IFCHR | 0o600))


@pytest.mark.parametrize("path", ["/etc/passwd", "{base}/../out", "{base}", "{base}/", "relative", "", "{base}x/f"])
def test_a_path_outside_of_the_base_is_refused(path: str, base: Path, tree: Tree) -> None:
    text = path.format(base=base)
    asked = agent_pb2.CopyFileRequest(path=text, file_mode=0o100644)
    assert "has to be below" in refused(tree, asked)


def test_a_link_on_the_way_is_refused_wherever_it_leads(base: Path, tree: Tree) -> None:
    (base.parent / "outside").mkdir()
    (base / "inside").mkdir()
    (base / "out").symlink_to("../outside")
    (base / "in").symlink_to("inside")
    for name in ("out", "in"):
        assert "symbolic links are not followed" in refused(tree, request(base / name / "f", b"x"))
        assert "symbolic links are not followed" in refused(tree, request(base / name / "deep/f", b"x"))
    assert not list((base.parent / "outside").iterdir())
    assert not list((base / "inside").iterdir())


def test_a_link_in_the_files_own_place_is_replaced_not_followed(base: Path, tree: Tree) -> None:
    (base.parent / "outside").write_bytes(b"untouched")
    (base / "f").symlink_to("../outside")
    tree.copy(request(base / "f", b"mine"))
    assert (base.parent / "outside").read_bytes() == b"untouched"
    assert not (base / "f").is_symlink()


def test_a_link_in_place_of_an_arriving_file_is_not_written_through(base: Path, tree: Tree) -> None:
    (base.parent / "outside").write_bytes(b"untouched")
    tree.copy(request(base / "f", b"one", size=6))
    arriving = next(path for path in base.iterdir() if path.name.startswith(".arriving"))
    arriving.unlink()
    arriving.symlink_to("../outside")
    with pytest.raises(OSError, match="symbolic links"):
        tree.copy(request(base / "f", b"two", size=6, offset=3))
    assert (base.parent / "outside").read_bytes() == b"untouched"


def test_a_pipe_or_a_link_is_not_read(base: Path, tree: Tree) -> None:
    os.mkfifo(base / "pipe")
    (base / "secret").write_bytes(b"secret")
    (base / "link").symlink_to("secret")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match=r"no regular file|symbolic links"):
            tree.read(f"{base}/{name}", 10)


def test_the_end_of_a_long_file_is_what_is_read(base: Path, tree: Tree) -> None:
    (base / "f").write_bytes(b"0123456789")
    assert tree.read(f"{base}/f", 4) == b"6789"


def test_what_was_made_is_removed_and_what_was_there_stays(base: Path, tree: Tree, notes: Ledger) -> None:
    (base / "there").mkdir()
    (base / "there/old").write_bytes(b"old")
    tree.copy(request(base / "there/new/f", b"x"))
    tree.copy(request(base / "there/old", b"newer"))
    tree.copy(request(base / "made/deep/f", b"x"))
    assert notes.clear() == []
    assert sorted(str(path.relative_to(base)) for path in base.rglob("*")) == ["agent", "there", "there/old"]


def test_a_later_ledger_knows_what_an_earlier_one_made(base: Path, tree: Tree) -> None:
    tree.copy(request(base / "a\nb/f", b"x"))
    tree.copy(request(base / "c/f", b"x"))
    assert Ledger(f"{base}/agent/ledger").clear() == []
    assert [path.name for path in base.iterdir()] == ["agent"]


def test_dropping_a_path_removes_the_parents_made_for_it_alone(base: Path, tree: Tree, notes: Ledger) -> None:
    for path in ("one/rootfs", "two/rootfs", "two/other"):
        tree.make_directory(f"{base}/{path}", 0o755)
    notes.drop(f"{base}/one/rootfs")
    notes.drop(f"{base}/two/rootfs")
    assert sorted(str(path.relative_to(base)) for path in base.rglob("*/")) == ["agent", "two", "two/other"]
    assert Ledger(f"{base}/agent/ledger").clear() == []
    assert not (base / "two").exists()


def test_dropping_what_was_there_before_does_nothing(base: Path, tree: Tree, notes: Ledger) -> None:
    (base / "there/rootfs").mkdir(parents=True)
    tree.make_directory(f"{base}/there/rootfs", 0o755)
    notes.drop(f"{base}/there/rootfs")
    assert (base / "there/rootfs").is_dir()


def test_a_tree_deeper_than_any_path_is_removed(base: Path) -> None:
    top = os.getcwd()
    try:
        os.mkdir(base / "deep")
        os.chdir(base / "deep")
        for _ in range(1100):  # above the recursion limit, and longer than PATH_MAX
            os.mkdir("directory")
            os.chdir("directory")
        Path("file").write_bytes(b"x")
    finally:
        os.chdir(top)
    assert ledger.remove(f"{base}/deep")
    assert not (base / "deep").exists()


def test_removing_follows_no_link(base: Path) -> None:
    (base / "keep").mkdir()
    (base / "keep/file").write_bytes(b"x")
    (base / "gone/sub").mkdir(parents=True)
    (base / "gone/link").symlink_to("../keep")
    (base / "gone/sub/link").symlink_to("../../keep")
    assert ledger.remove(f"{base}/gone")
    assert (base / "keep/file").exists()
    (base / "alias").symlink_to("keep")
    assert ledger.remove(f"{base}/alias")
    assert (base / "keep/file").exists()


def test_removing_what_is_not_there_succeeds(base: Path) -> None:
    assert ledger.remove(f"{base}/nothing")
