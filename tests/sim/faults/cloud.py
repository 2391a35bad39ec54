"""The cloud as an adaptor sees it across a network: replies get lost, requests arrive twice, late, or after the
adaptor that sent them has died."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from copy import copy
from typing import TypeVar

from providers import tags
from providers.base import Instance, InstanceState, LaunchSpec, Offering
from providers.batch import Seats
from providers.errors import Capacity, Denied, ProviderError, Throttled, Transient
from providers.throttle import Rank, Rate, Throttle
from tests.sim.faults.process import Process
from tests.sim.faults.scenario import CallFault, Crash
from tests.sim.faults.stage import Stage, short
from tests.worlds.cloud import Cloud

T = TypeVar("T")

# One way of a call, seconds: with other calls' in between, never in step.
_LATENCY = (0.005, 0.08)
_AT_ONCE = 1.0  # second: two calls
_REFUSALS: Mapping[str, ProviderError] = {
    "throttled": Throttled("RequestLimitExceeded", retry_after=2.0),
    "transient": Transient("HTTP 503"),
    "capacity": Capacity("no room for this type"),
    "denied": Denied("credentials have expired"),
}
_FAILING = {"delete": "deletes fail", "get": "describes fail", "list": "describes fail"}


class SimCloud(Cloud):
    """The account. `lag`: seconds until list and get show a new instance."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.clock)
        self.call_seconds = 0.0
        self.ended: Callable[[str], None] = lambda instance_id: None
        self.known: set[str] = set()
        self.wanted: dict[str, LaunchSpec] = {}  # by token, of every create that was asked for
        self._stage = stage

    def kill(self, instance_id: str, reason: str) -> None:
        before = self.instances[instance_id].state
        super().kill(instance_id, reason)
        if self.instances[instance_id].state is not before:
            self._stage.tell(f"cloud: {instance_id} is gone: {reason}")
            self.ended(instance_id)

    def stop(self, instance_id: str, reason: str) -> None:
        """It has died: it still exists, and costs."""
        self.instances[instance_id] = dataclasses.replace(
            self.instances[instance_id], state=InstanceState.STOPPED, reason=reason
        )
        self._stage.tell(f"cloud: {instance_id} has stopped: {reason}")
        self.ended(instance_id)

    async def launch(self, spec: LaunchSpec, token: str, count: int) -> Mapping[int, Instance]:
        made = await super().launch(spec, token, count)
        if count > 1 and not self.known & {instance.id for instance in made.values()}:
            self._stage.happened("create call shared", f"{len(made)} of {count} machines")
        for index, instance in made.items():
            if instance.id not in self.known:
                self.known.add(instance.id)
                if count == 1:
                    self.wanted[token] = spec
                wish = self.wish(instance) if count > 1 else spec
                whose = short(wish.tags[tags.SANDBOX]) if wish else f"nobody, seat {index}"
                self._stage.tell(f"cloud: {instance.id} is created for {whose}")
                self._check_twin(instance)
                if wish is None:
                    self._stage.spawn(self._check_left(instance.id))
        return made

    def mistaken(self, what: str) -> None:
        self._stage.violated(what)

    def wish(self, instance: Instance) -> LaunchSpec | None:
        """What was asked for by whoever this machine is for; None: nobody asked with its token."""
        return self.wanted.get(instance.tags[tags.TOKEN])

    async def get(self, ids: Collection[str]) -> Mapping[str, Instance]:
        found = await super().get(ids)
        return {i: found[i] for i in found if self.seen(i)}

    async def list(self) -> Sequence[Instance]:
        return [each for each in await super().list() if self.seen(each.id)]

    async def delete(self, instance_id: str) -> None:
        if self.seen(instance_id):
            await super().delete(instance_id)
        else:
            self._stage.strike("delete of a VM not seen yet", instance_id)

    def seen(self, instance_id: str) -> bool:
        return self._stage.clock.now() >= self.made_at.get(instance_id, 0.0) + self._stage.scenario.lag

    async def _check_left(self, instance_id: str) -> None:
        """A machine that is launched for nobody is deleted at once by whoever had it launched, where nothing is in the
        way: the patrol would find it a minute later."""
        plan = self._stage.scenario
        if plan.crashes or plan.calls or plan.blows or plan.lag or {each.kind for each in plan.windows} - {"disk full"}:
            return
        await self._stage.sleep(_AT_ONCE)
        if instance_id in self.living:
            self._stage.violated(f"{instance_id} was launched for nobody and lives after {_AT_ONCE:g} s")

    def _check_twin(self, new: Instance) -> None:
        wish = self.wish(new)
        if wish is None:
            return
        for each in map(self.instances.__getitem__, self.living):
            other = self.wish(each)
            if each.id != new.id and other and other.tags[tags.SANDBOX] == wish.tags[tags.SANDBOX]:
                whose = short(wish.tags[tags.SANDBOX])
                self._stage.violated(f"duplicate: {each.id} and {new.id} live for one sandbox, {whose}")


@dataclasses.dataclass
class CloudLine:
    """One adaptor's Provider. Its create calls are shared, as EC2's are."""

    cloud: SimCloud
    stage: Stage
    process: Process
    name: str = "memory"
    user_data_limit: int = 16 * 1024
    launched: set[str] = dataclasses.field(default_factory=set)
    offered: Sequence[Offering] = ()

    def __post_init__(self) -> None:
        self.throttle = Throttle({"create": Rate(5, 2)}, random=self.stage.rng)
        self.seats = Seats(self.throttle, self, "create")

    async def create(self, spec: LaunchSpec, token: str) -> Instance:
        self.cloud.wanted[token] = spec
        return await self.seats.create(spec, token)

    async def seat(self, spec: LaunchSpec, token: str) -> str:
        return await self.seats.seat(spec, token)

    def leave(self, token: str) -> None:
        self.seats.leave(token)

    async def launch(self, spec: LaunchSpec, token: str, count: int) -> Mapping[int, Instance]:
        made = await self._call("create", lambda: self.cloud.launch(spec, token, count))
        self.launched |= {instance.id for instance in made.values()}
        return made

    async def label(self, instance: Instance) -> None:
        await self._call("label", lambda: self.cloud.label(instance))

    async def get(self, ids: Collection[str]) -> Mapping[str, Instance]:
        return await self._call("get", lambda: self.cloud.get(ids))

    async def list(self) -> Sequence[Instance]:
        return await self._call("list", self.cloud.list)

    async def delete(self, instance_id: str) -> None:
        """A cloud that does not know the VM has nothing to delete; who launched it here knows better, for it is new.
        A later adaptor cannot tell, and takes it for gone."""
        unseen = not self.cloud.seen(instance_id)
        await self._call("delete", lambda: self.cloud.delete(instance_id))
        if unseen and instance_id in self.launched:
            raise Transient(f"cannot delete {instance_id}: it is so new that the cloud does not know it everywhere")

    async def console(self, instance_id: str) -> str:
        await self._call("console", lambda: self.cloud.console(instance_id))
        return f"{instance_id} boots\n"

    async def offerings(self) -> Sequence[Offering]:
        if not self.offered:
            self.offered = await self._call("offerings", self.cloud.offerings)
        return self.offered

    async def aclose(self) -> None:
        pass

    async def _call(self, verb: str, deed: Callable[[], Awaitable[T]]) -> T:
        if verb == "create":  # it has its turn
            return await self._send(verb, deed)
        async with self.throttle.turn(verb, Rank.DELETE if verb == "delete" else Rank.READ):
            return await self._send(verb, deed)

    async def _send(self, verb: str, deed: Callable[[], Awaitable[T]]) -> T:
        crash = self.stage.pass_border("cloud", self.process, verb)
        fault = self._fault(verb)
        on_its_way = self.stage.spawn(self._carry(verb, deed, fault, crash))
        on_its_way.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may be nobody's any more
        answer = await asyncio.shield(on_its_way)
        self.process.check()
        return answer

    async def _carry(
        self, verb: str, deed: Callable[[], Awaitable[T]], fault: CallFault | None, crash: Crash | None
    ) -> T:
        """The call's way there and back, which no death at this end stops."""
        stage, kind, seconds = self.stage, fault.kind if fault else "", fault.seconds if fault else 0.0
        await self._travel()
        await self._refuse(verb, kind)
        if crash is not None and crash.side == "in flight":
            stage.crash(crash, verb)
            await stage.sleep(crash.late)
        if kind == "request delayed":
            await stage.sleep(seconds)
        if kind == "partly filled":
            self.cloud.short = 1
        if kind == "accepted in vain":
            await self._travel()
            return None  # type: ignore[return-value] # a delete's
        answer = await deed()
        stage.tell(f"cloud: {verb} is done")
        if kind == "duplicated":
            stage.spawn(self._again(verb, deed, seconds))
        if crash is not None and crash.side == "after":
            stage.crash(crash, verb)
        if kind in ("reply lost", "reply delayed"):
            await stage.sleep(seconds)
        if kind == "reply lost":
            raise Transient(f"no answer to {verb} within {seconds:g} s")
        await self._travel()
        return answer

    async def _refuse(self, verb: str, kind: str) -> None:
        if kind == "request lost":
            await self.stage.sleep(5.0)
            raise Transient(f"no answer to {verb}")
        if kind in _REFUSALS:
            raise copy(_REFUSALS[kind])
        for window in self.stage.scenario.windows:
            if self.stage.calm or not 0 <= self.stage.now - window.start < window.seconds:
                continue
            if window.kind == "cloud unreachable":
                self.stage.strike(window.kind, verb)
                await self.stage.sleep(3.0)
                raise Transient("connect: no route to host")
            if window.kind == "throttled throughout":
                self.stage.strike(window.kind, verb)
                raise copy(_REFUSALS["throttled"])
            if window.kind == _FAILING.get(verb):
                self.stage.strike(window.kind, f"{verb}, {window.error}")
                raise copy(_REFUSALS[window.error])

    async def _again(self, verb: str, deed: Callable[[], Awaitable[T]], seconds: float) -> None:
        await self.stage.sleep(seconds)
        self.stage.tell(f"cloud: the duplicate of {verb} arrives")
        try:
            await deed()
        except ProviderError:
            pass

    async def _travel(self) -> None:
        await self.stage.sleep(self.stage.rng.uniform(*_LATENCY))

    def _fault(self, verb: str) -> CallFault | None:
        for fault in self.stage.scenario.calls:
            if not self.stage.calm and (fault.verb, fault.nth) == (verb, self.stage.passed[f"cloud {verb}"]):
                self.stage.strike(fault.kind, f"{verb} number {fault.nth}")
                return fault
        return None
