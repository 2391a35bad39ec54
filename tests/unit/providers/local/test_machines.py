"""A machine's life on this host, where it does not go as it should."""

import asyncio
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from podvm_images.image import manifest
from providers.base import Instance, InstanceState, LaunchSpec, Ownership
from providers.errors import Capacity, NotFound, Quota, Unsupported
from providers.local import hosts, processes, vm
from providers.local.config import LocalConfig
from providers.local.machines import Machines
from providers.local.provider import LocalProvider

OWNER = Ownership("cluster", "node")
SPEC = LaunchSpec("podvm-nginx", "local.small", b"{}")
Open = Callable[..., LocalProvider]


@pytest.fixture
def place() -> Iterator[Path]:
    """Short: sockets live in it."""
    path = Path(tempfile.mkdtemp(prefix="pp-"))
    program = path / "qemu"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {Path(__file__).with_name("fake_qemu.py")} "$@"\n')
    program.chmod(0o700)
    image = path / "image"
    image.mkdir()
    for name in ("vmlinuz", "initrd", "podvm.raw"):
        (image / name).write_bytes(b"x" * 4096)
    architecture = {"x86_64": "amd64", "arm64": "arm64"}[hosts.architecture()]
    written = manifest.Manifest(architecture, "min", False, True, "6.12", "console=ttyS0", "ab")
    (image / "image.json").write_text(manifest.to_json(written))
    (path / "st").mkdir()
    (path / "st/behave").write_text("")
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def opened(place: Path) -> AsyncIterator[Open]:
    made: list[LocalProvider] = []

    def open(**settings: Any) -> LocalProvider:
        config = LocalConfig(
            **{
                "image": str(place / "image"),
                "qemu": str(place / "qemu"),
                "state_dir": str(place / "st"),
                "network": "user",
                "accel": "tcg",
                **settings,
            }
        )
        made.append(LocalProvider(config, OWNER, Machines(config)))
        return made[-1]

    yield open
    for each in made:
        for instance in await each.list() if not each._closed else ():
            await each.delete(instance.id)
        await each.aclose()


async def until(provider: LocalProvider, id: str, good: Callable[[Instance], bool]) -> Instance:
    for _ in range(800):
        seen = (await provider.get([id]))[id]
        if good(seen):
            return seen
        await asyncio.sleep(0.01)
    raise AssertionError(f"after eight seconds it is still {seen}")


def directory(place: Path, id: str) -> Path:
    return place / "st/vms" / id


def starts(place: Path, id: str) -> int:
    return len((directory(place, id) / "starts").read_text())


def launches(place: Path, id: str) -> int:
    return int(json.loads((directory(place, id) / "intent.json").read_text())["launches"])


async def test_a_guest_that_panics_under_tcg_is_powered_on_once_more(place: Path, opened: Open) -> None:
    (place / "st/behave").write_text("panics-once")
    provider = opened()
    made = await provider.create(SPEC, "token")
    for _ in range(800):
        assert (await provider.get([made.id]))[made.id].state in (InstanceState.RUNNING, InstanceState.PENDING)
        if launches(place, made.id) == 2 and starts(place, made.id) == 2:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it was not powered on again")


async def test_one_that_panics_again_has_stopped_and_says_of_what(place: Path, opened: Open) -> None:
    (place / "st/behave").write_text("panics")
    provider = opened()
    made = await provider.create(SPEC, "token")
    seen = await until(provider, made.id, lambda each: each.state is InstanceState.STOPPED)
    assert "Kernel panic" in seen.reason
    assert starts(place, made.id) == 2


async def test_a_guest_that_never_answers_is_powered_on_once_more(place: Path, opened: Open) -> None:
    provider = opened(ready_timeout=0.1)
    made = await provider.create(SPEC, "token")
    await until(provider, made.id, lambda each: launches(place, made.id) == 2)


async def test_a_refused_start_leaves_nothing_and_its_token_is_good_again(place: Path, opened: Open) -> None:
    (place / "st/behave").write_text("refuse")
    provider = opened()
    with pytest.raises(Capacity, match="Cannot allocate memory"):
        await provider.create(SPEC, "token")
    assert os.listdir(place / "st/vms") == []
    (place / "st/behave").write_text("")
    assert (await provider.create(SPEC, "token")).state is InstanceState.RUNNING


async def test_qemu_that_hears_nothing_is_killed(place: Path, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm, "_QUIT", 0.1)
    (place / "st/behave").write_text("deaf")
    provider = opened()
    made = await provider.create(SPEC, "token")
    process = processes.read(str(directory(place, made.id) / "vmm.pid"))
    assert processes.alive(process)
    await provider.delete(made.id)
    assert not processes.alive(process)
    assert os.listdir(place / "st/vms") == []


async def test_a_vm_runs_on_without_its_provider_and_the_next_one_has_it(place: Path, opened: Open) -> None:
    first = opened()
    made = await first.create(SPEC, "token")
    await first.aclose()
    (seen,) = await opened().list()
    assert (seen.id, seen.state) == (made.id, InstanceState.RUNNING)


async def test_the_limits_are_the_settings(place: Path, opened: Open) -> None:
    provider = opened(memory_limit_mib=1500, machines_limit=2)
    await provider.create(SPEC, "one")
    with pytest.raises(Capacity, match="memory_limit_mib, 1500"):
        await provider.create(SPEC, "two")
    with pytest.raises(Quota, match="machines_limit"):
        await opened(machines_limit=1).create(SPEC, "three")
    found = {each.name: (each.limit, each.used) for each in await provider.quota()}
    assert found == {"local.machines_limit": (2, 1), "local.memory_limit_mib": (1500, 1024)}


async def test_more_memory_than_there_is_is_refused_before_anything_is_made(
    place: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "available_mib", lambda: 1000)
    with pytest.raises(Capacity, match="takes 1024 MiB of memory, and 1000 are available"):
        await opened().create(SPEC, "token")
    assert os.listdir(place / "st/vms") == []


async def test_an_image_that_cannot_be_launched_is_told_before_anything_is_made(place: Path, opened: Open) -> None:
    path, provider = place / "image/image.json", opened()
    sound = path.read_text()
    path.write_text(sound.replace('"amd64"', '"other"').replace('"arm64"', '"amd64"').replace('"other"', '"arm64"'))
    with pytest.raises(Unsupported, match="is for"):
        await provider.create(SPEC, "token")
    path.write_text(sound)
    (place / "image/initrd").unlink()
    with pytest.raises(NotFound, match="initrd is missing"):
        await provider.create(SPEC, "token")
    path.unlink()
    with pytest.raises(NotFound, match="peerpods image build"):
        await provider.create(SPEC, "token")
    assert not (place / "st/vms").exists() or os.listdir(place / "st/vms") == []


async def test_a_launch_that_was_interrupted_is_told_and_made_by_the_same_call(place: Path, opened: Open) -> None:
    provider = opened()
    made = await provider.create(SPEC, "token")
    processes.end(processes.read(str(directory(place, made.id) / "vmm.pid")), grace=1)
    (directory(place, made.id) / "vmm.pid").unlink()  # as if it had never come so far
    (seen,) = await provider.list()
    assert (seen.state, "interrupted" in seen.reason) == (InstanceState.STOPPED, True)
    assert (await provider.create(SPEC, "token")).state is InstanceState.RUNNING


async def test_a_deletion_that_was_interrupted_is_finished_by_whoever_looks(place: Path, opened: Open) -> None:
    provider = opened()
    made = await provider.create(SPEC, "token")
    machines = provider._machines
    machines._take_away = lambda intent: None  # type: ignore[method-assign] # killed right before
    await provider.delete(made.id)
    assert directory(place, made.id).exists()
    assert list(await opened().list()) == []
    assert not directory(place, made.id).exists()
    assert (await provider.create(SPEC, "token")).state is InstanceState.GONE


async def test_after_a_reboot_numbers_are_others_and_nobody_is_killed(place: Path, opened: Open) -> None:
    provider = opened()
    made = await provider.create(SPEC, "token")
    process = processes.read(str(directory(place, made.id) / "vmm.pid"))
    intent = provider._machines._book.intent(made.id)
    assert intent is not None
    provider._machines._book.change(dataclasses.replace(intent, boot_id="another"))
    (seen,) = await provider.list()
    assert (seen.state, "booted" in seen.reason) == (InstanceState.STOPPED, True)
    await provider.delete(made.id)
    assert processes.alive(process)
    processes.end(process, grace=1)


async def test_a_larger_disk_is_a_copy_and_a_smaller_one_is_the_images(place: Path, opened: Open) -> None:
    provider = opened()
    large = await provider.create(dataclasses.replace(SPEC, root_volume_gib=1, scratch_gib=2), "large")
    assert (directory(place, large.id) / "disk.raw").stat().st_size == 3 << 30
    assert (directory(place, large.id) / "disk.raw").stat().st_blocks * 512 < 1 << 20  # holes
    plain = await provider.create(SPEC, "plain")
    assert not (directory(place, plain.id) / "disk.raw").exists()


async def test_what_is_not_ours_in_the_directory_is_left_alone(place: Path, opened: Open) -> None:
    (place / "st/vms").mkdir()
    (place / "st/vms/notes").mkdir()
    (place / "st/vms/vm-0000000000000000").write_text("a file")
    assert list(await opened().list()) == []
    assert sorted(os.listdir(place / "st/vms")) == ["notes", "vm-0000000000000000"]
