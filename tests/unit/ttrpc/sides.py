"""The two sides of a call as the tests use them: short callers, and handlers that can be watched and held."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from adaptor.errors import StatusError
from adaptor.protos import hypervisor_pb2
from adaptor.protos.hypervisor_pb2 import CreateVMRequest, CreateVMResponse, StartVMRequest, StartVMResponse
from adaptor.ttrpc.aio import Call, Client, Handler, Limits, Server
from tests.unit.ttrpc.rawpeer import SERVICE

DESCRIPTOR = hypervisor_pb2.DESCRIPTOR.services_by_name["Hypervisor"]

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Any]]
Scripted = Callable[[Script], Awaitable[Client]]


class Serve(Protocol):
    """Serves the hypervisor service with these handlers; returns the server and its socket's path."""

    async def __call__(self, limits: Limits | None = None, **handlers: Handler) -> tuple[Server, Path]: ...


async def create(client: Client, sandbox: str = "a", timeout: float | None = None) -> str:
    answer = await client.call(SERVICE, "CreateVM", CreateVMRequest(id=sandbox), CreateVMResponse, timeout)
    return answer.agent_socket_path


async def echo(request: CreateVMRequest, call: Call) -> CreateVMResponse:
    return CreateVMResponse(agent_socket_path=f"/{request.id}")


async def started(request: StartVMRequest, call: Call) -> StartVMResponse:
    return StartVMResponse()


async def failure(awaitable: Awaitable[object]) -> StatusError:
    with pytest.raises(StatusError) as caught:
        await awaitable
    return caught.value


async def until(predicate: Callable[[], object]) -> None:
    """Return as soon as `predicate` holds; fails the test if it does not within ten seconds."""
    async with asyncio.timeout(10):
        while not predicate():  # a socket's state signals nobody
            await asyncio.sleep(0.001)


class Stall:
    """A handler that begins, then waits until it is let go; it counts what happened to it."""

    def __init__(self) -> None:
        self.begun = asyncio.Semaphore(0)
        self.cancelled = asyncio.Semaphore(0)
        self.go = asyncio.Event()
        self.running = 0
        self.peak = 0

    async def __call__(self, request: CreateVMRequest, call: Call) -> CreateVMResponse:
        self.running += 1
        self.peak = max(self.peak, self.running)
        self.begun.release()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.release()
            raise
        finally:
            self.running -= 1
        return CreateVMResponse(agent_socket_path=f"/{request.id}")
