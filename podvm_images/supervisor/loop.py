"""Waits for descriptors, moments and ended children, and calls; one thread, nothing else."""

import heapq
import itertools
import os
import selectors
import signal
import time
from collections.abc import Callable
from typing import Final

Call = Callable[[], None]


class Loop:
    """One per process, made by its main thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._moments: list[tuple[float, int, Call]] = []
        self._order = itertools.count()
        self._ended = False
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._signals: Final[dict[int, Call]] = {}
        self.watch(reading, lambda: self._signalled(reading))

    def on(self, number: int, call: Call) -> None:
        """Call when the signal comes; several that come together may be one."""
        self._signals[number] = call
        signal.signal(number, lambda _number, _frame: None)

    def watch(self, descriptor: int, call: Call) -> None:
        """Call whenever there is something to read."""
        self._selector.register(descriptor, selectors.EVENT_READ, call)

    def unwatch(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)

    def after(self, seconds: float, call: Call) -> None:
        heapq.heappush(self._moments, (time.monotonic() + seconds, next(self._order), call))

    def end(self) -> None:
        self._ended = True

    def run(self) -> None:
        """Until `end`."""
        while not self._ended:
            wait = max(0.0, self._moments[0][0] - time.monotonic()) if self._moments else None
            for key, _ in self._selector.select(wait):
                key.data()
            while self._moments and self._moments[0][0] <= time.monotonic():
                heapq.heappop(self._moments)[2]()

    def _signalled(self, descriptor: int) -> None:
        for number in set(os.read(descriptor, 4096)):
            if number in self._signals:
                self._signals[number]()
