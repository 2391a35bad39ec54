"""A layout's pod with its network in the VM: worker's half and guest's half as they are, with what Bind carries passed
from hand to hand."""

import asyncio
import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adaptor.config_network import Network as Settings
from adaptor.podnet.hosts import HostNetworks
from adaptor.podnet.plan import GuestPlan, Tunnel, guest_plan_from_json, to_json
from podvm_images.guest.network import Network
from tests.worlds.pods.build import VM_ADDRESSES, Pods
from tests.worlds.pods.namespaces import Namespace

_MNT_DETACH = 2
_PATIENCE = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Tunnelled:
    """`inside` is the pod's namespace in the VM."""

    inside: Namespace
    tunnel: Tunnel
    plan: GuestPlan


@contextlib.contextmanager
def tunnelled(pods: Pods, podns: Path, settings: Settings, *, six: bool = False) -> Iterator[Tunnelled]:
    """`podns` is a path that does not exist yet; `six`: worker and VM know each other by IPv6."""
    with contextlib.ExitStack() as stack:
        host, vm = stack.enter_context(asyncio.Runner()), stack.enter_context(asyncio.Runner())
        with pods.host.entered():
            networks = HostNetworks(settings)
            stack.callback(lambda: host.run(networks.aclose()))
            tunnel = host.run(networks.intend(pods.pod.path))
            tunnel = host.run(networks.reached(tunnel, VM_ADDRESSES[six].partition("/")[0]))
            host.run(networks.open(tunnel))
            bind = host.run(networks.plan(tunnel, None, imds=False))
        with pods.vm.entered():
            guest = Network(str(podns))
            vm.run(guest.make())
            stack.callback(_unmount, podns)
            answer = vm.run(guest.lay(guest.understand(bind)))
        with pods.host.entered():
            tunnel = networks.answered(tunnel, to_json(answer))
            host.run(networks.connect(tunnel, _PATIENCE))
        inside = Namespace.at(str(podns))
        stack.callback(inside.close)
        yield Tunnelled(inside, tunnel, guest_plan_from_json(bind))
        with pods.host.entered():
            host.run(networks.remove(tunnel))


def _unmount(path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(str(path).encode(), _MNT_DETACH) != 0:
        raise OSError(ctypes.get_errno(), f"{path} cannot be unmounted")
