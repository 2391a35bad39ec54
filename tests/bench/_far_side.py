"""The guest's half of a tunnel, without its boot: greets, binds, resumes, and pumps to a unix socket. Many VMs at once.

python -m tests.bench._far_side PORT AGENT_SOCKET CERTIFICATE KEY WORKER_CA      (the last three: PEM files)
"""

import asyncio
import socket
import ssl
import sys
from pathlib import Path

import uvloop
from google.protobuf.message import Message

from adaptor.protos.guest_pb2 import BindRequest, BindResponse, HelloResponse, ResumeRequest, ResumeResponse
from adaptor.relay import tls
from adaptor.relay.link import tune
from adaptor.relay.pump import End, Pump, Side
from adaptor.relay.records import Records
from adaptor.relay.splice import Splice
from adaptor.ttrpc.connection import ServerConnection
from adaptor.ttrpc.frames import HEADER


class Vm:
    """A bound VM's part of this process."""

    def __init__(self, unix: socket.socket) -> None:
        self.records = Records()
        self.pump = Pump(unix, self.records, Splice({}), ended=_ignore, broke=_ignore, requests_from=Side.LINK)


async def serve(port: int, agent: str, context: ssl.SSLContext) -> None:
    """Until killed."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    tasks: set[asyncio.Task[None]] = set()
    vms: dict[str, Vm] = {}
    while True:
        connection, _ = await loop.sock_accept(listener)
        tune(connection)
        task = loop.create_task(_join(tls.wrap(context, connection), agent, vms))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _join(link: ssl.SSLSocket, agent: str, vms: dict[str, Vm]) -> None:
    try:
        await tls.handshake(link)
        await _until_bound(link, agent, vms)
    except OSError:
        link.close()  # somebody looked whether this listens, or has gone


async def _until_bound(link: ssl.SSLSocket, agent: str, vms: dict[str, Vm]) -> None:
    calls = ServerConnection()
    while True:
        header = await tls.read_exactly(link, HEADER.size)
        (request,) = calls.receive(header + await tls.read_exactly(link, HEADER.unpack(header)[0]))
        first = b""
        match request.method:
            case "Hello":
                answer: Message = HelloResponse()
            case "Bind":
                vm = vms[BindRequest.FromString(request.payload).sandbox_id] = Vm(await _connect(agent))
                answer = BindResponse()
            case _:
                resume = ResumeRequest.FromString(request.payload)
                vm = vms[resume.sandbox_id]
                vm.pump.detach()
                answer = ResumeResponse(received=vm.records.received)
                first = vm.records.resume(resume.received)
        calls.respond(request.stream_id, answer.SerializeToString())
        await tls.write_all(link, calls.data_to_send())
        if request.method != "Hello":
            vm.pump.attach(link, first)
            return


async def _connect(agent: str) -> socket.socket:
    unix = socket.socket(socket.AF_UNIX)
    unix.setblocking(False)
    await asyncio.get_running_loop().sock_connect(unix, agent)
    return unix


def _ignore(end: End) -> None:
    """The bench looks at the other end; a VM whose link broke waits for the next."""


if __name__ == "__main__":
    port, agent, *files = sys.argv[1:]
    certificate, key, ca = (Path(file).read_bytes() for file in files)
    uvloop.run(serve(int(port), agent, tls.guest_server(certificate, key, ca)))
