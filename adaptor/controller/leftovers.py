"""Removes what nodes that are gone have left in the cloud. A node that exists does so itself."""

from collections.abc import Mapping

from adaptor.clock import Clock
from adaptor.controller import claims
from adaptor.controller.api import NODE, PEER_POD, Api
from adaptor.controller.claims import Claims
from adaptor.controller.gates import PodFacts
from adaptor.controller.mirror import Mirror
from adaptor.kube import peerpod
from adaptor.sandbox.sweeper import Sweeper
from providers import tags
from providers.base import Resource, SupportsSweep


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
        clock: Clock,
        *,
        grace: float,
        node_grace: float,
    ) -> None:
        self._api = api
        self._cloud = cloud
        self._cluster = cluster
        self._pods = pods
        self._clock = clock
        self._node_grace = node_grace
        self._gone: dict[str, float] = {}  # node: since when it was seen gone; monotonic
        self._listed: frozenset[str] = frozenset()  # nodes that the cloud's resources name
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
        _, nodes = await self._api.list(NODE)
        _, peerpods = await self._api.list(PEER_POD)
        pods = (each for each in self._pods.items.values() if each.node and not each.ended)
        return Claims(
            cluster=self._cluster,
            gone=self._absent(frozenset(each["metadata"]["name"] for each in nodes)),
            node_grace=self._node_grace,
            peerpods=[peerpod.from_object(each) for each in peerpods],
            pods=frozenset((each.node, each.namespace, each.name) for each in pods),
        )

    def _absent(self, existing: frozenset[str]) -> Mapping[str, float]:
        now = self._clock.now()
        self._gone = {node: self._gone.get(node, now) for node in self._listed - existing if node}
        return {node: now - since for node, since in self._gone.items()}
