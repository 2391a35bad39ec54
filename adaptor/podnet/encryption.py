"""The worker's end of the encrypted network: one WireGuard device, and which tunnels need it.

    recall (at a start) ─► join ─► (Bind) ─► connect ─► leave        look: from time to time, for as long as it serves
                            │ device, key       │ peer     │ the last one takes device, key and wireguard-go along

A tunnel is named by whatever text its owner likes. An adaptor that starts anew finds device and key where they are and
touches nothing. Everything here blocks, for milliseconds, and may be called from any thread.
"""

import threading
import time
from collections.abc import Mapping
from typing import Final

from adaptor import names
from adaptor.errors import StartFailed, Unavailable
from adaptor.podnet import wireguard, wireguard_choice
from adaptor.podnet.plan import PlanFault, WireGuard
from adaptor.podnet.wireguard_device import Endpoint
from adaptor.telemetry import logs, metrics

# Seconds that one who runs wireguard-go elsewhere may take to start it, and between looks whether it is there.
_SERVER_PATIENCE: Final = 15.0
_SERVER_POLL: Final = 0.2
LOOK: Final = 2.0  # seconds between two looks: a pod waits so long for its network, once wireguard-go was killed

# After a reboot, say, or when an adaptor and wireguard-go ended together.
_LOST: Final = (
    "the WireGuard device of running pods was gone when this adaptor began, and its key with it: end those pods"
)

log = logs.get(__name__)


class Encryption:
    """Every call raises Unavailable where the device cannot be had or changed."""

    def __init__(self, endpoint: Endpoint, port: int = names.WIREGUARD_PORT) -> None:
        """`port`: where VMs listen, UDP."""
        self._endpoint = endpoint
        self._port = port
        self._users: dict[str, str] = {}  # tunnel -> the VM's public key; empty: not known yet
        self._lock = threading.RLock()
        self._trouble = ""

    @classmethod
    def open(cls, wish: str, port: int = names.WIREGUARD_PORT, *, spawn: bool = True) -> "Encryption":
        """By the WireGuard that `wish` (auto, kernel, userspace) means on this node; `spawn`: start wireguard-go where
        it is the one, and nobody serves it. Raises: Unavailable, for the person who must choose."""
        patience = 0.0 if spawn else _SERVER_PATIENCE
        until = time.monotonic() + patience
        while True:
            try:
                return cls(Endpoint(wireguard_choice.choose(wish, spawn=spawn)), port)
            except Unavailable as error:
                if time.monotonic() >= until:
                    raise Unavailable(
                        "network.encryption is required, and this node has no WireGuard for network.wireguard = "
                        f"{wish}: {error}. Provide one of them, or set network.encryption = off: pods' traffic to their "
                        "VMs is readable then"
                    ) from None
            time.sleep(_SERVER_POLL)

    @property
    def kind(self) -> str:
        """Kernel | userspace"""
        return self._endpoint.kind

    @property
    def trouble(self) -> str:
        """Why encrypted pods have no network now; empty: they have."""
        return self._trouble

    def know(self, tunnels: Mapping[str, str]) -> None:
        """Those that there are at a start, with their VMs' public keys, as far as these are known. Nothing is done."""
        with self._lock:
            self._users.update(tunnels)

    def recall(self, tunnels: Mapping[str, str]) -> None:
        """As `know`, and they are all: what else the device has is left over from an end that was cut short, and goes."""
        with self._lock:
            self._users = dict(tunnels)
            self._find()
            if not self._users:
                self._endpoint.delete()
            for stranger in self._endpoint.peers - set(self._users.values()):
                self._endpoint.drop(stranger)
            self._measure()

    def join(self, tunnel: str) -> WireGuard:
        """Have the device for this tunnel; what its VM is told of us, and where it is to listen."""
        with self._lock:
            self._users.setdefault(tunnel, "")
            self._find()
            public_key = self._endpoint.ensure()
            self._trouble = ""
            self._measure()
            return WireGuard(public_key, self._port)

    def connect(self, tunnel: str, public_key: str, address: str) -> str:
        """Make the VM at `address` our peer; its address inside.

        Raises: StartFailed for a key that cannot be that VM's own.
        """
        with self._lock:
            others = {key for name, key in self._users.items() if name != tunnel} | {self.join(tunnel).public_key}
            try:
                peer = wireguard.worker_peer(WireGuard(public_key, self._port), address)
                inner = wireguard.inner_address(public_key)
                taken = public_key in others or inner in map(wireguard.inner_address, filter(None, others))
            except ValueError as fault:  # PlanFault is one
                raise StartFailed(f"the VM at {address} cannot be WireGuard's peer: {fault}") from None
            if taken:
                raise StartFailed(
                    f"the VM at {address} shows the WireGuard key of another end: is it a copy of its VM?"
                )
            self._endpoint.put(peer)
            self._users[tunnel] = public_key
            self._measure()
            return inner

    def leave(self, tunnel: str, public_key: str = "") -> None:
        """The tunnel needs it no longer. `public_key`: its VM's, should nobody here remember it."""
        with self._lock:
            key = self._users.get(tunnel) or public_key
            self._find()
            if not set(self._users) - {tunnel} and not self._endpoint.peers - {key}:
                self._endpoint.delete()
            elif key and key not in {other for name, other in self._users.items() if name != tunnel}:
                self._endpoint.drop(key)
            self._users.pop(tunnel, None)
            self._measure()

    def look(self) -> None:
        """See whether the device serves, and have it whole again if not: the same key, the same peers, so that the VMs
        go on with it. What fails is logged and in `trouble`; never raises."""
        with self._lock:
            if not self._users:
                return
            try:
                self._find()
                if self._endpoint.look():
                    metrics.WIREGUARD_REVIVALS.inc()
                    log.error("the WireGuard device was gone or changed; it is as it was again", kind=self.kind)
            except Unavailable as error:
                if not self._trouble:
                    log.error("encrypted pods have no network", reason=str(error), kind=self.kind)
                self._trouble = f"encrypted pods have no network: {error}"
            else:
                self._trouble = _LOST if self._endpoint.lost and any(self._users.values()) else ""
            self._measure()

    def _find(self) -> None:
        """What an earlier adaptor has left, once. The key of a device that is gone is so for good."""
        if self._endpoint.lost and self._endpoint.find() is None and any(self._users.values()) and not self._trouble:
            self._trouble = _LOST
            log.error(_LOST, tunnels=[name for name, key in self._users.items() if key])

    def _measure(self) -> None:
        metrics.WIREGUARD_UP.set(1 if self._users and not self._trouble else 0)
        metrics.WIREGUARD_PEERS.set(len(self._endpoint.peers))


def answered(said: WireGuard | None, port: int) -> str:
    """The VM's public key, out of its answer to Bind. Raises: StartFailed when there is none, or it makes no sense."""
    if said is None:
        raise StartFailed("the VM said nothing of its WireGuard, which network.encryption requires: use a newer image")
    try:
        wireguard.key_bytes(said.public_key)
    except PlanFault as fault:
        raise StartFailed(f"the VM's answer cannot be used: {fault}") from None
    if said.port != port:
        raise StartFailed(f"the VM's WireGuard listens on UDP port {said.port}; it was told {port}")
    return said.public_key
