"""A VM that fails is heard before it is deleted: its console is kept, and delays nothing for long."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from adaptor.errors import GuestUnreachable, StartFailed
from adaptor.relay.states import SessionState
from adaptor.sandbox.registry import Registry
from providers.errors import Denied
from tests.worlds.node import Node, spec

WEB = spec()
PANIC = "\x1b[2J[ 1.2] VFS: Unable to mount root fs\r\n\r\n[ 1.3] Kernel panic - not syncing: VFS\r\n"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where WEB's console is kept."""
    return tmp_path / "consoles" / f"{WEB.id}.txt"


async def failed(registry: Registry) -> StartFailed:
    await registry.create(WEB)
    with pytest.raises(StartFailed) as caught:
        await registry.start(WEB.id)
    return caught.value


async def test_the_last_words_of_a_vm_that_never_answered_are_in_the_error_and_in_a_file(
    node: Node, kept: Path
) -> None:
    node.relay.mute = True
    node.cloud.printed["i-0001"] = PANIC
    async with node.adaptor() as registry:
        error = await failed(registry)
        assert type(error) is GuestUnreachable
        assert "no guest answered" in str(error)
        assert str(error).endswith(
            "The VM's console ends: [ 1.2] VFS: Unable to mount root fs | [ 1.3] Kernel panic - not syncing: VFS"
        )
        await node.gone(registry)
    head, why, text = kept.read_text().split("\n", 2)
    assert head == "# pod shop/web, VM i-0001"
    assert why.startswith("# the VM i-0001: no guest answered")
    assert text == PANIC.replace("\r\n", "\n"), "read as text"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert node.cloud.calls["console"] == 1, "it was kept: the teardown does not ask again"


async def test_a_vm_that_dies_while_booting_is_heard_too(node: Node, kept: Path) -> None:
    node.relay.boot_seconds = 120
    node.cloud.printed["i-0001"] = PANIC
    async with node.adaptor() as registry:
        await registry.create(WEB)
        start = asyncio.create_task(registry.start(WEB.id))
        await node.clock.sleep(10)
        node.cloud.kill("i-0001", "Server.InternalError")
        with pytest.raises(StartFailed, match=r"Server\.InternalError\. The VM's console ends: .*Kernel panic"):
            await start
        await node.gone(registry)
    assert "Kernel panic" in kept.read_text()


async def test_a_vm_that_comes_up_is_never_asked_for_its_console(node: Node, kept: Path) -> None:
    node.cloud.printed["i-0001"] = PANIC
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        await node.clock.sleep(3600)
        await registry.stop(WEB.id, "StopVM")
        await node.gone(registry)
    assert node.cloud.calls["console"] == 0
    assert not kept.exists()


async def test_a_pod_that_is_deleted_while_its_vm_boots_is_deleted_at_once(node: Node) -> None:
    node.relay.boot_seconds = 120
    node.cloud.console_seconds = 3600
    async with node.adaptor() as registry:
        await registry.create(WEB)
        start = asyncio.create_task(registry.start(WEB.id))
        await node.clock.sleep(20)
        began = node.clock.now()
        await registry.stop(WEB.id, "StopVM")
        assert node.clock.now() - began < 2
        assert node.cloud.calls["console"] == 0
        await asyncio.gather(start, return_exceptions=True)
        await node.gone(registry)


async def test_a_vm_that_kubelet_gave_up_on_is_heard_before_it_is_deleted(node: Node, kept: Path) -> None:
    node.relay.mute = True
    node.cloud.printed["i-0001"] = PANIC
    async with node.adaptor() as registry:
        await registry.create(WEB)
        start = asyncio.create_task(registry.start(WEB.id))
        await node.clock.sleep(240)
        start.cancel()
        await node.clock.sleep(400)
        await node.gone(registry)
    why = kept.read_text().splitlines()[1]
    assert why.startswith("# it never answered; kubelet gave up waiting for the VM")


async def test_a_cloud_that_tells_no_console_delays_error_and_teardown_by_seconds_only(node: Node, kept: Path) -> None:
    node.relay.mute = True
    node.cloud.console_seconds = 3600
    async with node.adaptor() as registry:
        began = node.clock.now()
        error = await failed(registry)
        assert 300 <= node.clock.now() - began < 310
        assert "console" not in str(error)
        assert await node.gone(registry) < 15
    assert not kept.exists()


async def test_a_refused_console_changes_neither_error_nor_teardown(node: Node, kept: Path) -> None:
    node.relay.mute = True
    node.cloud.refuse["console"] += [Denied("not authorized to perform: ec2:GetConsoleOutput")] * 5
    async with node.adaptor() as registry:
        assert "GetConsoleOutput" not in str(await failed(registry))
        await node.gone(registry)
    assert not kept.exists()


async def test_a_full_disk_loses_the_file_and_not_the_words(node: Node, kept: Path) -> None:
    node.relay.mute = True
    node.cloud.printed["i-0001"] = PANIC
    kept.parent.write_text("in the way")
    async with node.adaptor() as registry:
        assert str(await failed(registry)).endswith("Kernel panic - not syncing: VFS")
        await node.gone(registry)


async def test_a_running_pods_vm_that_is_lost_is_heard(node: Node, kept: Path) -> None:
    node.cloud.printed["i-0001"] = PANIC
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        node.relay.lose(WEB.id, "the VM did not answer for 120 s", SessionState.LINK_LOST)
        await registry.reap()
        await node.gone(registry)
    assert kept.read_text().splitlines()[1].endswith("the VM did not answer for 120 s")


async def test_an_adaptor_that_ends_meanwhile_leaves_nothing_half_done(node: Node, kept: Path) -> None:
    node.relay.mute = True
    node.cloud.console_seconds = 2
    node.cloud.printed["i-0001"] = PANIC
    async with node.adaptor() as registry:
        await registry.create(WEB)
        start = asyncio.create_task(registry.start(WEB.id))
        await node.clock.sleep(302)
        assert not kept.exists()
    assert start.done() or start.cancel()
    async with node.adaptor() as second:
        await node.clock.sleep(600)
        await node.gone(second)
    assert "Kernel panic" in kept.read_text()


async def test_the_newest_fifty_are_kept(node: Node, kept: Path) -> None:
    node.relay.mute = True
    kept.parent.mkdir()
    for number in range(60):
        old = kept.parent / f"{number:064}.txt"
        old.write_text("old")

        os.utime(old, (number, number))
    node.cloud.printed["i-0001"] = PANIC
    async with node.adaptor() as registry:
        await failed(registry)
        await node.gone(registry)
    left = sorted(path.name for path in kept.parent.iterdir())
    assert len(left) == 50
    assert kept.name in left
    assert f"{59:064}.txt" in left
    assert f"{9:064}.txt" not in left
