"""A worker's kernel as pods' tunnels see it, in memory, and the Tunnels that an adaptor makes in it.

The kernel outlives adaptors. Every change is one small step, after which whoever makes it can be killed; one that was
begun is carried through although its caller went away, as in the real one's thread, and the next waits for it.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from adaptor.clock import Clock, RealClock
from adaptor.errors import InvalidRequest, StartFailed, Unavailable
from adaptor.podnet import plan as values
from adaptor.podnet.plan import Cord, Egress, GuestAnswer, GuestPlan, Interface, Tunnel, VniTaken, WireGuard, to_json

T = TypeVar("T")

PORT: Final = 4789
FIRST_VNI: Final = 555_000
WORKER: Final = "192.0.2.1"
MTU: Final = 1450


class Kernel:
    """`foreign`: numbers that another program has. `deaf`: VMs whence nothing comes back. `missing`: namespaces that
    are gone. `ends`: the VMs whose half stands, and its numbers; None: all do."""

    def __init__(self, ends: Mapping[str, tuple[int, ...]] | None = None) -> None:
        self.devices: dict[tuple[str, str], tuple[int, str]] = {}  # (netns, device) -> (number, peer)
        self.elements: set[tuple[int, str]] = set()  # of the table: (number, peer)
        self.peers: set[str] = set()  # WireGuard's, by key
        self.joined: set[tuple[str, str]] = set()  # (netns, interface) whose traffic goes into the tunnel
        self.interfaces: tuple[str, ...] = ("eth0",)  # of every pod
        self.foreign: set[int] = set()
        self.deaf: set[str] = set()
        self.missing: set[str] = set()
        self.ends = ends
        self.touched: Callable[[str, str], None] = lambda netns, what: None

    @property
    def leftovers(self) -> list[str]:
        """Everything there is, for people."""
        return [
            *(f"device {device} in {netns}, number {vni}" for (netns, device), (vni, _) in self.devices.items()),
            *(f"element {vni} from {peer}" for vni, peer in sorted(self.elements)),
            *(f"peer {key}" for key in sorted(self.peers)),
            *(f"{interface} of {netns} is redirected" for netns, interface in sorted(self.joined)),
        ]

    def whole(self, tunnel: Tunnel) -> bool:
        """Whether it is made, to the last part, and joined to the pod."""
        return all(
            self.devices.get((tunnel.netns, cord.device)) == (cord.vni, tunnel.peer)
            and (cord.vni, tunnel.peer) in self.elements
            and (tunnel.netns, cord.interface) in self.joined
            for cord in tunnel.cords
        ) and (not tunnel.encrypted or tunnel.public_key in self.peers)

    def of(self, tunnel: Tunnel) -> list[str]:
        """What `leftovers` has of this one."""
        mine = Kernel()
        vnis = {cord.vni for cord in tunnel.cords}
        mine.devices = {key: value for key, value in self.devices.items() if key[0] == tunnel.netns}
        mine.elements = {each for each in self.elements if each[0] in vnis and each[1] == tunnel.peer}
        mine.joined = {each for each in self.joined if each[0] == tunnel.netns}
        mine.peers = self.peers & {tunnel.public_key}
        return mine.leftovers

    def lose(self, netns: str) -> None:
        """The namespace goes, and what is in it."""
        self.missing.add(netns)
        self.devices = {key: value for key, value in self.devices.items() if key[0] != netns}
        self.joined = {each for each in self.joined if each[0] != netns}

    def reboot(self) -> None:
        for each in (self.devices, self.elements, self.peers, self.joined, self.missing):
            each.clear()

    # -- one step each; a repeat changes nothing --------------------------------------------------

    def add_device(self, tunnel: Tunnel, cord: Cord) -> None:
        place, device = (tunnel.netns, cord.device), (cord.vni, tunnel.peer)
        if tunnel.netns in self.missing:
            raise InvalidRequest(f"the pod's network namespace {tunnel.netns} cannot be opened: No such file")
        if self.devices.get(place) == device:
            return
        others = {vni for key, (vni, _) in self.devices.items() if key != place}
        if cord.vni in self.foreign | others:
            raise VniTaken(f"another program of this node uses the tunnel number {cord.vni} on UDP port {tunnel.port}")
        if place in self.devices:
            raise InvalidRequest(f"{tunnel.netns} has an interface {cord.device} already")
        self.devices[place] = device
        self.touched(tunnel.netns, f"{cord.device} is made")

    def drop_device(self, tunnel: Tunnel, cord: Cord) -> None:
        place = (tunnel.netns, cord.device)
        if place in self.devices and self.devices[place][0] == cord.vni:
            self.touched(tunnel.netns, f"{cord.device} is removed")
            del self.devices[place]

    def add_element(self, tunnel: Tunnel, cord: Cord) -> None:
        self.elements.add((cord.vni, tunnel.peer))

    def drop_element(self, vni: int, peer: str) -> None:
        if (vni, peer) in self.elements:
            for (netns, _), device in self.devices.items():
                if device == (vni, peer):
                    self.touched(netns, f"the element {vni} from {peer} is removed")
            self.elements.discard((vni, peer))

    def join(self, tunnel: Tunnel, cord: Cord) -> None:
        if tunnel.netns in self.missing:
            raise InvalidRequest(f"the pod's network namespace {tunnel.netns} cannot be opened: No such file")
        if (tunnel.netns, cord.interface) not in self.joined:
            self.touched(tunnel.netns, f"{cord.interface} is redirected")
            self.joined.add((tunnel.netns, cord.interface))

    def part(self, tunnel: Tunnel, cord: Cord) -> None:
        if (tunnel.netns, cord.interface) in self.joined:
            self.touched(tunnel.netns, f"{cord.interface} is no longer redirected")
            self.joined.discard((tunnel.netns, cord.interface))

    def answers(self, tunnel: Tunnel) -> bool:
        """Whether a frame comes back from the VM."""
        numbers = tuple(cord.vni for cord in tunnel.cords)
        return tunnel.peer not in self.deaf and (self.ends is None or self.ends.get(tunnel.peer) == numbers)


class Networks:
    """One adaptor's Tunnels. `refuse[verb]` holds errors for the next calls."""

    def __init__(self, kernel: Kernel | None = None, clock: Clock | None = None, *, encrypted: bool = False) -> None:
        self.kernel = kernel or Kernel()
        self.refuse: dict[str, list[Exception]] = {}
        self.calls: Counter[str] = Counter()
        self.plans: list[dict[str, Any]] = []
        self._clock = clock or RealClock()
        self._encrypted = encrypted
        self._numbers: set[int] = set()  # in use by us
        self._taken: set[int] = set()  # by others
        self._thread = asyncio.Lock()

    def check(self, netns: str) -> None:
        if netns in self.kernel.missing:
            raise InvalidRequest(f"the pod's network namespace {netns} cannot be opened: No such file")

    def recall(self, tunnels: Iterable[Tunnel]) -> None:
        self._numbers |= {cord.vni for tunnel in tunnels for cord in tunnel.cords}

    async def keep_only(self, tunnels: Iterable[Tunnel]) -> None:
        known = list(tunnels)
        elements = {(cord.vni, tunnel.peer) for tunnel in known for cord in tunnel.cords}
        keys = {tunnel.public_key for tunnel in known}

        async def sweep() -> None:
            for vni, peer in sorted(self.kernel.elements - elements):
                await self._step("strange element", lambda v=vni, p=peer: self.kernel.drop_element(v, p))  # type: ignore[misc]
            for key in sorted(self.kernel.peers - keys):
                await self._step("strange peer", lambda k=key: self.kernel.peers.discard(k))  # type: ignore[misc]

        await self._do("keep_only", sweep)

    async def intend(self, netns: str) -> Tunnel:
        async def look() -> Tunnel:
            self.check(netns)
            vnis = self._draw(len(self.kernel.interfaces))
            cords = (
                Cord(interface, vni, f"vxlan{number}")
                for number, (interface, vni) in enumerate(zip(self.kernel.interfaces, vnis, strict=True), 1)
            )
            return Tunnel(netns, PORT, tuple(cords), encrypted=self._encrypted)

        return await self._do("intend", look)

    async def reached(self, tunnel: Tunnel, peer: str) -> Tunnel:
        async def look() -> Tunnel:
            return replace(tunnel, peer=peer, worker=WORKER)

        return await self._do("reached", look)

    async def open(self, tunnel: Tunnel) -> None:
        async def make() -> None:
            assert tunnel.peer, "it was not reached"
            for cord in tunnel.cords:
                try:
                    await self._step("device", lambda c=cord: self.kernel.add_device(tunnel, c))  # type: ignore[misc]
                except VniTaken:
                    self._taken.add(cord.vni)
                    raise
                await self._step("element", lambda c=cord: self.kernel.add_element(tunnel, c))  # type: ignore[misc]

        await self._do("open", make)

    async def plan(self, tunnel: Tunnel, egress: Egress | None, *, imds: bool) -> bytes:
        interfaces = tuple(
            Interface(cord.interface, "02:00:00:00:00:01", MTU, ("10.244.1.5/24",)) for cord in tunnel.cords
        )
        ours = WireGuard("the worker's", 0) if tunnel.encrypted else None
        vnis = tuple(cord.vni for cord in tunnel.cords)
        made = to_json(GuestPlan(interfaces, vnis, tunnel.port, tunnel.worker, ours, egress, imds))
        self.plans.append(json.loads(made))
        return made

    async def apf(self, tunnel: Tunnel) -> dict[str, Any]:
        return {"vxlan-id": tunnel.cords[0].vni, "vxlan-port": tunnel.port, "dedicated": False}

    def answered(self, tunnel: Tunnel, answer: bytes) -> Tunnel:
        said = json.loads(answer)
        if said["version"] != values.VERSION:
            raise StartFailed(f"the VM's answer is of version {said['version']}")
        if tunnel.encrypted and not said["wireguard"]:
            raise StartFailed("the VM has told no key of its WireGuard")
        return replace(tunnel, public_key=said["wireguard"]["public_key"]) if tunnel.encrypted else tunnel

    async def connect(self, tunnel: Tunnel, timeout: float) -> None:
        async def join() -> None:
            if tunnel.encrypted:
                await self._step("peer", lambda: self.kernel.peers.add(tunnel.public_key))
            for cord in tunnel.cords:
                await self._step("redirect", lambda c=cord: self.kernel.join(tunnel, c))  # type: ignore[misc]

        await self._do("connect", join)
        if not self.kernel.answers(tunnel):
            await self._clock.sleep(timeout)
            raise StartFailed(f"nothing came back from {tunnel.peer}, UDP port {tunnel.port}, within {timeout:g} s")

    async def remove(self, tunnel: Tunnel) -> None:
        async def unmake() -> None:
            for cord in reversed(tunnel.cords):
                await self._step("no redirect", lambda c=cord: self.kernel.part(tunnel, c))  # type: ignore[misc]
                await self._step("no device", lambda c=cord: self.kernel.drop_device(tunnel, c))  # type: ignore[misc]
                await self._step("no element", lambda c=cord: self.kernel.drop_element(c.vni, tunnel.peer))  # type: ignore[misc]
            if tunnel.public_key:
                await self._step("no peer", lambda: self.kernel.peers.discard(tunnel.public_key))
            self._numbers -= {cord.vni for cord in tunnel.cords}

        await self._do("remove", unmake)

    def _draw(self, count: int) -> list[int]:
        """The lowest that are free: the soonest used again, which is the hardest for everybody."""
        found: list[int] = []
        vni = FIRST_VNI
        while len(found) < count:
            if vni not in self._numbers | self._taken:
                found.append(vni)
            vni += 1
        self._numbers |= set(found)
        return found

    async def _do(self, verb: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self.calls[verb] += 1
        if self.refuse.get(verb):
            raise self.refuse[verb].pop(0)

        async def in_turn() -> T:
            async with self._thread:
                return await work()

        doing = asyncio.ensure_future(in_turn())
        doing.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(doing)

    async def _step(self, what: str, deed: Callable[[], None]) -> None:
        deed()


def away(verb: str) -> Unavailable:
    return Unavailable(f"{verb}: the kernel refuses: Operation not permitted")


def half(bind_network: bytes) -> tuple[int, ...]:
    """The numbers of the half that a VM makes by what Bind brought."""
    return tuple(json.loads(bind_network)["vnis"]) if bind_network else ()


def said_of(bind_network: bytes, instance_id: str) -> bytes:
    """What such a VM answers."""
    if not bind_network:
        return b""
    encrypted = json.loads(bind_network)["wireguard"] is not None
    return to_json(GuestAnswer(WireGuard(f"key of {instance_id}", 51820) if encrypted else None))
