"""This host behind the Provider protocol.

Verbs block for milliseconds to a second, so each runs in a thread; one that was begun ends, whoever waits for it, and
the same call again finds what it did.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from providers import tags
from providers.answers import Answers
from providers.base import (
    Finding,
    Headroom,
    Instance,
    InstanceState,
    LaunchSpec,
    Offering,
    Ownership,
    console_tail,
)
from providers.errors import InvalidSpec, NotFound, ProviderError
from providers.local import catalog, dhcp, errors, hosts, links, preflight, requests, sandbox
from providers.local.config import LocalConfig
from providers.local.machines import Machines
from providers.local.requests import Intent, Seen

T = TypeVar("T")

_THREADS: Final = 16
_LOOK: Final = 1.0  # seconds between two looks at a VM that boots under TCG

log = logging.getLogger(__name__)


def open(config: LocalConfig, owner: Ownership) -> "LocalProvider":
    """A provider for one node; this host is looked at with the first verb."""
    if not config.isolated:
        log.warning(sandbox.WARNING)
    return LocalProvider(config, owner, Machines(config))


class LocalProvider:
    """`providers.base.Provider`, SupportsConsole, SupportsPreflight and SupportsQuota for this host."""

    name = "local"
    user_data_limit = requests.USER_DATA_LIMIT

    def __init__(self, config: LocalConfig, owner: Ownership, machines: Machines) -> None:
        self._config = config
        self._owner = owner
        self._machines = machines
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="local")
        self._closed = False
        self._dhcp: dhcp.Server | None = None
        self._watched: dict[str, asyncio.Task[None]] = {}
        self._offers: Answers[tuple[Offering, ...]] = Answers()

    async def create(self, spec: LaunchSpec, token: str) -> Instance:
        """See Provider.create. Once only, for the machine's id and directory are made of the token."""
        doing = f"cannot launch {spec.name}"
        requests.check(spec, token, self._config)
        tags.of_new(self._owner)
        self._check_open(doing)
        await self._answer_dhcp(doing)
        made = await self._in_thread(doing, lambda: self._machines.create(spec, token, self._owner))
        await self._watch_over([made])
        return made

    async def get(self, ids: Collection[str]) -> Mapping[str, Instance]:
        """See Provider.get."""
        if not ids:
            return {}
        return await self._in_thread("cannot look at VMs of this host", lambda: self._machines.describe(ids))

    async def list(self) -> Sequence[Instance]:
        """See Provider.list."""
        found = [requests.instance(seen) for seen in await self._ours(f"cannot list the VMs of {self._owner.node}")]
        if found and self._owner.node:  # after a restart: some may still ask for their address, or boot
            await self._answer_dhcp("cannot answer the DHCP of VMs")
            await self._watch_over(found)
        return found

    async def delete(self, instance_id: str) -> None:
        """See Provider.delete: it has ended when this returns."""
        if watcher := self._watched.pop(instance_id, None):
            watcher.cancel()
        await self._in_thread(f"cannot delete {instance_id}", lambda: self._machines.delete(instance_id))

    async def offerings(self) -> Sequence[Offering]:
        """See Provider.offerings: the host is looked at once; a failure is not kept."""

        async def look() -> tuple[Offering, ...]:
            await self._in_thread("cannot offer VMs on this host", self._machines.look_at_host)
            return catalog.offerings(self._config, hosts.architecture())

        return await self._offers.get("", look)

    async def console(self, instance_id: str) -> str:
        """See SupportsConsole.console."""
        doing = f"cannot read the console of {instance_id}"
        printed = await self._in_thread(doing, lambda: self._machines.console(instance_id))
        return console_tail(printed.decode(errors="replace"))

    async def preflight(self, port: int, tunnel_port: int) -> Sequence[Finding]:
        """See SupportsPreflight.preflight."""
        doing = "cannot look at this host"
        return await self._in_thread(doing, lambda: preflight.run(self._config, self._machines.look_at_host))

    async def quota(self) -> Sequence[Headroom]:
        """See SupportsQuota.quota: our own limits."""
        taken = await self._in_thread("cannot count the VMs of this host", self._machines.usage)
        return catalog.headroom(self._config, taken)

    async def aclose(self) -> None:
        """See Provider.aclose. VMs go on; whoever comes next finds them."""
        self._closed = True
        for watcher in self._watched.values():
            watcher.cancel()
        self._watched.clear()
        if self._dhcp is not None:
            self._dhcp.close()
            self._dhcp = None
        await asyncio.to_thread(self._threads.shutdown)

    # -- what the verbs share ---------------------------------------------------------------------------

    async def _ours(self, doing: str) -> Sequence[Seen]:
        found = await self._in_thread(doing, self._machines.everything)
        return [seen for seen in found if requests.is_ours(seen.intent.tags, self._owner)]

    def _check_open(self, doing: str) -> None:
        if self._closed:
            raise ProviderError(f"{doing}: this provider is closed")

    async def _in_thread(self, doing: str, work: Callable[[], T]) -> T:
        """Raises errors of providers.errors only. Cancelling stops the waiting, never the work."""
        self._check_open(doing)
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        running.add_done_callback(_looked_at)
        try:
            return await asyncio.shield(running)
        except Exception as error:
            raise errors.of(error, doing) from error

    async def _answer_dhcp(self, doing: str) -> None:
        """From the first VM with a tap on; namespaces have their address from us."""
        config = self._config
        if self._dhcp is not None or not config.isolated or config.network == "user" or not links.may_make():
            return
        await self._in_thread(doing, lambda: links.ensure_bridge(config.bridge, config.subnet))
        await self._serve_dhcp(doing)

    async def _serve_dhcp(self, doing: str) -> None:
        config = self._config
        if self._dhcp is not None:  # another verb was faster
            return
        network = dhcp.Network(requests.subnet(config), hosts.name_servers(config), config.outbound)
        try:
            self._dhcp = dhcp.Server(config.bridge, network)
        except OSError as error:
            raise errors.of(error, f"{doing}: its DHCP cannot be answered on {config.bridge}, UDP port 67") from error

    async def _watch_over(self, found: Sequence[Instance]) -> None:
        """Those that boot under TCG: their emulation may kill them."""
        if not self._config.isolated:
            return
        fresh = {each.id for each in found if each.state is not InstanceState.GONE} - self._watched.keys()
        for intent in await self._in_thread("cannot look at VMs of this host", self._machines.usage) if fresh else ():
            if intent.id in fresh and self._machines.may_need_another(intent):
                task = asyncio.create_task(self._watch(intent), name=f"watch {intent.id}")
                self._watched[intent.id] = task

    async def _watch(self, intent: Intent) -> None:
        """Power it on again, once, when it panics or does not answer in time."""
        loop, doing = asyncio.get_running_loop(), f"cannot start {intent.id} again"
        deadline = loop.time() + self._config.ready_timeout
        why = "its kernel has panicked"
        try:
            while not await self._in_thread(doing, lambda: self._machines.panicked(intent.id)):
                if loop.time() >= deadline:
                    if await self._in_thread(doing, lambda: self._machines.answers(intent)):
                        return
                    why = f"its guest does not answer after {self._config.ready_timeout:g} s"
                    break
                await asyncio.sleep(_LOOK)
            if await self._in_thread(doing, lambda: self._machines.start_again(intent.id)):
                log.warning("%s: %s, which under TCG may be QEMU's fault: started again, once", intent.id, why)
        except (NotFound, InvalidSpec):
            return  # deleted meanwhile
        except ProviderError as error:
            log.warning("%s: %s: %s", intent.id, why, error)
        finally:
            self._watched.pop(intent.id, None)


def _looked_at(done: "asyncio.Future[T]") -> None:
    """An error that nobody waits for any more is nobody's: the same call again meets it."""
    if not done.cancelled():
        done.exception()
