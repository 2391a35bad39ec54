"""The journal as an operator meets it: shown beside a running adaptor, damaged, lost, and made anew under a running pod."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from adaptor.demo.shim import Process, Shim
from adaptor.demo.world import World

pytestmark = pytest.mark.netns


async def peerpods(world: World, *arguments: str) -> tuple[int, str, str]:
    """`peerpods ARGUMENTS --config ...`: status, output, errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "adaptor", *arguments, "--config", str(world.directory / "peerpods.toml"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=world._environment(),
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def ticking(shim: Shim) -> Process:
    ticker = await shim.run(["sh", "-c", "n=0; while :; do echo tick $n; n=$((n+1)); sleep 0.05; done"])
    await ticker.until(lambda out: b"tick 3\n" in out)
    return ticker


async def no_tick_was_lost(ticker: Process) -> None:
    seen = len(ticker.stdout)
    await ticker.until(lambda out: len(out) > seen + 100)
    lines = bytes(ticker.stdout).splitlines()
    assert lines == [b"tick %d" % n for n in range(len(lines))]


async def test_two_adaptors_on_one_state_directory_are_impossible(world: World) -> None:
    holder = world.processes["adaptor"].pid
    config = world.directory / "peerpods.toml"
    config.write_text(config.read_text().replace("hypervisor.sock", "second.sock"))
    status, _, err = await peerpods(world, "adaptor")
    assert status == 1
    assert f"another peerpods (process {holder}) uses {world.directory}/state" in err
    assert not (world.directory / "second.sock").exists()
    status, out, err = await peerpods(world, "journal", "show")
    assert (status, err) == (0, ""), "reading needs no lock"
    assert "is empty" in out


async def test_replay_prints_what_the_next_adaptor_then_does(world: World) -> None:
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/replay", netns=netns) as shim:
            await shim.start_pod()
            ticker = await ticking(shim)
            status, out, err = await peerpods(world, "ps", "--local")
            assert (status, err) == (0, "")
            pod, *_, link = out.splitlines()[1].split()[1:]
            assert (pod, link) == ("replay", "joined")
            status, out, err = await peerpods(world, "console", "e2e/replay", "--local")
            assert status == 0, err
            assert "the guest is listening" in out
            status, out, err = await peerpods(world, "journal", "replay")
            assert (status, err) == (0, "")
            assert [line.split()[:3] for line in out.splitlines()[1:]] == [
                ["adopt", "e2e/replay", shim.sandbox_id[:12]]
            ]
            status, out, _ = await peerpods(world, "journal", "show", "--sandbox", shim.sandbox_id)
            assert out.startswith("e2e/replay  running")
            await shim.stop(ticker, signal.SIGKILL)
            await shim.stop_pod()


async def test_replay_says_what_could_not_be_asked(world: World) -> None:
    await world.stop("adaptor")
    await world.stop_relay()
    await world.cause(next={"action": "DescribeInstances", "error": "UnauthorizedOperation", "times": 1})
    status, out, _ = await peerpods(world, "journal", "replay")
    assert status == 0
    assert "note: the relay does not answer" in out
    assert "note: the cloud could not be asked" in out
    await world.start_adaptor()


@pytest.mark.parametrize("fate", ["damaged", "lost"])
async def test_a_pod_outlives_its_nodes_journal(world: World, fate: str) -> None:
    journal = Path(world.journal)
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/survivor", netns=netns) as shim:
            await shim.start_pod()
            ticker = await ticking(shim)
            await world.stop("adaptor", signal.SIGKILL)
            for name in ("journal.db-wal", "journal.db-shm"):
                journal.with_name(name).unlink(missing_ok=True)
            if fate == "lost":
                journal.unlink()
            else:
                journal.write_bytes(os.urandom(8192))
            status, _, err = await peerpods(world, "adaptor")
            assert status == 1
            assert "peerpods journal rebuild" in err
            status, out, err = await peerpods(world, "journal", "rebuild", "--dry-run")
            assert (status, err) == (0, "")
            assert "adopt          e2e/survivor" in out
            assert "nothing was changed" in out
            status, out, err = await peerpods(world, "journal", "rebuild")
            assert (status, err) == (0, "")
            assert "with 1 sandboxes; the old one is" in out
            await world.start_adaptor()
            await no_tick_was_lost(ticker)
            assert await (await shim.exec(ticker, ["true"])).exit_code() == 0
            await shim.stop(ticker, signal.SIGKILL)
            await shim.stop_pod()
            assert not shim.checks_failed


async def test_rebuild_drops_no_running_pod_unasked(world: World) -> None:
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/hidden", netns=netns) as shim:
            await shim.start_pod()
            ticker = await ticking(shim)
            await world.stop("adaptor", signal.SIGKILL)
            config = world.directory / "peerpods.toml"
            config.write_text(config.read_text().replace('"demo-node"', '"another-name"'))
            before = world.journal_rows()
            status, _, err = await peerpods(world, "adaptor")
            assert status == 1
            assert "is that of node 'demo-node'" in err
            status, out, err = await peerpods(world, "journal", "rebuild")
            assert status == 1
            assert "no VM" in out
            assert "1 running pods have no VM in the cloud's list for node another-name" in err
            assert world.journal_rows() == before
            await world.start_adaptor()  # with its own name again
            await no_tick_was_lost(ticker)
            await shim.stop(ticker, signal.SIGKILL)
            await shim.stop_pod()
