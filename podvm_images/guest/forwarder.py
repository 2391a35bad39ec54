"""Joins a bound link and the agent: from here on the link is the agent's, in both directions."""

import asyncio
import socket
import ssl
from typing import Final

from adaptor import names
from adaptor.errors import Code, StatusError
from adaptor.relay.pump import End, Pump, Side
from adaptor.relay.splice import Answer, Rules, Splice, Verdict
from adaptor.telemetry import logs


def refuse(message: bytes) -> Verdict:
    """A call of ours on a link that is the agent's: never the agent's business."""
    return Answer(error=StatusError(Code.FAILED_PRECONDITION, "this link is the agent's: the VM is bound already"))


# What this end changes in agent calls as they pass: nothing yet. It only keeps our own service to itself.
RULES: Final[Rules] = {(names.GUEST_SERVICE, "Hello"): refuse, (names.GUEST_SERVICE, "Bind"): refuse}


async def join(link: ssl.SSLSocket, agent: socket.socket, log: logs.Log) -> None:
    """Carry bytes until either side ends, and then end the other. Owns both sockets; cancelling closes both."""
    ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()
    pump = Pump(agent, link, ended.set_result, Splice(RULES), requests_from=Side.LINK)
    pump.start()
    log.info("the link is the agent's")
    try:
        end = await ended
    except asyncio.CancelledError:
        pump.close()
        raise
    log.info(
        "the link has ended",
        side="agent" if end.side is Side.UNIX else "worker",
        reason=end.reason,
        bytes_to_agent=pump.bytes_from_link,
        bytes_from_agent=pump.bytes_to_link,
    )
