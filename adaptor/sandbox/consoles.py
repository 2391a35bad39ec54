"""What a VM that failed has printed: asked for before the VM is deleted, told in the error, kept on the node.

A console is the guest's own output, and whoever runs the cloud can read it: nothing in it is a secret from the host.
Still it is the pod's: files are 0600, errors and logs have its last lines only.
"""

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from adaptor.clock import Clock
from adaptor.errors import AdaptorError, StartFailed
from adaptor.sandbox.model import SandboxState
from adaptor.telemetry import logs
from adaptor.telemetry.terminal import last_lines
from providers.base import Provider, SupportsConsole

DIRECTORY: Final = "consoles"  # in the state_dir
# Seconds. A cloud answers within one or two; a teardown and the pod's error wait no longer.
PATIENCE: Final = 5.0
# The newest so many are kept: 3 MiB at most.
_FILES: Final = 50
# In the log: a line of it stays below the 16 KiB at which CRI runtimes split. Lines, and characters of each.
_LOGGED: Final = 20
_LOGGED_WIDTH: Final = 200
# In the error, which kubelet makes an event of: those are cut at 1 KiB. Lines, and characters of all.
_TOLD: Final = 3
_TOLD_LENGTH: Final = 300
# Seconds from its launch after which a VM that never answered is not merely booting.
SLOW: Final = 60.0
MESSAGE: Final = "what the VM that failed has printed"  # `peerpods console` finds it in the log by this

log = logs.get("sandbox.consoles")


class Consoles:
    """Those of one node's VMs."""

    def __init__(self, provider: Provider, state_dir: Path, clock: Clock) -> None:
        self._provider = provider
        self._directory = state_dir / DIRECTORY
        self._clock = clock
        self._asking: set[asyncio.Task[str]] = set()

    async def explained(self, state: SandboxState, error: AdaptorError) -> AdaptorError:
        """`error`, by which a start has failed, with its VM's last words if there are any. Takes PATIENCE at most."""
        text = await self.keep(state, str(error))
        words = " | ".join(last_lines(text, _TOLD))
        if not words or not isinstance(error, StartFailed):
            return error
        cut = words if len(words) <= _TOLD_LENGTH else "…" + words[-_TOLD_LENGTH:]
        return type(error)(f"{error}. The VM's console ends: {cut}")

    async def keep(self, state: SandboxState, why: str, patience: float = PATIENCE) -> str:
        """What its VM has printed, now in a file and the log too; empty where nobody knows, or where it was kept before.
        Takes `patience` seconds at most, and never raises."""
        path = self._directory / f"{state.spec.id}.txt"
        if not state.instance_id or not isinstance(self._provider, SupportsConsole) or path.exists():
            return ""
        text = await self._asked(self._provider, state.instance_id, patience)
        if not text.strip():
            return ""
        head = f"# pod {state.spec.pod}, VM {state.instance_id}\n# {' '.join(why.split())}\n"
        try:
            _write(path, head + text)
        except OSError as error:
            log.warning("a console could not be kept", file=str(path), error=str(error))
        lines = [line[:_LOGGED_WIDTH] for line in last_lines(text, _LOGGED)]
        about = {"sandbox": state.spec.id, "pod": state.spec.pod, "instance": state.instance_id}
        log.warning(MESSAGE, **about, why=why, console=lines, file=str(path))
        return text

    async def keep_if_slow(self, state: SandboxState) -> None:
        """The same for a VM that is being deleted and never answered, though it had the time."""
        if state.launch is not None and not state.address and self._clock.wall() - state.launch.at >= SLOW:
            await self.keep(state, f"it never answered; {state.stop_reason}")

    async def aclose(self) -> None:
        """Nobody waits any more."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def _asked(self, cloud: SupportsConsole, instance_id: str, patience: float) -> str:
        """Within `patience`, whatever a cancelled call takes to end."""
        task = asyncio.create_task(cloud.console(instance_id), name="console")
        self._asking.add(task)
        task.add_done_callback(self._ended)
        limit = asyncio.ensure_future(self._clock.sleep(patience))
        try:
            await asyncio.wait({task, limit}, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not task.cancelled() and task.exception() is None:
                return task.result()
            said = str(task.exception()) if task.done() else f"no answer within {patience:g} s"
            log.info("no console of the VM that failed", instance=instance_id, reason=said)
            return ""
        finally:
            limit.cancel()
            task.cancel()

    def _ended(self, task: "asyncio.Task[str]") -> None:
        self._asking.discard(task)
        if not task.cancelled():
            task.exception()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    written = path.with_suffix(".new")
    with suppress(FileNotFoundError):
        written.unlink()
    with open(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    written.rename(path)
    kept = sorted(path.parent.glob("*.txt"), key=lambda each: each.stat().st_mtime)
    for old in kept[:-_FILES]:
        old.unlink(missing_ok=True)
