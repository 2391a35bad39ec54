"""Everything breaks while pods run: the adaptor is killed, the relay replaced, cables are cut. Nobody may notice.

Each pod writes a numbered line twenty times a second, is asked, over and over, to run a command that ends with a
random status, and answers requests at its own address on one connection. Afterwards every line of every log must be
there once and in order, every status must have been right, and no request without its answer. `make nightly` runs it with fifty pods, `make test` with a few.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from adaptor.demo import service
from adaptor.demo.shim import Process, Shim
from adaptor.demo.world import World
from adaptor.relay.client import RelayClient
from tests.e2e.conftest import clean

pytestmark = pytest.mark.netns

TICKER = ["sh", "-c", "n=0; while :; do echo line $n; n=$((n+1)); sleep 0.05; done"]


class Pod:
    """One pod under watch. `execs` counts commands by whether their status was right."""

    def __init__(self, shim: Shim, ticker: Process, address: str) -> None:
        self.shim = shim
        self.ticker = ticker
        self.client = service.Client(address)
        self.execs: Counter[bool] = Counter()
        self.answers = 0
        self.longest_silence = 0.0

    async def keep_asking(self, dice: random.Random) -> None:
        while True:
            wanted = dice.randrange(200)
            process = await self.shim.exec(self.ticker, ["sh", "-c", f"echo {wanted}; exit {wanted}"])
            status = await process.exit_code(60)
            self.execs[status == wanted and bytes(process.stdout) == b"%d\n" % wanted] += 1
            await asyncio.sleep(dice.random())

    async def keep_requesting(self) -> None:
        while True:
            await self.client.ask(f"/{self.answers}", 60)
            self.answers += 1
            await asyncio.sleep(0.05)

    async def keep_listening(self) -> None:
        while True:
            began, seen = time.monotonic(), len(self.ticker.stdout)
            while len(self.ticker.stdout) == seen:
                self.ticker.changed.clear()
                await self.ticker.changed.wait()
            self.longest_silence = max(self.longest_silence, time.monotonic() - began)

    def faults(self) -> list[str]:
        """What a user of this pod would complain of."""
        lines = bytes(self.ticker.stdout).splitlines()
        wrong = next((n for n, line in enumerate(lines) if line != b"line %d" % n), None)
        found = [f"{self.shim.pod}: Check failed: {error}" for error in self.shim.checks_failed]
        if wrong is not None:
            found.append(f"{self.shim.pod}: line {wrong} of {len(lines)} is {lines[wrong]!r}")
        if self.execs[False] or not self.execs[True]:
            found.append(f"{self.shim.pod}: commands ended rightly/wrongly: {self.execs[True]}/{self.execs[False]}")
        if not self.answers:
            found.append(f"{self.shim.pod}: it answered nothing at its own address")
        return found


class Storm:
    """Breaks one thing after the other, in a random order, and tells what it did."""

    def __init__(self, world: World, dice: random.Random, kills: int, takeovers: int, cuts: int) -> None:
        self.told: list[str] = []
        self._world = world
        self._dice = dice
        self._plan = ["kill"] * kills + ["takeover"] * takeovers + ["cut"] * cuts
        dice.shuffle(self._plan)
        self._cut_until = 0.0

    async def blow(self) -> None:
        """Everything planned; returns when the last cable is back in."""
        for what in self._plan:
            match what:
                case "kill":
                    await self._world.stop("adaptor", signal.SIGKILL)
                    self.told.append("adaptor killed")
                    await asyncio.sleep(self._dice.random() * 2)
                    await self._world.start_adaptor()
                case "takeover":
                    await self._take_over()
                case _:
                    await self._cut()
            await asyncio.sleep(self._dice.random())
        await asyncio.sleep(max(0.0, self._cut_until - time.monotonic()))

    async def _take_over(self) -> None:
        client = RelayClient(self._world.relay_socket)
        before = await client.list()
        await self._world.spawn("relay", "--takeover", "--socket", self._world.relay_socket)
        async with asyncio.timeout(20):
            while (now := await client.list()).pid == before.pid:
                await asyncio.sleep(0.02)
        assert len(now.sessions) == len(before.sessions)
        self.told.append(f"relay {before.pid} replaced by {now.pid}")

    async def _cut(self) -> None:
        instance = self._dice.choice(await self._world.living())
        seconds = self._dice.uniform(1, 20)
        await self._world.cause(cut={"instance": instance, "seconds": seconds})
        self._cut_until = max(self._cut_until, time.monotonic() + seconds)
        self.told.append(f"{instance} cut for {seconds:.1f} s")


async def weather(directory: Path, seed: int, pods: int, **storm: int) -> None:
    dice = random.Random(seed)
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(World(directory, settings={"limits": {"creates_at_once": 16}}))
        await world.start_cloud("--rate-limits", "off")
        await world.start_adaptor()
        gate = asyncio.Semaphore(8)

        async def begin(number: int) -> Pod:
            async with gate:
                network = stack.enter_context(world.pod_network())
                shim = Shim(world.hypervisor_socket, pod=f"storm/p{number}", netns=network.netns)
                await stack.enter_async_context(shim)
                await shim.start_pod()
                ticker = await shim.run(TICKER)
                server = await shim.exec(ticker, service.serve())
                await server.until(lambda out: out.endswith(b"\n"), 60)
                return Pod(shim, ticker, network.ipv4)

        crew = await asyncio.gather(*(begin(number) for number in range(pods)))
        asking = [asyncio.create_task(pod.keep_asking(random.Random(f"{seed}/{pod.shim.pod}"))) for pod in crew]
        asking += [asyncio.create_task(pod.keep_requesting()) for pod in crew]
        listening = [asyncio.create_task(pod.keep_listening()) for pod in crew]
        blowing = Storm(world, dice, **storm)
        await blowing.blow()
        await asyncio.sleep(15)  # what was cut last is noticed and resumed
        seen = [(len(pod.ticker.stdout), pod.answers) for pod in crew]
        await asyncio.sleep(2)
        for task in listening + asking:
            task.cancel()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        complaints = [fault for pod in crew for fault in pod.faults()]
        complaints += [repr(end) for end in ended if not isinstance(end, asyncio.CancelledError)]
        silent = [
            pod.shim.pod
            for pod, (lines, answers) in zip(crew, seen, strict=True)
            if len(pod.ticker.stdout) == lines or pod.answers == answers
        ]
        lines = sum(len(pod.ticker.stdout.splitlines()) for pod in crew)
        execs = sum(pod.execs.total() for pod in crew)
        longest, answers = max(pod.longest_silence for pod in crew), sum(pod.answers for pod in crew)
        print(
            f"\nseed {seed}: {pods} pods, {lines} lines, {execs} commands, {answers} answers; longest silence {longest:.1f} s"
        )
        print("\n".join(blowing.told))
        assert complaints == []
        assert silent == []
        assert len(await world.living()) == pods

        async def end(pod: Pod) -> None:
            async with gate:
                await pod.client.aclose()
                await pod.shim.stop(pod.ticker, signal.SIGKILL)
                await pod.shim.stop_pod()

        await asyncio.gather(*(end(pod) for pod in crew))
        assert len(await world.instances()) == pods, "a VM was made twice"
        await clean(world)


async def test_a_few_pods_live_through_a_storm(directory: Path) -> None:
    await weather(directory, seed=7, pods=6, kills=3, takeovers=2, cuts=2)


@pytest.mark.nightly
async def test_fifty_pods_live_through_a_storm(directory: Path) -> None:
    await weather(directory, seed=int(os.environ.get("STORM", "1")), pods=50, kills=20, takeovers=5, cuts=10)
