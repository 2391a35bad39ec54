"""One scenario from start to verdict.

pods live, faults strike ─► calm: no more faults ─► quiescence within PATIENCE, or a failure ─► it must last
                                                 ─► every pod is stopped ─► nothing may be left
"""

import asyncio
import contextlib
import logging
import random
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final
from unittest.mock import patch

from adaptor.pki import NodePki
from adaptor.relay.states import SessionState
from adaptor.sandbox.model import JournalFault, Phase, fold
from providers import tags
from tests.sim.faults.cloud import SimCloud
from tests.sim.faults.kubelet import Pod
from tests.sim.faults.node import Node
from tests.sim.faults.process import enlist_tasks
from tests.sim.faults.relay import LINK_GRACE, SimRelay
from tests.sim.faults.scenario import Blow, Scenario
from tests.sim.faults.stage import Stage, short
from tests.worlds.loop import VirtualLoop

# Virtual seconds that the node has to come to rest once no more faults strike: several times the longest thing that
# it may wait for (adopt_grace, link_grace, start_timeout, a create that may still show up), one after the other.
PATIENCE: Final = 1200.0
# Between two looks: at first, and then this part of the time that has passed. How long rest must last to be believed.
_LOOK: Final = 5.0
_PART: Final = 0.1
_REST: Final = 240.0
# Where SQLite's fsync costs nothing.
_LOG: Final = "peerpods"
_MEMORY: Final = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Verdict:
    """`violations` empty: the run was sound. `passed`: how much had passed each border by the time
    of calm, for `catalogue`."""

    scenario: Scenario
    violations: tuple[str, ...]
    timeline: tuple[str, ...]
    tally: Counter[str]
    passed: Counter[str]

    def report(self) -> str:
        """All that a person needs who wants to know why."""
        return "\n".join(
            [
                *(f"VIOLATED {each}" for each in self.violations),
                f"replay: python -m tests.sim.faults {self.scenario.seed}",
                *self.scenario.lines(),
                *self.timeline,
            ]
        )


def run(scenario: Scenario, *, log: bool = False) -> Verdict:
    """The same verdict, to the last line of its timeline, whenever it is asked for. `log`: the adaptor's lines, too."""
    directory = Path(tempfile.mkdtemp(prefix="faults-", dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        with _determined(scenario.chance), asyncio.Runner(loop_factory=VirtualLoop) as runner:
            play = _Run(scenario, directory)
            with play.listening() if log else contextlib.nullcontext():
                return runner.run(play.play())
    finally:
        shutil.rmtree(directory)


class _Run:
    def __init__(self, scenario: Scenario, directory: Path) -> None:
        self._scenario = scenario
        self._directory = directory
        self._ready: dict[str, float | None] = {}

    async def play(self) -> Verdict:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        enlist_tasks(loop)
        stage = self.stage = Stage(self._scenario, loop)
        loop.set_exception_handler(lambda _, context: stage.violated(f"unhandled: {context.get('exception')!r}"))
        self.cloud = SimCloud(stage)
        self.relay = SimRelay(self.cloud, stage, self._ready_at)
        self.node = Node(stage, self.cloud, self.relay, self._directory, _pki())
        self.pods = [Pod(plan, stage, self.node, self.relay) for plan in self._scenario.pods]
        self.node.kernel.touched = self._touched
        lives = [stage.spawn(work) for work in (self.node.supervise(), *(pod.live() for pod in self.pods))]
        try:
            await self._strike()
            for verdict in (self._come_to_rest, self._stop_everything):
                if not stage.violations:
                    await verdict()
        finally:
            for life in lives:
                life.cancel()
            await asyncio.gather(*lives, return_exceptions=True)
            await self.node.aclose()
        return Verdict(self._scenario, tuple(stage.violations), tuple(stage.timeline), stage.tally, self.passed)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """The adaptor's log, in the timeline."""
        lines = logging.Handler()
        lines.emit = lambda record: self.stage.tell(f"  log: {record.getMessage()}")  # type: ignore[method-assign]
        log = logging.getLogger(_LOG)
        log.setLevel(logging.DEBUG)
        log.addHandler(lines)
        log.propagate = False
        try:
            yield
        finally:
            log.removeHandler(lines)
            log.propagate = True

    # -- faults ---------------------------------------------------------------------------------

    async def _strike(self) -> None:
        """Every blow at its time, then calm."""
        for blow in self._scenario.blows:
            await self.stage.sleep(blow.at - self.stage.now)
            await self._blow(blow)
        ends = [
            *(window.start + window.seconds for window in self._scenario.windows),
            *(pod.begins + pod.lives + pod.boot for pod in self._scenario.pods),
        ]
        await self.stage.sleep(max(ends) + 10.0 - self.stage.now)
        self.stage.calm = True
        self.passed = Counter(self.stage.passed)
        self.stage.tell("CALM: no more faults")

    async def _blow(self, blow: Blow) -> None:
        pod = self.pods[blow.pod]
        match blow.kind:
            case "adaptor killed" if self.node.process.alive:
                self.stage.strike(blow.kind)
                self.node.kill(blow.kind, blow.seconds)
            case "adaptor upgraded" if self.node.registry is not None:
                self.stage.strike(blow.kind)
                self.stage.spawn(self.node.upgrade(blow.seconds))
            case "node reboot":
                self.stage.strike(blow.kind, f"back in {blow.seconds:g} s")
                self._reboot(blow.seconds)
            case "relay killed":
                self.stage.strike(blow.kind)
                self._excuse_all(blow.kind)
                self.relay.kill(blow.kind)
            case "relay handed over":
                self.stage.strike(blow.kind)
                self.relay.hand_over()
            case "shim killed" if pod.kill_shim(blow.kind):
                self.stage.strike(blow.kind, pod.plan.name)
            case "link broken" if (sandbox := pod.running) is not None:
                self.stage.strike(
                    f"link broken {'for long' if blow.seconds >= LINK_GRACE else 'and resumed'}", pod.plan.name
                )
                if blow.seconds >= LINK_GRACE:
                    sandbox.excuse = "its link was broken for longer than the grace"
                self.relay.cut(sandbox.spec.id, blow.seconds)
            case "VM dies" | "VM deleted behind our back":
                self._end_vm(blow, pod)

    def _end_vm(self, blow: Blow, pod: Pod) -> None:
        sandbox = pod.sandbox
        link = self.relay.links.get(sandbox.spec.id) if sandbox else None
        if sandbox is not None and link is not None and link.instance in self.cloud.living:
            self.stage.strike(blow.kind, link.instance)
            sandbox.excuse = blow.kind
            if blow.kind == "VM dies":
                self.cloud.stop(link.instance, "Server.InternalError")
            else:
                self.cloud.kill(link.instance, "Client.UserInitiatedShutdown")

    def _reboot(self, seconds: float) -> None:
        self.node.booted.clear()
        self.node.kill("node reboot", seconds)
        for pod in self.pods:
            if pod.sandbox is not None:
                pod.sandbox.kill("node reboot")
        self.relay.kill("node reboot")
        self.node.kernel.reboot()
        self.stage.clock.call_later(seconds, self.node.booted.set)

    def _excuse_all(self, why: str) -> None:
        for pod in self.pods:
            if pod.sandbox is not None:
                pod.sandbox.excuse = pod.sandbox.excuse or why

    def _ready_at(self, instance_id: str) -> float | None:
        """When this instance's guest listens."""
        if instance_id not in self._ready:
            self._ready[instance_id] = self._boot(instance_id)
        return self._ready[instance_id]

    def _boot(self, instance_id: str) -> float | None:
        wish = self.cloud.wish(self.cloud.instances[instance_id])
        if wish is None:  # nobody's: nobody dials it either
            return None
        pod = next(each for each in self.pods if each.plan.name == wish.tags[tags.POD_NAME])
        pod.vms += 1
        if pod.vms <= pod.plan.mute and not self.stage.calm:
            self.stage.strike("guest never answers", instance_id)
            return None
        return self.cloud.made_at[instance_id] + pod.plan.boot

    def _touched(self, netns: str, what: str) -> None:
        for sandbox in filter(None, (pod.running for pod in self.pods)):
            if sandbox.spec.netns == netns and not sandbox.excuse:
                self.stage.violated(f"the tunnel of running {sandbox.name} is touched: {what}")

    # -- the verdict ----------------------------------------------------------------------------

    async def _come_to_rest(self) -> None:
        problems = await self._wait_for_rest()
        if not problems:
            await self.stage.sleep(_REST)
            problems = await self._problems()
        for problem in problems:
            self.stage.violated(problem)

    async def _stop_everything(self) -> None:
        self.stage.tell("every pod is stopped")
        await asyncio.gather(*(self.stage.spawn(pod.stop()) for pod in self.pods))
        for problem in await self._wait_for_rest():
            self.stage.violated(f"after every pod was stopped: {problem}")

    async def _wait_for_rest(self) -> list[str]:
        """The problems that are left after PATIENCE; none as soon as there are none."""
        began = self.stage.now
        while problems := await self._problems():
            passed = self.stage.now - began
            if passed >= PATIENCE:
                break
            await self.stage.sleep(max(_LOOK, _PART * passed))
        return problems

    async def _problems(self) -> list[str]:
        """What is not as it must be at rest."""
        running = {pod.running.spec.id: pod for pod in self.pods if pod.running}
        problems = [
            f"pod {pod.plan.name} should run and does not" for pod in self.pods if not (pod.done or pod.running)
        ]
        if self.node.registry is None:
            return [*problems, "no adaptor serves"]
        problems += [
            f"sandbox {short(sandbox_id)} is {state.phase} in the adaptor, and no pod of it runs"
            for sandbox_id, state in self.node.registry.sandboxes.items()
            if sandbox_id not in running
        ]
        problems += self._problems_of_tunnels(set(running))
        return problems + self._problems_of_vms(set(running)) + await self._problems_of_journal(set(running))

    def _problems_of_tunnels(self, running: set[str]) -> list[str]:
        """No tunnel without its pod, and none of a running pod that is not whole."""
        assert self.node.registry is not None
        kernel, left = self.node.kernel, set(self.node.kernel.leftovers)
        problems = []
        for sandbox_id in running & self.node.registry.sandboxes.keys():
            tunnel = self.node.registry.sandboxes[sandbox_id].network
            if tunnel is None or not kernel.whole(tunnel):
                problems.append(f"the tunnel of running {short(sandbox_id)} is not whole: {tunnel}")
            else:
                left -= set(kernel.of(tunnel))
        return problems + [f"left of a tunnel: {each}" for each in sorted(left)]

    def _problems_of_vms(self, running: set[str]) -> list[str]:
        problems = []
        used = {}
        for sandbox_id, link in self.relay.links.items():
            if sandbox_id not in running:
                problems.append(f"the relay holds a session of {short(sandbox_id)}, {link.session.state.name}")
            elif link.session.state is not SessionState.JOINED or not link.session.shim_connected:
                problems.append(f"the session of {short(sandbox_id)} is {link.session.state.name}")
            else:
                used[link.instance] = sandbox_id
        problems += [f"running pod {short(each)} has no session" for each in running - self.relay.links.keys()]
        living = set(self.cloud.living)
        problems += [f"orphan: {each} lives and is no running pod's" for each in sorted(living - used.keys())]
        problems += [f"{short(used[each])} runs on {each}, which is gone" for each in sorted(used.keys() - living)]
        return problems

    async def _problems_of_journal(self, running: set[str]) -> list[str]:
        problems = []
        try:
            rows = await (await self.node.journal()).load()
            states = {sandbox_id: fold(events) for sandbox_id, events in rows.items()}
        except JournalFault as error:
            return [f"the journal cannot be read: {error}"]
        for sandbox_id, state in states.items():
            link = self.relay.links.get(sandbox_id)
            if sandbox_id not in running:
                problems.append(f"the journal holds {short(sandbox_id)} as {state.phase}, and no pod of it runs")
            elif state.phase is not Phase.RUNNING:
                problems.append(f"the journal holds the running pod {short(sandbox_id)} as {state.phase}")
            elif link is not None and state.instance_id != link.instance:
                problems.append(f"{short(sandbox_id)} runs on {link.instance}, the journal says {state.instance_id}")
        problems += [f"the journal knows nothing of running {short(each)}" for each in running - states.keys()]
        return problems


@cache
def _pki() -> NodePki:
    with tempfile.TemporaryDirectory() as directory:
        return NodePki.load(Path(directory) / "pki")


@contextlib.contextmanager
def _determined(seed: str) -> Iterator[None]:
    """Chance is the seed's; the adaptor's log is nobody's."""
    rng = random.Random(f"adaptor {seed}")
    before = random.getstate()
    random.seed(f"back-off {seed}")
    log = logging.getLogger(_LOG)
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with patch.multiple(
            secrets, token_bytes=rng.randbytes, randbelow=rng.randrange, token_hex=lambda n=32: rng.randbytes(n).hex()
        ):
            yield
    finally:
        log.setLevel(level)
        random.setstate(before)
