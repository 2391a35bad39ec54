"""One elastic address per VM, with no path on which it stays behind.

    create    RunInstances → the instance runs → find its address, else allocate one → associate it
    delete    find its addresses → let each go → TerminateInstances

An address carries, from the call that allocates it on, the owner's tags and the id of the instance it is for. So a
lost reply or a crash leaves an address that the same create finds again, and that a delete finds whether it is
associated or not; what is left by a create that went on after its delete is free and ours, which the sweep removes.
A delete is accepted only after its addresses are gone.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from providers import tags
from providers.aws import requests
from providers.aws.asking import Ask
from providers.aws.shape import ELASTIC_ON_SECOND, Request
from providers.base import InstanceState, Ownership
from providers.errors import InvalidSpec, NotFound, Transient

INSTANCE: Final = "peerpods-instance"  # the tag
# Seconds between looks at a new instance, and for how many looks: addresses can be given to running ones only.
POLL: Final = 1.0
LOOKS: Final = 60


@dataclass(frozen=True, slots=True)
class Address:
    """One of ours."""

    id: str
    association: str = ""
    interface: str = ""


@dataclass(frozen=True, slots=True)
class _Body:
    state: InstanceState
    interfaces: Mapping[int, str]  # by device index


class Elastic:
    """The elastic addresses of one node's VMs."""

    def __init__(self, ask: Ask, owner: Ownership) -> None:
        self._ask = ask
        self._owner = owner
        self._allocating: dict[str, asyncio.Task[Sequence[Address]]] = {}  # by instance

    async def give(self, instance_id: str, name: str) -> None:
        """Have the instance hold one address; return when it does. May be repeated.

        Raises: Quota (the account has no more), Denied, Throttled, Transient, NotFound (it has ended).
        """
        doing = f"cannot give {name} ({instance_id}) an elastic address"
        target = await _target(self._ask, instance_id, doing)
        held = sorted(await self._held(instance_id, doing), key=lambda each: each.interface != target)
        for spare in held[1:]:  # of repeats that did not see each other
            await _let_go(self._ask, spare)
        chosen = held[0] if held else await self._allocate(instance_id, name, doing)
        if chosen.interface != target:
            request = {"AllocationId": chosen.id, "NetworkInterfaceId": target, "AllowReassociation": False}
            await self._ask(doing, "associate_address", request, requests.empty)

    async def take_back(self, instance_id: str) -> None:
        """Release every address that was allocated for this instance. May be repeated."""
        if (task := self._allocating.get(instance_id)) is not None:  # a cancelled create's: it goes on in its thread
            await asyncio.wait({task})
        for address in await self._held(instance_id, f"cannot release the address of {instance_id}"):
            await _let_go(self._ask, address)

    async def _allocate(self, instance_id: str, name: str, doing: str) -> Address:
        marks = {**tags.ownership(self._owner), INSTANCE: instance_id, "Name": name}
        task = asyncio.create_task(self._ask(doing, "allocate_address", _allocation(marks), _allocated))
        self._allocating[instance_id] = task
        task.add_done_callback(lambda done: self._allocated(instance_id, done))
        (made,) = await asyncio.shield(task)
        return made

    def _allocated(self, instance_id: str, done: "asyncio.Task[Sequence[Address]]") -> None:
        self._allocating.pop(instance_id, None)
        done.cancelled() or done.exception()  # else asyncio complains of one that nobody waits for

    async def _held(self, instance_id: str, doing: str) -> Sequence[Address]:
        marks = {**tags.ownership(self._owner), INSTANCE: instance_id}
        filters = [{"Name": f"tag:{key}", "Values": [requests.literal(value)]} for key, value in sorted(marks.items())]
        return await self._ask(doing, "describe_addresses", {"Filters": filters}, _addresses)


async def _let_go(ask: Ask, address: Address) -> None:
    doing = f"cannot release the address {address.id}"
    try:
        if address.association:
            await ask(doing, "disassociate_address", {"AssociationId": address.association}, requests.empty)
    except NotFound:
        pass  # its instance has ended meanwhile
    try:
        await ask(doing, "release_address", {"AllocationId": address.id}, requests.empty)
    except NotFound:
        pass
    except InvalidSpec as error:  # in use: EC2 does not know of the end of its association everywhere yet
        raise Transient(error.message, code=error.code, request_id=error.request_id) from error


async def _target(ask: Ask, instance_id: str, doing: str) -> str:
    """The interface to give it to, once the instance runs."""
    (request,) = requests.by_id([instance_id])
    for _ in range(LOOKS):
        for body in await ask(doing, "describe_instances", request, _bodies):
            if body.state is InstanceState.GONE or body.state is InstanceState.STOPPED:
                raise NotFound(f"{doing}: it has ended")
            if body.state is InstanceState.RUNNING and body.interfaces:
                return body.interfaces.get(ELASTIC_ON_SECOND) or body.interfaces[min(body.interfaces)]
        await asyncio.sleep(POLL)
    raise Transient(f"{doing}: it does not run after {LOOKS * POLL:.0f} s")


def _allocation(marks: Mapping[str, str]) -> Request:
    pairs = [{"Key": key, "Value": value} for key, value in sorted(marks.items())]
    return {"Domain": "vpc", "TagSpecifications": [{"ResourceType": "elastic-ip", "Tags": pairs}]}


def _allocated(answer: Mapping[str, Any]) -> Iterator[Address]:
    yield Address(answer["AllocationId"])


def _addresses(answer: Mapping[str, Any]) -> Iterator[Address]:
    for shape in answer["Addresses"]:
        yield Address(shape["AllocationId"], shape.get("AssociationId", ""), shape.get("NetworkInterfaceId", ""))


def _bodies(answer: Mapping[str, Any]) -> Iterator[_Body]:
    for shape in (shape for reservation in answer["Reservations"] for shape in reservation["Instances"]):
        yield _Body(
            requests.instance(shape).state,
            {each["Attachment"]["DeviceIndex"]: each["NetworkInterfaceId"] for each in shape["NetworkInterfaces"]},
        )
