"""The pod's network as Bind has it made: understood, then laid by a thread while the loop goes on.

What a plan needs is in `podns` and below it, and read in once this program listens: every pod's start waits for that.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from adaptor import names
from adaptor.errors import InvalidRequest
from adaptor.telemetry import logs

if TYPE_CHECKING:  # see above
    from adaptor.podnet.plan import GuestAnswer, GuestPlan
    from podvm_images.guest.encrypted import Encrypted

log = logs.get(__name__)
T = TypeVar("T")


def prepare() -> None:
    """Read in what a network needs. For any thread."""
    from podvm_images.guest import encrypted, podns  # noqa: F401 - that is all


class Network:
    """The pod's network of this VM. `netns` is where the pod's namespace is, or is made; `port`: the guests'."""

    def __init__(self, netns: str = names.POD_NETNS, port: int = names.GUEST_PORT) -> None:
        self._netns = netns
        self._port = port
        self._own: Encrypted | None = None

    def can_encrypt(self) -> bool:
        """Whether a plan may ask for WireGuard."""
        return not self._encrypted().wants()

    def understand(self, plan: bytes) -> "GuestPlan":
        """The plan that Bind brought. Raises InvalidRequest or StatusError for one that this image cannot lay."""
        from adaptor.podnet.plan import PlanFault, guest_plan_from_json
        from podvm_images.guest import layout

        try:
            understood = guest_plan_from_json(plan)
            layout.check(understood)
            self._encrypted().check(understood)
        except PlanFault as fault:
            raise InvalidRequest(f"the pod's network plan cannot be used: {fault}") from None
        return understood

    async def make(self) -> None:
        """Have the pod's namespace: before the agent starts, which may see no mounts that come later."""
        from podvm_images.guest import podns

        await _in_thread(lambda: podns.make(self._netns))

    async def lay(self, plan: "GuestPlan") -> "GuestAnswer":
        """Make the namespace what `plan` says. Raises StatusError naming the part that cannot be."""
        from adaptor.podnet.plan import GuestAnswer
        from podvm_images.guest import podns

        ours = await self._encrypted().lay(plan)
        interfaces = await _in_thread(lambda: podns.lay(self._netns, plan))
        await _in_thread(lambda: podns.leave(self._netns, plan, self._port))
        log.info(
            "the pod's network is laid",
            worker=plan.worker,
            encrypted=ours is not None,
            interfaces=[f"{each.name} {', '.join(each.addresses)} MTU {each.mtu}" for each in interfaces],
        )
        return GuestAnswer(ours)

    def _encrypted(self) -> "Encrypted":
        if self._own is None:
            from podvm_images.guest.encrypted import Encrypted

            self._own = Encrypted()
        return self._own


async def _in_thread(deed: Callable[[], T]) -> T:
    """Do it in a thread of its own, which may enter namespaces, for it ends with the deed."""
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="podns")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, deed)
    finally:
        thread.shutdown(wait=False)
