"""What kata-agent sees of /dev: everything but disks."""

import os
import stat
from pathlib import Path

import pytest

from podvm_images.supervisor import conceal, kernel


def test_disks_are_left_out_and_all_else_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "dev", tmp_path / "new"
    for folder in ("net", "disk/by-id", "mapper"):
        (source / folder).mkdir(parents=True)
    target.mkdir()
    (source / "fd").symlink_to("/proc/self/fd")
    (source / "disk/by-id/root").symlink_to("../../vda")
    kinds = {
        "null": stat.S_IFCHR,
        "net/tun": stat.S_IFCHR,
        "vda": stat.S_IFBLK,
        "sda1": stat.S_IFBLK,
        "mapper/root": stat.S_IFBLK,
    }
    for name in kinds:
        (source / name).touch()
    made: list[str] = []

    def node(path: str, mode: int, device: int) -> None:
        made.append(path)
        Path(path).touch()

    monkeypatch.setattr(os, "mknod", node)
    monkeypatch.setattr(
        os,
        "scandir",
        lambda path: [_Entry(Path(path) / name, kinds, source) for name in sorted(os.listdir(path))],
    )
    conceal.copy(str(source), str(target), mount=lambda *given: None)
    monkeypatch.undo()
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*")) == ["fd", "net", "net/tun", "null"]
    assert len(made) == 2


class _Entry:
    """A directory's entry, whose kind is as `kinds` has it: making device nodes takes rights that tests do not have."""

    def __init__(self, path: Path, kinds: dict[str, int], root: Path) -> None:
        self.name, self.path = path.name, str(path)
        self._kind = kinds.get(str(path.relative_to(root)))

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        found = list(os.stat(self.path, follow_symlinks=follow_symlinks))
        if self._kind:
            found[0] = self._kind | 0o666
        return os.stat_result([*found, *[0] * 9])


def test_a_program_that_cannot_be_hidden_from_disks_does_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(flags: int) -> None:
        raise PermissionError(1, "unshare: Operation not permitted")

    monkeypatch.setattr(kernel, "unshare", refuse)
    monkeypatch.setattr(conceal, "hide_disks", lambda: refuse(0))
    monkeypatch.setattr(os, "execv", lambda *given: pytest.fail("it runs"))
    assert conceal.main(["/usr/local/bin/kata-agent"]) == 1
    assert "without disks in sight" in capsys.readouterr().err
