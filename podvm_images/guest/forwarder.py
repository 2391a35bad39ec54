"""The agent's one connection, for the pod's life, and whichever link carries it now.

    link of Bind ──┐
    link of Resume ┼─► pump ──► agent        one link at a time, the newest; while there is none the agent's answers
    ...            ┘                         are kept (records.WINDOW), and then it is not read any more

Nothing here waits or gives up by itself: a VM that no worker comes back to is the cloud's to delete.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

from adaptor import names
from adaptor.errors import Code, StatusError
from adaptor.relay.carrier import CarrierFault
from adaptor.relay.pump import End, Pump, Side
from adaptor.relay.records import Records
from adaptor.relay.splice import Answer, Rules, Splice, Verdict
from adaptor.telemetry import logs
from podvm_images.guest import rewrite


def refuse(message: bytes) -> Verdict:
    """A call of ours on a link that is the agent's: never the agent's business."""
    return Answer(error=StatusError(Code.FAILED_PRECONDITION, "this link is the agent's: the VM is bound already"))


# Besides what `rewrite` changes, this end keeps our own service to itself, and hears of the pod's end.
RULES: Final[Rules] = {(names.GUEST_SERVICE, method): refuse for method in ("Hello", "Bind", "Resume")}

log = logs.get(__name__)


class Forwarder:
    """Owns `agent` (connected, non-blocking) and every link it is given. Needs a running loop.

    A new link comes in two steps, without an await between them, so that what `received` tells stays true: `begin` or
    `resume`, which may refuse and have changed nothing for an older link then; and `attach`.
    """

    def __init__(
        self, agent: socket.socket, has_network: bool = False, at_end: Callable[[], None] = lambda: None
    ) -> None:
        """`has_network`: the pod has one of its own in this VM. `at_end` is called when the pod's end comes by, before the agent hears of it. It may take its time: the pod's
        containers are gone, and its VM is deleted once the agent has answered."""

        def destroy(message: bytes) -> Verdict:
            at_end()
            return None

        rules = {**RULES, **rewrite.rules(has_network=has_network), (names.AGENT_SERVICE, "DestroySandbox"): destroy}
        self._records = Records()
        self._pump = Pump(
            agent, self._records, Splice(rules), ended=self._on_end, broke=self._on_break, requests_from=Side.LINK
        )
        self._log = log
        self._end: tuple[End, float] | None = None  # how and when (the loop's time) it was all over
        self._pump.start()

    @property
    def received(self) -> int:
        """Bytes for the agent that have arrived, over all links."""
        return self._records.received

    def begin(self) -> bytes:
        """What a link that Bind was called on must send first, after the answer.

        Raises StatusError (FAILED_PRECONDITION) once bytes were carried: this worker cannot know of them.
        """
        if self._records.sent or self._records.received:
            raise StatusError(
                Code.FAILED_PRECONDITION, "this VM's agent has been talked to since Bind: its link can only be resumed"
            )
        return self.resume(0)

    def resume(self, received: int) -> bytes:
        """What a link must send first whose worker has `received` bytes of the agent's, after the answer.

        Raises StatusError (FAILED_PRECONDITION) when the agent has ended, or when the counts do not fit.
        """
        if self._end is not None:
            raise StatusError(Code.FAILED_PRECONDITION, f"this VM has no agent any more: {self._fate(*self._end)}")
        try:
            return self._records.resume(received)
        except CarrierFault as error:
            raise StatusError(Code.FAILED_PRECONDITION, f"this VM's agent cannot be gone on with: {error}") from error

    def attach(self, link: ssl.SSLSocket, first: bytes, log: logs.Log) -> None:
        """Give the agent this link, which sends `first` before all else. The one before it is closed without a word."""
        self._log = log
        log.info("the link is the agent's", bytes_sent_again=len(first), **self._carried())
        self._pump.attach(link, first)

    def close(self) -> None:
        """End the link in order, and hang up on the agent. May be repeated."""
        self._pump.close()

    def _on_break(self, end: End) -> None:
        self._log.warning("the link broke; waiting for the worker to resume it", reason=end.reason, **self._carried())

    def _on_end(self, end: End) -> None:
        self._end = end, asyncio.get_running_loop().time()
        self._log.info(
            "the link has ended",
            side="agent" if end.side is Side.UNIX else "worker",
            reason=end.reason,
            **self._carried(),
        )

    def _carried(self) -> dict[str, int]:
        return {"bytes_to_agent": self._pump.bytes_from_link, "bytes_from_agent": self._pump.bytes_to_link}

    def _fate(self, end: End, when: float) -> str:
        ago = f"{asyncio.get_running_loop().time() - when:.0f} s ago"
        if end.side is Side.UNIX:
            return f"it hung up {ago} ({end.reason})"
        return f"its worker ended the link {ago} ({end.reason})"
