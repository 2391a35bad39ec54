"""Finding a machine for a pod: offerings in the order of their rank, one after the other where the cloud has no room.

Capacity, Quota and Unsupported mark the offering for the whole node and move on within the same start; what is denied
or invalid ends it, for another machine would fare no better.
"""

from collections.abc import Callable, Sequence
from functools import partial

from adaptor.catalog import explain, wishes
from adaptor.catalog.explain import Try
from adaptor.catalog.select import LAST_RESORT, Pin, Requirements
from adaptor.catalog.unavailable import Mark
from adaptor.errors import InvalidRequest, NoCapacity
from adaptor.sandbox import create
from adaptor.sandbox.model import SandboxSpec
from adaptor.sandbox.rooms import Rooms
from adaptor.sandbox.work import Work
from providers.base import Offering
from providers.errors import Capacity, Quota, Unsupported


def requirements(spec: SandboxSpec, pins: Sequence[Pin] = ()) -> Requirements:
    """What the pod asks for. Raises: InvalidRequest; CreateVM has seen to it that it does not."""
    wish = wishes.parse(f"{spec.instance_type or ''};{spec.wishes}")
    return wish.requirements(spec.vcpus, spec.memory_mib, spec.gpus, spec.gpu_model, pins)


async def place(work: Work, offerings: Sequence[Offering], pins: Sequence[Pin] = ()) -> None:
    """Launch the first of `offerings` that can be had for this pod. `pins`: where its disks are.

    Raises: InvalidRequest (none fits), NoCapacity (none to be had, with every try), StartFailed.
    """
    chooser, clock, cluster = work.rooms.chooser, work.rooms.clock, work.rooms.cluster
    wanted = requirements(work.state.spec, pins)
    tries: list[Try] = []
    last_resorts = 0
    await cluster.announce(work.state)
    while True:
        choice = chooser.choose(offerings, wanted, clock.now())
        left = [each for each in choice.ranked if not _is_our_own(chooser.marked(each, clock.now()), tries)]
        if not choice.ranked and not tries:
            raise InvalidRequest(explain.refusal(choice, wanted))
        late = bool(tries) and clock.now() >= work.deadline
        if not left or late or last_resorts >= LAST_RESORT:
            note = "The time for this start is over" if late else ""
            raise NoCapacity(explain.no_room(work.rooms.provider.name, tries, choice.rejected, note))
        offering, last_resorts = left[0], last_resorts + choice.last_resort
        cluster.chose(work.state, offering, partial(explain.chosen, choice, tries))
        try:
            launched = await create.create(work, offering, _unchanged(work.rooms, offering))
        except (Capacity, Quota, Unsupported) as error:
            cluster.tried(work.state, offering, error)
            tries.append(Try(offering, chooser.mark(offering, error, clock.now())))
            work.log.warning("the cloud has no room", offering=explain.place(offering), error=str(error))
        else:
            if launched:
                break
    if tries:
        work.log.info("launched after others had failed", offering=explain.place(offering), tried=explain.tried(tries))


def _unchanged(rooms: Rooms, offering: Offering) -> Callable[[], bool]:
    """Tells, when this pod's turn comes, whether others have found out meanwhile that it cannot be had."""
    known = rooms.chooser.marked(offering, rooms.clock.now())
    return lambda: rooms.chooser.marked(offering, rooms.clock.now()) in (None, known)


def _is_our_own(mark: Mark | None, tries: Sequence[Try]) -> bool:
    """Whether this very start has found out that it cannot be had."""
    return any(each.mark is mark for each in tries)
