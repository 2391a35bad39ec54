"""Pod VMs as devices of kubelet: the alternative to the node's status, for pods that ask on a container.

    Register on kubelet.sock ─► kubelet dials our socket beside it ─► ListAndWatch: so many devices, again at each change
                                                                  ─► Allocate: a container gets some; nothing is mounted

A kubelet that restarts clears the directory, makes kubelet.sock anew and has forgotten us: whenever that file is another
one, our own is gone, or kubelet no longer listens to the list, we begin again. A new kubelet.sock can have the inode of
the one before it; its ctime tells them apart.

gRPC is imported here only: a node that advertises in its status does without its 20 MiB.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from lightkube import AsyncClient

from adaptor import names
from adaptor.clock import Clock
from adaptor.kube.capacity import Capacity, Demand
from adaptor.protos import deviceplugin_pb2 as pb
from adaptor.telemetry import logs

VERSION: Final = "v1beta1"
KUBELET: Final = "kubelet.sock"
OURS: Final = "peerpods.sock"
HEALTHY: Final = "Healthy"
UNHEALTHY: Final = "Unhealthy"
_SERVICE: Final = f"{VERSION}.DevicePlugin"
_REGISTER: Final = f"/{VERSION}.Registration/Register"

# Between looks at kubelet's socket: three stats. Seconds.
_LOOK: Final = 0.5
# Kubelet dials back and lists before it answers Register; it takes milliseconds. Seconds.
_REGISTRATION: Final = 5.0
# How long a registered plugin goes without anybody listening to its list. Seconds.
_UNHEARD: Final = 10.0
# After kubelet, or the directory, refused. Seconds.
_RETRY: Final = 1.0
# Between looks at whether everything is up here. Seconds.
_HEALTH: Final = 2.0
_PREFIX: Final = "vm-"

log = logs.get("device-plugin")


async def advertise(client: AsyncClient, demand: Demand, ready: Callable[[], bool], clock: Clock) -> None:
    """For ever: offer the node's pod VMs as devices."""
    if demand.limit < 0:
        return await Capacity(client, demand, clock).run()  # which says so
    plugin = DevicePlugin(demand.limit, ready, clock)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(plugin.run(), name="device-plugin")
        tasks.create_task(Capacity(client, demand, clock, plugin.offer).run(), name="capacity")
    return None


class DevicePlugin:
    """`count`: how many devices there are, until the first `offer`; `ready`: whether a new pod would find everything up
    here. Devices that are not ready take no new pods, and disturb none that run."""

    def __init__(
        self,
        count: int,
        ready: Callable[[], bool],
        clock: Clock,
        directory: str = names.DEVICE_PLUGINS_DIR,
        resource: str = "",
    ) -> None:
        self._ready = ready
        self._clock = clock
        self._kubelet = Path(directory) / KUBELET
        self._path = Path(directory) / OURS
        self._resource = resource or names.VM_RESOURCE
        self._count = count
        self._health = HEALTHY
        self._changed = asyncio.Event()  # replaced at each change
        self._listeners = 0

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_after_health(), name="health-of-devices")
            tasks.create_task(self._keep_registered(), name="register-devices")

    def offer(self, count: int) -> None:
        """Have so many devices from now on."""
        self._change(count, self._health)

    async def _look_after_health(self) -> None:
        while True:
            self._change(self._count, HEALTHY if self._ready() else UNHEALTHY)
            await self._clock.sleep(_HEALTH)

    def _change(self, count: int, health: str) -> None:
        if (count, health) != (self._count, self._health):
            log.info("devices changed", resource=self._resource, count=count, was=self._count, health=health)
            self._count, self._health = count, health
            self._changed.set()
            self._changed = asyncio.Event()

    async def _keep_registered(self) -> None:
        failing = False
        while True:
            kubelet = await self._found()
            server = grpc.aio.server()
            try:
                await self._serve(server)
                await self._register()
                log.info("registered with kubelet", resource=self._resource, count=self._count)
                failing = False
                await self._until_forgotten(kubelet)
            except (grpc.aio.AioRpcError, OSError, RuntimeError) as error:
                if not failing:
                    log.error("no device plugin for kubelet; trying again", path=str(self._path), error=_said(error))
                failing = True
                await self._clock.sleep(_RETRY)
            finally:
                await server.stop(None)  # before the next one: it removes the socket's file, by name

    async def _found(self) -> tuple[int, ...]:
        """Kubelet's socket, once it is there; a restart takes a second."""
        began = self._clock.now()
        told = False
        while (kubelet := identity(self._kubelet)) is None:
            if not told and self._clock.now() - began > _UNHEARD:
                log.warning("no kubelet to register with; waiting for its socket", path=str(self._kubelet))
                told = True
            await self._clock.sleep(_LOOK)
        return kubelet

    async def _until_forgotten(self, kubelet: tuple[int, ...]) -> None:
        """Until kubelet has to be told again."""
        heard = self._clock.now()
        while True:
            await self._clock.sleep(_LOOK)
            if self._listeners:
                heard = self._clock.now()
            if identity(self._kubelet) != kubelet:
                log.info("kubelet has restarted; registering again")
                return
            if identity(self._path) is None:
                log.info("our socket was removed; registering again")
                return
            if self._clock.now() - heard > _UNHEARD:
                log.warning("kubelet does not listen to the list of devices; registering again")
                return

    async def _serve(self, server: grpc.aio.Server) -> None:
        """Listen on a fresh socket beside kubelet's. Raises: OSError, RuntimeError."""
        self._path.unlink(missing_ok=True)
        server.add_generic_rpc_handlers((self._handlers(),))
        server.add_insecure_port(f"unix:{self._path}")
        await server.start()

    async def _register(self) -> None:
        request = pb.RegisterRequest(version=VERSION, endpoint=OURS, resource_name=self._resource, options=_OPTIONS)
        async with grpc.aio.insecure_channel(f"unix:{self._kubelet}") as channel:
            register = channel.unary_unary(
                _REGISTER,
                request_serializer=pb.RegisterRequest.SerializeToString,
                response_deserializer=pb.Empty.FromString,
            )
            await register(request, timeout=_REGISTRATION)

    def _handlers(self) -> grpc.GenericRpcHandler:
        methods: dict[str, tuple[Any, Any, bool]] = {
            "GetDevicePluginOptions": (self._options, pb.Empty, False),
            "ListAndWatch": (self._list_and_watch, pb.Empty, True),
            "GetPreferredAllocation": (self._preferred, pb.PreferredAllocationRequest, False),
            "Allocate": (self._allocate, pb.AllocateRequest, False),
            "PreStartContainer": (self._pre_start, pb.PreStartContainerRequest, False),
        }
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                name: (grpc.unary_stream_rpc_method_handler if stream else grpc.unary_unary_rpc_method_handler)(
                    method, request.FromString, lambda message: message.SerializeToString()
                )
                for name, (method, request, stream) in methods.items()
            },
        )

    async def _options(self, request: pb.Empty, context: Any) -> pb.DevicePluginOptions:
        return _OPTIONS

    async def _list_and_watch(self, request: pb.Empty, context: Any) -> AsyncIterator[pb.ListAndWatchResponse]:
        self._listeners += 1
        try:
            while True:
                changed = self._changed
                devices = [pb.Device(ID=each, health=self._health) for each in _ids(self._count)]
                yield pb.ListAndWatchResponse(devices=devices)
                await changed.wait()
        finally:
            self._listeners -= 1

    async def _preferred(self, request: pb.PreferredAllocationRequest, context: Any) -> pb.PreferredAllocationResponse:
        """The lowest numbers: those that stay longest when there are to be fewer."""
        return pb.PreferredAllocationResponse(
            container_responses=[
                pb.ContainerPreferredAllocationResponse(
                    deviceIDs=preferred(each.available_deviceIDs, each.must_include_deviceIDs, each.allocation_size)
                )
                for each in request.container_requests
            ]
        )

    async def _allocate(self, request: pb.AllocateRequest, context: Any) -> pb.AllocateResponse:
        """Nothing to prepare. A device that has just been taken off the list is given all the same: refused, its pod
        would have failed for good, and the figure follows what is in use."""
        for each in request.container_requests:
            if unknown := [name for name in each.devices_ids if not name.startswith(_PREFIX)]:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no devices of ours: {', '.join(unknown)}")
        return pb.AllocateResponse(
            container_responses=[pb.ContainerAllocateResponse() for _ in request.container_requests]
        )

    async def _pre_start(self, request: pb.PreStartContainerRequest, context: Any) -> pb.PreStartContainerResponse:
        return pb.PreStartContainerResponse()


def preferred(available: Sequence[str], needed: Sequence[str], size: int) -> list[str]:
    """`size` of the available devices, the needed ones first, then those with the lowest numbers."""
    rest = sorted(set(available) - set(needed), key=lambda each: (len(each), each))
    return [*needed, *rest][:size]


_OPTIONS: Final = pb.DevicePluginOptions(get_preferred_allocation_available=True)


def _ids(count: int) -> list[str]:
    return [f"{_PREFIX}{number}" for number in range(count)]


def identity(path: Path) -> tuple[int, ...] | None:
    """Which file this is; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _said(error: Exception) -> str:
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else str(error)
