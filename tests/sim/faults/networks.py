"""An adaptor's tunnels: killed before or after any change to the kernel, refused by it, and met by a deaf network."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from adaptor.podnet.plan import Tunnel
from tests.sim.faults.process import Process
from tests.sim.faults.scenario import NetworkFault
from tests.sim.faults.stage import Stage
from tests.worlds.networks import Kernel, Networks, away

T = TypeVar("T")

# Seconds of one change by netlink.
_CHANGE = 0.001


class NetworksLine(Networks):
    """One adaptor's. Its thread dies with it, wherever it is."""

    def __init__(self, kernel: Kernel, stage: Stage, process: Process) -> None:
        super().__init__(kernel, stage.clock, encrypted=stage.scenario.encrypted)
        self._stage = stage
        self._process = process

    async def open(self, tunnel: Tunnel) -> None:
        if self._fault("open") == "number taken":
            self.kernel.foreign.add(tunnel.cords[-1].vni)
        await super().open(tunnel)

    async def connect(self, tunnel: Tunnel, timeout: float) -> None:
        if self._fault("connect") == "no frame":
            self.kernel.deaf.add(tunnel.peer)
        try:
            await super().connect(tunnel, timeout)
        finally:
            self.kernel.deaf.discard(tunnel.peer)

    async def _do(self, verb: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self._process.check()
        self._stage.passed[f"tunnels {verb}"] += 1
        if self._fault(verb) == "refused":
            await asyncio.sleep(0)
            raise away(verb)
        return await super()._do(verb, work)

    async def _step(self, what: str, deed: Callable[[], None]) -> None:
        crash = self._stage.pass_border("network", self._process, what)
        try:
            deed()
            self._stage.tell(f"kernel: {what}")
        finally:
            if crash is not None and crash.side == "after":  # also after a refusal
                self._stage.crash(crash, what)
        await self._stage.sleep(_CHANGE)
        self._process.check()

    def _fault(self, verb: str) -> str:
        """The fault of this call, whose number is that of those before it and one."""
        for fault in self._stage.scenario.networks:
            if not self._stage.calm and fault == NetworkFault(verb, self._number(verb, fault.kind), fault.kind):
                self._stage.strike(fault.kind, f"{verb} number {fault.nth}")
                return fault.kind
        return ""

    def _number(self, verb: str, kind: str) -> int:
        counted = self._stage.passed[f"tunnels {verb}"]
        return counted if kind == "refused" else counted + 1  # the others strike before it is counted
