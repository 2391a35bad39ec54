"""fsGroup, on real files; as root, or not at all."""

import os
from pathlib import Path

import pytest

from podvm_images.guest import ownership

GROUP = 2345

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other groups")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    root = tmp_path / "volume"
    (root / "a/b").mkdir(parents=True)
    (root / "a/file").write_text("x")
    (root / "a/file").chmod(0o600)
    (root / "a/script").write_text("x")
    (root / "a/script").chmod(0o755)
    (tmp_path / "outside").mkdir(mode=0o700)
    (tmp_path / "outside/secret").write_text("x")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "a/dangling").symlink_to("nowhere")
    return root


def mode(path: Path) -> str:
    return oct(path.lstat().st_mode & 0o7777)


def test_the_group_gets_everything_and_directories_hand_it_on(volume: Path) -> None:
    assert ownership.hand_over(str(volume), GROUP, on_mismatch=False) == 7
    for path in (volume, *volume.rglob("*")):
        assert path.lstat().st_gid == GROUP, path
        assert path.lstat().st_uid == os.geteuid(), path
    assert [mode(volume / name) for name in ("", "a", "a/b")] == ["0o2775", "0o2775", "0o2775"]
    assert (mode(volume / "a/file"), mode(volume / "a/script")) == ("0o660", "0o775")


def test_links_are_never_followed(volume: Path, tmp_path: Path) -> None:
    ownership.hand_over(str(volume), GROUP, on_mismatch=False)
    assert (tmp_path / "outside").stat().st_gid != GROUP
    assert mode(tmp_path / "outside") == "0o700"
    assert (tmp_path / "outside/secret").stat().st_gid != GROUP


def test_on_mismatch_goes_by_the_root_alone(volume: Path) -> None:
    assert ownership.hand_over(str(volume), GROUP, on_mismatch=True) == 7
    os.chown(volume / "a/file", -1, 0)
    assert ownership.hand_over(str(volume), GROUP, on_mismatch=True) == 0
    assert (volume / "a/file").stat().st_gid == 0
    assert ownership.hand_over(str(volume), GROUP, on_mismatch=False) == 7
    assert (volume / "a/file").stat().st_gid == GROUP


def test_a_walk_that_was_cut_off_is_begun_anew_as_the_root_comes_last(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = os.chown, []

    def fails_in_the_middle(*args: object, **kwargs: object) -> None:
        seen.append(args)
        if len(seen) == 3:
            raise OSError("the disk went away")
        real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "chown", fails_in_the_middle)
    with pytest.raises(OSError, match="went away"):
        ownership.hand_over(str(volume), GROUP, on_mismatch=True)
    monkeypatch.undo()
    assert ownership.hand_over(str(volume), GROUP, on_mismatch=True) == 7
    assert all(path.lstat().st_gid == GROUP for path in volume.rglob("*"))
