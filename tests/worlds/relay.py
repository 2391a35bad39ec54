"""The relay and the guests behind it, in memory: agent sockets are entries in a dict, dialling a VM is asking the
Cloud whether it lives, and a guest proves its token as a real one does."""

import base64
import dataclasses
import hashlib
import hmac
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from adaptor import names
from adaptor.clock import Clock
from adaptor.errors import Conflict, GuestUnreachable, StartFailed, Unavailable
from adaptor.protos import guest_pb2
from adaptor.relay.client import Dialled, Identity, Listing, OwnGuest, Session, UpstreamGuest
from adaptor.relay.states import SessionState
from providers.base import InstanceState
from tests.worlds.cloud import Cloud
from tests.worlds.networks import half, said_of

CERTIFICATE = b"the guest's certificate"


class Relay:
    """`boot_seconds` until a guest answers; `mute`, `impostor`, `refuse_bind`: what every guest is; `away`: no
    relay."""

    def __init__(self, cloud: Cloud, clock: Clock) -> None:
        self.open_sessions: dict[str, Session] = {}
        self.binds: dict[str, guest_pb2.BindRequest] = {}
        self.calls: Counter[str] = Counter()
        self.rewrites: dict[str, dict[str, Any]] = {}  # what each sandbox was opened with
        self.old_image = False  # guests know nothing of volumes
        self.without_network = False  # nor of the pod's network
        self.without_wireguard = False
        self.ends: dict[str, tuple[int, ...]] = {}  # address of a VM -> the numbers of its half of the pod's tunnel
        self.boot_seconds = 8.0
        self.bind_seconds = 0.2
        self.mute = False
        self.impostor = False
        self.refuse_bind = ""
        self.away = False
        self.shims_come = True  # each dials its agent socket as soon as it may
        self.bound: dict[str, str] = {}  # instance -> the sandbox whose it is
        self._reached: dict[str, str] = {}  # sandbox -> instance
        self._cloud = cloud
        self._clock = clock

    async def open(self, sandbox_id: str, socket_path: str, **rewrites: Any) -> None:
        self._called("open")
        self.rewrites[sandbox_id] = rewrites
        self.open_sessions.setdefault(sandbox_id, _session(sandbox_id, socket_path))

    async def dial(
        self,
        sandbox_id: str,
        addresses: Sequence[str],
        port: int,
        timeout: float,
        identity: Identity,
        trust: OwnGuest | UpstreamGuest,
        link_grace: float = 120.0,
    ) -> Dialled:
        self._called("dial")
        self._move(sandbox_id, SessionState.DIALLING)
        address = addresses[0]
        found = next((i for i in self._cloud.instances.values() if address in i.addresses), None)
        boot = self.boot_seconds if found is None else self._boot_left(found.id)
        wait = timeout if found is None or self.mute else min(boot, timeout)
        try:
            await self._clock.sleep(wait)
        except BaseException:
            self._move(sandbox_id, SessionState.LISTENING)
            raise
        alive = found is not None and self._cloud.instances[found.id].state is not InstanceState.GONE
        if found is None or not alive or wait >= timeout:
            raise GuestUnreachable(f"no guest answered at {address}, TCP port {port}, within {timeout:g} s")
        self._move(sandbox_id, SessionState.DIALLED)
        self._reached[sandbox_id] = found.id
        if isinstance(trust, OwnGuest):
            hello = self._hello(found.id, trust.nonce)
        else:  # its half stands since it booted
            hello = guest_pb2.HelloResponse()
            self.ends[address] = tuple(
                map(int, re.findall(rb'"vxlan-id": (\d+)', self._cloud.specs[found.id].user_data))
            )
        return Dialled(f"{address}:{port}", CERTIFICATE, hello, 3, wait, 0.01)

    async def bind(self, sandbox_id: str, bind: bytes, timeout: float) -> bytes:
        self._called("bind")
        await self._clock.sleep(self.bind_seconds)
        if self.refuse_bind:
            raise StartFailed(self.refuse_bind)
        if self.bound.setdefault(self._reached[sandbox_id], sandbox_id) != sandbox_id:
            raise Conflict("the VM is bound already")
        answer = self._bound(sandbox_id, self._reached[sandbox_id], bind)
        self._move(sandbox_id, SessionState.JOINED)
        return answer

    async def close(self, sandbox_id: str) -> None:
        self._called("close")
        self.open_sessions.pop(sandbox_id, None)

    async def list(self) -> Listing:
        self._called("list")
        return Listing(tuple(self.open_sessions.values()), 1, "test", 1)

    async def sessions(self) -> tuple[Session, ...]:
        return (await self.list()).sessions

    def lose(self, sandbox_id: str, reason: str, state: SessionState = SessionState.LINK_LOST) -> None:
        """A running pod's link breaks: for good, or RESUMING."""
        self._move(sandbox_id, state, reason)

    def _boot_left(self, instance_id: str) -> float:
        """A guest listens `boot_seconds` after its VM was made; one that listens is found at once."""
        return max(0.1, self._cloud.made_at[instance_id] + self.boot_seconds - self._clock.now())

    def _hello(self, instance_id: str, nonce: bytes) -> guest_pb2.HelloResponse:
        data = json.loads(self._cloud.specs[instance_id].user_data)
        token = b"another launch's token" if self.impostor else base64.b64decode(data["launch_token"])
        message = names.LAUNCH_PROOF_LABEL + nonce + hashlib.sha256(CERTIFICATE).digest()
        proof = hmac.new(token, message, hashlib.sha256).digest()
        return guest_pb2.HelloResponse(
            protocol=1,
            proof=proof,
            bound=instance_id in self.bound,
            volumes=not self.old_image,
            network=not self.without_network,
            wireguard=not self.without_wireguard,
        )

    def _bound(self, sandbox_id: str, instance_id: str, bind: bytes) -> bytes:
        """The VM makes its half of the pod's network, and says so."""
        request = self.binds[sandbox_id] = guest_pb2.BindRequest.FromString(bind)
        if bind:
            self.ends |= dict.fromkeys(self._cloud.instances[instance_id].addresses, half(request.network))
        return guest_pb2.BindResponse(network=said_of(request.network, instance_id)).SerializeToString()

    def _move(self, sandbox_id: str, state: SessionState, reason: str = "") -> None:
        if session := self.open_sessions.get(sandbox_id):
            claimed = session.shim_connected or (state is SessionState.JOINED and self.shims_come)
            self.open_sessions[sandbox_id] = dataclasses.replace(
                session, state=state, reason=reason, shim_connected=claimed
            )

    def _called(self, verb: str) -> None:
        self.calls[verb] += 1
        if self.away:
            raise Unavailable("the relay does not answer")


def _session(sandbox_id: str, socket_path: str) -> Session:
    return Session(sandbox_id, socket_path, SessionState.LISTENING, "", b"", False, 0, 0, 0, "")
