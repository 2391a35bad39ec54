"""Calls saved: asks that come within a moment of each other, or while the throttle lets none pass, share one.

    Together   describes and deletes: one call for everybody's ids, each waiter with an answer and an end of its own
    Seats      creates: places dealt before anything is asked for, then one call for all who took theirs

A place in a call is named by its token alone (`base.Seat`), so that it can be written down before the call is made, and
any of those who have one can repeat the call, byte for byte, after a crash. When a call goes out, everybody who was
dealt a place has come or has left; what it makes for those who left is deleted.
"""

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Generic, Protocol, TypeVar

from providers import tags
from providers.base import Instance, LaunchSpec, Seat
from providers.errors import (
    Capacity,
    Denied,
    InvalidSpec,
    NotFound,
    ProviderError,
    Quota,
    Throttled,
    Transient,
    Unsupported,
)
from providers.retry import insisting
from providers.throttle import Rank, Throttle

R = TypeVar("R")

# Seconds in which asks meet. A pod that starts alone waits so long for nobody: a launch takes fifty times as long.
WINDOW: Final = 0.03
# Seconds that creates gather at most while another of their shape is not answered yet: a burst that takes a second to
# arrive makes three calls, not thirty.
_BEHIND_ANOTHER: Final = 0.5
# Machines in one call. Amazon advises at most 50; what fails, fails for all of them.
MOST: Final = 50
# Seconds for everybody who was dealt a place to write that down and come. Who comes later repeats the call.
_PATIENCE: Final = 2.0
_LABEL_TRIES: Final = 8
_LONGEST_LABEL_PAUSE: Final = 60.0  # seconds
_CALL_BYTES: Final = 16  # of a call's own token: nobody ever draws it again


class Together(Generic[R]):
    """Asks for single ids, answered by one call for many.

    `call` gives an answer for each id that it has one for; `most` ids to a call. `calls` and `things`: the throttle's
    buckets for calls and, where the cloud counts them, for what they are about.
    """

    def __init__(
        self,
        throttle: Throttle,
        rank: Rank,
        call: Callable[[Sequence[str]], Awaitable[Mapping[str, R]]],
        most: int,
        calls: str,
        things: str = "",
    ) -> None:
        self._throttle, self._rank, self._call, self._most = throttle, rank, call, most
        self._takes = dict.fromkeys(filter(None, (calls, things)), 1.0)
        self._things = things
        self._open: _Round[R] | None = None

    async def ask(self, ids: Collection[str]) -> Mapping[str, R]:
        """The answers for these ids. Raises what the call raises; cancelling stops only this caller's waiting."""
        wanted = sorted(set(ids))
        rounds = [self._join(wanted[start : start + self._most]) for start in range(0, len(wanted), self._most)]
        answers = await asyncio.gather(*map(self._answer, rounds))
        return {id: answer[id] for answer in answers for id in wanted if id in answer}

    def _join(self, ids: Sequence[str]) -> "_Round[R]":
        if self._open is None or len(self._open.ids | set(ids)) > self._most:
            self._open = made = _Round[R]()
            made.task = asyncio.create_task(self._run(made), name="cloud-together")
            made.task.add_done_callback(_looked_at)
        self._open.ids |= set(ids)
        return self._open

    async def _answer(self, round: "_Round[R]") -> Mapping[str, R]:
        round.waiting += 1
        try:
            return await asyncio.shield(round.task)
        finally:
            round.waiting -= 1
            if not round.waiting:  # nobody is left who wants to know
                self._close(round)
                round.task.cancel()

    async def _run(self, round: "_Round[R]") -> Mapping[str, R]:
        await asyncio.sleep(WINDOW)
        async with self._throttle.turn(self._takes, self._rank) as turn:
            self._close(round)
            if self._things and len(round.ids) > 1:
                self._throttle.take(turn, self._things, len(round.ids) - 1)
            return await self._call(sorted(round.ids))

    def _close(self, round: "_Round[R]") -> None:
        """From now on it is too late to join."""
        if self._open is round:
            self._open = None


@dataclass(slots=True, eq=False)
class _Round(Generic[R]):
    ids: set[str] = field(default_factory=set)
    waiting: int = 0
    task: "asyncio.Task[Mapping[str, R]]" = field(init=False)


async def sifted(
    ids: Sequence[str], call: Callable[[Sequence[str]], Awaitable[None]]
) -> Mapping[str, ProviderError | None]:
    """What became of each, where one bad id fails the whole call; None: it went well.

    Those that a refusal names are asked for apart from the others; where it names none, or all, each half. Raises what
    is no id's fault.
    """
    try:
        await call(ids)
    except (Denied, InvalidSpec, NotFound) as error:
        if len(ids) == 1:
            return {ids[0]: error}
        named = [id for id in ids if id in error.message]
        part = named if 0 < len(named) < len(ids) else ids[: len(ids) // 2]
        rest = [id for id in ids if id not in part]
        return {**await _part(part, call), **await _part(rest, call)}
    return dict.fromkeys(ids)


async def _part(
    ids: Sequence[str], call: Callable[[Sequence[str]], Awaitable[None]]
) -> Mapping[str, ProviderError | None]:
    try:
        return await sifted(ids, call)
    except ProviderError as error:
        return dict.fromkeys(ids, error)


class Launcher(Protocol):
    """What Seats asks of a provider; each raises errors of `providers.errors`."""

    async def launch(self, spec: LaunchSpec, token: str, count: int) -> Mapping[int, Instance]:
        """One call for `count` machines, those it made by their index; equal arguments make an equal call. With more
        than one `spec` has neither name nor tags, and the machines' token is `Seat(token, index, count)`'s."""
        ...

    async def label(self, instance: Instance) -> None:
        """Write its name and tags to the machine."""
        ...

    async def delete(self, instance_id: str) -> None:
        """See Provider.delete."""
        ...


Shape = tuple[Any, ...]


def shape(spec: LaunchSpec) -> Shape:
    """What must be equal for two machines to share a call: all but name and tags."""
    return tuple(getattr(spec, each.name) for each in fields(spec) if each.name not in ("name", "tags"))


@dataclass(slots=True, eq=False)
class _Place:
    """Somebody who waits to be dealt one."""

    spec: LaunchSpec
    token: str
    dealt: "asyncio.Future[str]"


@dataclass(slots=True, eq=False)
class _Pool:
    """Those of one shape who wait, the round that gathers them, and the calls under way."""

    places: list[_Place] = field(default_factory=list)
    gathering: bool = False
    under_way: "set[asyncio.Task[Any]]" = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Call:
    """One call for `count` machines. `attempt` makes it."""

    token: str
    count: int
    shape: Shape
    expected: set[int] = field(default_factory=set)  # dealt here; neither answered nor left
    specs: dict[int, LaunchSpec] = field(default_factory=dict)  # whose create has come
    left: set[int] = field(default_factory=set)
    answered: set[int] = field(default_factory=set)
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    attempt: "asyncio.Task[Mapping[int, Instance]] | None" = None
    waiting: int = 0
    made: Mapping[int, Instance] | None = None
    lost: bool = False  # an attempt was never answered

    def check(self) -> None:
        if self.expected <= self.specs.keys():
            self.complete.set()


class Seats:
    """Batched creates: SupportsBatchCreate and `create` of a provider whose launches are `cloud`'s.

    `calls` and `machines`: the throttle's buckets for calls and, where the cloud counts them, machines launched.
    """

    def __init__(self, throttle: Throttle, cloud: Launcher, calls: str, machines: str = "") -> None:
        self._throttle = throttle
        self._cloud = cloud
        self._machines = machines
        self._takes = dict.fromkeys(filter(None, (calls, machines)), 1.0)
        self._pools: dict[Shape, _Pool] = {}
        self._calls: dict[str, _Call] = {}
        self._short = False  # the last answer to a launch was that there is no room
        self._unlabelled: deque[Instance] = deque()
        self._behind: set[asyncio.Task[None]] = set()

    async def seat(self, spec: LaunchSpec, token: str) -> str:
        """See SupportsBatchCreate.seat."""
        pool = self._pools.setdefault(shape(spec), _Pool())
        place = _Place(spec, token, asyncio.get_running_loop().create_future())
        pool.places.append(place)
        self._gather(pool)
        try:
            return await place.dealt
        except asyncio.CancelledError:
            if place in pool.places:
                pool.places.remove(place)
            if not place.dealt.cancelled() and place.dealt.exception() is None:  # it had just been dealt
                self.leave(place.dealt.result())
            raise

    def leave(self, token: str) -> None:
        """See SupportsBatchCreate.leave."""
        key, index, _ = _parts(token)
        call = self._calls.get(key)
        if call is None or index in call.answered:
            return
        call.left.add(index)
        call.specs.pop(index, None)
        self._settle(call, index)
        if call.made is not None and index in call.made:
            self._discard(call.made[index])

    async def create(self, spec: LaunchSpec, token: str) -> Instance:
        """See Provider.create. A caller that is cancelled may come again, or leave."""
        key, index, count = _parts(token)
        call = self._calls.setdefault(key, _Call(key, count, shape(spec)))
        if call.shape != shape(spec) or call.count != count or call.specs.get(index, spec) != spec:
            raise InvalidSpec(f"cannot launch {spec.name}: the token {token} is that of another launch")
        call.specs[index] = spec
        call.left.discard(index)
        call.check()
        try:
            made = call.made if call.made is not None else await self._outcome(call)
        except (Throttled, Transient):  # it may come again
            if not call.expected:
                self._forget(call)
            raise
        except ProviderError:
            self._forget(call)
            raise
        call.answered.add(index)
        self._settle(call, index)
        if index not in made:
            raise Capacity(
                f"cannot launch {spec.name} ({spec.instance_type}): of {count} machines asked for, {len(made)} came"
            )
        return _individual(made[index], spec, token, count)

    async def aclose(self) -> None:
        """End what goes on behind. Calls under way may finish."""
        behind = list(self._behind)
        for task in behind:
            task.cancel()
        await asyncio.gather(*behind, return_exceptions=True)

    # -- places ---------------------------------------------------------------------------------

    def _gather(self, pool: _Pool) -> None:
        if not pool.gathering:
            pool.gathering = True
            task = asyncio.create_task(self._round(pool), name="cloud-seats")
            task.add_done_callback(_looked_at)

    async def _round(self, pool: _Pool) -> Mapping[int, Instance]:
        """Gather, wait for the throttle, deal, and make the call."""
        await asyncio.sleep(WINDOW)
        if pool.under_way and (self._short or len(pool.places) < MOST):
            patience = None if self._short else _BEHIND_ANOTHER
            await asyncio.wait(pool.under_way, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        async with self._throttle.turn(self._takes, Rank.CREATE) as turn:
            call = self._deal(pool)
            if call is not None:
                await _within(_PATIENCE, call.complete)
            if call is None or not call.specs:  # nobody came
                self._throttle.give_back(turn)
                return {}
            if self._machines and call.count > 1:
                self._throttle.take(turn, self._machines, call.count - 1)
            return await self._launch(call)

    def _deal(self, pool: _Pool) -> _Call | None:
        """Close the round: a place for each, as many as fit in; the others gather anew."""
        pool.gathering = False
        pool.places = [place for place in pool.places if not place.dealt.done()]  # else its caller has just given up
        chosen = _fairly(pool.places)[: 1 if self._short else MOST]
        pool.places = [place for place in pool.places if place not in chosen]
        if pool.places:
            self._gather(pool)
        if not chosen:
            self._tidy(pool)
            return None
        token = chosen[0].token if len(chosen) == 1 else secrets.token_hex(_CALL_BYTES)
        call = _Call(token, len(chosen), shape(chosen[0].spec), expected=set(range(len(chosen))))
        self._calls[token] = call
        call.attempt = asyncio.current_task()
        assert call.attempt is not None
        pool.under_way.add(call.attempt)
        call.attempt.add_done_callback(pool.under_way.discard)
        call.attempt.add_done_callback(lambda _: self._tidy(pool))
        for index, place in enumerate(chosen):
            place.dealt.set_result(token if len(chosen) == 1 else str(Seat(token, index, len(chosen))))
        return call

    def _tidy(self, pool: _Pool) -> None:
        if not (pool.places or pool.gathering or pool.under_way):
            self._pools = {key: each for key, each in self._pools.items() if each is not pool}

    # -- calls ----------------------------------------------------------------------------------

    async def _outcome(self, call: _Call) -> Mapping[int, Instance]:
        if call.attempt is None or call.attempt.done():
            call.attempt = asyncio.create_task(self._again(call), name="cloud-create")
            call.attempt.add_done_callback(_looked_at)
        call.waiting += 1
        attempt = call.attempt
        try:
            await asyncio.shield(attempt)
        finally:
            call.waiting -= 1
            if not call.waiting and not attempt.done():  # nobody is left who wants it
                attempt.cancel()
                call.attempt = None
        return call.made if call.made is not None else await self._outcome(call)  # None: it was closed without this one

    async def _again(self, call: _Call) -> Mapping[int, Instance]:
        takes = {**self._takes, **({self._machines: float(call.count)} if self._machines else {})}
        async with self._throttle.turn(takes, Rank.CREATE):
            return await self._launch(call)

    async def _launch(self, call: _Call) -> Mapping[int, Instance]:
        spec = next(iter(call.specs.values()))
        asked = spec if call.count == 1 else replace(spec, name="", tags={})
        try:
            made = call.made = await self._cloud.launch(asked, call.token, call.count)
        except (Transient, asyncio.CancelledError):
            call.lost = True
            raise
        except ProviderError as error:
            if isinstance(error, (Capacity, Quota, Unsupported)):
                self._no_room(call, error)
            if call.lost and call.count > 1:  # not everybody who gets this was there when it was lost
                raise _unclear(error) from error
            raise
        self._short = len(made) < call.count
        if self._short:
            self._no_room(call, Capacity(f"of {call.count} {spec.instance_type} asked for, {len(made)} came"))
        for index, instance in made.items():
            if index in call.left:
                self._discard(instance)
            elif call.count > 1 and index in call.specs:
                self._label(
                    _individual(instance, call.specs[index], str(Seat(call.token, index, call.count)), call.count)
                )
        return made

    def _no_room(self, call: _Call, error: ProviderError) -> None:
        """Who waits for the same need not ask. Until the cloud has room again, one machine is asked for at a time: what
        it refuses counts against the limit of machines as well, and a full zone refuses fifty as readily as one."""
        self._short = True
        if pool := self._pools.get(call.shape):
            for place in pool.places:
                if not place.dealt.done():
                    place.dealt.set_exception(error)
            pool.places = []

    def _settle(self, call: _Call, index: int) -> None:
        """This place is done with."""
        call.expected.discard(index)
        call.check()
        if not call.expected and not call.waiting and (call.attempt is None or call.attempt.done()):
            self._forget(call)

    def _forget(self, call: _Call) -> None:
        if self._calls.get(call.token) is call:
            del self._calls[call.token]

    # -- behind ---------------------------------------------------------------------------------

    def _discard(self, instance: Instance) -> None:
        async def discard() -> None:
            async for attempt in insisting(asyncio.sleep):
                with attempt:
                    await self._cloud.delete(instance.id)

        self._spawn(discard())

    def _label(self, instance: Instance) -> None:
        self._unlabelled.append(instance)
        if len(self._unlabelled) == 1:
            self._spawn(self._label_all())

    async def _label_all(self) -> None:
        """One after the other, and the slower the more the cloud refuses: nobody waits for it, and the account's other
        nodes do the same."""
        pause, tries = 0.0, 0
        while self._unlabelled:
            tries += 1
            try:
                await self._cloud.label(self._unlabelled[0])
            except (Throttled, Transient):
                pause = min(max(2 * pause, 1.0), _LONGEST_LABEL_PAUSE)
            except ProviderError:  # it is gone, or may not be tagged; it has the tags of its call
                tries = _LABEL_TRIES
            else:
                pause, tries = pause / 2, _LABEL_TRIES
            if tries == _LABEL_TRIES:
                self._unlabelled.popleft()
                tries = 0
            await asyncio.sleep(pause * (0.5 + self._throttle.random.random()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="cloud-behind")
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)
        task.add_done_callback(_looked_at)


def _parts(token: str) -> tuple[str, int, int]:
    """The call's token, the index in it, the count."""
    seat = Seat.parse(token)
    return (token, 0, 1) if seat is None else (seat.call, seat.index, seat.count)


def _fairly(places: Sequence[_Place]) -> list[_Place]:
    """Each namespace's first before anybody's second: one that starts a thousand pods makes no other wait for them."""
    before: Counter[str] = Counter()
    turns = []
    for place in places:
        namespace = place.spec.tags.get(tags.POD_NAMESPACE, "")
        turns.append(before[namespace])
        before[namespace] += 1
    return [place for _, place in sorted(zip(turns, places, strict=True), key=lambda pair: pair[0])]


def _individual(instance: Instance, spec: LaunchSpec, token: str, count: int) -> Instance:
    """What the cloud may not have been told yet."""
    if count == 1:
        return instance
    return replace(instance, name=spec.name, tags={**spec.tags, **instance.tags, tags.TOKEN: token})


def _unclear(error: ProviderError) -> ProviderError:
    """A refusal does not tell what became of the attempt that was lost."""
    kind = Transient if isinstance(error, Throttled) else ProviderError
    return kind(f"an earlier attempt was never answered, the last one: {error.message}", code=error.code)


async def _within(seconds: float, event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _looked_at(task: "asyncio.Task[Any]") -> None:
    """Its error has been told to whoever waited; asyncio need not warn."""
    if not task.cancelled():
        task.exception()
