"""What a cloud holds, in memory: a SupportsSweep whose resources come, are removed, and whose calls can fail."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence

from providers import tags
from providers.base import Ownership, Resource, ResourceKind
from providers.errors import ProviderError
from tests.worlds.cloud import Cloud

OWNER = Ownership("cluster-a", "node-1")


class Leaks:
    """`refuse[verb]` holds errors for the next calls; `after_list` is what happens between a list and its reading."""

    def __init__(self) -> None:
        self.held: dict[str, Resource] = {}
        self.removed: list[str] = []
        self.refuse: defaultdict[str, deque[ProviderError]] = defaultdict(deque)
        self.after_list: Callable[[], None] = lambda: None
        self.calls: Counter[str] = Counter()

    def put(self, *resources: Resource) -> None:
        self.held.update({each.id: each for each in resources})

    async def resources(self) -> Sequence[Resource]:
        self._call("resources")
        listed = list(self.held.values())
        self.after_list()
        return listed

    async def remove(self, resource: Resource) -> None:
        self._call("remove")
        self.removed.append(resource.id)
        self.held.pop(resource.id, None)

    def _call(self, verb: str) -> None:
        self.calls[verb] += 1
        if self.refuse[verb]:
            raise self.refuse[verb].popleft()


class OfNode:
    """The machines of a `Cloud` of a `Node`, as its sweep sees them: as old as the hills."""

    def __init__(self, machines: Cloud, owner: Ownership, on_remove: Callable[[str], None]) -> None:
        self._machines = machines
        self._owner = owner
        self._on_remove = on_remove

    async def resources(self) -> Sequence[Resource]:
        return [
            Resource(
                ResourceKind.INSTANCE,
                each.id,
                tags={**each.tags, **tags.ownership(self._owner)},
                created_at=0.0,
                addresses=each.addresses,
            )
            for each in await self._machines.list()
        ]

    async def remove(self, resource: Resource) -> None:
        self._on_remove(resource.id)
        await self._machines.delete(resource.id)
