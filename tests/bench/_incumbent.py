"""How the incumbent waits for a VM: one dial, at the pace of the kernel's doubling pauses between SYNs."""

import asyncio
import os
import socket
import time
from typing import Final

# Its own figures, in seconds: how long one dial may take, and the pauses after one that was refused.
_DIAL: Final = 300.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


async def dial(address: str, port: int) -> float:
    """When TCP was up, in seconds since the epoch. Raises TimeoutError."""
    pause = _FIRST_PAUSE
    while True:
        try:
            await _connect(address, port, _DIAL)
        except TimeoutError:
            raise
        except OSError:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            return time.time()


async def one_connect(address: str, port: int, patience: float = 1.0) -> str:
    """What comes of it now, in words."""
    try:
        await _connect(address, port, patience)
    except TimeoutError:
        return f"no answer within {patience:g} s, SYNs vanish"
    except OSError as error:
        return os.strerror(error.errno or 0)
    return "it connects"


async def _connect(address: str, port: int, patience: float) -> None:
    with socket.socket() as connection:
        connection.setblocking(False)
        async with asyncio.timeout(patience):
            await asyncio.get_running_loop().sock_connect(connection, (address, port))
