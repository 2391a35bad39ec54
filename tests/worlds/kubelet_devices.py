"""The device manager of a kubelet, played on real sockets: what it checks, clears away and forgets.

Facts: at its start kubelet removes every socket of the directory and listens anew; Register is answered when it has
dialled the plugin; when a plugin's list ends, its devices count as unhealthy and the capacity stays.
"""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from adaptor.protos import deviceplugin_pb2 as pb


class DeviceManager:
    """`devices`: id to health, as the plugin listed them last; None: no plugin has ever registered."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.devices: dict[str, str] | None = None
        self.registrations: list[pb.RegisterRequest] = []
        self.lists: list[dict[str, str]] = []
        self.refusing: grpc.StatusCode | None = None
        self.refused = 0
        self._server: grpc.aio.Server | None = None
        self._channel: grpc.aio.Channel | None = None
        self._listening: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()

    async def start(self) -> None:
        for each in self.directory.iterdir():
            each.unlink()
        self.devices = None if self.devices is None else {}  # of the checkpoint: known, and none there
        self._server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(
            self._register, pb.RegisterRequest.FromString, lambda message: message.SerializeToString()
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("v1beta1.Registration", {"Register": handler}),)
        )
        self._server.add_insecure_port(f"unix:{self.directory / 'kubelet.sock'}")
        await self._server.start()

    async def stop(self) -> None:
        await self.hang_up()
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def hang_up(self) -> None:
        """Let go of the plugin without a word."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()

    @property
    def healthy(self) -> int:
        """What becomes allocatable."""
        return sum(health == "Healthy" for health in (self.devices or {}).values())

    async def until(self, healthy: int, timeout: float = 10.0) -> None:
        """Until so many devices are healthy."""
        await self._until(lambda: bool(self.devices) and self.healthy == healthy, timeout)

    async def registered(self, times: int, timeout: float = 20.0) -> None:
        await self._until(lambda: len(self.registrations) >= times, timeout)

    async def allocate(self, *devices: str) -> pb.AllocateResponse:
        request = pb.AllocateRequest(container_requests=[pb.ContainerAllocateRequest(devices_ids=devices)])
        answer: pb.AllocateResponse = await self.call("Allocate", request, pb.AllocateResponse)
        return answer

    async def prefer(self, available: Sequence[str], size: int, needed: Sequence[str] = ()) -> list[str]:
        asked = pb.ContainerPreferredAllocationRequest(
            available_deviceIDs=available, must_include_deviceIDs=needed, allocation_size=size
        )
        request = pb.PreferredAllocationRequest(container_requests=[asked])
        answer = await self.call("GetPreferredAllocation", request, pb.PreferredAllocationResponse)
        return list(answer.container_responses[0].deviceIDs)

    async def call(self, method: str, request: Any, response: Any) -> Any:
        """One call of the plugin."""
        assert self._channel is not None
        call = self._channel.unary_unary(
            f"/v1beta1.DevicePlugin/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        return await call(request, timeout=5)

    async def _register(self, request: pb.RegisterRequest, context: Any) -> pb.Empty:
        if self.refusing is not None:
            self.refused += 1
            await context.abort(self.refusing, "refused by the test")
        if request.version != "v1beta1":
            await context.abort(grpc.StatusCode.UNKNOWN, f"requested API version {request.version!r} is not supported")
        if not re.fullmatch(r"[a-z0-9.-]+\.[a-z]+/[a-z0-9-]+", request.resource_name):
            await context.abort(grpc.StatusCode.UNKNOWN, f"the ResourceName {request.resource_name!r} is invalid")
        await self.hang_up()
        self._channel = grpc.aio.insecure_channel(f"unix:{self.directory / request.endpoint}")
        async with asyncio.timeout(5):
            await self._channel.channel_ready()
        await self.call("GetDevicePluginOptions", pb.Empty(), pb.DevicePluginOptions)
        self.registrations.append(request)
        self._listening = asyncio.create_task(self._listen(self._channel))
        await self._tell()
        return pb.Empty()

    async def _listen(self, channel: grpc.aio.Channel) -> None:
        listing = channel.unary_stream(
            "/v1beta1.DevicePlugin/ListAndWatch",
            request_serializer=pb.Empty.SerializeToString,
            response_deserializer=pb.ListAndWatchResponse.FromString,
        )
        try:
            async for answer in listing(pb.Empty()):
                self.devices = {each.ID: each.health for each in answer.devices}
                self.lists.append(self.devices)
                await self._tell()
        except grpc.aio.AioRpcError:
            pass
        self.devices = dict.fromkeys(self.devices or {}, "Unhealthy")
        await self._tell()

    async def _until(self, true: Any, timeout: float) -> None:
        async with asyncio.timeout(timeout), self._news:
            await self._news.wait_for(true)

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()
