"""The product broken on purpose, one safeguard at a time: the fault harness must notice each.

python -m tests.sim.mutations prints the table: what is disabled, and the run that finds it.
"""

import contextlib
import dataclasses
import itertools
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, get_args
from unittest.mock import patch

from adaptor.errors import Unavailable
from adaptor.podnet.plan import Tunnel, VniTaken
from adaptor.relay.states import SessionState
from adaptor.sandbox import network, recovery
from adaptor.sandbox.model import Event, NetworkIntended
from adaptor.sandbox.patrol import Unclaimed
from adaptor.sandbox.registry import Registry
from adaptor.sandbox.watch import InstanceWatch
from adaptor.sandbox.work import Work
from providers.base import Instance, LaunchSpec
from providers.errors import ProviderError
from tests.sim.faults.catalogue import OPERATIONS, listed, scenario_of
from tests.sim.faults.cloud import CloudLine
from tests.sim.faults.disk import SimJournal
from tests.sim.faults.networks import NetworksLine
from tests.sim.faults.run import Verdict, run

# Rows whose absence loses nothing, and why.
HARMLESS: Final = {"instance-deleted": "the next adaptor deletes again, which may be repeated"}
# Runs that are tried before a mutation counts as not found: every operation undisturbed, three of
# them killed at every row of the journal, one at every change to the kernel, then drawn ones.
LIMIT: Final = 400


@dataclasses.dataclass(frozen=True)
class Mutation:
    """`disables`: which safeguard, in words; `patch` takes it out while entered."""

    name: str
    disables: str
    patch: Callable[[], AbstractContextManager[Any]]


@dataclasses.dataclass(frozen=True)
class Found:
    """After `runs` runs, by this one."""

    runs: int
    verdict: Verdict


def _unwritten(kind: str) -> Mutation:
    """That row is never written; the adaptor goes on as if it were."""
    write = SimJournal.append_all

    async def append_all(self: SimJournal, entries: Sequence[tuple[str, Event]]) -> None:
        if kept := [entry for entry in entries if entry[1].kind != kind]:
            await write(self, kept)

    return Mutation(f"no {kind}", f"the journal row {kind}", lambda: patch.object(SimJournal, "append_all", append_all))


def _late(kind: str) -> Mutation:
    """That row is written with the sandbox's next one: no longer before the deed."""
    write = SimJournal.append_all

    async def append_all(self: SimJournal, entries: Sequence[tuple[str, Event]]) -> None:
        held: list[tuple[str, Event]] = self.__dict__.setdefault("held", [])
        due = [entry for entry in held if entry[0] in {sandbox for sandbox, _ in entries}]
        held[:] = [entry for entry in [*held, *entries] if entry not in due and entry[1].kind == kind]
        if rows := [*due, *(entry for entry in entries if entry not in held)]:
            await write(self, rows)

    return Mutation(
        f"late {kind}",
        f"{kind} before the deed: it is written after",
        lambda: patch.object(SimJournal, "append_all", append_all),
    )


def _no_key() -> AbstractContextManager[Any]:
    """What the VM's answer has added to the tunnel is not written down."""
    write = SimJournal.append_all

    async def append_all(self: SimJournal, entries: Sequence[tuple[str, Event]]) -> None:
        if kept := [(who, e) for who, e in entries if not (isinstance(e, NetworkIntended) and e.tunnel.public_key)]:
            await write(self, kept)

    return patch.object(SimJournal, "append_all", append_all)


@contextlib.contextmanager
def _late_tunnel() -> Iterator[None]:
    """Either alone is made good by the other."""

    async def keep_only(self: NetworksLine, tunnels: Iterable[Tunnel]) -> None:
        pass

    with _late(NetworkIntended.kind).patch(), patch.object(NetworksLine, "keep_only", keep_only):
        yield


def _not_removed() -> AbstractContextManager[Any]:
    async def remove(self: NetworksLine, tunnel: Tunnel) -> None:
        pass

    return patch.object(NetworksLine, "remove", remove)


def _removed_once() -> AbstractContextManager[Any]:
    """Whatever comes of it."""
    remove = NetworksLine.remove

    async def tried(self: NetworksLine, tunnel: Tunnel) -> None:
        with contextlib.suppress(Unavailable):
            await remove(self, tunnel)

    return patch.object(NetworksLine, "remove", tried)


def _not_joined() -> AbstractContextManager[Any]:
    async def connect(self: NetworksLine, tunnel: Tunnel, timeout: float) -> None:
        pass

    return patch.object(NetworksLine, "connect", connect)


def _kept_nothing() -> AbstractContextManager[Any]:
    keep_only = NetworksLine.keep_only

    async def nothing(self: NetworksLine, tunnels: Iterable[Tunnel]) -> None:
        await keep_only(self, ())

    return patch.object(NetworksLine, "keep_only", nothing)


def _no_other_number() -> AbstractContextManager[Any]:
    """What of a tunnel was made when its number turned out to be taken is left behind."""

    async def number(work: Work) -> None:
        await work.record(NetworkIntended(await work.rooms.networks.intend(work.state.spec.netns)))

    async def opened(work: Work) -> Tunnel:
        while True:
            tunnel = await network._reached(work)
            try:
                await work.rooms.networks.open(tunnel)
            except VniTaken:
                await number(work)
            else:
                return tunnel

    return patch.object(network, "_opened", opened)


def _new_tokens() -> AbstractContextManager[Any]:
    create = CloudLine.create

    async def other_token(self: CloudLine, spec: LaunchSpec, token: str) -> Instance:
        return await create(self, spec, secrets.token_hex(32))

    return patch.object(CloudLine, "create", other_token)


def _not_left() -> AbstractContextManager[Any]:
    return patch.object(CloudLine, "leave", lambda self, token: None)


def _no_clearing() -> AbstractContextManager[Any]:
    return patch.object(recovery, "unseated", lambda *_args: [])


def _another_count() -> AbstractContextManager[Any]:
    """A repeat asks for as many as have come again."""
    launch = CloudLine.launch

    async def fewer(self: CloudLine, spec: LaunchSpec, token: str, count: int) -> Mapping[int, Instance]:
        again = token in self.cloud.launches
        return await launch(self, spec, token, max(1, count - 1) if again else count)

    return patch.object(CloudLine, "launch", fewer)


def _mixed_up() -> AbstractContextManager[Any]:
    """Each gets the machine of the seat beside his."""
    launch = CloudLine.launch

    async def shifted(self: CloudLine, spec: LaunchSpec, token: str, count: int) -> Mapping[int, Instance]:
        made = await launch(self, spec, token, count)
        return {index: made[(index + 1) % len(made)] for index in made}

    return patch.object(CloudLine, "launch", shifted)


def _no_following() -> AbstractContextManager[Any]:
    async def gone(self: InstanceWatch, *_asked: object) -> bool:
        return True

    return patch.object(InstanceWatch, "gone", gone)


@contextlib.contextmanager
def _delete_once() -> Iterator[None]:
    delete = CloudLine.delete

    async def tried(self: CloudLine, instance_id: str) -> None:
        with contextlib.suppress(ProviderError):
            await delete(self, instance_id)

    with _no_following(), patch.object(CloudLine, "delete", tried):
        yield


def _blind_list() -> AbstractContextManager[Any]:
    async def nothing(self: CloudLine) -> Sequence[Instance]:
        return []

    return patch.object(CloudLine, "list", nothing)


def _no_reaper() -> AbstractContextManager[Any]:
    async def reap(self: Registry) -> None:
        pass

    return patch.object(Registry, "reap", reap)


def _no_resume() -> AbstractContextManager[Any]:
    return patch.object(recovery, "LIVING", frozenset({SessionState.JOINED}), create=True)


def _no_plan() -> AbstractContextManager[Any]:
    return patch.object(recovery, "plan", lambda *_args, **_more: ())


def _no_claim() -> AbstractContextManager[Any]:
    return patch.object(Unclaimed, "overdue", lambda *_args: ())


def _no_forgetting() -> AbstractContextManager[Any]:
    async def forget(self: SimJournal, sandbox: str) -> None:
        pass

    return patch.object(SimJournal, "forget", forget)


MUTATIONS: Final[tuple[Mutation, ...]] = (
    *(_unwritten(event.kind) for event in get_args(Event) if event.kind not in HARMLESS),
    _late("launch-intended"),
    Mutation("late tunnel", "the intent of a tunnel before its deed, and the look for what is left", _late_tunnel),
    Mutation("no key", "the journal row that names the VM's WireGuard key", _no_key),
    Mutation("tunnel not removed", "the end of a tunnel", _not_removed),
    Mutation("tunnel removed once", "retrying the end of a tunnel: a refused one counts as done", _removed_once),
    Mutation("not joined", "joining the pod to its tunnel before it counts as running", _not_joined),
    Mutation("kept nothing", "whose tunnels a starting adaptor leaves alone", _kept_nothing),
    Mutation("no other number", "taking away what was made under a number that is taken", _no_other_number),
    Mutation("new token", "the idempotency token: each try of a create has another", _new_tokens),
    Mutation("delete once", "retrying deletes: a refused one counts as done", _delete_once),
    Mutation("no following", "looking whether a VM whose deletion was accepted is gone", _no_following),
    Mutation("blind", "looking a create up that was never answered: the cloud's list is taken for empty", _blind_list),
    Mutation("no reaper", "the reaper: pods that end without StopVM", _no_reaper),
    Mutation("no resume", "resuming: a link that is being re-dialled counts as lost", _no_resume),
    Mutation("no recovery", "the recovery plan of a restart", _no_plan),
    Mutation("no claim", "the look for running pods that no shim came for", _no_claim),
    Mutation("seat not left", "leaving a seat whose create will not come", _not_left),
    Mutation("no clearing", "the look for VMs whose seat nobody holds", _no_clearing),
    Mutation("another count", "a shared call is repeated as it was", _another_count),
    Mutation("mixed up", "each has the VM of its own seat", _mixed_up),
    Mutation("no forgetting", "the end of a sandbox in the journal", _no_forgetting),
)


def find(mutation: Mutation, limit: int = LIMIT) -> Found | None:
    """The first run that is sound, and with the mutation is not."""
    for number, seed in enumerate(itertools.islice(_order(), limit), 1):
        with mutation.patch():
            verdict = run(scenario_of(seed))
        if verdict.violations and not run(scenario_of(seed)).violations:
            return Found(number, verdict)
    return None


def _order() -> Iterator[str]:
    yield from OPERATIONS
    for operation in ("start-stop", "give-up", "together"):
        yield from (
            seed for seed in listed(operation) if seed.startswith(f"{operation}/journal-") and seed.count("/") == 1
        )
    yield from (seed for seed in listed("number-taken") if "/network-" in seed)
    yield from map(str, itertools.count())


def main() -> int:
    missed = 0
    print(f"{'disabled':22} {'runs':>4}  {'found by':12} because")
    for mutation in MUTATIONS:
        found = find(mutation)
        missed += found is None
        if found is None:
            print(f"{mutation.name:22} {LIMIT:4}  NOT FOUND    {mutation.disables}")
        else:
            seed, why = found.verdict.scenario.seed, found.verdict.violations[0]
            print(f"{mutation.name:22} {found.runs:4}  {seed:12} {why}")
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
