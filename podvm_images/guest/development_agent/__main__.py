"""`python -m podvm_images.guest.development_agent`: serve kata-agent's services on a unix socket until SIGTERM."""

import argparse
import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from adaptor import names
from adaptor.errors import AdaptorError
from adaptor.telemetry import logs
from adaptor.ttrpc.aio import Server
from podvm_images.guest.development_agent import defaults, kernel, machine, runtime
from podvm_images.guest.development_agent.children import Children
from podvm_images.guest.development_agent.defaults import Defaults
from podvm_images.guest.development_agent.files import Tree
from podvm_images.guest.development_agent.ledger import Ledger, remove
from podvm_images.guest.development_agent.sandbox import Sandbox, Surroundings
from podvm_images.guest.development_agent.service import Agent

log = logs.get(__name__)

# Containers' files come below it by CopyFile, storages are mounted below it.
BASE: Final = "/run"

_CGROUPS: Final = "/sys/fs/cgroup"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; 0 after leaving nothing behind, 1 with a reason on stderr."""
    options = _options(arguments)
    logs.setup(level="info")
    try:
        policy = _policy(options.policy)
        asyncio.run(_serve(options.socket, os.path.abspath(options.root), options.runtime, policy))
    except (OSError, AdaptorError) as error:
        print(f"development agent: {error}", file=sys.stderr)
        return 1
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="development-agent", description=__doc__)
    parser.add_argument("--socket", default=names.KATA_AGENT_SOCKET, help="where to serve (default: %(default)s)")
    parser.add_argument(
        "--root", default=os.path.dirname(names.KATA_AGENT_SOCKET), help=f"directory below {BASE} to work in"
    )
    parser.add_argument("--runtime", default="", choices=["", *runtime.KNOWN], help="default: the first installed one")
    parser.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="FILE",
        help="refuse what its `default` lines refuse; of several the first that exists counts (default: allow all)",
    )
    options = parser.parse_args(arguments)
    if not os.path.abspath(options.root).startswith(f"{BASE}/"):
        parser.error(f"--root {options.root} is not below {BASE}, where the pod's files come")
    return options


def _policy(files: Sequence[str]) -> Defaults | None:
    """Raises OSError where policies are named and none can be read."""
    if not files:
        return None
    chosen = next((file for file in files if os.path.exists(file)), files[-1])
    with open(chosen, encoding="utf-8") as stream:
        policy = defaults.read(stream.read())
    log.info(
        "agent policy", file=chosen, refused=sorted(name for name, allowed in policy.allowed.items() if not allowed)
    )
    if policy.beyond:
        log.warning("THE POLICY HAS RULES THAT THIS STAND-IN CANNOT EVALUATE: ITS DEFAULTS COUNT", lines=policy.beyond)
    return policy


async def _serve(socket: str, root: str, wanted: str, policy: Defaults | None) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    program = runtime.find(wanted)
    with _claimed(root):
        here = await _prepare(program, root)
        agent = Agent(Sandbox(here), here.tree, policy)
        server = Server(agent.services())
        try:
            await server.listen_unix(socket)
            log.warning("A DEVELOPMENT STAND-IN FOR KATA-AGENT SERVES HERE", socket=socket, runtime=program)
            await stop.wait()
        finally:
            await server.aclose()
            await agent.aclose()
            remove(here.work)


@contextmanager
def _claimed(root: str) -> Iterator[None]:
    """Have `root`, made if need be, to ourselves. Raises OSError if another agent has it."""
    made = not os.path.isdir(root)
    os.makedirs(root, mode=0o700, exist_ok=True)
    lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
        if made:
            with suppress(OSError):  # somebody else's files are in it
                os.rmdir(root)
    except BlockingIOError as error:
        raise OSError(f"another development agent works in {root}: stop it, or choose another --root") from error
    finally:
        os.close(lock)


async def _prepare(program: str, root: str) -> Surroundings:
    """Namespaces of our own, an end to what an agent before us has left, and the facts about this VM."""
    work = f"{root}/development-agent"
    commands = runtime.Runtime(program, f"{work}/runtime", f"{work}/scratch", Children())
    kernel.become_subreaper()
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS)
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_SLAVE)  # the VM's volumes come in, our mounts do not go out
    if commands.name == "crun" and _has_old_cgroups():
        kernel.mount("none", _CGROUPS, "tmpfs")  # it refuses a mixture of cgroup v1 and v2, even to stay out of it
    await _clear_away(commands, work)
    for folder in ("runtime", "scratch", "bundles", "probe"):
        os.makedirs(f"{work}/{folder}", mode=0o700)
    ledger = Ledger(f"{work}/ledger")
    return Surroundings(
        runtime=commands,
        machine=machine.inspect(f"{work}/probe"),
        tree=Tree(BASE, ledger, work),
        ledger=ledger,
        root=root,
        work=work,
    )


def _has_old_cgroups() -> bool:
    return os.path.isdir(_CGROUPS) and not os.path.exists(f"{_CGROUPS}/cgroup.controllers")


async def _clear_away(commands: runtime.Runtime, work: str) -> None:
    """End what an agent that was killed has left running and lying about."""
    os.makedirs(f"{work}/scratch", mode=0o700, exist_ok=True)
    for container in commands.known():
        log.warning("container of a killed agent is taken away", container=container)
        try:
            await commands.delete(container)
        except AdaptorError as error:
            log.error("it can not be taken away", container=container, reason=str(error))
    for path in Ledger(f"{work}/ledger").clear():
        log.error("left over and can not be removed", path=path)
    remove(work)


if __name__ == "__main__":
    sys.exit(main())
