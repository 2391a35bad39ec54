"""A process that can be killed: its tasks end where they stand, and nothing they still try has any effect."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

from adaptor.errors import AdaptorError
from providers.errors import ProviderError

T = TypeVar("T")

_current: ContextVar["Process | None"] = ContextVar("process", default=None)
# What a task may well end with: whoever awaits it handles it.
_ORDINARY = (AdaptorError, ProviderError, TimeoutError)
# A task that is still there after this many cancellations ignores them.
_BURIAL_TURNS = 200


class Process:
    """Every task that is started by one of its tasks is its own, too."""

    def __init__(self, name: str, failed: Callable[[str], None] = lambda what: None) -> None:
        """`failed` is told of every task that ends with an error which nobody should meet: a bug."""
        self.name = name
        self._failed = failed
        self.ended = asyncio.Event()
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order of their start: sets have none
        self._context = copy_context()
        self._context.run(_current.set, self)

    @property
    def alive(self) -> bool:
        return not self.ended.is_set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Have the process do `work`."""
        return asyncio.get_running_loop().create_task(work, context=self._context.copy())

    def enlist(self, task: "asyncio.Task[Any]") -> None:
        self._tasks[task] = None
        task.add_done_callback(self._done)
        if not self.alive:
            task.cancel()

    def kill(self) -> None:
        """kill -9. `bury` waits until the last task has noticed."""
        self.ended.set()
        for task in list(self._tasks):
            task.cancel()

    async def bury(self) -> None:
        for _ in range(_BURIAL_TURNS):
            if not self._tasks:
                return
            self.kill()
            await asyncio.sleep(0)
        raise AssertionError(f"{self.name} does not die: {list(self._tasks)}")

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, _ORDINARY):
            self._failed(f"the task {task.get_name()} died: {type(error).__name__}: {error}")

    def check(self) -> None:
        """At every border: the dead pass none."""
        if not self.alive:
            raise asyncio.CancelledError


def enlist_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Have every task of this loop belong to the process that starts it."""

    def factory(
        loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], *, context: Context | None = None, **more: Any
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context, **more)
        owner = _current.get() if context is None else context.get(_current)
        if owner is not None:
            owner.enlist(task)
        return task

    loop.set_task_factory(factory)  # type: ignore[arg-type]
