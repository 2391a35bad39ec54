"""An event loop in virtual time, for runs by the thousand: nothing in it waits, nothing in it depends on the machine.

When nothing is ready, time jumps to the next timer; what would go to a thread runs at once. So a run costs only its
own work, and the same run is the same to the last step.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


# Turns of the loop at one moment of virtual time; what is sound takes some tens.
_LONGEST_TURN: Final = 20_000


class Stuck(Exception):
    """Everybody waits for somebody else: no timer is left, and the run has not ended. Or somebody never waits."""


class _Jump(selectors.SelectSelector):
    """Never looks at a socket; what it is asked to wait, it adds to `now`."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.now = start
        self._still = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("nothing is left to happen")
        self._still = 0 if timeout > 0 else self._still + 1
        if self._still > _LONGEST_TURN:
            raise Stuck(f"time stands still at {self.now}: something is done over and over, without a pause")
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Also a Clock, so that asyncio's own timeouts and the adaptor's agree."""

    def __init__(self, start: float = 1000.0) -> None:
        self._jump = _Jump(start)
        super().__init__(self._jump)

    @classmethod
    def running(cls) -> "VirtualLoop":
        """The one that this runs on."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, cls)
        return loop

    def time(self) -> float:
        return self._jump.now

    def now(self) -> float:
        return self._jump.now

    def wall(self) -> float:
        return self._jump.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0.0))

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":  # type: ignore[override]
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _write_to_self(self) -> None:
        """For waking another thread's select; there is neither."""


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on a VirtualLoop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def virtually(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """A test, run on a VirtualLoop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_virtually(test(*args, **kwargs))

    return run
