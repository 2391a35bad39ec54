"""WireGuard at the VM's end: a device, a key that is made in memory and stays there, and one peer, the worker.

Hello ── can it? ──► the worker refuses a VM that cannot
plan ─► device ppwg0, listening; the worker's key, wherever it calls from ─► our key, in Bind's answer
"""

import asyncio
from contextlib import suppress
from typing import Final

from adaptor import names
from adaptor.errors import Code, InvalidRequest, StatusError, Unavailable
from adaptor.podnet import wireguard, wireguard_choice
from adaptor.podnet.plan import GuestPlan, PlanFault, WireGuard
from adaptor.podnet.wireguard_device import SOCKETS, Endpoint
from adaptor.telemetry import logs

LOOK: Final = 10.0  # seconds between two looks where the worker is, should it be called
_AGAIN: Final = 2.0  # seconds until wireguard-go is tried again where it could not be started

log = logs.get(__name__)


class Encrypted:
    """One per VM."""

    def __init__(self) -> None:
        self._wants: str | None = None
        self._watch: asyncio.Task[None] | None = None

    def wants(self) -> str:
        """What this VM lacks for WireGuard; empty: nothing. Milliseconds, once."""
        if self._wants is None:
            # The kernel last: asking it loads its module, for which no pod that needs none should wait.
            userspace = wireguard_choice.userspace_wants()
            kernel = wireguard_choice.kernel_wants() if userspace else ""
            self._wants = f"{kernel}; {userspace}" if kernel else ""
        return self._wants

    def check(self, plan: GuestPlan) -> None:
        """Raises InvalidRequest for a plan that makes no sense, StatusError where this VM cannot encrypt."""
        if plan.wireguard is None:
            return
        try:
            wireguard.guest_peer(plan.wireguard, plan.worker)
        except PlanFault as fault:
            raise InvalidRequest(f"the pod's network plan cannot be used: {fault}") from None
        if not plan.wireguard.port:
            raise InvalidRequest("the pod's network plan cannot be used: it does not say where WireGuard is to listen")
        if why := self.wants():
            raise StatusError(
                Code.FAILED_PRECONDITION,
                f"this pod VM cannot encrypt the pod's network: {why}. Have the image bring one of them",
            )

    async def lay(self, plan: GuestPlan) -> WireGuard | None:
        """Have the device that `plan` asks for, if it does; what the worker is told of it.

        Raises: StatusError.
        """
        if plan.wireguard is None:
            return None
        peer, port = wireguard.guest_peer(plan.wireguard, plan.worker), plan.wireguard.port

        def make() -> tuple[Endpoint, str]:
            endpoint = Endpoint(wireguard_choice.choose("auto"), port)
            public_key = endpoint.ensure()
            endpoint.put(peer)
            return endpoint, public_key

        try:
            endpoint, public_key = await asyncio.to_thread(make)
        except Unavailable as error:
            raise StatusError(Code.INTERNAL, f"the pod VM cannot encrypt the pod's network: {error}") from error
        log.info("the pod's network is encrypted", wireguard=endpoint.kind, worker=plan.worker, port=port)
        if endpoint.kind == "userspace":
            self._watch = asyncio.get_running_loop().create_task(_keep(endpoint), name="wireguard-go")
        return WireGuard(public_key, port)


async def _keep(endpoint: Endpoint) -> None:
    """For ever: see wireguard-go end, and start another with the same key, which calls the worker where it was last."""
    while True:
        try:
            async with asyncio.timeout(LOOK):
                await _ended()
            log.error("wireguard-go has ended; the pod has no network until another one serves")
        except TimeoutError:
            pass
        try:
            await asyncio.to_thread(endpoint.look)
        except Unavailable as error:
            log.error("the pod has no network", reason=str(error))
            await asyncio.sleep(_AGAIN)


async def _ended() -> None:
    """Until the process that serves our device is gone."""
    with suppress(OSError):  # it may be so already; and killed, it resets the connection
        reader, writer = await asyncio.open_unix_connection(f"{SOCKETS}/{names.WIREGUARD_DEVICE}.sock")
        try:
            await reader.read()
        finally:
            writer.close()
