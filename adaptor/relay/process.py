"""The relay program: `python -m adaptor.relay.process --socket /run/peerpod/relay.sock`.

Serves peerpods.relay.Relay (relay.proto) for one adaptor after the other. Sessions belong to no connection: when an
adaptor goes, only the calls it waits for end with it. Everything is in memory; what ends the relay ends its pods.
"""

import argparse
import asyncio
import fcntl
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvloop

from adaptor import __version__, names
from adaptor.errors import AdaptorError, Conflict, InvalidRequest, UnknownSandbox
from adaptor.protos import relay_pb2
from adaptor.protos.relay_pb2 import (
    BindRequest,
    BindResponse,
    CloseRequest,
    CloseResponse,
    DialRequest,
    DialResponse,
    ListRequest,
    ListResponse,
    OpenRequest,
    OpenResponse,
    WatchRequest,
)
from adaptor.relay.session import Session
from adaptor.telemetry import logs
from adaptor.ttrpc.aio import Call, Handler, Server, Service

log = logs.get(__name__)


class Relay:
    """The sessions, and the handlers of relay.proto."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        # Begins at a number that no relay before this one has reached: who watched that one must not wait here.
        self._generation = time.time_ns()
        self._changed = asyncio.Event()

    def service(self) -> Service:
        handlers: dict[str, Handler] = {
            "Open": self.open,
            "Dial": self.dial,
            "Bind": self.bind,
            "Close": self.close,
            "List": self.list,
            "Watch": self.watch,
        }
        return Service(relay_pb2.DESCRIPTOR.services_by_name["Relay"], handlers)

    async def open(self, request: OpenRequest, call: Call) -> OpenResponse:
        if not request.sandbox_id:
            raise InvalidRequest("Open needs a sandbox_id")
        session = self._sessions.get(request.sandbox_id)
        if session is None:
            self._sessions[request.sandbox_id] = Session(request, self._change)
            self._change()
        elif session.request != request:
            raise Conflict(
                f"Open: sandbox {request.sandbox_id} is open already, at {session.request.socket_path} or with other"
                " rewrites; Close it first"
            )
        return OpenResponse()

    async def dial(self, request: DialRequest, call: Call) -> DialResponse:
        return await self._session(request.sandbox_id).dial(request)

    async def bind(self, request: BindRequest, call: Call) -> BindResponse:
        await self._session(request.sandbox_id).bind(request)
        return BindResponse()

    async def close(self, request: CloseRequest, call: Call) -> CloseResponse:
        session = self._sessions.pop(request.sandbox_id, None)
        if session is not None:
            session.close()
            self._change()
        return CloseResponse()

    async def list(self, request: ListRequest, call: Call) -> ListResponse:
        return self._listing()

    async def watch(self, request: WatchRequest, call: Call) -> ListResponse:
        while request.generation == self._generation:
            await self._changed.wait()
        return self._listing()

    def close_all(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def _session(self, sandbox_id: str) -> Session:
        session = self._sessions.get(sandbox_id)
        if session is None:
            raise UnknownSandbox(f"the relay has no session of sandbox {sandbox_id!r}; Open makes one")
        return session

    def _change(self) -> None:
        self._generation += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def _listing(self) -> ListResponse:
        sessions = [session.describe() for session in self._sessions.values()]
        return ListResponse(sessions=sessions, generation=self._generation, version=__version__, pid=os.getpid())


async def serve(path: str) -> None:
    """Serve at `path` until SIGTERM or SIGINT, then close every session. Raises ListenError: one serves there already."""
    relay = Relay()
    server = Server([relay.service()])
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with _alone_at(path):
        await server.listen_unix(path)
    log.info("the relay is serving", path=path, pid=os.getpid(), version=__version__)
    await stop.wait()
    log.info("the relay ends, and every pod it carries with it")
    await server.aclose()
    relay.close_all()


def main(socket_path: str = names.RELAY_SOCKET, log_level: str = "info") -> int:
    """Serve until a signal ends it; returns the exit status."""
    logs.setup(level=log_level)
    socket_path = os.path.abspath(socket_path)
    _detach()
    _allow_descriptors()
    try:
        uvloop.run(serve(socket_path))
    except (AdaptorError, OSError) as error:
        log.error("the relay cannot serve", path=socket_path, error=error)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="adaptor.relay.process", description="Carries the pods' agent connections.")
    parser.add_argument("--socket", default=names.RELAY_SOCKET, help="where the adaptor finds it (%(default)s)")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser.parse_args()


def _detach() -> None:
    """Outlive whoever started this: an adaptor that is upgraded, a terminal that is closed."""
    with suppress(PermissionError):  # it leads a session or a process group already
        os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.chdir("/")  # or it would keep a file system from being unmounted


def _allow_descriptors() -> None:
    """A sandbox needs three descriptors, and the usual soft limit of 1024 is meant for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def _alone_at(path: str) -> Iterator[None]:
    """Keep two relays that start at the same moment from taking each other's socket for one left behind."""
    directory = os.path.dirname(os.path.abspath(path))
    os.makedirs(directory, mode=0o700, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    arguments = _arguments()
    sys.exit(main(arguments.socket, arguments.log_level))
