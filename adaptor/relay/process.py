"""The relay program: `python -m adaptor.relay.process --socket /run/peerpod/relay.sock`.

Serves peerpods.relay.Relay (relay.proto) for one adaptor after the other. Sessions belong to no connection: when an
adaptor goes, only the calls it waits for end with it. Everything is in memory; what ends the relay ends its pods,
unless a successor takes them over (`--takeover`, handover.py).
"""

import argparse
import asyncio
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from typing import Final, NoReturn

import uvloop

from adaptor import __version__, names
from adaptor.errors import AdaptorError, Conflict, InvalidRequest, Unavailable, UnknownSandbox
from adaptor.protos import relay_pb2
from adaptor.protos.handover_pb2 import HandedRelay
from adaptor.protos.relay_pb2 import (
    BindRequest,
    BindResponse,
    CloseRequest,
    CloseResponse,
    DialRequest,
    DialResponse,
    HandOverRequest,
    HandOverResponse,
    ListRequest,
    ListResponse,
    OpenRequest,
    OpenResponse,
    WatchRequest,
)
from adaptor.relay import handover
from adaptor.relay.handover import HandOverFailed, Taken
from adaptor.relay.listener import alone_at
from adaptor.relay.place import Place
from adaptor.relay.session import Session
from adaptor.telemetry import logs
from adaptor.ttrpc.aio import Call, Handler, Server, Service

log = logs.get(__name__)

# Seconds that a Bind under way gets to end before the sessions are handed over without it. A guest needs about one.
_BIND_PATIENCE: Final = 3.0


class Relay:
    """The sessions, and the handlers of relay.proto; `server` is where they are called."""

    def __init__(self, place: Place | None = None) -> None:
        self._place = place or Place()
        self._sessions: dict[str, Session] = {}
        # Begins at a number that no relay before this one has reached: who watched that one must not wait here.
        self._generation = time.time_ns()
        self._changed = asyncio.Event()
        self._handing_over = False
        self.server = Server([self._service()])

    def _service(self) -> Service:
        handlers: dict[str, Handler] = {
            "Open": self.open,
            "Dial": self.dial,
            "Bind": self.bind,
            "Close": self.close,
            "List": self.list,
            "HandOver": self.hand_over,
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
        return OpenResponse(volumes=len(request.rewrites.volumes), answers=True)

    async def dial(self, request: DialRequest, call: Call) -> DialResponse:
        return await self._session(request.sandbox_id).dial(request)

    async def bind(self, request: BindRequest, call: Call) -> BindResponse:
        return BindResponse(answer=await self._session(request.sandbox_id).bind(request))

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

    async def hand_over(self, request: HandOverRequest, call: Call) -> HandOverResponse:
        """Give everything to the successor that listens at `socket_path`, and end; raises HandOverFailed."""
        pid = call.peer.pid if call.peer else 0
        if self._handing_over:
            raise Conflict(f"HandOver: another successor is being served; pid {pid} comes second")
        self._handing_over = True
        try:
            line = handover.reach(request.socket_path)
            log.info("a successor asks for everything", pid=pid, sessions=len(self._sessions))
            self.server.pause()
            try:
                await self._until_bound()
                self._give(line)
            finally:
                line.close()
                await self.server.resume()
        except AdaptorError as error:
            log.error("the hand-over came to nothing, and everything goes on here", pid=pid, reason=error)
            raise
        finally:
            self._handing_over = False

    def _give(self, line: handover.Line) -> NoReturn:
        """Nothing else happens in this process meanwhile; it returns only with everything as it was."""
        sessions = list(self._sessions.values())
        for session in sessions:
            session.freeze()
        try:
            handed = HandedRelay(
                version=__version__, pid=os.getpid(), generation=self._generation, sessions=len(sessions)
            )
            exported = map(Session.export, sessions)
            handover.hand_over(line, handed, self.server.listeners[0], exported, self._place.leave)
        finally:
            for session in sessions:
                session.thaw()

    async def _until_bound(self) -> None:
        """A Bind that ends now need not be repeated; those that take longer are the adaptor's to repeat."""
        await asyncio.sleep(0)  # callers that were cut are gone after this
        if binding := [each.binding for each in self._sessions.values() if each.binding]:
            await asyncio.wait(binding, timeout=_BIND_PATIENCE)

    def restore(self, taken: Taken) -> None:
        """Make the sessions that another relay hands over, without touching a socket. Raises HandOverFailed."""
        self._generation = taken.relay.generation + 1
        for handed, (listener, *shim) in taken.sessions:
            sandbox = handed.open.sandbox_id
            try:
                self._sessions[sandbox] = Session.restored(handed, listener, shim[0] if shim else None, self._change)
            except (AdaptorError, ValueError) as error:
                raise HandOverFailed(f"the session of sandbox {sandbox} cannot be taken over: {error}") from error

    def take_up(self, why: str) -> None:
        """Begin to serve what was restored."""
        for session in self._sessions.values():
            session.take_up(why)

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


async def serve(path: str, *, takeover: bool = False, serving_file: str | None = None) -> None:
    """Serve at `path` until SIGTERM or SIGINT, then close every session.

    Raises ListenError: one serves there already; HandOverFailed where it was to be taken over; OSError.
    """
    place = Place(serving_file)
    relay = Relay(place)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if not (takeover and await _take_over(relay, path)):
        with alone_at(path):
            await relay.server.listen_unix(path)
    place.serving()
    log.info("the relay is serving", path=path, pid=os.getpid(), version=__version__)
    await stop.wait()
    log.info("the relay ends, and every pod it carries with it")
    await relay.server.aclose()
    relay.close_all()


async def _take_over(relay: Relay, path: str) -> bool:
    """Whether there was a relay to take over from."""
    try:
        async with handover.taken_over(path) as taken:
            relay.restore(taken)
            taken.confirm()
            why = f"moved from relay {taken.relay.pid} ({taken.relay.version}) to {os.getpid()} ({__version__})"
            relay.take_up(why)
            await relay.server.listen_on(taken.listener, path)
    except Unavailable as error:
        log.info("no relay runs that could be taken over", path=path, reason=error)
        return False
    log.info("took over from another relay", pid=taken.relay.pid, sessions=len(taken.sessions))
    return True


def main(
    socket_path: str = names.RELAY_SOCKET,
    log_level: str = "info",
    *,
    takeover: bool = False,
    serving_file: str | None = None,
) -> int:
    """Serve until a signal ends it; returns the exit status."""
    logs.setup(level=log_level)
    socket_path = os.path.abspath(socket_path)
    _detach()
    _allow_descriptors()
    try:
        uvloop.run(serve(socket_path, takeover=takeover, serving_file=serving_file))
    except (AdaptorError, OSError) as error:
        log.error("the relay cannot serve", path=socket_path, error=error)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="adaptor.relay.process", description="Carries the pods' agent connections.")
    parser.add_argument("--socket", default=names.RELAY_SOCKET, help="where the adaptor finds it (%(default)s)")
    parser.add_argument("--takeover", action="store_true", help="take over from the relay that serves there, if any")
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


if __name__ == "__main__":
    arguments = _arguments()
    sys.exit(main(arguments.socket, arguments.log_level, takeover=arguments.takeover))
