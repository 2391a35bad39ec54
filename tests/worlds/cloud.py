"""A small cloud in memory: a Provider whose machines exist, boot, die, and whose calls can be made to fail."""

import asyncio
import dataclasses
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Mapping, Sequence

from adaptor.clock import Clock
from providers import tags
from providers.base import Instance, InstanceState, LaunchSpec, Offering, Purchase, Seat
from providers.errors import Capacity, InvalidSpec, ProviderError, Quota, Unsupported

OFFERINGS = (Offering("m6a.large", 2, 8192), Offering("m6a.xlarge", 4, 16384), Offering("m6a.small", 1, 2048))


class Cloud:
    """`refuse[verb]` holds errors for the next calls; `lose_replies` of creates have done their deed all the same."""

    name = "memory"
    user_data_limit = 16 * 1024

    def __init__(self, clock: Clock) -> None:
        self.instances: dict[str, Instance] = {}
        self.specs: dict[str, LaunchSpec] = {}
        self.launches: dict[str, tuple[tuple[LaunchSpec, int], list[str]]] = {}  # token: what was asked, the ids
        self.short: int | None = None  # the next launch of several makes no more than so many
        self.refuse: defaultdict[str, deque[ProviderError]] = defaultdict(deque)
        self.lose_replies: deque[ProviderError] = deque()
        self.refuse_after_loss: ProviderError | None = None
        self.calls: Counter[str] = Counter()
        self.call_seconds = 0.1
        self.offered: tuple[Offering, ...] = OFFERINGS
        self.room: dict[tuple[str, str, Purchase], int] = {}  # (type, zone, purchase): living machines it has room for
        self.limits: dict[str, int] = {}  # type: living machines that the account may have of it
        self.unsold: set[tuple[str, str]] = set()  # (type, zone) that only offerings() believes in
        self.hidden = False  # eventual consistency: nothing can be listed yet
        self.deleting_seconds = 0.0  # from an accepted deletion to its end
        self.made_at: dict[str, float] = {}
        self.printed: dict[str, str] = {}  # id: what its console has
        self.console_seconds = 0.0  # what such a call takes longer than others
        self._leaving: dict[str, float] = {}  # id: when it will be gone
        self._clock = clock

    @property
    def living(self) -> list[str]:
        return [i.id for i in self.instances.values() if i.state is not InstanceState.GONE]

    def kill(self, instance_id: str, reason: str) -> None:
        self.instances[instance_id] = dataclasses.replace(
            self.instances[instance_id], state=InstanceState.GONE, reason=reason
        )

    def forget(self, instance_id: str) -> None:
        """The cloud no longer knows it."""
        self.kill(instance_id, "deleted")
        del self.instances[instance_id]

    async def create(self, spec: LaunchSpec, token: str) -> Instance:
        return (await self.launch(spec, token, 1))[0]

    async def launch(self, spec: LaunchSpec, token: str, count: int) -> Mapping[int, Instance]:
        """So many equal machines, by index; fewer where there is no `room` for all."""
        await self._call("create")
        if token in self.launches:
            if self.launches[token][0] != (spec, count):
                self.mistaken(f"the token {token} is used again for another launch")
                raise InvalidSpec("another spec under this token")
        else:
            self._admit(spec)
            room, self.short = min(self._room(spec), self.short or count, count), None
            ids = [self._made(spec, Seat(token, index, count)) for index in range(room)]
            self.launches[token] = ((spec, count), ids)
        if self.lose_replies:
            if self.refuse_after_loss:
                self.refuse["create"].append(self.refuse_after_loss)
            raise self.lose_replies.popleft()
        return {index: self.instances[id] for index, id in enumerate(self.launches[token][1])}

    def mistaken(self, what: str) -> None:
        """A caller has asked for what no sound caller would."""

    def _made(self, spec: LaunchSpec, seat: Seat) -> str:
        number = len(self.made_at) + 1
        address = f"10.{number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"
        mark = {} if seat.count == 1 else {tags.TOKEN: str(seat)}
        instance = Instance(f"i-{number:04}", InstanceState.PENDING, (address,), tags={**spec.tags, **mark})
        self.instances[instance.id], self.specs[instance.id] = instance, spec
        self.made_at[instance.id] = self._clock.now()
        return instance.id

    async def label(self, instance: Instance) -> None:
        """As EC2's CreateTags."""
        await self._call("label")
        if instance.id in self.instances:
            known = self.instances[instance.id]
            self.instances[instance.id] = dataclasses.replace(
                known, name=instance.name, tags={**known.tags, **instance.tags}
            )

    async def get(self, ids: Collection[str]) -> Mapping[str, Instance]:
        await self._call("get")
        return {i: self.instances[i] for i in ids if i in self.instances}

    async def list(self) -> Sequence[Instance]:
        await self._call("list")
        return [] if self.hidden else [self.instances[i] for i in self.living]

    async def delete(self, instance_id: str) -> None:
        await self._call("delete")
        if instance_id in self.living:
            self._leaving.setdefault(instance_id, self._clock.now() + self.deleting_seconds)
            self._settle()

    async def offerings(self) -> Sequence[Offering]:
        await self._call("offerings")
        return self.offered

    async def console(self, instance_id: str) -> str:
        await self._clock.sleep(self.console_seconds)
        await self._call("console")
        return self.printed.get(instance_id, "")

    async def aclose(self) -> None:
        pass

    async def _call(self, verb: str) -> None:
        self.calls[verb] += 1
        await self._clock.sleep(self.call_seconds)
        await asyncio.sleep(0)
        self._settle()
        if self.refuse[verb]:
            raise self.refuse[verb].popleft()

    def _admit(self, spec: LaunchSpec) -> None:
        if (spec.instance_type, spec.zone) in self.unsold:
            raise Unsupported(f"{spec.instance_type} is not sold in {spec.zone}", code="Unsupported")
        living = [each for each in map(self.specs.__getitem__, self.living) if each.instance_type == spec.instance_type]
        if len(living) >= self.limits.get(spec.instance_type, 10**6):
            raise Quota(f"no more {spec.instance_type} for this account", code="VcpuLimitExceeded")
        if not self._room(spec):
            raise Capacity(f"no {spec.instance_type} left in {spec.zone}", code="InsufficientInstanceCapacity")

    def _room(self, spec: LaunchSpec) -> int:
        """For how many more of its kind, in its place."""
        place = _place(spec)
        if place not in self.room:
            return 10**6
        same = [each for each in self.living if _place(self.specs[each]) == place]
        return max(0, self.room[place] - len(same))

    def _settle(self) -> None:
        for instance_id in [each for each, at in self._leaving.items() if at <= self._clock.now()]:
            del self._leaving[instance_id]
            if instance_id in self.instances:
                self.kill(instance_id, "deleted")


def _place(spec: LaunchSpec) -> tuple[str, str, Purchase]:
    return spec.instance_type, spec.zone, spec.purchase
