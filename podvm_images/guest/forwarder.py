"""Joins a bound link and the agent: from here on every byte on the link is the agent's, in both directions."""

import asyncio
import socket
import ssl
from typing import Final

from adaptor.relay.pump import End, Pump, Side
from adaptor.relay.splice import Rules
from adaptor.telemetry import logs

# What this end changes in agent calls as they pass. Nothing, so the pump looks into no frame. (A rule here needs a
# pump that takes the link's bytes for requests: at the worker's end they are responses.)
RULES: Final[Rules] = {}


async def join(link: ssl.SSLSocket, agent: socket.socket, log: logs.Log) -> None:
    """Carry bytes until either side ends, and then end the other. Owns both sockets; cancelling closes both."""
    ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()
    pump = Pump(agent, link, ended.set_result)
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
