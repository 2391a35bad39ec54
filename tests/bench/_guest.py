"""The guest as it is, with stopwatches. The VMs of the start benchmark run it.

python -m tests.bench._guest PAUSE WORKER     PAUSE: seconds, at most, between network and guest; drawn evenly
                                              WORKER: hears nothing from here until the guest listens; "" for everybody
"""

import os
import random
import socket
import struct
import sys
import time
from typing import Any, Final

# What the console lines begin with that these go on: since the epoch, and how long the stand-in agent's start took.
LISTENS: Final = "LISTENS"
AGENT: Final = "AGENT"

_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_REQUEST, _ACK, _CREATE = 0x1, 0x4, 0x400
_MAIN_TABLE, _PROTO_STATIC, _BLACKHOLE = 254, 4, 6
_RTA_DST = 1


def main(pause: float, worker: str) -> int:
    """Returns the guest's exit status."""
    if worker:
        _silence(_RTM_NEWROUTE, worker)
    from podvm_images.guest import __main__, agent  # a tenth of a second: the network refuses connections by now

    create_server, connect = socket.create_server, agent.Agent.connect

    def listen(*arguments: Any, **options: Any) -> socket.socket:
        listener = create_server(*arguments, **options)
        if worker:
            _silence(_RTM_DELROUTE, worker)
        _say(LISTENS, time.time())
        return listener

    async def start_agent(self: agent.Agent, timeout: float) -> socket.socket:
        began = time.monotonic()
        connection = await connect(self, timeout)
        _say(AGENT, time.monotonic() - began)
        return connection

    socket.create_server = listen
    agent.Agent.connect = start_agent  # type: ignore[method-assign]
    time.sleep(random.uniform(0, pause))
    return __main__.main(["--agent", "development"])


def _say(what: str, seconds: float) -> None:
    os.write(2, f"{what} {seconds:.6f}\n".encode())


def _silence(change: int, worker: str) -> None:
    """Add or delete a route that swallows every answer to `worker`, refusals too: to it, nothing is here yet."""
    route = struct.pack(
        "=BBBBBBBBIHH4s",
        *(socket.AF_INET, 32, 0, 0, _MAIN_TABLE, _PROTO_STATIC, 0, _BLACKHOLE, 0),
        *(8, _RTA_DST, socket.inet_aton(worker)),
    )
    flags = _REQUEST | _ACK | (_CREATE if change == _RTM_NEWROUTE else 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(route), change, flags, 1, 0) + route)
        error: int = struct.unpack_from("=i", netlink.recv(4096), 16)[0]
    if error:
        raise OSError(-error, "the route that hides this guest")


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2]))
