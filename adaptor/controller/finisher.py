"""Finishes PeerPods that no adaptor will: deletes the VM, waits until it is gone, drops our finalizer and no other."""

from typing import Final

from adaptor import names
from adaptor.clock import Clock
from adaptor.controller import fate
from adaptor.controller.api import NODE, PEER_POD, POD, Api, Object, pointer
from adaptor.controller.fate import Absences, Dead, Facts, Fate, NodeFacts, Verb
from adaptor.controller.machines import Machines, NotOurs
from adaptor.controller.mirror import Mirror
from adaptor.controller.queue import Queue
from adaptor.controller.voice import Voice, about
from adaptor.kube import peerpod
from adaptor.kube.errors import Absent, Rejected
from adaptor.kube.peerpod import PeerPod
from adaptor.telemetry import logs, metrics

# PeerPods at once: a node that dies leaves at most some hundreds, and the cloud's calls are paced by its provider.
_WORKERS: Final = 8
# Seconds between looks at a machine that is being deleted: a minute or two in all.
_DELETING: Final = 5.0
# Tries of a patch that meets another's change of the same list.
_TRIES: Final = 5

log = logs.get("controller.peerpods")


class Finisher:
    """One per leader. `nodes` and `peerpods` are mirrors that somebody else keeps."""

    def __init__(
        self,
        api: Api,
        machines: Machines,
        peerpods: Mirror[PeerPod],
        nodes: Mirror[NodeFacts],
        voice: Voice,
        clock: Clock,
        grace: float,
    ) -> None:
        self._api = api
        self._machines = machines
        self._peerpods = peerpods
        self._nodes = nodes
        self._voice = voice
        self._clock = clock
        self._grace = grace
        self._absences = Absences()
        self._unwanted: dict[str, float] = {}  # key: since when
        self._reported: set[str] = set()
        self._queue = Queue(self._see_to, clock, _WORKERS)
        peerpods.listen(self._queue.put)
        nodes.listen(self._node_changed)

    async def run(self) -> None:
        """For ever."""
        await self._nodes.synced.wait()
        await self._peerpods.synced.wait()
        await self._queue.run()

    def _node_changed(self, node: str) -> None:
        self._absences.look(node, self._nodes.items.get(node), self._clock.now())
        for key, each in self._peerpods.items.items():
            if each.node == node and key in self._unwanted:
                self._queue.put(key)

    async def _see_to(self, key: str) -> float | None:
        known = self._peerpods.items.get(key)
        if known is None or (known.owners and not known.deleting):
            return self._forget(key)
        namespace, _, name = key.partition("/")
        try:
            found = await self._api.get(PEER_POD, name, namespace)
        except Absent:
            return self._forget(key)
        wanted = peerpod.from_object(found)
        now = self._clock.now()
        pod_exists = bool(wanted.deleting or wanted.owners) or await self._pod_exists(wanted)
        if not fate.unwanted(wanted, pod_exists=pod_exists):
            return self._forget(key)
        facts = Facts(
            cloud=self._machines.cloud,
            pod_exists=pod_exists,
            dead=await self._dead(wanted.node),
            grace=self._grace,
            wanted_gone_for=now - self._unwanted.setdefault(key, now),
        )
        return await self._carry_out(key, found, wanted, fate.decide(wanted, facts))

    async def _carry_out(self, key: str, found: Object, wanted: PeerPod, chosen: Fate) -> float | None:
        if chosen.verb is Verb.LEAVE:
            return chosen.again
        if chosen.verb is Verb.REPORT:
            return self._report(key, found, chosen.reason, chosen.again)
        try:
            if not wanted.deleting:
                await delete(self._api, wanted)
            if not fate.is_shared(wanted, self._peerpods.items.values()) and not await self._machines.end(wanted):
                return _DELETING
        except NotOurs as error:
            said = f"{chosen.reason}; its VM is not deleted: {error}. If that is right, remove the finalizer {names.PEERPOD_FINALIZER}"
            return self._report(key, found, said, fate.STUCK)
        await drop_finalizer(self._api, wanted)
        metrics.PEERPODS_FINISHED.inc()
        log.info("finished a PeerPod", peerpod=key, instance=wanted.instance_id, reason=chosen.reason)
        return self._forget(key)

    def _report(self, key: str, found: Object, reason: str, again: float | None) -> float | None:
        log.warning("a PeerPod needs somebody to look", peerpod=key, reason=reason)
        self._voice.say(about(PEER_POD, found), "NotFinished", reason, warning=True)
        self._reported.add(key)
        metrics.PEERPODS_STUCK.set(len(self._reported))
        return again

    def _forget(self, key: str) -> float | None:
        self._unwanted.pop(key, None)
        self._reported.discard(key)
        metrics.PEERPODS_STUCK.set(len(self._reported))
        return None

    async def _dead(self, node: str) -> Dead | None:
        """By the mirror; that it is dead the server is asked itself."""
        dead = self._absences.look(node, self._nodes.items.get(node), self._clock.now())
        if dead is None or not node:
            return dead
        try:
            facts = fate.node_facts(await self._api.get(NODE, node))
        except Absent:
            facts = None
        return self._absences.look(node, facts, self._clock.now())

    async def _pod_exists(self, wanted: PeerPod) -> bool:
        """The pod whose VM this is: the one of that uid, or where nobody told it of that name."""
        name = wanted.pod_name or wanted.name.rpartition("-resource-")[0]
        if not name:
            return False
        try:
            pod = await self._api.get(POD, name, wanted.namespace)
        except Absent:
            return False
        return not wanted.pod_uid or pod["metadata"].get("uid") == wanted.pod_uid


async def delete(api: Api, wanted: PeerPod) -> None:
    """Have it go once its finalizers are. One that is gone is success."""
    try:
        await api.delete(PEER_POD, wanted.name, wanted.namespace)
    except Absent:
        return


async def drop_finalizer(api: Api, wanted: PeerPod) -> None:
    """Take ours away, by its place in the list and only while it is there; whoever else has one keeps it."""
    for last in (*([False] * (_TRIES - 1)), True):
        try:
            found = await api.get(PEER_POD, wanted.name, wanted.namespace)
            finalizers = found["metadata"].get("finalizers") or []
            if found["metadata"].get("uid") != wanted.uid or names.PEERPOD_FINALIZER not in finalizers:
                return
            place = pointer("metadata", "finalizers", finalizers.index(names.PEERPOD_FINALIZER))
            tests = [
                {"op": "test", "path": "/metadata/uid", "value": wanted.uid},
                {"op": "test", "path": place, "value": names.PEERPOD_FINALIZER},
            ]
            await api.patch(PEER_POD, wanted.name, [*tests, {"op": "remove", "path": place}], wanted.namespace)
            return
        except Absent:
            return
        except Rejected:
            if last:
                raise
