"""Starts the programs of `services` when what they wait for is there, reaps every child, and starts again what ended."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from podvm_images.supervisor import kernel, services
from podvm_images.supervisor.console import say
from podvm_images.supervisor.loop import Loop
from podvm_images.supervisor.services import Service

LOOK: Final = 0.05  # seconds between two looks for what a program waits for: a pod's start waits too
GRACE: Final = 5.0  # seconds that programs have to end by themselves


@dataclass(slots=True)
class _Kept:
    service: Service
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    pause: float = 0.0
    waiting: bool = True  # for what it needs


class Keeper:
    """Of these services. Its reaper takes every child of this process that ends, whoever it was."""

    def __init__(self, loop: Loop, wanted: Sequence[Service], exists: services.Exists = os.path.exists) -> None:
        self._loop = loop
        self._kept = [_Kept(each) for each in wanted]
        self._exists = exists
        self._quiet = not exists(services.DEBUG)
        self._others: dict[int, Callable[[int], None]] = {}
        self._ending = False

    def look(self) -> None:
        """Start what may start. For ever, while something waits."""
        for each in self._kept:
            if each.waiting and not self._ending and services.ready(each.service, self._exists):
                self._start(each)
        if any(each.waiting for each in self._kept):
            self._loop.after(LOOK, self.look)

    def run(self, command: Sequence[str], ended: Callable[[int], None]) -> None:
        """A program that is not kept: `ended` hears its status. Raises OSError where it cannot be started."""
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=services.ENVIRONMENT)
        self._others[process.pid] = ended
        process.returncode = 0  # it is reaped here, and nowhere else

    def reap(self) -> None:
        """Collect every child that has ended."""
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0] != 0:
                self._collected(found[0], os.waitstatus_to_exitcode(found[1]))

    def end(self) -> None:
        """Have everything end, then the loop."""
        self._ending = True
        for each in self._kept:
            if each.process is not None:
                with suppress(ProcessLookupError):
                    os.kill(each.process.pid, 15)
        self._loop.after(GRACE, self._loop.end)
        self._end_when_alone()

    def _start(self, kept: _Kept) -> None:
        service = kept.service
        kept.waiting = False
        kept.began = time.monotonic()
        output = subprocess.DEVNULL if self._quiet and not service.said else None
        try:
            kept.process = subprocess.Popen(
                service.command(self._exists),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**services.ENVIRONMENT, **service.environment(self._exists)},
                preexec_fn=_into(service.netns) if service.netns else None,  # noqa: PLW1509 - there is one thread
                start_new_session=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            say(f"{service.name} cannot be started: {error}")
            self._again(kept)
        else:
            say(f"{service.name} started, pid {kept.process.pid}")

    def _collected(self, pid: int, status: int) -> None:
        if pid in self._others:
            self._others.pop(pid)(status)
        for each in self._kept:
            if each.process is not None and each.process.pid == pid:
                each.process.returncode = status
                each.process = None
                how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
                say(f"{each.service.name} {how} after {time.monotonic() - each.began:.1f} s")
                self._end_when_alone() if self._ending else self._again(each)

    def _again(self, kept: _Kept) -> None:
        kept.pause = services.pause(kept.pause, time.monotonic() - kept.began)

        def now() -> None:
            waits = any(each.waiting for each in self._kept)
            kept.waiting = True
            if not waits:
                self.look()

        self._loop.after(kept.pause, now)

    def _end_when_alone(self) -> None:
        if all(each.process is None for each in self._kept):
            self._loop.end()


def _into(netns: str) -> Callable[[], None]:
    def enter() -> None:
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        kernel.enter(descriptor, kernel.NEW_NETWORK)

    return enter
