"""PeerPods of this node whose sandbox nobody here knows: a journal was lost, or an adaptor died at the very end.

They are let go of once the cloud has no VM of theirs, and nothing is deleted on their word: a VM that lives and is
nobody's is the sweep's, which knows the grace, the sessions and the admin's wish.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final

from adaptor.clock import Clock
from adaptor.kube.peerpod import PeerPod
from adaptor.sandbox.watch import UNSEEN
from adaptor.telemetry import logs
from providers import tags
from providers.base import Instance, InstanceState, Provider
from providers.errors import ProviderError

# Seconds between looks while there are strangers.
EVERY: Final = 30.0

log = logs.get("kube.strangers")


class Standing(StrEnum):
    """What the cloud says of a stranger's VM."""

    GONE = "gone"
    LIVING = "living"
    UNSURE = "unsure"  # too early to believe that it does not exist
    FOREIGN = "another cloud's"


def judge(
    stranger: PeerPod, cloud: str, described: Mapping[str, Instance], listed: Sequence[Instance], seen_for: float
) -> Standing:
    """`described`: what the cloud says of the VMs that strangers name, by id; `listed`: every living one of this node;
    `seen_for`: seconds since this stranger was met first."""
    if stranger.cloud and stranger.cloud != cloud:
        return Standing.FOREIGN
    if any(_is_of(each, stranger) for each in listed):
        return Standing.LIVING
    known = described.get(stranger.instance_id)
    if known is not None:
        return Standing.GONE if known.state is InstanceState.GONE else Standing.LIVING
    return Standing.GONE if seen_for >= UNSEEN else Standing.UNSURE


def _is_of(instance: Instance, stranger: PeerPod) -> bool:
    token, sandbox = instance.tags.get(tags.TOKEN), instance.tags.get(tags.SANDBOX)
    return (
        instance.id == stranger.instance_id
        or bool(token and token == stranger.token)
        or bool(sandbox and sandbox == stranger.sandbox)
    )


class Strangers:
    """`finish` lets go of one whose VM is gone."""

    def __init__(self, provider: Provider, clock: Clock, finish: Callable[[PeerPod], None]) -> None:
        self._provider = provider
        self._clock = clock
        self._finish = finish
        self._met: dict[str, tuple[PeerPod, float]] = {}  # by uid, since when
        self._told: set[str] = set()

    def meet(self, strangers: Sequence[PeerPod]) -> None:
        """These there are now, and no others."""
        now = self._clock.now()
        self._met = {each.uid: (each, self._met.get(each.uid, (each, now))[1]) for each in strangers}
        self._told &= self._met.keys()

    async def run(self) -> None:
        """For ever: look what became of their VMs."""
        while True:
            if self._met:
                try:
                    await self.look()
                except ProviderError as error:
                    log.warning("the cloud cannot be asked about PeerPods of unknown sandboxes", error=str(error))
            await self._clock.sleep(EVERY)

    async def look(self) -> None:
        """Once. Raises ProviderError."""
        met = dict(self._met)
        ids = {each.instance_id for each, _ in met.values()} - {""}
        described = await self._provider.get(ids) if ids else {}
        listed = await self._provider.list()
        for uid, (stranger, since) in met.items():
            standing = judge(stranger, self._provider.name, described, listed, self._clock.now() - since)
            if standing is Standing.GONE:
                log.info("letting go of a PeerPod whose sandbox and VM are gone", **_fields(stranger))
                self._met.pop(uid, None)
                self._finish(stranger)
            elif standing is not Standing.UNSURE and uid not in self._told:
                self._told.add(uid)
                log.warning(
                    "a PeerPod is no known sandbox's, and its VM may live: the sweep removes VMs that are nobody's",
                    standing=standing,
                    **_fields(stranger),
                )


def _fields(stranger: PeerPod) -> dict[str, object]:
    return {
        "peerpod": f"{stranger.namespace}/{stranger.name}",
        "sandbox": stranger.sandbox,
        "instance": stranger.instance_id,
    }
