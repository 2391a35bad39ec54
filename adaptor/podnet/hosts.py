"""The worker's half of all pods' networks: `sandbox.rooms.Tunnels`, done by one thread.

    intend ─► reached ─► open ─► plan ─► (Bind) ─► answered ─► connect        any time: remove

Netlink blocks, and whoever enters a namespace must be alone on its thread: so all of it is done by one, a pod's
operations in one go. What is known here besides the kernel is which numbers are given; the journal knows them too.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from adaptor import names
from adaptor.config_network import Network
from adaptor.errors import StartFailed, Unavailable
from adaptor.podnet import apf, encryption, namespaces, operations, paths, plan, probe, vxlan
from adaptor.podnet.devices import NumberTaken
from adaptor.podnet.encryption import Encryption
from adaptor.podnet.operations import Admit
from adaptor.podnet.plan import Cord, Egress, PlanFault, PodNetwork, Tunnel, VniTaken
from adaptor.podnet.wireguard import inner_address
from adaptor.podnet.worker import Worker

_T = TypeVar("_T")


class HostNetworks:
    """The pod networks of this host, by the paths that the container runtime gives."""

    def __init__(self, settings: Network | None = None, wireguard: Encryption | None = None) -> None:
        """`wireguard`: needed where the settings ask for it, or a tunnel of the journal has it."""
        self._settings = settings or Network()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="podnet")
        self._wireguard = wireguard
        self._worker = Worker(wireguard)
        self._given: dict[int, str] = {}  # VNI: the pod's namespace
        self._others: set[int] = set()  # VNIs that somebody else on this worker has
        self._last = 0  # VNI
        self._seen: dict[str, PodNetwork] = {}  # by namespace, until the tunnel goes

    async def aclose(self) -> None:
        """Let go of the thread and its sockets; every tunnel stays."""
        await self._do(self._worker.close)
        self._thread.shutdown()

    def check(self, netns: str) -> None:
        """Raises InvalidRequest unless `netns` is a network namespace that can be opened."""
        namespaces.check(netns)

    def recall(self, tunnels: Iterable[Tunnel]) -> None:
        """Those that the journal knows, at a start: their numbers are given to nobody else."""
        known = list(tunnels)
        for tunnel in known:
            self._keep(tunnel)
        if self._wireguard is not None:
            self._wireguard.know({tunnel.netns: tunnel.public_key for tunnel in known if tunnel.encrypted})

    async def keep_only(self, tunnels: Iterable[Tunnel]) -> None:
        """Take away what this node's own namespace has of ours for any other tunnel: an adaptor whose journal was lost
        has left it. Raises: Unavailable."""
        kept = list(tunnels)
        admitted = [
            each
            for tunnel in kept
            for each in operations.opening(tunnel, "") + operations.connecting(tunnel, _inner(tunnel))
            if isinstance(each, Admit)
        ]
        await self._do(self._worker.keep_only, admitted, {t.netns: t.public_key for t in kept if t.encrypted})

    async def intend(self, netns: str) -> Tunnel:
        """Look at the pod's namespace, and number its tunnels; nothing is made.

        Raises: InvalidRequest, Unavailable.
        """
        namespaces.check(netns)
        network = await self._look(netns)
        numbers = vxlan.numbers(
            len(network.interfaces),
            first=self._settings.first_vni,
            after=self._last,
            taken=self._given.keys() | self._others,
        )
        cords = tuple(
            Cord(interface.name, vni, _device(place))
            for place, (interface, vni) in enumerate(zip(network.interfaces, numbers, strict=True))
        )
        tunnel = Tunnel(netns, self._settings.vxlan_port, cords, encrypted=self._settings.encryption == "required")
        self._keep(tunnel)
        return tunnel

    async def reached(self, tunnel: Tunnel, peer: str) -> Tunnel:
        """With the VM's address, and ours on the way there. Raises: Unavailable."""
        address = paths.address_of(peer)
        return replace(tunnel, peer=address, worker=paths.source(address, tunnel.port, self._settings.host_interface))

    async def open(self, tunnel: Tunnel) -> None:
        """Make its devices, and let in what comes from the VM and nobody else.

        Raises: VniTaken, InvalidRequest, Unavailable.
        """
        self._keep(tunnel)
        try:
            await self._do(self._open, tunnel)
        except VniTaken:
            # Another tunnel will be intended in its place, and nobody remembers this one.
            await self.remove(tunnel)
            raise

    async def plan(self, tunnel: Tunnel, egress: Egress | None, *, imds: bool) -> bytes:
        """The VM's half, for Bind. Raises: InvalidRequest, Unavailable."""
        network = await self._network(tunnel)
        path = paths.mtu(tunnel.peer, tunnel.port, self._settings.host_interface)
        family = ipaddress.ip_address(tunnel.peer).version
        worker, ours = tunnel.worker, None
        if tunnel.encrypted:
            ours = await self._do(self._worker.join, tunnel.netns)
            worker = inner_address(ours.public_key)
        left = vxlan.inner_mtu(path, family, encrypted=tunnel.encrypted)
        made = plan.guest_plan(network, tunnel, left=left, worker=worker, wireguard=ours, egress=egress, imds=imds)
        return plan.to_json(made)

    async def apf(self, tunnel: Tunnel) -> dict[str, Any]:
        """The VM's half as stock upstream images read it. Raises: InvalidRequest, Unavailable."""
        network = await self._network(tunnel)
        worker = await self._do(self._worker.address, tunnel.worker, self._settings.host_interface)
        return apf.pod_network(network, worker_address=worker, vxlan_port=tunnel.port, vxlan_id=tunnel.cords[0].vni)

    def answered(self, tunnel: Tunnel, answer: bytes) -> Tunnel:
        """With what the VM said in its BindResponse. Raises: StartFailed when that makes no sense."""
        try:
            told = plan.guest_answer_from_json(answer)
        except PlanFault as fault:
            raise StartFailed(f"the pod VM's guest said of the pod's network what makes no sense: {fault}") from fault
        if not tunnel.encrypted:
            return tunnel
        return replace(tunnel, public_key=encryption.answered(told.wireguard, self._settings.wireguard_port))

    async def connect(self, tunnel: Tunnel, timeout: float) -> None:
        """Join the pod's interfaces to its tunnels, and see a frame come back from the VM.

        Raises: StartFailed, Unavailable.
        """
        network = await self._network(tunnel)
        asked = probe.addresses(network)
        taps = await self._taps(tunnel)
        try:
            async with asyncio.TaskGroup() as group:
                answers = {
                    cord: group.create_task(probe.answered(tap, address, timeout))
                    for cord, tap in zip(tunnel.cords, taps, strict=True)
                    if (address := asked[cord.interface]) is not None
                }
        except* OSError as group_error:
            error = group_error.exceptions[0]
            raise Unavailable(f"the tunnel of the pod in {tunnel.netns} cannot be tried: {error}") from error
        finally:
            # Not here: the kernel waits until nobody looks at the socket any longer, some 20 ms.
            asyncio.get_running_loop().run_in_executor(None, _close, taps)
        silent = [cord for cord, answer in answers.items() if not answer.result()]
        if silent:
            raise StartFailed(_nothing_came(tunnel, silent, timeout, self._settings.wireguard_port))

    async def remove(self, tunnel: Tunnel) -> None:
        """Take away all that `open` and `connect` made, however far they came. Raises: Unavailable."""
        await self._do(self._remove, tunnel)
        for cord in tunnel.cords:
            if self._given.get(cord.vni) == tunnel.netns:
                del self._given[cord.vni]
        if tunnel.netns not in self._given.values():
            self._seen.pop(tunnel.netns, None)

    async def _taps(self, tunnel: Tunnel) -> list[socket.socket]:
        """Connect it; the probe's sockets, which whoever waits no longer cannot close."""
        connecting = asyncio.ensure_future(self._do(self._connect, tunnel))
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_close_late)
            raise

    # on the thread

    def _open(self, tunnel: Tunnel) -> None:
        worker = tunnel.worker
        if tunnel.encrypted:
            worker = inner_address(self._worker.join(tunnel.netns).public_key)
        try:
            # What is sealed leaves by WireGuard's device, and WireGuard's packets by the route to the VM.
            link = "" if tunnel.encrypted else self._settings.host_interface or ""
            self._worker.carry_out(tunnel, operations.opening(tunnel, worker, link))
        except NumberTaken as taken:
            self._others.add(taken.vni)
            raise VniTaken(
                f"another program of this node has a VXLAN device with the number {taken.vni} on UDP port {tunnel.port}"
            ) from None

    def _connect(self, tunnel: Tunnel) -> list[socket.socket]:
        self._worker.carry_out(tunnel, operations.connecting(tunnel, _inner(tunnel)))
        return self._worker.taps(tunnel, [cord.device for cord in tunnel.cords])

    def _remove(self, tunnel: Tunnel) -> None:
        self._worker.undo(tunnel, operations.removing(tunnel, _inner(tunnel)))

    # what is known

    def _keep(self, tunnel: Tunnel) -> None:
        for cord in tunnel.cords:
            self._given[cord.vni] = tunnel.netns
            self._last = cord.vni

    async def _network(self, tunnel: Tunnel) -> PodNetwork:
        return self._seen.get(tunnel.netns) or await self._look(tunnel.netns)

    async def _look(self, netns: str) -> PodNetwork:
        made = sum(each == netns for each in self._given.values())
        network = await self._do(self._worker.describe, netns, [_device(place) for place in range(made)])
        self._seen[netns] = network
        return network

    async def _do(self, work: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


def _close(taps: Iterable[socket.socket]) -> None:
    for tap in taps:
        tap.close()


def _close_late(connected: "asyncio.Future[list[socket.socket]]") -> None:
    if not connected.cancelled() and connected.exception() is None:
        _close(connected.result())


def _inner(tunnel: Tunnel) -> str:
    """The VM's address inside WireGuard; empty where there is none, or it is not known yet."""
    return inner_address(tunnel.public_key) if tunnel.encrypted and tunnel.public_key else ""


def _device(place: int) -> str:
    return f"{names.TUNNEL_DEVICE}{place + 1}"


def _nothing_came(tunnel: Tunnel, silent: Iterable[Cord], timeout: float, wireguard_port: int) -> str:
    """What to look at, for whoever reads the pod's event."""
    which = ", ".join(cord.interface for cord in silent)
    udp = f"UDP from any port to port {wireguard_port}" if tunnel.encrypted else f"UDP port {tunnel.port}"
    nat = (
        ""
        if tunnel.encrypted
        else ". Where NAT lies in between, set [network] encryption = required: WireGuard passes it"
    )
    ways = "from the worker to the VM, and its answers" if tunnel.encrypted else "both ways"
    return (
        f"the pod's network does not reach its VM: nothing came back through the tunnel of {which} within "
        f"{timeout:g} s. Security groups and firewalls must let {udp} pass {ways}, between the worker at "
        f"{tunnel.worker} and the VM at {tunnel.peer}{nat}"
    )
