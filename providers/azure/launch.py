"""One launch: the interface, then the VM, then a look at whether Azure found room for it; nothing left of a refusal.

    PUT interface ──► its address ──► PUT VM, if there is none ──► accepted ──► look whether it has a place
         └ refused: nothing made          ├ refused: delete the interface          ├ no room: delete the VM, which
                                          └ there is one: it is this token's,        takes all of its along; Capacity
                                            or another spec's (InvalidSpec)        └ else: an Instance, with its address

The VM's name follows from the token, so its PUT is once-only. Azure forgets a deleted VM's name: that a token's VM has
been there before is remembered here. What a crash between the two PUTs leaves carries its tags, and is the sweep's.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from providers.azure import arm, requests
from providers.azure.arm import Arm
from providers.azure.config import AzureConfig
from providers.azure.errors import EXISTS, NIC_RESERVED, refused
from providers.base import Instance, InstanceState, LaunchSpec, Ownership, Tee
from providers.errors import Capacity, InvalidSpec, NotFound, ProviderError, Quota, Transient, Unsupported

LOG: Final = logging.getLogger(__name__)

NIC: Final = "Microsoft.Network/networkInterfaces"
ADDRESS: Final = "Microsoft.Network/publicIPAddresses"
# Seconds. Azure keeps an interface for a VM whose creation has failed for 180 s, and deletes it for nobody meanwhile.
RESERVED: Final = 185.0
# Tokens remembered: a node launches some hundred VMs a day, and a create is repeated within minutes.
REMEMBERED: Final = 4096
# Times `allocation_check` that a VM without a place is looked at: a minute by default. Azure has been seen to take 40 s.
LOOKING: Final = 12
# Looks for a public address that Azure has not chosen yet, and seconds between them; it takes one or two.
ADDRESS_LOOKS, ADDRESS_PAUSE = 10, 1.0


@dataclass(slots=True)
class Past:
    """What has become of a token in this process."""

    vm: str
    fingerprint: str
    asked: bool = False  # its VM's PUT has been sent, and not been refused
    made: Instance | None = None  # as Azure described it


@dataclass(frozen=True, slots=True)
class Shape:
    """What a launch needs to know besides its spec."""

    tee: Tee
    zone: str  # empty: wherever Azure likes
    root_gib: int | None
    public_key: str


class Launches:
    """The launches of one node. `shape_of` says what the catalog, the image and the settings make of a spec."""

    def __init__(
        self, api: Arm, config: AzureConfig, owner: Ownership, shape_of: Callable[[LaunchSpec], Awaitable[Shape]]
    ) -> None:
        self._arm = api
        self._config = config
        self._owner = owner
        self._shape_of = shape_of
        self._past: OrderedDict[str, Past] = OrderedDict()
        self._under_way: dict[str, _Joined] = {}
        self._behind: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    async def create(self, spec: LaunchSpec, token: str) -> Instance:
        """See Provider.create. Who asks while the same launch is under way waits for it. Given up by all who wait, it
        ends before the VM's PUT and takes the interface back, or sees that PUT through.
        """
        requests.check(spec, token, self._config)
        while (joined := self._under_way.get(token)) and joined.stopping:  # it takes back what it has made
            await asyncio.wait([joined.task])
        past = self._remember(spec, token)
        if joined is None:
            joined = self._under_way[token] = _Joined()
            joined.task = asyncio.create_task(self._launch(spec, token, past, joined), name=f"launch {past.vm}")
            joined.task.add_done_callback(lambda task: self._ended(token, task))
        return await joined.wait()

    def forget(self, vm: str) -> None:
        """It is being deleted: its token shall find it GONE."""
        for past in self._past.values():
            if past.vm == vm and past.made is None:
                past.made = Instance(vm, InstanceState.GONE)

    async def discard(self, vm: str, doing: str) -> None:
        """Delete what a launch without a VM has left: the interface and its public address. Errors are logged."""
        for kind, name in self._parts(vm):
            await self._delete_part(kind, name, doing)

    async def aclose(self) -> None:
        """Return when the launches under way have ended, with no further looks at theirs. Interfaces that Azure will not
        delete yet are left to the sweep."""
        self._closing.set()
        tasks = [joined.task for joined in self._under_way.values()]
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in self._behind:
            task.cancel()
        await asyncio.gather(*self._behind, return_exceptions=True)

    def _remember(self, spec: LaunchSpec, token: str) -> Past:
        vm, fingerprint = requests.vm_name(spec, token, self._owner), requests.fingerprint(spec)
        past = self._past.setdefault(token, Past(vm, fingerprint))
        if past.fingerprint != fingerprint:
            raise InvalidSpec(f"cannot launch {spec.name}: this token was used for a launch with other parameters")
        self._past.move_to_end(token)
        while len(self._past) > REMEMBERED:
            self._past.popitem(last=False)
        return past

    def _ended(self, token: str, task: "asyncio.Task[Instance]") -> None:
        self._under_way.pop(token, None)
        if not task.cancelled():
            task.exception()  # whoever waited has it; asyncio would complain of one that nobody awaits any more

    async def _launch(self, spec: LaunchSpec, token: str, past: Past, joined: "_Joined") -> Instance:
        doing = f"cannot launch {spec.name} ({spec.instance_type})"
        if (past.asked or past.made) and (found := await self._found(spec, token, past, doing)):
            return found
        try:
            shape = await self._shape_of(spec)
        except ProviderError:
            if not past.asked:  # nothing has been made: the token is as good as new
                self._past.pop(token, None)
            raise
        marks = requests.all_tags(spec, token, self._config, self._owner)
        placed = replace(spec, zone=shape.zone)
        try:
            addresses = await self._network(past.vm, marks, placed, doing)
            marks[requests.ADDRESS_TAG] = " ".join(addresses)
            body = requests.machine(
                past.vm,
                placed,
                marks,
                config=self._config,
                tee=shape.tee,
                root_gib=shape.root_gib,
                public_key=shape.public_key,
            )
            joined.point_of_no_return()
            past.asked = True
            answer = await self._arm.put_machine(past.vm, body, doing)
        except Transient:  # unknown what was done: the same token finds out, or the sweep
            raise
        except ProviderError as error:
            if error.code == EXISTS:
                if found := await self._found(spec, token, past, doing):
                    return found
                raise Transient(f"{doing}: a VM of its name is just being deleted", code=error.code) from error
            past.asked = False
            await self._discard_unless_made(past.vm, doing)
            raise
        except asyncio.CancelledError:
            await self._discard_unless_made(past.vm, doing)
            raise
        with arm.reading(doing):
            past.made = requests.instance(answer.body)
        try:
            await self._look(past.vm, doing)
        except (Capacity, Quota, Unsupported):
            past.made = None
            raise
        return past.made

    async def _found(self, spec: LaunchSpec, token: str, past: Past, doing: str) -> Instance | None:
        """The token's VM if there is, or has been, one."""
        try:
            answer = await self._arm.get_machine(past.vm, doing)
        except NotFound as error:
            if error.code != "ResourceNotFound":
                raise
            return replace(past.made, state=InstanceState.GONE) if past.made else None
        with arm.reading(doing):
            past.made = requests.match(answer.body, spec, token)
        return past.made

    async def _network(self, vm: str, marks: Mapping[str, str], spec: LaunchSpec, doing: str) -> tuple[str, ...]:
        """The interface's addresses; made, or found again: a PUT by name may be repeated."""
        public = await self._public_address(vm, marks, spec, doing) if self._config.public_ip else ""
        path = self._path(NIC, requests.nic_name(vm))
        body = requests.interface(vm, marks, self._config)
        answer = await self._arm.put(path, arm.NETWORK_API, body, f"{doing}: its network interface")
        with arm.reading(doing):
            found = requests.addresses(answer.body, public)
        if not found:
            raise Transient(f"{doing}: its network interface has no address yet")
        return found

    async def _public_address(self, vm: str, marks: Mapping[str, str], spec: LaunchSpec, doing: str) -> str:
        path, doing = self._path(ADDRESS, requests.address_name(vm)), f"{doing}: its public address"
        body = requests.public_address(vm, marks, spec.zone, self._config)
        answer = await self._arm.put(path, arm.NETWORK_API, body, doing)
        for _ in range(ADDRESS_LOOKS):
            with arm.reading(doing):
                if found := answer.body["properties"].get("ipAddress"):
                    return str(found)
            await asyncio.sleep(ADDRESS_PAUSE)
            answer = await self._arm.get(path, arm.NETWORK_API, doing)
        raise Transient(f"{doing}: Azure has not chosen one yet")

    async def _look(self, vm: str, doing: str) -> None:
        """Raises Capacity, Quota or Unsupported if Azure finds no place for the VM, and has it deleted then.

        That is decided after the PUT has been accepted, in seconds mostly, in up to forty where there is a shortage. Only
        a create that fails makes the start go on with another offering. So: one look, and more of them while nothing
        says that the VM has a place. What fails later shows in `get`.
        """
        pause = self._config.allocation_check
        until = asyncio.get_running_loop().time() + LOOKING * pause
        while not await self._closes_within(pause):
            try:
                view = (await self._arm.view_machine(vm, doing)).body
                with arm.reading(doing):
                    failed, placed = requests.creation(view)
            except ProviderError as error:
                LOG.warning("%s; it goes on unlooked at", error)
                return
            if failed is not None:
                await self._give_up(vm, failed, doing)
                return
            pause = 2 * self._config.allocation_check  # Azure asks for ten seconds
            if placed or asyncio.get_running_loop().time() + pause > until:
                return

    async def _closes_within(self, seconds: float) -> bool:
        """False after so long; True as soon as nobody waits for news any more."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._closing.wait()
        return False

    async def _give_up(self, vm: str, failed: Mapping[str, str], doing: str) -> None:
        failure = refused(failed, doing)
        if isinstance(failure, (Capacity, Quota, Unsupported)):
            try:
                await self._arm.delete_machine(vm, doing)
            except ProviderError as error:  # it exists still: no error may say that nothing was made
                raise Transient(f"{failure}; and its VM could not be deleted yet: {error}") from error
            raise failure
        LOG.warning("%s; it exists, and may live: a guest that does not report to Azure fails too", failure)

    # -- taking back --------------------------------------------------------------------------------

    async def _discard_unless_made(self, vm: str, doing: str) -> None:
        """Azure itself refuses to delete an interface that a VM has."""
        with suppress(ProviderError):
            await asyncio.shield(self._in_background(self.discard(vm, doing)))

    async def _delete_part(self, kind: str, name: str, doing: str, *, again: bool = True) -> None:
        try:
            await self._arm.delete(self._path(kind, name), arm.NETWORK_API, doing)
        except ProviderError as error:
            if error.code == NIC_RESERVED and again:
                self._in_background(self._delete_later(kind, name, doing))
                return
            LOG.warning("%s is left to the sweep: %s", name, error)

    async def _delete_later(self, kind: str, name: str, doing: str) -> None:
        await asyncio.sleep(RESERVED)
        await self._delete_part(kind, name, doing, again=False)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)
        return task

    def _parts(self, vm: str) -> list[tuple[str, str]]:
        address = [(ADDRESS, requests.address_name(vm))] if self._config.public_ip else []
        return [(NIC, requests.nic_name(vm)), *address]

    def _path(self, kind: str, name: str) -> str:
        return requests.resource_id(self._config, kind, name)


class _Joined:
    """Those who wait for one launch."""

    task: "asyncio.Task[Instance]"

    def __init__(self) -> None:
        self._waiting = 0
        self._may_stop = True
        self.stopping = False

    async def wait(self) -> Instance:
        self._waiting += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self._waiting -= 1
            if not self._waiting and self._may_stop and not self.task.done():
                self.stopping = True
                self.task.cancel()

    def point_of_no_return(self) -> None:
        self._may_stop = False
