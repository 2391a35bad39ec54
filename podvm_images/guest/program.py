"""The guest program from start to end: what it needs before it can listen, in order, and what it owes as PID 1."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

import uvloop

from adaptor import names
from adaptor.errors import AdaptorError
from adaptor.relay import tls
from adaptor.telemetry import logs
from podvm_images.guest import bind, identity, imds, userdata
from podvm_images.guest.agent import Agent
from podvm_images.guest.control import Control
from podvm_images.guest.network import Network, prepare
from podvm_images.guest.programs import Programs
from podvm_images.guest.service import Service
from podvm_images.guest.volumes import Volumes

if TYPE_CHECKING:
    from podvm_images.guest.stock import Stock
    from podvm_images.guest.stock_service import StockService

DEVELOPMENT_AGENT: Final = (sys.executable, "-m", "podvm_images.guest.development_agent", "--socket")
_BACKLOG: Final = 64  # connections the kernel holds while this program shakes hands with others

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """The command line. Without `port` user-data's is used; `development` starts the stand-in agent after Bind."""

    host: str = "0.0.0.0"
    port: int | None = None
    development: bool = False
    policy: str = ""  # the stand-in's, where initdata brings none; empty: it allows all
    agent_socket: str = names.KATA_AGENT_SOCKET
    user_data: Sequence[str] = (names.CIDATA_USER_DATA, names.FW_CFG_USER_DATA)
    user_data_timeout: float = 180.0
    run_dir: str = names.GUEST_RUN_DIR
    imds_url: str = imds.URL


def run(options: Options) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status. What keeps it from serving is told in one line."""
    signal.signal(signal.SIGTERM, _end)  # PID 1 is sent no signal that it has no handler for
    agent = Agent(options.agent_socket, _stand_in(options) if options.development else ())
    programs = Programs()
    try:
        service = _service(options, agent, programs)
    except (AdaptorError, OSError) as error:
        log.error("the guest cannot serve", reason=error)
        return 1
    try:
        uvloop.run(_serve(service, agent, programs))
    except (AdaptorError, OSError) as error:
        log.error("the guest cannot serve", reason=error)
        return 1
    log.info("the guest has ended")
    return 0


def _stand_in(options: Options) -> tuple[str, ...]:
    policies = (f"{options.run_dir}/policy.rego", options.policy) if options.policy else ()
    return (*DEVELOPMENT_AGENT, options.agent_socket, *(word for each in policies for word in ("--policy", each)))


def _service(options: Options, agent: Agent, programs: Programs) -> "Service | StockService":
    """Everything up to listening. The key first: it needs nothing, and user-data may be a while in coming."""
    me = identity.generate()
    told = userdata.read(options.user_data, options.imds_url, options.user_data_timeout)
    run_dir = Path(options.run_dir)
    bind.prepare(run_dir)
    if not isinstance(told, userdata.UserData):
        return _stock_service(told, _listener(options, told.port), run_dir, agent)
    context = tls.guest_server(me.certificate, me.key, told.worker_ca.encode())
    control = Control(told.launch_token, me.der, run_dir, agent, Volumes(programs), Network(port=told.port))
    return Service(_listener(options, told.port), context, control)


def _stock_service(stock: "Stock", listener: socket.socket, run_dir: Path, agent: Agent) -> "StockService":
    from podvm_images.guest.stock_service import StockService  # see userdata

    context = tls.stock_server(stock.certificate, stock.key, stock.client_ca)
    return StockService(listener, context, stock, run_dir, agent, Network(port=stock.port))


def _listener(options: Options, port: int) -> socket.socket:
    return socket.create_server(
        (options.host, port if options.port is None else options.port),
        family=socket.AF_INET6 if ":" in options.host else socket.AF_INET,
        backlog=_BACKLOG,
    )


async def _serve(service: "Service | StockService", agent: Agent, programs: Programs) -> None:
    loop = asyncio.get_running_loop()
    serving = asyncio.ensure_future(service.serve())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    # A handler of Python's own, because uvloop keeps SIGCHLD from others; the work waits for the loop, because the
    # handler may have interrupted code that is itself looking at a child.
    signal.signal(signal.SIGCHLD, lambda _number, _frame: loop.call_soon_threadsafe(_reap, agent, programs))
    _reap(agent, programs)
    _notify("READY=1")
    log.info("the guest is listening", address=service.address)
    preparing = loop.run_in_executor(None, prepare)  # until the worker calls there is time
    with suppress(asyncio.CancelledError):
        await serving
    _notify("STOPPING=1")
    await preparing
    await agent.stop()


def _reap(agent: Agent, programs: Programs) -> None:
    """Collect every child that has ended: ours, and those orphans whose parent PID 1 has become."""
    with suppress(ChildProcessError):
        while (child := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if not agent.collect(child.si_pid) and not programs.collect(child.si_pid):
                os.waitpid(child.si_pid, 0)


def _notify(state: str) -> None:
    """Tell systemd, where it runs this program (sd_notify)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, suppress(OSError):
            notify.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)
