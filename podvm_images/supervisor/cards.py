"""The VM's network cards: IPv4 by DHCP, IPv6 as routers announce it, which the kernel does by itself.

The first card is the one by which the worker reaches this VM; a second one's routes have a higher metric. What is no
hardware is never touched: `ppegress`, tunnels and whatever else the guest makes.
"""

import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from adaptor.podnet.plan import Route
from podvm_images.guest.layout import Address
from podvm_images.guest.rtnetlink import Link, Rtnetlink
from podvm_images.supervisor import dhcp
from podvm_images.supervisor.console import say
from podvm_images.supervisor.loop import Loop

METRIC: Final = 1024  # of the first card's routes; the next card's is as much higher again, and so on
LOOK: Final = 0.5  # seconds between two looks for new cards, while there is none,
LOOK_AGAIN: Final = 5.0  # and afterwards: a second one may be attached late
_TRIES: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)  # seconds to wait for an answer, the last for ever on
_LEAST_RENEWAL: Final = 30.0
_PROTOCOL_DHCP: Final = 16  # of routes, for people: `ip route` says "proto dhcp"
_LINK_SCOPE: Final = 253
_BROADCAST: Final = b"\xff" * 6
_ETHERNET: Final = 1  # /sys/class/net/*/type
RESOLV: Final = "/run/resolv.conf"


class Cards:
    """All of them, from when each shows up. `ready` is called once, when the first has an address."""

    def __init__(self, loop: Loop, ready: Callable[[], None], resolv: str = RESOLV) -> None:
        self._loop = loop
        self._ready = ready
        self._resolv = resolv
        self._cards: dict[str, _Card] = {}
        self._names: dict[str, tuple[str, ...]] = {}

    def look(self) -> None:
        """Now and then for ever: begin with every card that is new."""
        with contextlib.closing(Rtnetlink()) as network:
            links = {link.name: link for link in network.links()}
        for name in hardware(list(links)):
            if name not in self._cards:
                self._cards[name] = card = _Card(self._loop, links[name], METRIC * (len(self._cards) + 1), self._have)
                card.begin()
        self._loop.after(LOOK_AGAIN if self._cards else LOOK, self.look)

    def _have(self, name: str, servers: tuple[str, ...]) -> None:
        if not self._names:
            self._ready()
        self._names[name] = servers
        first_come = dict.fromkeys(server for each in self._cards for server in self._names.get(each, ()))
        text = "".join(f"nameserver {server}\n" for server in first_come)
        with open(f"{self._resolv}.new", "w", encoding="ascii") as file:
            file.write(text)
        os.replace(f"{self._resolv}.new", self._resolv)


def hardware(names: list[str], root: Path = Path("/sys/class/net")) -> list[str]:
    """Those of `names` that are Ethernet cards, in the order of their slots: the kernel's names follow it."""
    found = [name for name in names if (root / name / "device").exists() and _is_ethernet(root / name)]
    # Hyper-V shows a fast path to a card as a card of its own, which belongs to the first one.
    slaves = {name for name in found if any(root.joinpath(name).glob("master"))}
    return sorted((name for name in found if name not in slaves), key=lambda name: (len(name), name))


def _is_ethernet(card: Path) -> bool:
    try:
        return int((card / "type").read_text()) == _ETHERNET
    except (OSError, ValueError):
        return False


class _Card:
    """One card: asks for an address until it has one, and renews it. Its socket is open while an answer is due only."""

    def __init__(self, loop: Loop, link: Link, metric: int, have: Callable[[str, tuple[str, ...]], None]) -> None:
        self._loop = loop
        self._link = link
        self._hardware = bytes.fromhex(link.hardware_address.replace(":", ""))
        self._metric = metric
        self._have = have
        self._socket: socket.socket | None = None
        self._transaction = 0
        self._tries = 0
        self._turn = 0  # what a moment that comes too late belongs to
        self._offered: dhcp.Offer | None = None
        self._lease: dhcp.Offer | None = None

    def begin(self) -> None:
        """Bring it up, and ask."""
        with self._telling("bring it up"), contextlib.closing(Rtnetlink()) as network:
            network.bring_up(self._link.index)
        self._ask()

    def _ask(self) -> None:
        self._transaction = self._transaction or secrets.randbits(32)
        wait = _TRIES[min(self._tries, len(_TRIES) - 1)]
        if self._tries in (3, 10):
            say(f"{self._link.name}: no DHCP server has answered {self._tries} times")
        self._tries += 1
        self._turn += 1
        turn = self._turn
        with self._telling("ask for an address"):
            self._send(self._question())
        self._loop.after(wait, lambda: self._again(turn))

    def _again(self, turn: int) -> None:
        if turn == self._turn:
            self._offered = None  # a server that offers and does not grant is not asked for ever
            self._ask()

    def _question(self) -> bytes:
        if self._lease is not None:
            return dhcp.request(self._transaction, self._hardware, self._lease.address, "")
        if self._offered is not None:
            return dhcp.request(self._transaction, self._hardware, self._offered.address, self._offered.server)
        return dhcp.discover(self._transaction, self._hardware)

    def _send(self, packet: bytes) -> None:
        if self._socket is None:
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(0x0800)
            )
            self._socket.bind((self._link.name, 0x0800))
            self._loop.watch(self._socket.fileno(), self._receive)
        self._socket.sendto(packet, (self._link.name, 0x0800, 0, 0, _BROADCAST))

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            packet = self._socket.recv(65536)
        except OSError:
            return
        offer = dhcp.answer(packet, self._transaction, self._hardware)
        if offer is None:
            return
        if offer.kind == dhcp.OFFER and self._offered is None and self._lease is None:
            self._offered, self._tries = offer, 0
            self._ask()
        elif offer.kind == dhcp.NAK:
            self._offered = self._lease = None
            self._ask()
        elif offer.kind == dhcp.ACK and (self._offered or self._lease):
            self._keep(offer)

    def _keep(self, lease: dhcp.Offer) -> None:
        before, self._lease, self._offered = self._lease, lease, None
        self._turn += 1
        self._tries = self._transaction = 0
        if self._socket is not None:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if before is None or before.address != lease.address:
            with self._telling(f"use the address {lease.address}"), contextlib.closing(Rtnetlink()) as network:
                self._apply(network, lease)
            say(f"{self._link.name}: {lease.address}/{lease.prefix} by DHCP")
            self._have(self._link.name, lease.names)
        turn = self._turn
        self._loop.after(max(_LEAST_RENEWAL, lease.seconds / 2), lambda: self._again(turn))

    def _apply(self, network: Rtnetlink, lease: dhcp.Offer) -> None:
        if lease.mtu and lease.mtu != self._link.mtu:
            network.set_mtu(self._link.index, lease.mtu)
        network.add_address(self._link.index, Address(lease.address, lease.prefix, ""))
        for route in routes(lease, self._metric):
            network.add_route(self._link.index, route)

    @contextlib.contextmanager
    def _telling(self, deed: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            say(f"{self._link.name}: cannot {deed}: {error.strerror or error}")


def routes(lease: dhcp.Offer, metric: int) -> list[Route]:
    """As the kernel is to have them, those on the link first. A gateway is on the link, whatever the mask says."""
    return [
        Route(
            destination="" if network == "0.0.0.0/0" else network,
            family=4,
            gateway=gateway or "",
            source=lease.address,
            scope=0 if gateway else _LINK_SCOPE,
            protocol=_PROTOCOL_DHCP,
            metric=metric,
            on_link=gateway is not None,
        )
        for network, gateway in sorted(lease.routes, key=lambda each: each[1] is not None)
    ]
