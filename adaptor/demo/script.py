"""The demo's course: a cloud, a node, one pod from CreateVM to StopVM, and the count of what is left."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from adaptor.demo import leftovers, service
from adaptor.demo.clouds import STAGES
from adaptor.demo.cni import Pod
from adaptor.demo.leftovers import Inventory
from adaptor.demo.local import ANNOTATION, INITDATA, LocalWorld
from adaptor.demo.shim import Process, Shim
from adaptor.demo.timeline import Timeline
from adaptor.demo.world import World
from adaptor.errors import AdaptorError

_DIRECTORY: Final = Path("/run/peerpods-demo")  # the demo's own tmpfs (enter)
_POD: Final = "demo/hello"
_METADATA: Final = "169.254.169.254"  # the same at every cloud; it would tell a pod of its VM
_FILE: Final = b"x" * (3 << 20)  # three CopyFile calls of 1 MiB
# What the adaptor's spans are called for a reader, and what of them is worth showing.
_SPANS: Final[dict[str, tuple[str, Callable[[dict[str, Any]], str]]]] = {
    "instance.create": ("create", lambda line: f"{line.get('instance')} ({line.get('type')})"),
    "guest.reach": ("boot, dial, TLS, Hello", lambda line: f"{line.get('address')}, {line.get('attempts')} attempts"),
    "network.open": ("tunnel", lambda line: f"VNI {line.get('vni')} to {line.get('peer')}, UDP {line.get('port')}"),
    "network.connect": ("tunnel joined to the pod", lambda line: "a frame came back from the VM"),
    "guest.bind": ("Bind: the VM is the pod's", lambda line: "its agent answers"),
    "instance.delete": ("delete", lambda line: str(line.get("instance"))),
}


_WHERE: Final = {
    "qemu": "in a VM of QEMU's on this machine",
    "namespace": "in NO VM: namespaces of this machine, without isolation",
}


class DemoFailed(AdaptorError):
    """A pod did not behave as one on a real node does."""


def main(
    provider: str, boot_delay: str, *, encrypted: bool, plain: bool, logs: str | None, vmm: str = "", image: str = ""
) -> int:
    """Run it; 0 when everything worked and nothing was left, else 1. With a `vmm` (qemu, namespace) the VM is on this
    machine, and there is no cloud: `provider` is local."""
    console = Console(highlight=False)
    where = _WHERE.get(vmm) or f"in a VM on a simulated {STAGES[provider].title}"
    console.print(f"One pod from CreateVM to StopVM, as kata's shim plays it, {where}.\n")
    _DIRECTORY.mkdir()
    try:
        settings = {"network": {"encryption": "required"}} if encrypted else {}
        world: World = (
            LocalWorld(_DIRECTORY, image=image, vmm=vmm, settings=settings)
            if vmm
            else World(_DIRECTORY, provider=provider, boot_delay=boot_delay, settings=settings)
        )
        left = asyncio.run(_play(console, world, plain=plain))
    except AdaptorError as error:
        console.print(f"[red]the demo failed:[/] {error}", soft_wrap=True)
        return 1
    finally:
        if logs is not None:
            _keep(Path(logs))
    return _verdict(console, left)


async def _play(console: Console, world: World, *, plain: bool) -> dict[str, list[str]]:
    before_all = _take([])
    with Timeline(console, plain=plain) as timeline:
        async with world:
            await _start_cloud(world, timeline)
            with timeline.phase("adaptor and relay") as row:
                await world.start_adaptor()
                row.note = f"{world.cloud['provider']} provider; serving hypervisor.sock"
            with world.pod_network() as network:
                before = await _inventory(world, network)
                await _pod(world, timeline, network)
                with timeline.phase("nothing is left of the pod"):
                    left = await _settled(world, network, before)
    # and when all three processes have ended, nothing is left of them either
    left["after_the_end"] = sorted(
        {x for names in _take([]).added_since(before_all).values() for x in names if _counts(x)}
    )
    return left


async def _start_cloud(world: World, timeline: Timeline) -> None:
    if isinstance(world, LocalWorld):
        await world.start_cloud()
        return
    with timeline.phase(f"simcloud: {world.stage.title} on loopback") as row:
        await world.start_cloud()
        row.note = f"{world.cloud['endpoint_url']}, instances boot as namespaces"


async def _pod(world: World, timeline: Timeline, network: Pod) -> None:
    python = isinstance(world, LocalWorld) and world.vmm == "qemu"  # what the image has
    annotations = {ANNOTATION: INITDATA} if python else {}
    shim = Shim(world.hypervisor_socket, pod=_POD, netns=network.netns, annotations=annotations)
    async with _following(world, timeline), shim:
        with timeline.phase("CreateVM") as row:
            row.note = f"agent socket {Path(await shim.create_vm()).name}"
        with timeline.phase("StartVM"):
            await shim.start_vm()
            await asyncio.sleep(0.1)  # its spans are shown when their log lines have been read
        with timeline.phase("Check"):
            await shim.connect()
        with timeline.phase("CreateSandbox"):
            await shim.create_sandbox()
        with timeline.phase("pause container"):
            await shim.start_pause()
        with timeline.phase("CopyFile, 3 MiB") as row:
            row.note = Path(await shim.copy_file("data", _FILE)).name[-24:]
        with timeline.phase("CreateContainer"):
            container = await shim.create_container(service.serve(python=python))
        with timeline.phase("StartContainer"):
            process = await shim.start_container(container)
        await _use(shim, process, timeline, python=python)
        await _reach(shim, process, network, timeline, python=python)
        with timeline.phase("SignalProcess, WaitProcess twice") as row:
            row.note = f"exit code {await shim.stop(process)}"
        with timeline.phase("DestroySandbox"):
            await shim.stop_sandbox()
        with timeline.phase("StopVM"):
            await shim.stop_vm()
            await asyncio.sleep(0.1)
        if shim.checks_failed:
            raise DemoFailed(f"Health.Check failed while the pod ran: {shim.checks_failed[0]}")


async def _use(shim: Shim, process: Process, timeline: Timeline, *, python: bool) -> None:
    shell = ["busybox", "sh"] if python else ["sh"]
    with timeline.phase("logs") as row:
        row.note = _one_line(await process.until(lambda out: out.endswith(b"\n")))
    with timeline.phase("exec with exit code") as row:
        run = await shim.exec(process, [*shell, "-c", "echo out; echo err >&2; exit 7"])
        code = await run.exit_code()
        _expect("exec", (bytes(run.stdout), bytes(run.stderr), code), (b"out\n", b"err\n", 7))
        row.note = "exit code 7, stdout and stderr apart"
    with timeline.phase("exec with a terminal") as row:
        row.note = await _terminal(shim, process, shell)


async def _reach(shim: Shim, process: Process, network: Pod, timeline: Timeline, *, python: bool) -> None:
    """The pod's address answers, from inside its VM; and the VM's own cloud does not answer the pod."""
    with timeline.phase("request from the worker") as row:
        client = service.Client(network.address)
        try:
            first, second = [await client.ask(path) for path in ("/first", "/second")]
        except (OSError, TimeoutError) as error:
            raise DemoFailed(f"the container does not answer at {network.address}: {error!r}") from error
        finally:
            await client.aclose()
        row.note = f"{network.address}, in its VM: {first.seconds * 1000:.1f} ms, then {second.seconds * 1000:.1f} ms"
    with timeline.phase("the VM's metadata, from the pod") as row:
        run = await shim.exec(process, service.asker(_METADATA, "/latest/user-data", 80, python=python))
        await run.exit_code()
        said = _one_line(bytes(run.stdout))
        if not said.startswith(service.NONE):
            raise DemoFailed(f"the pod reads what {_METADATA} knows of its VM: {said}")
        row.note = f"{_METADATA}: {said.removeprefix(service.NONE + ': ')}"


async def _terminal(shim: Shim, process: Process, shell: list[str]) -> str:
    """A shell on a tty, resized, typed at, and left."""
    typed = await shim.exec(process, shell, terminal=True)
    await shim.resize(typed, 42, 123)
    await shim.write(typed, b"stty size; echo $((6*7)) > /dev/tty; exit 3\n")
    code = await typed.exit_code()
    screen = bytes(typed.stdout)
    _expect("terminal", (b"42 123" in screen, b"\r\n42\r\n" in screen, code), (True, True, 3))
    return "resized to 42x123, stdin read, exit code 3"


@asynccontextmanager
async def _following(world: World, timeline: Timeline) -> AsyncIterator[None]:
    """Show the adaptor's own spans between the shim's calls."""

    async def follow() -> None:
        async for line in world.spans():
            name, _, outcome = str(line.get("message", "")).rpartition(" ")
            if outcome == "complete" and name in _SPANS:
                title, note = _SPANS[name]
                title = {"create": world.stage.create, "delete": world.stage.delete}.get(title, title)
                timeline.past(title, float(line["seconds"]), note(line))

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _inventory(world: World, network: Pod) -> Inventory:
    return leftovers.take(await world.living(), _places(), world.journal, {"the pod's": network.netns})


async def _settled(world: World, network: Pod, before: Inventory) -> dict[str, list[str]]:
    """What a pod left once its VM is gone; EC2 takes a moment to let go of one, the adaptor to see it gone."""
    await world.no_instance_lives()
    deadline = asyncio.get_running_loop().time() + 15
    while True:
        world.reap()
        left = (await _inventory(world, network)).added_since(before)
        if not any(left.values()) or asyncio.get_running_loop().time() > deadline:
            return left
        await asyncio.sleep(0.1)


def _take(instances: list[str]) -> Inventory:
    return leftovers.take(instances, _places(), str(_DIRECTORY / "state" / "journal.db"))


def _places() -> list[str]:
    return ["/run", str(_DIRECTORY)]


def _counts(name: str) -> bool:
    """What the three processes may leave on purpose: their logs, their configuration, the node's state directory."""
    return not name.startswith(str(_DIRECTORY)) or name.endswith(".sock")


def _expect(what: str, seen: object, wanted: object) -> None:
    if seen != wanted:
        raise DemoFailed(f"{what}: {wanted} was expected, {seen} was seen")


def _one_line(data: bytes) -> str:
    return data.decode(errors="replace").strip()


def _keep(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for log in _DIRECTORY.glob("*.log"):
        shutil.copy(log, directory)


def _verdict(console: Console, left: dict[str, list[str]]) -> int:
    console.print()
    for kind, names in left.items():
        mark, text = ("[red]✗[/]", ", ".join(names)) if names else ("[green]✓[/]", "none left")
        console.print(f"  {mark} {kind.replace('_', ' '):<16} {text}", soft_wrap=True)
    console.print()
    if any(left.values()):
        console.print("[red]Something was left behind.[/] This is a bug: please report it with the lines above.")
        return 1
    console.print("[bold green]One pod, one VM, nothing left behind.[/] Next: README.md, “Run it on a node”.")
    return 0
