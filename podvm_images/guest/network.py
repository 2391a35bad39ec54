"""The pod's network in this VM: its namespace, and in it one VXLAN device per interface, which Bind's plan describes.

    VM's own namespace                                 /run/netns/podns
      UDP socket of each device ─ path ─► worker         eth0, ...: the pod's names, MACs, addresses, routes, neighbours
      nftables: only the worker is listened to           lo

All of it is netlink, which blocks: a thread does it and ends afterwards, for it stays in the pod's namespace. Nothing is
undone here: a VM whose network cannot be laid is spent.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from adaptor import names
from adaptor.errors import AdaptorError, Code, InvalidRequest, StatusError
from adaptor.podnet import vxlan, wireguard
from adaptor.podnet.plan import GuestAnswer, GuestPlan, Interface, PlanFault, guest_plan_from_json
from adaptor.telemetry import logs
from podvm_images.guest import egress_layout, layout, readback
from podvm_images.guest.encrypted import Encrypted
from podvm_images.guest.layout import Operation, Path

# linux/sched.h, linux/mount.h, linux/nsfs.h, linux/if.h
_CLONE_NEWNET: Final = 0x40000000
_MS_BIND: Final = 1 << 12
_NS_GET_NSTYPE: Final = 0xB703
_RTN_UNICAST: Final = 1
# What no packet may change: the plan says it all. By IPv6's sysctls of an interface.
_STILL: Final = {"disable_ipv6": "0", "accept_ra": "0", "addr_gen_mode": "1"}
_INDEX: Final = {"addr": "index", "route": "oif", "neigh": "ifindex", "link": "index"}

log = logs.get(__name__)
T = TypeVar("T")


class Network:
    """The pod's network of this VM. `netns` is where the pod's namespace is, or is made; `port`: the guests'."""

    def __init__(self, netns: str = names.POD_NETNS, port: int = names.GUEST_PORT) -> None:
        self._netns = netns
        self._port = port
        self._encrypted = Encrypted()

    def can_encrypt(self) -> bool:
        """Whether a plan may ask for WireGuard."""
        return not self._encrypted.wants()

    def understand(self, plan: bytes) -> GuestPlan:
        """The plan that Bind brought. Raises InvalidRequest or StatusError for one that this image cannot lay."""
        try:
            understood = guest_plan_from_json(plan)
            layout.check(understood)
            self._encrypted.check(understood)
        except PlanFault as fault:
            raise InvalidRequest(f"the pod's network plan cannot be used: {fault}") from None
        return understood

    async def make(self) -> None:
        """Have the pod's namespace: before the agent starts, which may see no mounts that come later."""
        await _in_thread(lambda: _make(self._netns))

    async def lay(self, plan: GuestPlan) -> GuestAnswer:
        """Make the namespace what `plan` says. Raises StatusError naming the part that cannot be."""
        ours = await self._encrypted.lay(plan)
        interfaces = await _in_thread(lambda: _lay(self._netns, plan))
        if egress_layout.wanted(plan):
            await _in_thread(lambda: _leave(self._netns, plan, self._port))
        log.info(
            "the pod's network is laid",
            worker=plan.worker,
            encrypted=ours is not None,
            interfaces=[f"{each.name} {', '.join(each.addresses)} MTU {each.mtu}" for each in interfaces],
        )
        return GuestAnswer(ours)


async def _in_thread(deed: Callable[[], T]) -> T:
    """Do it in a thread of its own, which may enter namespaces, for it ends with the deed."""
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="podns")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, deed)
    finally:
        thread.shutdown(wait=False)


# -- the namespace ----------------------------------------------------------------------------------


def _make(netns: str) -> None:
    """In a thread that is spent afterwards: it is in the new namespace."""
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


def _lay(netns: str, plan: GuestPlan) -> Sequence[Interface]:
    """In a thread that is spent afterwards: it is in the pod's namespace."""
    with contextlib.ExitStack() as opened:
        vm = opened.enter_context(_netlink())
        path = _path(vm, plan)
        interfaces = layout.fit(plan, path)
        _let_in_the_worker(plan)
        with _telling(f"enter the pod's network namespace {netns}"):
            descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, descriptor)
            if os.path.sameopenfile(descriptor, opened.enter_context(open("/proc/thread-self/ns/net", "rb")).fileno()):
                raise _refusal(f"{netns} is the VM's own network namespace")
            _system_call("setns", descriptor, _CLONE_NEWNET)
        pod = opened.enter_context(_netlink())
        with _asking(f"look into the pod's network namespace {netns}"):
            _refuse_strangers(netns, pod)
        for vni, interface in zip(plan.vnis, interfaces, strict=True):
            _make_device(vm, descriptor, plan, vni, interface, path)
        with _asking("bring loopback up"):
            indices = {link.get("ifname"): link.get("index") for link in pod.get_links()}
            pod.link("set", index=indices["lo"], state="up")
        for interface in interfaces:
            _keep_still(interface)
        for operation in layout.operations(interfaces):
            _do(pod, operation, indices[operation.interface])
        with _asking("read back what was laid"):
            _verify(layout.wanted(plan, interfaces, path), readback.found(pod))
    return interfaces


def _leave(netns: str, plan: GuestPlan, port: int) -> None:
    from podvm_images.guest import egress  # with it pyroute2: see below

    try:
        ways = egress.apply(plan, port, netns)
    except AdaptorError as error:
        raise _refusal(str(error)) from error
    log.info("the pod has a way out of its VM", ways=[egress_layout.told(way) for way in ways])


def _netlink() -> Any:
    """A socket for the namespace that this thread is in. Imported here: a pod without a plan does not wait for it."""
    from pyroute2 import IPRoute

    return IPRoute()


def _let_in_the_worker(plan: GuestPlan) -> None:
    """And nobody else: a VXLAN takes packets from anybody. With the table that the worker has for its own end."""
    from adaptor.podnet.nftables import Table
    from adaptor.podnet.operations import Admit

    with (
        _telling("make the nftables rules that keep strangers out of the pod's tunnel"),
        contextlib.closing(Table()) as table,
    ):
        table.admit(Admit(plan.port, plan.vnis, plan.worker, sealed=plan.wireguard is not None))


def _path(vm: Any, plan: GuestPlan) -> Path:
    """The kernel's route to the worker, with what it has learnt of that path's MTU."""
    worker = plan.worker
    with _asking(f"find a route to the worker {worker}"):
        (route,) = vm.route("get", dst=worker, family=layout.FAMILY[6 if ":" in worker else 4])
        (link,) = vm.get_links(route.get("oif"))
    if route.get("type") != _RTN_UNICAST:
        raise _refusal(f"the worker's address {worker} is one of this VM's own, or leads nowhere")
    name = link.get("ifname")
    if plan.wireguard is not None:
        if name != names.WIREGUARD_DEVICE:
            raise _refusal(f"what is for the worker's {worker} would leave by {name}, unencrypted")
        return Path(name, route.get("prefsrc"), _mtu_inside(vm))
    learnt = dict((route.get("metrics") or {}).get("attrs", ())).get("RTAX_MTU")
    return Path(name, route.get("prefsrc"), min(link.get("mtu"), learnt or link.get("mtu")))


def _mtu_inside(vm: Any) -> int:
    """What WireGuard leaves of the smallest of the VM's own devices: which one leads to the worker is not known until
    that calls."""
    with _asking("look at the VM's own devices"):
        links = readback.outward(vm)
        own = {index: link.get("mtu") for index, link in links.items() if link.get("ifname") != names.WIREGUARD_DEVICE}
        family = 4 if any(row.get("index") in own for row in vm.get_addr(family=layout.FAMILY[4])) else 6
    return min((vxlan.wireguard_mtu(mtu, family) for mtu in own.values()), default=wireguard.DEVICE_MTU)


def _make_device(vm: Any, netns: int, plan: GuestPlan, vni: int, interface: Interface, path: Path) -> None:
    """In the pod's namespace by the socket of the VM's: so the device's own packets go by the VM's network."""
    six = "6" if ":" in plan.worker else ""
    with _asking(f"make the VXLAN device {interface.name} (number {vni})"):
        vm.link(
            "add",
            ifname=interface.name,
            kind="vxlan",
            net_ns_fd=netns,
            address=interface.hardware_address,
            mtu=interface.mtu,
            vxlan_id=vni,
            vxlan_port=plan.port,
            vxlan_learning=False,
            **{f"vxlan_group{six}": plan.worker, f"vxlan_local{six}": path.source},
        )


def _refuse_strangers(netns: str, pod: Any) -> None:
    if strangers := [link.get("ifname") for link in readback.outward(pod).values()]:
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


def _do(pod: Any, operation: Operation, index: int) -> None:
    verb = {"link": "set", "route": "append"}.get(operation.kind, "add")
    with _asking(operation.says):
        getattr(pod, operation.kind)(verb, **operation.arguments, **{_INDEX[operation.kind]: index})


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


@contextlib.contextmanager
def _asking(deed: str) -> Iterator[None]:
    """Likewise, where pyroute2 does it."""
    from pyroute2.netlink.exceptions import NetlinkError

    with _telling(deed):
        try:
            yield
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from error


def _refusal(why: str) -> StatusError:
    return StatusError(Code.INTERNAL, f"the pod VM cannot lay the pod's network: {why}")
