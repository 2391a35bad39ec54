"""Keeps the scheduler told how many pod VMs may be on this node (`vms` says how many that is).

    Demand     what the figure must be now
    Capacity   puts it into the node's status: at the start, from time to time, and at once when a watch of the own Node
               shows another one. Kubelet resets it at a restart if it so decides; others may overwrite or remove it.
               Or tells it to `device_plugin`, and kubelet does the rest

The figure stays when the adaptor ends: a restart, an update or a crash of it ends no pod, and a kubelet that restarts
meanwhile must find room for those that run.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from lightkube import AsyncClient
from lightkube.resources.core_v1 import Node, NodeStatus, Pod
from lightkube.types import PatchType

from adaptor import names
from adaptor.clock import Clock
from adaptor.kube import client as api
from adaptor.kube import vms
from adaptor.kube.errors import Forbidden, KubernetesError
from adaptor.telemetry import logs, metrics

# Between looks when nothing happens: one read of the Node and one list of its pods. Spread, so that the nodes of a
# cluster that came up together do not ask together. Seconds.
EVERY: Final = 60.0
_SPREAD: Final = 0.2
# While more is in use than should be: the figure follows the pods down. Seconds.
FOLLOWING: Final = 5.0
# After a call that failed, doubled up to EVERY; and between two corrections of what somebody overwrites again and
# again, likewise: whoever it is, the API server must not suffer from it. Seconds.
_RETRY: Final = 0.5
# A watch that nobody ends is asked anew: a dead connection would never say so. Seconds.
_WATCH: Final = 240

log = logs.get("capacity")


@dataclass(frozen=True, slots=True)
class Wish:
    """What to advertise, and why."""

    figure: int | None  # None: nothing, it is somebody else's
    now: vms.Seen
    used: int | None
    above: bool = False  # the figure should be lower, and will be when pods have ended


class Demand:
    """How many VMs there may be on the node; `sandboxes`: the number that the adaptor holds now."""

    def __init__(self, client: AsyncClient, node: str, limit: int, sandboxes: Callable[[], int]) -> None:
        self._client = client
        self.node = node
        self.limit = limit
        self._sandboxes = sandboxes
        self._blind = False

    async def look(self) -> Wish:
        """Raises: KubernetesError when the Node cannot be read."""
        if self.limit < 0:
            return Wish(None, vms.Seen(), None)
        with api.told(f"read the Node {self.node}"):
            now = vms.seen((await self._client.get(Node, self.node)).to_dict())
        used = await self._used()
        figure = vms.wanted(self.limit, used, now, self._sandboxes()) or 0
        return Wish(figure, now, used, figure > (0 if now.draining else self.limit))

    async def _used(self) -> int | None:
        """None when nobody can tell."""
        try:
            with api.told(f"list the pods of the node {self.node}"):
                bound = self._client.list(Pod, namespace="*", fields={"spec.nodeName": self.node})
                used = vms.in_use([pod.to_dict() async for pod in bound])
        except KubernetesError as error:
            if not self._blind or not isinstance(error, Forbidden):
                log.warning("the figure is not lowered: the node's pods cannot be listed", error=str(error))
            self._blind = True
            return None
        self._blind = False
        return used


class Capacity:
    """Advertises in the node's status; with a `plugin`, by telling it each new figure."""

    def __init__(
        self, client: AsyncClient, demand: Demand, clock: Clock, plugin: Callable[[int], None] | None = None
    ) -> None:
        self._client = client
        self._demand = demand
        self._clock = clock
        self._plugin = plugin
        self._wake = asyncio.Event()  # set by the watch
        self._written: int | None = None  # the last figure of ours
        self._seen: vms.Seen | None = None  # when it was decided, and as the watch shows it since
        self._patience = 0.0  # seconds before what somebody overwrites is put right once more
        self._overwritten = float("-inf")  # when it last was

    async def run(self) -> None:
        """For ever."""
        if self._demand.limit < 0:
            log.info("pod VMs are not advertised: limits.peerpods_per_node is negative")
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="follow-node")
            tasks.create_task(self._advertise(), name="advertise")

    async def look(self) -> float:
        """Once: put the figure right if it is not. Returns seconds until the next look. Raises: KubernetesError."""
        wish = await self._demand.look()
        self._seen = wish.now
        current = wish.now.advertised if self._plugin is None else self._written
        if wish.figure is not None and wish.figure != current:
            await self._write(wish.figure)
            self._tell(wish)
        if wish.figure is not None:
            metrics.ADVERTISED_VMS.set(wish.figure)
        self._written = wish.figure
        if wish.above:
            return FOLLOWING
        return EVERY * random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311 - spread, no secret

    async def _write(self, figure: int) -> None:
        if self._plugin is not None:
            self._plugin(figure)
            return
        with api.told(f"advertise {figure} {names.VM_RESOURCE} on the node {self._demand.node}"):
            await self._client.patch(NodeStatus, self._demand.node, vms.patch(figure), patch_type=PatchType.MERGE)

    async def _advertise(self) -> None:
        retry = _RETRY
        while True:
            self._wake.clear()
            try:
                delay = await self.look()
                retry = _RETRY
            except KubernetesError as error:
                if retry == _RETRY:
                    log.error("the scheduler cannot be told of this node's pod VMs; trying again", error=str(error))
                delay, retry = retry, min(2 * retry, EVERY)
            await self._pause(delay)

    async def _follow(self) -> None:
        """Notice what others make of the Node."""
        pause = _RETRY
        node = self._demand.node
        while True:
            try:
                with api.told(f"watch the Node {node}"):
                    found = await self._client.get(Node, node)
                    self._noticed(found)
                    changes = self._client.watch(
                        Node,
                        fields={"metadata.name": node},
                        server_timeout=_WATCH,
                        resource_version=found.metadata.resourceVersion if found.metadata else None,
                    )
                    async for _, changed in changes:
                        self._noticed(changed)
                        pause = _RETRY
            except KubernetesError as error:
                log.debug("the watch of the own Node ended; beginning anew", error=str(error))
            await self._clock.sleep(pause)
            pause = min(2 * pause, EVERY)

    def _noticed(self, node: Any) -> None:
        now = vms.seen(node.to_dict())
        known = self._seen
        self._seen = now
        if self._written is None or known is None:
            return
        if now.draining != known.draining:
            self._patience = 0.0  # a person's doing, who looks at what follows
            self._wake.set()
        elif now.advertised != self._written and self._plugin is None:
            self._wake.set()

    async def _pause(self, seconds: float) -> None:
        """`seconds`, or until the watch has news, and then as long as our patience with them."""
        waking = asyncio.ensure_future(self._wake.wait())
        sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait({waking, sleeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (waking, sleeping):
                each.cancel()
            await asyncio.gather(waking, sleeping, return_exceptions=True)
        if self._wake.is_set() and self._patience and self._lately():
            await self._clock.sleep(self._patience)

    def _lose_patience(self) -> None:
        self._patience = min(max(2 * self._patience, _RETRY), EVERY) if self._lately() else 0.0
        self._overwritten = self._clock.now()

    def _lately(self) -> bool:
        return self._clock.now() - self._overwritten < 2 * EVERY

    def _tell(self, wish: Wish) -> None:
        was, figure = wish.now.advertised, wish.figure
        fields = {"node": self._demand.node, "figure": figure, "was": was, "in_use": wish.used}
        if self._written is None or was == self._written or self._plugin is not None:
            log.info("pod VMs advertised", **fields)
            return
        self._lose_patience()
        if not was:
            log.info("pod VMs advertised again: the figure was reset", **fields)
        else:
            log.warning(
                "somebody else has set the number of pod VMs; ours counts", owner=wish.now.owner or "unknown", **fields
            )
