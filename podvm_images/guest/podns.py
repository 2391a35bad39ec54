"""The pod's namespace in this VM, and in it one VXLAN device per interface, which Bind's plan describes.

    VM's own namespace                                 /run/netns/podns
      UDP socket of each device ─ path ─► worker         eth0, ...: the pod's names, MACs, addresses, routes, neighbours
      nftables: only the worker is listened to           lo

All of it is netlink, which blocks, and each of these wants a thread that ends afterwards, for it may stay in the pod's
namespace. Nothing is undone here: a VM whose network cannot be laid is spent.
"""

import contextlib
import ctypes
import fcntl
import os
from collections.abc import Iterator, Sequence
from typing import Any, Final

from adaptor import names
from adaptor.errors import AdaptorError, Code, StatusError
from adaptor.podnet import vxlan, wireguard
from adaptor.podnet.nftables import Table
from adaptor.podnet.operations import Admit
from adaptor.podnet.plan import GuestPlan, Interface, Neighbour, Route
from adaptor.telemetry import logs
from podvm_images.guest import egress_layout, layout, readback
from podvm_images.guest.layout import Address, Path, Up, Vxlan
from podvm_images.guest.rtnetlink import Rtnetlink

# linux/sched.h, linux/mount.h, linux/nsfs.h, linux/if.h
_CLONE_NEWNET: Final = 0x40000000
_MS_BIND: Final = 1 << 12
_NS_GET_NSTYPE: Final = 0xB703
# What no packet may change: the plan says it all. By IPv6's sysctls of an interface.
_STILL: Final = {"disable_ipv6": "0", "accept_ra": "0", "addr_gen_mode": "1"}

log = logs.get(__name__)


# -- the namespace ----------------------------------------------------------------------------------


def make(netns: str) -> None:
    """Have the namespace. Raises StatusError."""
    with _telling(f"make the pod's network namespace {netns}"):
        if _is_namespace(netns):
            return  # a unit of the image has made it
        os.makedirs(os.path.dirname(netns), mode=0o755, exist_ok=True)
        os.close(os.open(netns, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
        _system_call("unshare", _CLONE_NEWNET)
        _system_call("mount", b"/proc/thread-self/ns/net", os.fsencode(netns), None, ctypes.c_ulong(_MS_BIND), None)


def _is_namespace(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _system_call(name: str, *arguments: Any) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


# -- the network ------------------------------------------------------------------------------------


def lay(netns: str, plan: GuestPlan) -> Sequence[Interface]:
    """Make the namespace what `plan` says; the interfaces as they are then. Raises StatusError naming the part that
    cannot be."""
    with contextlib.ExitStack() as opened:
        vm = opened.enter_context(_rtnetlink())
        path = _path(vm, plan)
        interfaces = layout.fit(plan, path)
        _let_in_the_worker(plan)
        descriptor = opened.enter_context(_entered(netns))
        pod = opened.enter_context(_rtnetlink())
        with _telling(f"look into the pod's network namespace {netns}"):
            _refuse_strangers(netns, pod)
        for vni, interface in zip(plan.vnis, interfaces, strict=True):
            with _telling(f"make the VXLAN device {interface.name} (number {vni})"):
                device = Vxlan(vni, plan.worker, path.source, plan.port)
                # By the socket of the VM's namespace: so the device's own packets go by the VM's network. Kernels before
                # 6.15 look for its name there too, where the VM's own card may have it.
                passing = f"podvm{vni}"
                vm.add_vxlan(passing, interface.hardware_address, interface.mtu, device, descriptor)
                pod.rename(passing, interface.name)
            _keep_still(interface)
        with _telling("bring loopback up"):
            indices = {link.name: link.index for link in pod.links()}
            pod.bring_up(indices["lo"])
        for operation in layout.operations(interfaces):
            with _telling(operation.says):
                _do(pod, operation.value, indices[operation.interface])
        with _telling("read back what was laid"):
            _verify(layout.wanted(plan, interfaces, path), readback.found(pod))
    return interfaces


def _rtnetlink() -> "contextlib.closing[Rtnetlink]":
    """A socket for the namespace that this thread is in."""
    with _telling("open a netlink socket"):
        return contextlib.closing(Rtnetlink())


@contextlib.contextmanager
def _entered(netns: str) -> Iterator[int]:
    """This thread is in the namespace, for good; gives its descriptor."""
    with contextlib.ExitStack() as opened:
        with _telling(f"enter the pod's network namespace {netns}"):
            descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, descriptor)
            with open("/proc/thread-self/ns/net", "rb") as ours:
                if os.path.sameopenfile(descriptor, ours.fileno()):
                    raise _refusal(f"{netns} is the VM's own network namespace")
            _system_call("setns", descriptor, _CLONE_NEWNET)
        yield descriptor


def leave(netns: str, plan: GuestPlan, port: int) -> None:
    """Give the pod the ways out of this VM that `plan` asks for, if any; `port`: the guests'. Raises StatusError."""
    if not egress_layout.wanted(plan):
        return
    from podvm_images.guest import egress  # with it pyroute2, which few pods need

    try:
        ways = egress.apply(plan, port, netns)
    except AdaptorError as error:
        raise _refusal(str(error)) from error
    log.info("the pod has a way out of its VM", ways=[egress_layout.told(way) for way in ways])


def _let_in_the_worker(plan: GuestPlan) -> None:
    """And nobody else: a VXLAN takes packets from anybody. With the table that the worker has for its own end."""
    with (
        _telling("make the nftables rules that keep strangers out of the pod's tunnel"),
        contextlib.closing(Table()) as table,
    ):
        table.admit(Admit(plan.port, plan.vnis, plan.worker, sealed=plan.wireguard is not None))


def _path(vm: Rtnetlink, plan: GuestPlan) -> Path:
    """The kernel's route to the worker, with what it has learnt of that path's MTU."""
    worker = plan.worker
    with _telling(f"find a route to the worker {worker}"):
        way, links = vm.way_to(worker), {link.index: link for link in vm.links()}
    if not way.unicast or way.index not in links:
        raise _refusal(f"the worker's address {worker} is one of this VM's own, or leads nowhere")
    link = links[way.index]
    if plan.wireguard is not None:
        if link.name != names.WIREGUARD_DEVICE:
            raise _refusal(f"what is for the worker's {worker} would leave by {link.name}, unencrypted")
        return Path(link.name, way.source, _mtu_inside(vm))
    return Path(link.name, way.source, min(link.mtu, way.mtu or link.mtu))


def _mtu_inside(vm: Rtnetlink) -> int:
    """What WireGuard leaves of the smallest of the VM's own devices: which one leads to the worker is not known until
    that calls."""
    with _telling("look at the VM's own devices"):
        links = readback.outward(vm.links())
        own = {index: link.mtu for index, link in links.items() if link.name != names.WIREGUARD_DEVICE}
        family = 4 if any(index in own and ":" not in address.own for index, address in vm.addresses()) else 6
    return min((vxlan.wireguard_mtu(mtu, family) for mtu in own.values()), default=wireguard.DEVICE_MTU)


def _refuse_strangers(netns: str, pod: Rtnetlink) -> None:
    if strangers := [link.name for link in readback.outward(pod.links()).values()]:
        raise _refusal(
            f"the pod's network namespace {netns} has {', '.join(strangers)} already: it must be empty. Does a unit of "
            "the image put something there?"
        )


def _keep_still(interface: Interface) -> None:
    """Let nobody on the network, nor the kernel by itself, give the interface addresses or routes."""
    folder = f"/proc/sys/net/ipv6/conf/{interface.name}"
    if not os.path.isdir(folder):
        if any(":" in address for address in interface.addresses):
            raise _refusal(f"{interface.name} has an IPv6 address, and the VM's kernel has no IPv6")
        return
    for name, value in _STILL.items():
        with (
            _telling(f"set {name} of {interface.name}"),
            open(f"{folder}/{name}", "w", encoding="ascii") as file,
        ):
            file.write(value)


def _do(pod: Rtnetlink, value: Up | Address | Neighbour | Route, index: int) -> None:
    match value:
        case Up():
            pod.bring_up(index)
        case Address():
            pod.add_address(index, value)
        case Neighbour():
            pod.add_neighbour(index, value)
        case Route():
            pod.add_route(index, value)


def _verify(wanted: dict[str, Any], found: dict[str, Any]) -> None:
    if wrong := layout.differences(wanted, found):
        raise _refusal(f"the VM's kernel made something else of the pod's network: {'; '.join(wrong)}")


# -- what fails -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _telling(deed: str) -> Iterator[None]:
    """Make of what the kernel refuses a StatusError that says what was being done."""
    try:
        yield
    except OSError as error:
        raise _refusal(f"it cannot {deed}: {error.strerror or error}") from error


def _refusal(why: str) -> StatusError:
    return StatusError(Code.INTERNAL, f"the pod VM cannot lay the pod's network: {why}")
