"""An adaptor that is killed: `python -m tests.podnet._victim`, by test_storm.

Each line of standard input has tunnels and a number. A child makes, joins and removes the tunnels, both at once, and is
killed with SIGKILL in the place of the netlink datagram of that number; the line that comes back is how many it sent,
or "killed".
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import pyroute2  # noqa: F401  before the forks, not in each of them

from adaptor.podnet.exchange import Exchange
from adaptor.podnet.hosts import HostNetworks
from adaptor.podnet.plan import Cord, Tunnel


def main() -> None:
    for line in sys.stdin:
        given = json.loads(line)
        tunnels = [_tunnel(each) for each in given["tunnels"]]
        read, write = os.pipe()
        child = os.fork()
        if not child:
            sent = _counted(given["kill"])
            asyncio.run(_life(tunnels))
            os.write(write, str(sent[0]).encode())
            os._exit(0)
        os.close(write)
        _, status = os.waitpid(child, 0)
        said = os.read(read, 100).decode()
        os.close(read)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print("killed" if killed else said or f"status {status}", flush=True)


async def _life(tunnels: list[Tunnel]) -> None:
    networks = HostNetworks()
    networks.recall(tunnels)

    async def one(tunnel: Tunnel) -> None:
        await networks.open(tunnel)
        await networks.connect(tunnel, 5.0)
        await networks.remove(tunnel)

    await asyncio.gather(*map(one, tunnels))
    await networks.aclose()


def _counted(kill: int) -> list[int]:
    sent = [0]
    send = Exchange._send

    def counting(self: Exchange, messages: Sequence[bytes], flags: int) -> None:
        if sent[0] == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        sent[0] += 1
        send(self, messages, flags)

    Exchange._send = counting  # type: ignore[method-assign]
    return sent


def _tunnel(given: dict[str, Any]) -> Tunnel:
    return Tunnel(**{**given, "cords": tuple(Cord(**cord) for cord in given["cords"])})


if __name__ == "__main__":
    main()
