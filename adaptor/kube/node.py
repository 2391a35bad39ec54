"""This node's side of the cluster (`sandbox.rooms.Cluster`): what drivers tell becomes PeerPods and events on pods.

    driver ─► changed, failed, ... ─┬─► PeerPod as it must be ─► peerpods ─► API server
                                    └─► event on the pod ──────► events ───►
    restart: the journal's states are known again; PeerPods of unknown sandboxes are strangers

The calls of drivers only change what is wanted here; the two that wait (`announce`, and what a start needs to know of
its pod) have an end after which the start goes on without.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import wraps
from typing import Final, ParamSpec, Protocol

from lightkube import AsyncClient

from adaptor.catalog import explain
from adaptor.clock import Clock
from adaptor.errors import AdaptorError
from adaptor.kube import reasons, record
from adaptor.kube.events import Recorder
from adaptor.kube.peerpod import PeerPod
from adaptor.kube.peerpods import PeerPods
from adaptor.kube.pods import UNKNOWN, PodFacts, Pods
from adaptor.kube.strangers import Strangers
from adaptor.sandbox.model import Bound, Created, Event, Phase, SandboxSpec, SandboxState, StartRequested
from adaptor.sandbox.patience import within
from adaptor.telemetry import logs
from providers.base import Offering, Provider
from providers.errors import ProviderError

P = ParamSpec("P")


class PullSecrets(Protocol):
    """Reads a pod's image pull secrets (`kube.secrets`)."""

    async def auth(
        self, namespace: str, pod_name: str, pod_uid: str = "", service_account: str = ""
    ) -> tuple[bytes, list[str]]: ...

    async def aclose(self) -> None: ...


# Seconds that a start waits for its PeerPod, and for its pod's labels: the API server answers in milliseconds or is
# away, and then the VM counts more.
ANNOUNCE: Final = 2.0
# Seconds that Bind waits for pull secrets that were asked for when the start began.
_SECRETS: Final = 3.0
# Seconds that an event waits for the pod's uid.
_UID: Final = 5.0
# Seconds that the last events get when the adaptor ends.
_FLUSH: Final = 1.0
# Seconds until what ended by a bug is begun again.
_AGAIN: Final = 60.0

log = logs.get("kube")


def _quietly(told: Callable[P, None]) -> Callable[P, None]:
    """A bug here must not reach a pod's life."""

    @wraps(told)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            told(*args, **kwargs)
        except Exception:
            log.exception("Kubernetes was not told", what=told.__name__)

    return quiet


class NodeCluster:
    """`begin` once the journal's sandboxes are known (`know`); `aclose` leaves every object as it is.

    `tag_labels`: pod labels that become tags of VMs. `deeds`: what else goes on for as long as this lives.
    """

    def __init__(
        self,
        client: AsyncClient,
        provider: Provider,
        clock: Clock,
        node: str,
        *,
        events: bool = True,
        tag_labels: Sequence[str] = (),
        pull_secrets: PullSecrets | None = None,
        deeds: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        self._client = client
        self._cloud = provider.name
        self._node = node
        self._clock = clock
        self._tag_labels = tuple(tag_labels)
        self._pull_secrets = pull_secrets
        self.peerpods = PeerPods(client, node, clock, self._meet)
        self._pods = Pods(client, node, clock)
        self.recorder = Recorder(client, node, clock) if events else None
        self._strangers = Strangers(provider, clock, self.peerpods.finish)
        self._told: dict[str, PeerPod] = {}  # of every living sandbox of a pod, as last told
        self._secrets: dict[str, asyncio.Task[tuple[bytes, list[str]]]] = {}
        self._deeds = list(deeds)
        self._tasks: list[asyncio.Task[None]] = []

    @_quietly
    def know(self, states: Mapping[str, SandboxState]) -> None:
        """What the journal has after a restart: PeerPods that are missing or old are put right."""
        for state in states.values():
            if not record.belongs(state.spec):
                continue
            told = record.after(self._begun(state.spec), state, None, self._clock.wall())
            self._read_pod(state.spec, made=state.launch.at if state.launch else 0.0)
            if state.phase is Phase.CREATED:
                self._told[state.spec.id] = told
            else:
                self._want(told, look=True)

    def begin(self) -> None:
        """Follow the API server, send events."""
        deeds = [self.peerpods.follow, self._strangers.run, *self._deeds]
        if self.recorder is not None:
            deeds.append(self.recorder.run)
        self._tasks = [asyncio.create_task(self._for_ever(deed), name="kubernetes") for deed in deeds]

    async def aclose(self) -> None:
        """Send the last events, if that is quick, and end."""
        if self.recorder is not None and self._tasks:
            with suppress(TimeoutError):
                await within(self._clock, _FLUSH, self.recorder.idle())
        tasks = [*self._tasks, *self._secrets.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pods.aclose()
        if self._pull_secrets is not None:
            await self._pull_secrets.aclose()
        await self.peerpods.aclose()
        await self._client.aclose()

    # -- sandbox.rooms.Cluster --------------------------------------------------------------------

    async def announce(self, state: SandboxState) -> None:
        if not record.belongs(state.spec):
            return
        try:
            writer = self.peerpods.writer_of(self._begun(state.spec)) or self.peerpods.want(self._of(state))
            await within(self._clock, ANNOUNCE, writer.tried.wait())
        except TimeoutError:
            log.warning("the API server is slow: the VM is launched before its PeerPod exists", pod=state.spec.pod)
        except Exception:
            log.exception("Kubernetes was not told", what="announce")

    @_quietly
    def changed(self, state: SandboxState, event: Event | None) -> None:
        if not record.belongs(state.spec):
            return
        if event is None:
            self._forget(state)
            return
        told = record.after(self._of(state), state, event, self._clock.wall())
        if isinstance(event, Created):
            self._read_pod(state.spec)
        if isinstance(event, StartRequested):
            self._read_secrets(state.spec)
            self._want(told)
        elif self.peerpods.writer_of(told) is not None:
            self._want(told)
        else:
            self._told[state.spec.id] = told
        if isinstance(event, Bound):
            self._drop_secrets(state.spec.id)
        self._tell(state.spec, reasons.of(event, state, told))

    @_quietly
    def chose(self, state: SandboxState, offering: Offering, why: Callable[[], str]) -> None:
        self._tell(state.spec, reasons.chosen(offering, why()))

    @_quietly
    def tried(self, state: SandboxState, offering: Offering, error: ProviderError) -> None:
        text = f"{self._cloud} has no room for {explain.place(offering)}: {error}. The next machine that fits is tried"
        self._tell(state.spec, reasons.note(reasons.UNAVAILABLE, text))

    @_quietly
    def failed(self, state: SandboxState, error: AdaptorError) -> None:
        if record.belongs(state.spec):
            self._want(record.failed(self._of(state), state, str(error), self._clock.wall()))
            self._tell(state.spec, reasons.failed(error))

    @_quietly
    def lost(self, state: SandboxState, reason: str) -> None:
        self._tell(state.spec, reasons.lost(self._of(state), reason))

    async def registry_auth(self, state: SandboxState) -> bytes:
        task = self._read_secrets(state.spec)
        if task is None:
            return b""
        auth, problems = b"", list[str]()
        try:
            auth, problems = await within(self._clock, _SECRETS, asyncio.shield(task))
        except TimeoutError:
            problems = ["they are not known: the API server does not answer in time"]
        except Exception as error:
            log.exception("pull secrets could not be read", pod=state.spec.pod)
            problems = [f"they are not known: {type(error).__name__}"]
        if problems:
            self._drop_secrets(state.spec.id)  # another start asks anew
            log.warning("not all image pull secrets of a pod could be read", pod=state.spec.pod, problems=problems)
            self._tell(state.spec, reasons.note(reasons.PULL_SECRETS, "; ".join(problems)))
        return auth

    async def labels(self, spec: SandboxSpec) -> Mapping[str, str]:
        if not self._tag_labels or not record.belongs(spec):
            return {}
        facts = await self._facts(self._pods.read(spec), ANNOUNCE)
        if facts is None:
            log.warning("the API server is slow: the VM has no tags of its pod's labels", pod=spec.pod)
            return {}
        return {key: facts.labels[key] for key in self._tag_labels if key in facts.labels}

    # -- helpers ----------------------------------------------------------------------------------

    def _begun(self, spec: SandboxSpec) -> PeerPod:
        return record.begun(spec, self._cloud, self._node)

    def _of(self, state: SandboxState) -> PeerPod:
        """What was told last."""
        begun = self._begun(state.spec)
        if writer := self.peerpods.writer_of(begun):
            return writer.wanted
        return self._told.get(state.spec.id, begun)

    def _want(self, told: PeerPod, *, look: bool = False) -> None:
        self._told.pop(told.sandbox, None)
        self.peerpods.want(self._owned(told), look=look)

    def _owned(self, told: PeerPod) -> PeerPod:
        facts = self._pods.known(told.sandbox)
        return replace(told, pod_uid=facts.uid) if facts.uid else told

    def _read_pod(self, spec: SandboxSpec, made: float | None = None) -> None:
        def put_in(task: "asyncio.Task[PodFacts]") -> None:
            writer = self.peerpods.writer_of(self._begun(spec))
            if writer is not None and not task.cancelled():
                self._want(writer.wanted)

        self._pods.read(spec, made).add_done_callback(put_in)

    def _read_secrets(self, spec: SandboxSpec) -> "asyncio.Task[tuple[bytes, list[str]]] | None":
        if self._pull_secrets is None or not record.belongs(spec):
            return None
        task = self._secrets.get(spec.id)
        if task is None:
            reading = self._pull_secrets.auth(spec.pod_namespace, spec.pod_name, spec.pod_uid)
            task = asyncio.create_task(reading, name="read-pull-secrets")
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._secrets[spec.id] = task
        return task

    def _drop_secrets(self, sandbox: str) -> None:
        if task := self._secrets.pop(sandbox, None):
            task.cancel()

    def _forget(self, state: SandboxState) -> None:
        self._told.pop(state.spec.id, None)
        self._drop_secrets(state.spec.id)
        self._pods.forget(state.spec.id)
        self.peerpods.end(self._begun(state.spec))

    def _meet(self, found: Sequence[PeerPod]) -> None:
        self._strangers.meet([each for each in found if each.sandbox not in self._told])

    async def _facts(self, reading: "asyncio.Task[PodFacts]", seconds: float) -> PodFacts | None:
        """What is read of a pod within so many seconds; None: nothing."""
        with suppress(TimeoutError):
            await within(self._clock, seconds, asyncio.wait({reading}))
        return reading.result() if reading.done() and not reading.cancelled() else None

    def _tell(self, spec: SandboxSpec, note: reasons.Note | None) -> None:
        if note is None or self.recorder is None or not record.belongs(spec):
            return
        reading = self._pods.read(spec)

        async def uid() -> str:
            """The one that kubelet told, if it did: people's tools find the events of static pods by that."""
            return spec.pod_uid or (await self._facts(reading, _UID) or UNKNOWN).uid

        self.recorder.tell(spec, note, uid)

    async def _for_ever(self, deed: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await deed()
            except Exception:
                log.exception("a part of Kubernetes' side ended by a bug; beginning it again")
            await self._clock.sleep(_AGAIN)
