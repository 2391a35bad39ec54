"""What the contract suite needs of a cloud besides its provider: strings to pull behind the provider's back.

To put a new provider under the contract, write a World for it and name it in conftest.CLOUDS.
"""

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

import pytest

from providers.base import InstanceState, LaunchSpec, Offering, Ownership, Provider, Purchase, ResourceKind
from providers.errors import ProviderError


class Verb(StrEnum):
    """The verbs whose calls a world can count and spoil."""

    CREATE = "create"
    GET = "get"
    LIST = "list"
    DELETE = "delete"
    OFFERINGS = "offerings"
    RESOURCES = "resources"  # these two of clouds that support the sweep
    REMOVE = "remove"
    DISKS = "disks"  # these two of clouds that support volumes
    ATTACH = "attach"
    QUOTA = "quota"  # of clouds that tell their limits
    CONSOLE = "console"  # of clouds that keep consoles


class World(Protocol):
    """One cloud, used up by one test. Every fault applies to the next call of its verb, and once."""

    owner: Ownership
    provider: Provider  # the one under test, with `owner`
    unknown_id: str  # of the right form, and no machine's
    user_data_limit: int  # bytes
    truths: tuple[Offering, ...]  # what must be offered, known from elsewhere than the provider; zones left open
    confidential: tuple[str, str]  # an allowed type that gives a TEE, and one that does not
    zones: tuple[str, str]  # two that launches may go to, the default's first
    disk_gib: int  # the size of what `disk` makes

    def spec(self, **changes: Any) -> LaunchSpec:
        """A launch this cloud accepts, with some fields changed."""
        ...

    def connect(self, owner: Ownership) -> Provider:
        """Somebody else's provider for the same account."""
        ...

    def unreachable(self) -> Provider:
        """A provider whose cloud refuses connections."""
        ...

    def refuse(self, verb: Verb, kind: type[ProviderError]) -> None:
        """Nothing is done; the cloud answers with one of its own errors that means `kind`."""
        ...

    def refuse_strangely(self, verb: Verb) -> None:
        """Nothing is done; the cloud answers with an error that nobody has heard of."""
        ...

    def lose_reply(self, verb: Verb) -> None:
        """The deed is done, and the connection breaks before a byte of the answer."""
        ...

    def hold_reply(self, verb: Verb) -> None:
        """The deed is done, and the answer takes long enough for a test to give up waiting for it."""
        ...

    def calls(self, verb: Verb) -> int:
        """How many calls of this verb have reached the cloud, refused ones included."""
        ...

    async def user_data(self, instance_id: str) -> bytes:
        """What this machine reads as its user data."""
        ...

    async def plant(self, kind: ResourceKind, tags: Mapping[str, str]) -> str:
        """Something of this kind that the provider has not made, free, with these tags; its id."""
        ...

    async def attach(self, resource_id: str, kind: ResourceKind, instance_id: str) -> None:
        """Have a running instance hold a free network interface, address or disk."""
        ...

    async def disk(self, zone: str) -> str:
        """A free disk of `disk_gib` in this zone that carries no tags of ours; its id as `Volume.id` names it."""
        ...

    async def root_gib(self, instance_id: str) -> int:
        """The size of this machine's root volume."""
        ...

    async def prints(self, instance_id: str, data: bytes) -> None:
        """This machine prints on its serial console."""
        ...

    async def purchase(self, instance_id: str) -> Purchase:
        """How the cloud says this machine is paid for."""
        ...

    def forbid(self, verb: Verb) -> None:
        """From now on the account's permissions lack what `verb` needs: tried for real, tried dry, or asked for."""
        ...

    def spot(self) -> Provider:
        """The same node's provider with spot capacity allowed by its settings."""
        ...

    async def exists(self, kind: ResourceKind, resource_id: str) -> bool:
        """Whether the cloud still has it, an instance alive."""
        ...


def kinds(world: World) -> tuple[ResourceKind, ...]:
    """The resources that this cloud has by themselves: all kinds, unless the world has fewer `kinds`."""
    found: tuple[ResourceKind, ...] = getattr(world, "kinds", tuple(ResourceKind))
    return found


def needs(world: World, trait: str) -> None:
    """Skip where a cloud has none of these; the world says so with `lacks`."""
    if trait in getattr(world, "lacks", ()):
        pytest.skip(f"the {world.provider.name} provider has no {trait}")


async def arrival(world: World, verb: Verb) -> None:
    """Return once a call of `verb` has reached the cloud."""
    for _ in range(1000):
        if world.calls(verb):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"no {verb} call arrived within ten seconds")


async def until_running(provider: Provider, instance_id: str) -> None:
    """Return once the machine runs."""
    for _ in range(1000):
        seen = (await provider.get([instance_id])).get(instance_id)
        if seen is not None and seen.state is InstanceState.RUNNING:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{instance_id} does not run within ten seconds")
