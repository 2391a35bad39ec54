"""A layout's pod with its network in the VM: worker's half and guest's half as they are, with what Bind carries passed
from hand to hand."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from adaptor.config_network import Network as Settings
from adaptor.names import POD_NETNS, WIREGUARD_DEVICE
from adaptor.podnet.encryption import Encryption
from adaptor.podnet.hosts import HostNetworks
from adaptor.podnet.plan import GuestPlan, Tunnel, guest_plan_from_json, to_json
from adaptor.podnet.wireguard_device import Endpoint, Userspace
from podvm_images.guest.development_agent import kernel
from podvm_images.guest.network import Network
from tests.worlds.pods.build import VM_ADDRESSES, Pods
from tests.worlds.pods.namespaces import Namespace

_PATIENCE = 5.0  # seconds
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tunnelled:
    """`inside` is the pod's namespace in the VM."""

    inside: Namespace
    tunnel: Tunnel
    plan: GuestPlan


@contextlib.contextmanager
def tunnelled(pods: Pods, settings: Settings, *, six: bool = False) -> Iterator[Tunnelled]:
    """`six`: worker and VM know each other by IPv6. Encrypted is with wireguard-go."""
    encrypted = settings.encryption == "required"
    with _Machine(pods.host) as worker, _Machine(pods.vm) as vm:
        wireguard = worker.do(lambda: Encryption.open("userspace", settings.wireguard_port)) if encrypted else None
        networks = worker.do(lambda: HostNetworks(settings, wireguard))
        guest = Network()
        try:
            tunnel = worker.run(networks.intend(pods.pod.path))
            tunnel = worker.run(networks.reached(tunnel, VM_ADDRESSES[six].partition("/")[0]))
            worker.run(networks.open(tunnel))
            bind = worker.run(networks.plan(tunnel, None, imds=False))
            vm.run(guest.make())
            answer = vm.run(guest.lay(guest.understand(bind)))
            tunnel = networks.answered(tunnel, to_json(answer))
            worker.run(networks.connect(tunnel, _PATIENCE))
            inside = Namespace(vm.do(lambda: os.open(POD_NETNS, os.O_RDONLY | os.O_CLOEXEC)))
            with contextlib.closing(inside):
                yield Tunnelled(inside, tunnel, guest_plan_from_json(bind))
            worker.run(networks.remove(tunnel))
        finally:
            worker.run(networks.aclose())
            if encrypted:
                for machine in (worker, vm):
                    machine.do(lambda: Endpoint(Userspace(WIREGUARD_DEVICE)).delete())


class _Machine:
    """A thread in a network namespace, with mounts of its own and an event loop; threads that it starts are there too."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._thread = ThreadPoolExecutor(max_workers=1)

    def __enter__(self) -> Self:
        self._runner = self.do(self._settle)
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self._runner.close)
        self._thread.shutdown()

    def do(self, deed: Callable[[], T]) -> T:
        return self._thread.submit(deed).result()

    def run(self, deed: Coroutine[Any, Any, T]) -> T:
        return self.do(lambda: self._runner.run(deed))

    def _settle(self) -> asyncio.Runner:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_SLAVE)
        kernel.mount("none", "/run", "tmpfs", 0)
        os.mkdir("/run/wireguard")
        self._namespace.settle()
        return asyncio.Runner()
