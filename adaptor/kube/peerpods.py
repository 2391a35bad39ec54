"""Keeps the PeerPods of this node's sandboxes as they must be: one writer per object, the latest state wins.

    want ─► writer (a task per PeerPod) ─► create, patch, at the end let go ─► API server
                   ▲                                                              │
                   └───────────── seen ◄── follow: list, then watch ◄─────────────┘

What cannot be written is tried again, ever more seldom; an object that somebody deleted is made anew while its sandbox
lives. Everything may be repeated: a lost answer, a restart and a stale watch all end in the same object.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, Final

from lightkube import ALL_NS, AsyncClient
from lightkube.types import PatchType

from adaptor import names
from adaptor.clock import Clock
from adaptor.kube import peerpod, record
from adaptor.kube.client import PeerPod as Resource
from adaptor.kube.client import told
from adaptor.kube.errors import Absent, Forbidden, KubernetesError, Outdated, Rejected, Taken
from adaptor.kube.peerpod import PeerPod
from adaptor.telemetry import logs, metrics

Key = tuple[str, str]  # namespace, name

# Seconds between two tries of a write that failed: from, and up to. A person must act before what is forbidden or
# rejected passes.
_PAUSE: Final = 0.5
_PAUSE_LIMIT: Final = 30.0
_LONG_PAUSE: Final = 60.0
# Calls at once. A node's pods all start at the same moment after a reboot; the API server has other nodes, too.
_AT_ONCE: Final = 8
# Seconds after which the API server ends a watch, and after which everything is listed anew: a watch over a connection
# that died silently says nothing.
_WATCH: Final = 300
_RELIST: Final = 1800.0
# Objects whose sandbox has ended and which the API server does not let us finish. The oldest are left to the next list.
_ENDING_LIMIT: Final = 1000

log = logs.get("kube.peerpods")


class Writer:
    """One PeerPod and the task that keeps it."""

    def __init__(self, wanted: PeerPod, *, look: bool) -> None:
        self.wanted = wanted
        self.found: PeerPod | None = None
        self.look = look  # an earlier adaptor may have made it
        self.may_exist = look  # a create was sent
        self.ending = False  # the cloud calls its VM gone
        self.may_own = True  # it had no owner yet
        self.refused: tuple[dict[str, Any], ...] = ()  # what was written and not kept: the same again changes nothing
        self.wake = asyncio.Event()
        self.tried = asyncio.Event()  # created, or it was seen that this takes longer
        self.task: asyncio.Task[None] | None = None


class PeerPods:
    """`want`, `end` and `seen` return at once."""

    def __init__(
        self, client: AsyncClient, node: str, clock: Clock, on_strangers: Callable[[Sequence[PeerPod]], None]
    ) -> None:
        self._client = client
        self._node = node
        self._clock = clock
        self._on_strangers = on_strangers
        self._writers: dict[Key, Writer] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._labels: Any = {names.NODE_LABEL: peerpod.label(node)}
        self._warned = False

    # -- what must be -----------------------------------------------------------------------------

    def want(self, wanted: PeerPod, *, look: bool = False) -> Writer:
        """Have it so. `look`: it may be there from an earlier adaptor."""
        key = wanted.namespace, wanted.name
        writer = self._writers.get(key)
        if writer is None:
            writer = self._writers[key] = Writer(wanted, look=look)
            writer.task = asyncio.create_task(self._keep(writer), name=f"peerpod-{wanted.name}")
        writer.wanted = wanted
        writer.wake.set()
        return writer

    def end(self, wanted: PeerPod) -> None:
        """Its VM is gone: let the object go."""
        if writer := self._writers.get((wanted.namespace, wanted.name)):
            writer.ending = True
            writer.wake.set()
        self._bound()

    def finish(self, stranger: PeerPod) -> None:
        """Let go of an object whose sandbox is unknown and whose VM is gone."""
        writer = self.want(stranger)
        writer.found, writer.may_exist = stranger, True
        self.end(stranger)

    def writer_of(self, wanted: PeerPod) -> Writer | None:
        return self._writers.get((wanted.namespace, wanted.name))

    def __len__(self) -> int:
        """PeerPods that are being kept."""
        return len(self._writers)

    @property
    def pending(self) -> int:
        """PeerPods that are not as they must be, as far as is known here."""
        return sum(writer.wake.is_set() or writer.ending for writer in self._writers.values())

    # -- what is ----------------------------------------------------------------------------------

    async def follow(self) -> None:
        """For ever: know this node's PeerPods, and have those that others changed put right."""
        failures = 0
        while True:
            try:
                version = await self._list()
                failures = 0
                metrics.KUBERNETES_UP.set(1)
                await self._watch(version)
            except TimeoutError:
                pass  # time for a new list
            except Outdated:
                log.debug("the watch is too old; listing anew")
            except KubernetesError as error:
                failures += 1
                metrics.KUBERNETES_UP.set(0)
                if failures == 1 or failures % 20 == 0:
                    log.warning("the API server cannot be followed; pods go on", error=str(error), failures=failures)
                await self._clock.sleep(_pause(failures, error))

    async def _list(self) -> str:
        with told("list this node's PeerPods"):
            listing = self._client.list(Resource, namespace=ALL_NS, labels=self._labels, chunk_size=500)
            found = [peerpod.from_object(each) async for each in listing]
            version = listing.resourceVersion
        there = {(each.namespace, each.name) for each in found}
        for each in found:
            self._seen(each)
        for key, writer in self._writers.items():
            if key not in there and writer.found is not None:  # deleted while nobody watched
                writer.look = True
                writer.wake.set()
        # Read again after the list: a sandbox that began meanwhile has its writer.
        self._on_strangers([each for each in found if (each.namespace, each.name) not in self._writers])
        return version

    async def _watch(self, version: str) -> None:
        changes: Any = self._client.watch(
            Resource, namespace=ALL_NS, labels=self._labels, server_timeout=_WATCH, resource_version=version
        )
        until = _RELIST * random.uniform(0.8, 1.0)  # noqa: S311 - spreads nodes, hides nothing
        async with asyncio.timeout(until), aclosing(changes) as stream:
            with told("watch this node's PeerPods"):
                async for kind, changed in stream:
                    if kind == "DELETED":
                        self._vanished(peerpod.from_object(changed))
                    elif kind in ("ADDED", "MODIFIED"):
                        self._seen(peerpod.from_object(changed))

    def _seen(self, found: PeerPod) -> None:
        writer = self._writers.get((found.namespace, found.name))
        if writer is not None and _newer(found, writer.found):
            self._take(writer, found)
            writer.wake.set()

    def _vanished(self, gone: PeerPod) -> None:
        writer = self._writers.get((gone.namespace, gone.name))
        if writer is not None and writer.found is not None and writer.found.uid == gone.uid:
            writer.found = None
            writer.refused = ()
            writer.wake.set()

    # -- the writers ------------------------------------------------------------------------------

    async def _keep(self, writer: Writer) -> None:
        """For as long as its sandbox lives, and until the object is gone."""
        failures = 0
        while True:
            await writer.wake.wait()
            writer.wake.clear()
            try:
                async with self._turns:
                    done = await self._attempt(writer)
            except Outdated:  # somebody else wrote: what we know of it is old
                writer.look = True
                writer.wake.set()
                failures += 1
                await self._clock.sleep(_PAUSE * random.random() * min(failures, 8))  # noqa: S311
                continue
            except KubernetesError as error:
                failures += 1
                self._failed(writer, error, failures)
                writer.wake.set()
                await self._clock.sleep(_pause(failures, error))
                continue
            except Exception:  # a bug must not end the writer for good, nor pass unseen
                log.exception("a PeerPod could not be written", peerpod=writer.wanted.name)
                writer.wake.set()
                await self._clock.sleep(_LONG_PAUSE)
                continue
            failures = 0
            if done:
                self._writers.pop((writer.wanted.namespace, writer.wanted.name), None)
                self._wake_those_with(writer.wanted.token)
                return

    async def _attempt(self, writer: Writer) -> bool:
        """As `_put_right`; whoever waits for the first try hears of its end, good or bad."""
        try:
            return await self._put_right(writer)
        finally:
            writer.tried.set()

    async def _put_right(self, writer: Writer) -> bool:
        """The calls that it takes now; True once the object is gone and is not wanted any more."""
        if writer.look:
            await self._get(writer)
        if writer.ending:
            return await self._end(writer)
        if writer.found is None:
            await self._create(writer)
        if self._is_right(writer):
            return False
        await self._patch(writer)
        if not self._is_right(
            writer
        ):  # another's write came in between: the answer holds it, so no watch will bring it
            writer.wake.set()
        return False

    def _is_right(self, writer: Writer) -> bool:
        """As far as this API server keeps it."""
        return writer.found is not None and self._patches(writer, writer.wanted) in ((), writer.refused)

    def _patches(self, writer: Writer, wanted: PeerPod) -> tuple[dict[str, Any], ...]:
        if writer.found is None:
            return ()
        changed = record.changes(writer.found, wanted, own=writer.may_own)
        return tuple(each for each in (changed, record.status_changes(writer.found, wanted)) if each)

    async def _get(self, writer: Writer) -> None:
        wanted = writer.wanted
        try:
            with told(f"read the PeerPod {_name(wanted)}"):
                found = await self._client.get(Resource, wanted.name, namespace=wanted.namespace)
        except Absent:
            writer.found = None
        else:
            self._take(writer, peerpod.from_object(found))
        writer.look = False

    async def _create(self, writer: Writer) -> None:
        wanted = writer.wanted
        writer.may_exist = True
        writer.refused = ()
        try:
            with _counted("create"), told(f"create the PeerPod {_name(wanted)}"):
                made = await self._client.create(Resource(peerpod.to_object(wanted)))
        except Taken:  # by a call whose answer was lost, or by an earlier adaptor
            await self._get(writer)
        else:
            self._take(writer, peerpod.from_object(made))
        writer.tried.set()

    async def _patch(self, writer: Writer) -> None:
        """Spec and owner first: they say which VM there is."""
        found, wanted = writer.found, writer.wanted
        if found is None:
            raise Outdated(f"the PeerPod {_name(wanted)} was there and is gone")
        refused: list[dict[str, Any]] = []  # judged by the answer to the write itself: others write, too
        try:
            if patch := record.changes(found, wanted, own=writer.may_own):
                found = await self._send(Resource, wanted, patch)
                self._take(writer, found)
                refused.append(record.changes(found, wanted, own=False))
            if patch := record.status_changes(found, wanted):
                found = await self._send(Resource.Status, wanted, patch)
                self._take(writer, found)
                refused.append(record.status_changes(found, wanted))
            writer.refused = tuple(each for each in refused if each)
            if writer.refused:
                self._warn_of_crd(writer)
        except Absent as error:  # deleted by somebody, finalizer and all; or there is no status to write
            writer.refused = ()
            await self._get(writer)
            if writer.found is not None:
                raise Rejected(f"{error}: its CRD has no status, install manifests/peerpods/crds") from error
            writer.wake.set()

    async def _end(self, writer: Writer) -> bool:
        wanted = writer.wanted
        if writer.may_exist:  # what is known of it may be old, and this is the last look
            await self._get(writer)
        if writer.found is None:
            return True
        if self._heir_unnamed(writer):
            return False  # its writer wakes us
        try:
            if patch := record.release(writer.found):
                await self._send(Resource, wanted, patch)
            with _counted("delete"), told(f"delete the PeerPod {_name(wanted)}"):
                await self._client.delete(Resource, wanted.name, namespace=wanted.namespace)
        except Absent:
            return True
        return True

    async def _send(self, resource: Any, wanted: PeerPod, patch: Mapping[str, Any]) -> PeerPod:
        with _counted("patch"), told(f"write the PeerPod {_name(wanted)}"):
            answer = await self._client.patch(
                resource, wanted.name, dict(patch), namespace=wanted.namespace, patch_type=PatchType.MERGE
            )
        return peerpod.from_object(answer)

    def _take(self, writer: Writer, found: PeerPod) -> None:
        if writer.look:  # the last adaptor's: what it remembered is in there
            writer.wanted = record.resumed(found, writer.wanted)
            writer.look = False
        writer.found, writer.may_exist = found, True
        writer.may_own = writer.may_own and not found.owners
        self._wake_those_with(writer.wanted.token)

    def _heir_unnamed(self, writer: Writer) -> bool:
        """Whether the VM is another sandbox's now, whose PeerPod does not say so yet."""
        token = writer.wanted.token
        return bool(token) and any(
            other.wanted.token == token and not other.ending and not record.names_vm(other.found, other.wanted)
            for other in self._writers.values()
            if other is not writer
        )

    def _wake_those_with(self, token: str) -> None:
        """Those that may go once another PeerPod names the VM."""
        for other in self._writers.values():
            if token and other.ending and other.wanted.token == token:
                other.wake.set()

    def _failed(self, writer: Writer, error: KubernetesError, failures: int) -> None:
        if failures == 1 or failures % 20 == 0:
            log.warning("a PeerPod could not be written; trying again", error=str(error), failures=failures)

    def _warn_of_crd(self, writer: Writer) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "the API server does not keep all of a PeerPod: install this version's CRD (manifests/peerpods/crds)",
                peerpod=_name(writer.wanted),
            )

    def _bound(self) -> None:
        ending = [key for key, writer in self._writers.items() if writer.ending]
        for key in ending[: max(0, len(ending) - _ENDING_LIMIT)]:
            dropped = self._writers.pop(key)
            if dropped.task is not None:
                dropped.task.cancel()

    async def aclose(self) -> None:
        """End the writers; the next adaptor goes on."""
        tasks = [writer.task for writer in self._writers.values() if writer.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _newer(found: PeerPod, known: PeerPod | None) -> bool:
    """Whether what a watch says is news: it may come after the answer to a later write. Versions are numbers in every
    API server there is; elsewhere a stale one costs a write."""
    if known is None or known.uid != found.uid:
        return True
    try:
        return int(found.resource_version) > int(known.resource_version)
    except ValueError:
        return found.resource_version != known.resource_version


def _pause(failures: int, error: KubernetesError) -> float:
    limit = _LONG_PAUSE if isinstance(error, Forbidden | Rejected) else _PAUSE_LIMIT
    pause = min(limit, _PAUSE * 2.0 ** min(failures - 1, 10))
    return max(min(error.retry_after or 0.0, _LONG_PAUSE), pause * random.uniform(0.5, 1.0))  # noqa: S311


def _name(wanted: PeerPod) -> str:
    return f"{wanted.namespace}/{wanted.name}"


@contextmanager
def _counted(verb: str) -> Iterator[None]:
    outcome = "error"
    try:
        yield
        outcome = "ok"
    except (Taken, Absent, Outdated):
        outcome = "stale"
        raise
    finally:
        metrics.KUBERNETES_WRITES.labels(kind="PeerPod", verb=verb, outcome=outcome).inc()
