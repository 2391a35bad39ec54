"""The guest's half of a tunnel, without its boot: greets, binds, and pumps to a unix socket. Many links, one process.

python -m tests.bench._far_side PORT AGENT_SOCKET CERTIFICATE KEY WORKER_CA      (the last three: PEM files)
"""

import asyncio
import socket
import ssl
import sys
from pathlib import Path

import uvloop

from adaptor.protos.guest_pb2 import BindResponse, HelloResponse
from adaptor.relay import tls
from adaptor.relay.link import tune
from adaptor.relay.pump import End, Pump, Side
from adaptor.relay.records import Records
from adaptor.relay.splice import Splice
from adaptor.ttrpc.connection import ServerConnection
from adaptor.ttrpc.frames import HEADER


async def serve(port: int, agent: str, context: ssl.SSLContext) -> None:
    """Until killed."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    tasks: set[asyncio.Task[None]] = set()
    while True:
        connection, _ = await loop.sock_accept(listener)
        tune(connection)
        task = loop.create_task(_join(tls.wrap(context, connection), agent))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _join(link: ssl.SSLSocket, agent: str) -> None:
    loop = asyncio.get_running_loop()
    try:
        await tls.handshake(link)
    except OSError:
        link.close()  # somebody looked whether this listens
        return
    calls = ServerConnection()
    for message in (HelloResponse(), BindResponse()):
        header = await tls.read_exactly(link, HEADER.size)
        (request,) = calls.receive(header + await tls.read_exactly(link, HEADER.unpack(header)[0]))
        calls.respond(request.stream_id, message.SerializeToString())
        await tls.write_all(link, calls.data_to_send())
    unix = socket.socket(socket.AF_UNIX)
    unix.setblocking(False)
    await loop.sock_connect(unix, agent)
    pump = Pump(unix, Records(), Splice({}), ended=_forget, broke=lambda end: pump.close(), requests_from=Side.LINK)
    pump.attach(link)


def _forget(end: End) -> None:
    """The bench looks at the other end."""


if __name__ == "__main__":
    port, agent, *files = sys.argv[1:]
    certificate, key, ca = (Path(file).read_bytes() for file in files)
    uvloop.run(serve(int(port), agent, tls.guest_server(certificate, key, ca)))
