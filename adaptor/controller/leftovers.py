"""Removes what nodes that are gone have left in the cloud. A node that exists does so itself.

Only nodes that this cluster was seen to have are swept: where two clusters were given the same node.cluster, by a copied
configuration, each would take the other's nodes for lost ones. Those seen are remembered with the Lease.
"""

from collections.abc import Mapping, MutableMapping
from typing import Final

from adaptor import names
from adaptor.clock import Clock
from adaptor.controller import claims
from adaptor.controller.api import NODE, PEER_POD, Api
from adaptor.controller.claims import Claims
from adaptor.controller.gates import PodFacts
from adaptor.controller.mirror import Mirror
from adaptor.kube import peerpod
from adaptor.sandbox.sweeper import Sweeper
from adaptor.telemetry import logs
from providers import tags
from providers.base import Resource, SupportsSweep

# Nodes that are remembered, those with resources or PeerPods: as annotation they travel with each renewal of the Lease.
_MOST: Final = 2000

log = logs.get("controller.sweep")


class Remembered:
    """Sightings in memory: a new leader begins anew, which makes resources younger and never older."""

    def __init__(self) -> None:
        self.problem = ""
        self._seen: dict[str, float] = {}

    def read(self) -> dict[str, float]:
        return dict(self._seen)

    def write(self, first_seen: dict[str, float]) -> None:
        self._seen = dict(first_seen)


class Leftovers:
    """`cloud` is open for the whole cluster; somebody else keeps the mirror of pods."""

    def __init__(
        self,
        api: Api,
        cloud: SupportsSweep,
        cluster: str,
        pods: Mirror[PodFacts],
        memory: MutableMapping[str, str],
        clock: Clock,
        *,
        grace: float,
        node_grace: float,
    ) -> None:
        self._api = api
        self._cloud = cloud
        self._cluster = cluster
        self._pods = pods
        self._memory = memory
        self._clock = clock
        self._node_grace = node_grace
        self._gone: dict[str, float] = {}  # node: since when it was seen gone; monotonic
        self._listed: frozenset[str] = frozenset()  # nodes that the cloud's resources name
        self._strangers: frozenset[str] = frozenset()  # told of
        self.sweeper = Sweeper(self, self._claims, Remembered(), clock, grace, claims.judge)

    async def run(self, interval: float, *, delete: bool) -> None:
        """For ever."""
        await self._pods.synced.wait()
        await self.sweeper.run(interval, delete=delete)

    async def resources(self) -> list[Resource]:
        """The cloud's; see SupportsSweep."""
        found = list(await self._cloud.resources())
        self._listed = frozenset(each.tags.get(tags.NODE, "") for each in found)
        return found

    async def remove(self, resource: Resource) -> None:
        """At the cloud; see SupportsSweep."""
        await self._cloud.remove(resource)

    async def _claims(self) -> Claims:
        """The server's own word, not the mirrors': what is not known here is deleted."""
        _, nodes = await self._api.list(NODE, lambda found: str(found["metadata"]["name"]))
        _, held = await self._api.list(PEER_POD, peerpod.from_object)
        pods = (each for each in self._pods.items.values() if each.node and not each.ended)
        existing = frozenset(nodes)
        known = self._known(existing, frozenset(each.node for each in held))
        return Claims(
            cluster=self._cluster,
            gone=self._absent((self._listed & known) - existing),
            strange=self._strange(self._listed - known - existing),
            node_grace=self._node_grace,
            peerpods=held,
            pods=frozenset((each.node, each.namespace, each.name) for each in pods),
        )

    def _known(self, existing: frozenset[str], of_peerpods: frozenset[str]) -> frozenset[str]:
        """The nodes that this cluster has, or had when they had something: seen by this leader or one before it."""
        known = frozenset(filter(None, self._memory.get(names.SEEN_NODES, "").split(",")))
        kept = (known | existing) & (self._listed | of_peerpods)
        self._memory[names.SEEN_NODES] = ",".join(sorted(kept)[:_MOST])
        return kept

    def _absent(self, absent: frozenset[str]) -> Mapping[str, float]:
        now = self._clock.now()
        self._gone = {node: self._gone.get(node, now) for node in absent}
        return {node: now - since for node, since in self._gone.items()}

    def _strange(self, strangers: frozenset[str]) -> frozenset[str]:
        if strangers - self._strangers - {""}:
            log.warning(
                "machines are marked as this cluster's by nodes that it was never seen to have; nothing of theirs is "
                "removed. Has another cluster the same node.cluster?",
                nodes=", ".join(sorted(strangers)),
            )
        self._strangers = strangers
        return strangers
