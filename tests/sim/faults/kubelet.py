"""kubelet, containerd and the shims: they call as the wire reference says, give up, die, and try again."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

from adaptor.errors import AdaptorError
from adaptor.sandbox.model import SandboxSpec
from adaptor.sandbox.registry import Registry
from tests.sim.faults.node import Node
from tests.sim.faults.relay import SimRelay
from tests.sim.faults.scenario import PodPlan
from tests.sim.faults.stage import Stage, short
from tests.worlds.node import spec

# The shim's, for the agent socket to appear once StartVM was answered. Seconds.
_DIAL_PATIENCE = 30.0
# From a closed agent connection to the shim's StopVM. Seconds.
_SHIM_NOTICES = 0.02
# Why a sandbox may end whose StopVM is under way.
_STOPPED = "StopPodSandbox"
# kubelet's, for one RunPodSandbox, where nobody has made it less. Seconds.
_PATIENCE = 240.0


class Closed(Exception):
    """The hypervisor socket is not there, or its connection closed before the answer."""


class Sandbox:
    """A shim and its sandbox."""

    def __init__(self, wish: SandboxSpec) -> None:
        self.spec = wish
        self.ready = False
        self.excuse = ""  # why it may end, once it may
        self.killed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def name(self) -> str:
        return short(self.spec.id)

    def kill(self, why: str) -> None:
        """SIGKILL of the shim."""
        self.excuse = self.excuse or why
        if not self.killed.done():
            self.killed.set_result(None)
        self.end(why)

    def end(self, why: str) -> None:
        if not self.over.done():
            self.over.set_result(why)


class Pod:
    """One pod, kept running through as many sandboxes as it takes."""

    def __init__(self, plan: PodPlan, stage: Stage, node: Node, relay: SimRelay) -> None:
        self.plan = plan
        self.sandbox: Sandbox | None = None
        self.done = False  # it shall not run any more
        self.vms = 0
        self._attempts = 0
        self._stage, self._node, self._relay = stage, node, relay

    @property
    def running(self) -> Sandbox | None:
        """Its sandbox, once ready and while it lives."""
        return self.sandbox if self.sandbox and self.sandbox.ready and not self.sandbox.over.done() else None

    async def live(self) -> None:
        await self._stage.sleep(self.plan.begins)
        left = self.plan.lives
        while not self.done:
            await self._node.booted.wait()
            if not await self._run_pod_sandbox():
                await self._stage.sleep(1.0 + min(self._attempts, 6))
                continue
            since = self._stage.now
            if await self._until(left):
                await self._end()
                return
            left -= self._stage.now - since
            if not self.plan.restarts:
                self.done = True
            await self._stage.sleep(1.0)

    async def stop(self) -> None:
        """The ordinary end, if it runs."""
        self.done = True
        if sandbox := self.running:
            sandbox.excuse = _STOPPED
            self._stage.tell(f"shim {sandbox.name}: StopVM")
            await self._stop_vm(sandbox)
            self._close(sandbox, "it was stopped")

    async def _run_pod_sandbox(self) -> bool:
        self._attempts += 1
        wish = spec(f"{self.plan.name}-{self._attempts}.", vcpus=self.plan.vcpus)
        sandbox = self.sandbox = Sandbox(dataclasses.replace(wish, pod_name=self.plan.name))
        if self._attempts % 2 == 0:  # the others' stay, so that whatever is left in them can be seen
            sandbox.over.add_done_callback(lambda over: self._stage.spawn(self._remove_netns(sandbox)))
        try:
            await self._call(sandbox, "CreateVM", lambda registry: registry.create(sandbox.spec))
        except (AdaptorError, Closed):
            sandbox.end("CreateVM failed")
            return False
        if self._attempts <= self.plan.dies_between:
            self._stage.strike("shim dies between CreateVM and StartVM", sandbox.name)
            sandbox.kill("killed before StartVM")
            return False
        try:
            start = self._call(sandbox, "StartVM", lambda registry: registry.start(sandbox.spec.id))
            await asyncio.wait_for(start, self.plan.patience if not self._stage.calm else _PATIENCE)
        except TimeoutError:
            self._stage.strike("kubelet gave up during StartVM", sandbox.name)
            sandbox.kill("kubelet gave up")
            return False
        except (AdaptorError, Closed):
            sandbox.excuse = "StartVM failed"
            await self._stop_vm(sandbox)
            sandbox.end("StartVM failed")
            return False
        return await self._connect(sandbox)

    async def _remove_netns(self, sandbox: Sandbox) -> None:
        """As containerd does once the shim is gone."""
        await self._stage.sleep(self._stage.rng.uniform(0.0, 3.0))
        self._node.kernel.lose(sandbox.spec.netns)

    async def _connect(self, sandbox: Sandbox) -> bool:
        """The shim dials its agent socket, once StartVM was answered."""
        until = self._stage.now + _DIAL_PATIENCE
        while not sandbox.killed.done():
            if self._relay.shim_connects(sandbox.spec.id, lambda why: self._hung_up(sandbox, why)):
                sandbox.ready = True
                self._stage.tell(f"shim {sandbox.name}: ready")
                return True
            if self._stage.now >= until:
                if not sandbox.excuse:
                    self._stage.violated(f"{sandbox.name}: StartVM was answered and its agent socket is not there")
                await self._stop_vm(sandbox)
                break
            await self._stage.sleep(1.0)
        sandbox.end("no agent socket")
        return False

    async def _until(self, seconds: float) -> bool:
        """Whether the pod has run its time; False when it ended by itself."""
        sandbox = self.sandbox
        assert sandbox is not None
        patience = None if self.plan.ending == "never" else max(seconds, 0.0)
        await asyncio.wait({sandbox.over}, timeout=patience)
        return not sandbox.over.done()

    async def _end(self) -> None:
        sandbox = self.sandbox
        assert sandbox is not None
        self.done = True
        ending = "StopVM" if self._stage.calm else self.plan.ending
        if ending == "shim killed":
            self._stage.strike(ending, sandbox.name)
            self._kill(sandbox, ending)
        elif ending == "stop without hypervisor socket":
            self._stage.strike(ending, sandbox.name)
            self._node.kill("as a pod is stopped", 3.0)
            await self.stop()
        elif ending == "stop answered by nobody":
            self._stage.strike(ending, sandbox.name)
            stopping = self._stage.spawn(self.stop())
            await self._stage.sleep(self._stage.rng.uniform(0.0, 0.3))
            self._node.kill("during StopVM", 3.0)
            await stopping
        else:
            await self.stop()

    def _kill(self, sandbox: Sandbox, why: str) -> None:
        sandbox.kill(why)
        self._relay.shim_closes(sandbox.spec.id)

    def kill_shim(self, why: str) -> bool:
        """SIGKILL of whatever shim it has; whether there was one."""
        sandbox = self.sandbox
        if sandbox is None or sandbox.over.done():
            return False
        self._kill(sandbox, why)
        return True

    def _close(self, sandbox: Sandbox, why: str) -> None:
        """The shim exits."""
        sandbox.end(why)
        self._relay.shim_closes(sandbox.spec.id)

    def _hung_up(self, sandbox: Sandbox, why: str) -> None:
        """The agent connection has closed: to the shim the pod is dead."""
        if not sandbox.excuse:
            self._stage.violated(f"running pod lost: {sandbox.name}: its agent connection closed: {why}")
        if not sandbox.over.done():
            self._stage.tell(f"shim {sandbox.name}: agent connection closed: {why}")
            sandbox.end(why)
            if sandbox.excuse != _STOPPED:
                self._stage.spawn(self._after_hang_up(sandbox))

    async def _after_hang_up(self, sandbox: Sandbox) -> None:
        await self._stage.sleep(_SHIM_NOTICES)
        await self._stop_vm(sandbox)

    async def _stop_vm(self, sandbox: Sandbox) -> None:
        """StopVM: once, whatever comes of it."""
        try:
            await self._call(sandbox, "StopVM", lambda registry: registry.stop(sandbox.spec.id, "StopVM"))
        except (AdaptorError, Closed):
            self._stage.tally["StopVM came to nothing"] += 1

    async def _call(self, sandbox: Sandbox, method: str, work: Callable[[Registry], Awaitable[Any]]) -> None:
        """One call on one connection, dialled once. Raises Closed and what the adaptor answers."""
        registry = self._node.registry
        if sandbox.killed.done():
            raise Closed
        if registry is None:
            self._stage.tell(f"shim {sandbox.name}: {method}: nobody listens")
            raise Closed
        call = self._node.process.spawn(_run(work, registry))
        self._node.calls[call] = None
        call.add_done_callback(lambda done: self._node.calls.pop(done, None))
        try:
            await asyncio.wait({call, sandbox.killed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not call.done():  # its connection closes, and the server cancels the handler
                call.cancel()
                call.add_done_callback(lambda done: done.cancelled() or done.exception())
        if not call.done() or call.cancelled():
            self._stage.tell(f"shim {sandbox.name}: {method}: closed")
            raise Closed
        error = call.exception()
        self._stage.tell(f"shim {sandbox.name}: {method}: {'ok' if error is None else f'error: {error}'}")
        if error is not None:
            raise error


async def _run(work: Callable[[Registry], Awaitable[Any]], registry: Registry) -> None:
    await work(registry)
