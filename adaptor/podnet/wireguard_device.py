"""WireGuard's device in the namespace of the calling thread: the kernel's by netlink, wireguard-go's by its socket.

    Endpoint.ensure ─► make, key, address, route      the same two ways to do it at both ends
            .put, .drop ─► a peer                     Kernel: pyroute2       Userspace: /var/run/wireguard/<device>.sock
            .look ─► whole again, with the same key
            .delete ─► nothing left

Everything here blocks, for milliseconds. wireguard-go outlives whoever started it; it is found by its socket, and ends
when its device is deleted. The key is read back from the device, so a restart finds it there and touches nothing.
"""

import base64
import errno
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, Protocol

from adaptor.errors import Unavailable
from adaptor.podnet import wireguard
from adaptor.podnet.wireguard import Change, Device, Peer, PrivateKey, UapiFault
from adaptor.podnet.wireguard_links import Links, is_up, telling

SOCKETS: Final = "/var/run/wireguard"  # wireguard-go's own choice
PROGRAM: Final = "wireguard-go"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Seconds for what wireguard-go does within milliseconds: to begin, to answer, to end.
_PATIENCE: Final = 5.0
# The kernel's words for: no such device, no WireGuard's, no WireGuard at all.
_NO_DEVICE: Final = (errno.ENODEV, errno.EOPNOTSUPP, errno.ENOENT)
_SAID: Final = 300  # characters of its last line that travel in an error


class Backend(Protocol):
    """One way to have a device. Every call raises Unavailable, with the reason."""

    kind: str  # kernel | userspace
    device: str

    def make(self) -> None:
        """Have the device exist; it may have no key yet."""
        ...

    def read(self) -> Device | None:
        """What it is; None: there is none, or nobody who serves it."""
        ...

    def change(self, change: Change) -> None: ...

    def dress(self, inner: str) -> None:
        """Have it up, with this address, and nothing of our network go elsewhere."""
        ...

    def is_up(self) -> bool: ...

    def unmake(self) -> None:
        """Have it gone, and what serves it too; or as unused as it was found."""
        ...


class _Linked:
    """What both kinds are: a link."""

    def __init__(self, device: str) -> None:
        self.device = device

    def dress(self, inner: str) -> None:
        with Links(self.device) as links:
            links.dress(inner)

    def is_up(self) -> bool:
        return is_up(self.device)


class Kernel(_Linked):
    """The kernel's own WireGuard."""

    kind = "kernel"

    def make(self) -> None:
        with Links(self.device) as links:
            links.add("wireguard")
            if (kind := links.kind()) != "wireguard":
                raise Unavailable(f"{self.device} is a {kind} of somebody else's: WireGuard needs that name")

    def read(self) -> Device | None:
        from pyroute2 import WireGuard
        from pyroute2.netlink.exceptions import NetlinkError

        messages: list[Any] = []
        with telling(f"read the WireGuard device {self.device}"):
            try:
                with WireGuard() as generic:
                    messages += generic.info(self.device)
            except NetlinkError as error:
                if error.code not in _NO_DEVICE:
                    raise
                return None
        return device_of(messages)

    def change(self, change: Change) -> None:
        from pyroute2 import WireGuard

        wireguard.encode(change)  # for its checks: what is no key, address or network goes to neither kind
        with telling(f"change the WireGuard device {self.device}"), WireGuard() as generic:
            if change.private_key is not None or change.port is not None:
                key = change.private_key.base64() if change.private_key else None
                generic.set(self.device, private_key=key, listen_port=change.port)
            for public_key in change.removed:
                generic.set(self.device, peer={"public_key": public_key, "remove": True})
            for peer in change.peers:
                generic.set(self.device, peer=as_netlink(peer))

    def unmake(self) -> None:
        with Links(self.device) as links:
            links.delete()
            links.open_blackhole()


class Userspace(_Linked):
    """wireguard-go; one that somebody else keeps running (`spawn` is off) is given its device back unused."""

    kind = "userspace"

    def __init__(self, device: str, *, spawn: bool = True) -> None:
        super().__init__(device)
        self._spawn = spawn
        self._socket = f"{SOCKETS}/{device}.sock"

    def make(self) -> None:
        if self.read() is not None:
            return
        if not self._spawn:
            raise Unavailable(f"nobody serves {self._socket}: is the container that runs wireguard-go up?")
        with telling(f"start {PROGRAM}"), tempfile.TemporaryFile() as output:
            # It ends when its daemon has the device and the socket. The daemon inherits neither our files nor our
            # environment, which may hold a cloud's credentials.
            status = subprocess.run(
                [PROGRAM, self.device],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={"PATH": PATH},
                cwd="/",
                start_new_session=True,
                timeout=_PATIENCE,
                check=False,
            ).returncode
            output.seek(0)
            words = (output.read(1 << 16).decode("utf-8", "replace").splitlines() or [""])[-1].strip()[-_SAID:]
        # The status alone proves nothing: in a VM, where this may be PID 1, another may have taken it.
        if status or self.read() is None:
            raise Unavailable(f"{PROGRAM} cannot serve {self.device}: {words or f'it ended with status {status}'}")

    def read(self) -> Device | None:
        try:
            return wireguard.decode_get(self._ask(wireguard.GET))
        except (FileNotFoundError, ConnectionError):
            return None
        except (UapiFault, OSError) as fault:
            raise Unavailable(f"{PROGRAM} does not say what {self.device} is: {fault}") from None

    def change(self, change: Change) -> None:
        self._tell(wireguard.encode(change))

    def unmake(self) -> None:
        with Links(self.device) as links, socket.socket(socket.AF_UNIX) as watched:
            watched.settimeout(_PATIENCE)
            served = not watched.connect_ex(self._socket)
            if self._spawn:
                links.delete()
            else:
                links.strip()
            links.open_blackhole()
            if served and not self._spawn:
                self._tell(wireguard.RESET)
            elif served:
                with telling(f"see {PROGRAM} end, which served {self.device}", but=errno.ECONNRESET):
                    while watched.recv(4096):
                        pass

    def _tell(self, question: bytes) -> None:
        try:
            wireguard.decode_set(self._ask(question))
        except (UapiFault, OSError) as fault:
            raise Unavailable(f"{PROGRAM} does not change {self.device}: {fault}") from None

    def _ask(self, question: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(_PATIENCE)
            link.connect(self._socket)
            link.sendall(question)
            answer = b""
            while not answer.endswith(b"\n\n") and len(answer) < wireguard.ANSWER_LIMIT:
                if not (more := link.recv(1 << 16)):
                    raise ConnectionResetError(errno.ECONNRESET, "it went away")
                answer += more
            return answer


class Endpoint:
    """One end: its device, and what that must be. For any thread."""

    def __init__(self, backend: Backend, port: int = 0) -> None:
        """`port`: where it listens, UDP; 0: anywhere, for an end that begins."""
        self._backend = backend
        self._port = port
        self._key: PrivateKey | None = None
        self._peers: dict[str, Peer] = {}
        self._lock = threading.RLock()

    @property
    def kind(self) -> str:
        return self._backend.kind

    @property
    def lost(self) -> bool:
        """Nothing is known of a device: none was found or made."""
        with self._lock:
            return self._key is None

    @property
    def peers(self) -> frozenset[str]:
        """Their public keys."""
        with self._lock:
            return frozenset(self._peers)

    def find(self) -> str | None:
        """Take the device as it is, from whoever made it; its public key. None: there is none that has a key."""
        with self._lock:
            found = self._backend.read()
            if found is None or found.private_key is None:
                return None
            self._key = found.private_key
            self._peers = {peer.public_key: peer for peer in found.peers}
            return self._key.public

    def ensure(self) -> str:
        """Have the device, made whole unless it was so before; its public key."""
        with self._lock:
            if self._key is None:
                if self.find() is None:
                    self._key = PrivateKey.make()
                self.look()
            assert self._key is not None
            return self._key.public

    def put(self, peer: Peer) -> None:
        """Have this peer; one with the same key becomes it."""
        with self._lock:
            self._backend.change(Change(peers=(peer,)))
            self._peers[peer.public_key] = peer

    def drop(self, public_key: str) -> None:
        """Have no such peer."""
        with self._lock:
            self._peers.pop(public_key, None)
            found = self._backend.read()
            if found is not None and any(peer.public_key == public_key for peer in found.peers):
                self._backend.change(Change(removed=(public_key,)))

    def look(self) -> bool:
        """Have the device be what it was made to be, should it not; whether it had to be done."""
        with self._lock:
            if self._key is None:
                return False
            found = self._backend.read()
            known = {peer.public_key for peer in found.peers} if found is not None else set()
            whole = found is not None and found.private_key == self._key and known >= set(self._peers)
            if found is not None and whole and self._backend.is_up():
                self._remember(found)
                return False
            self._backend.make()
            self._backend.change(Change(self._key, self._port or None, tuple(map(_calling, self._peers.values()))))
            self._backend.dress(wireguard.inner_address(self._key.public))
            self._listens()
            return True

    def delete(self) -> None:
        """Have no device, and forget the key."""
        with self._lock:
            self._backend.unmake()
            self._key = None
            self._peers = {}

    def _remember(self, found: Device) -> None:
        """Where the peers are by now."""
        for peer in found.peers:
            if peer.public_key in self._peers and peer.endpoint is not None:
                self._peers[peer.public_key] = replace(self._peers[peer.public_key], endpoint=peer.endpoint)

    def _listens(self) -> None:
        """wireguard-go opens its port when the device comes up, and tells nobody that it could not."""
        if not self._port:
            return
        found = self._backend.read()
        if found is None or found.port != self._port:
            self._backend.change(Change(port=self._port))
            found = self._backend.read()
        if found is None or found.port != self._port:
            raise Unavailable(f"WireGuard cannot listen on UDP port {self._port}: another program may have it")


def _calling(peer: Peer) -> Peer:
    """It does not know that we begin anew, and would only wonder after 15 s of silence: so we call it at once."""
    return peer if peer.endpoint is None else replace(peer, keepalive=wireguard.KEEPALIVE)


# -- netlink -------------------------------------------------------------------------------------------------------


def as_netlink(peer: Peer) -> dict[str, Any]:
    """For pyroute2."""
    message: dict[str, Any] = {
        "public_key": peer.public_key,
        "persistent_keepalive": peer.keepalive,
        "replace_allowed_ips": True,
        "allowed_ips": list(peer.allowed),
    }
    if peer.endpoint is not None:
        message |= {"endpoint_addr": peer.endpoint[0], "endpoint_port": peer.endpoint[1]}
    return message


def device_of(messages: Iterable[Any]) -> Device:
    """Of pyroute2's answer. The kernel continues a peer whose networks filled one message in the next."""
    private: PrivateKey | None = None
    port = 0
    peers: dict[str, Peer] = {}
    for message in messages:
        if key := message.get("private_key"):
            raw = base64.b64decode(key)
            private = PrivateKey(raw) if any(raw) else None
        port = message.get("listen_port") or port
        for each in message.get("peers") or ():
            public_key = each.get("public_key").decode()
            before = peers.get(public_key)
            allowed = tuple(network["addr"] for network in each.get("allowedips") or ())
            endpoint = each.get("endpoint")
            peers[public_key] = Peer(
                public_key,
                (endpoint["addr"], endpoint["port"]) if endpoint else before.endpoint if before else None,
                (before.allowed if before else ()) + allowed,
                each.get("persistent_keepalive_interval") or 0,
                (each.get("last_handshake_time") or {}).get("tv_sec", 0),
            )
    return Device(private, private.public if private else "", port, tuple(peers.values()))
