"""When a call to the cloud is made again, and how long after: one policy for each class of error, for all callers.

    Throttled   after what the cloud asked for, else 0 to 1 s, 0 to 2 s, ... 0 to 30 s. A provider's own throttle
                (`throttle`) asks for nothing, and lets the call pass when there is room
    Transient   after 0 to 0.5 s, 0 to 1 s, ... 0 to 20 s: the same call with the same token is safe
    others      never; a deed that must be done in the end (`insisting`) is tried again after 0 to 10 s, ... 0 to 60 s,
                for a person must act first

    async for attempt in retrying(clock.sleep, until(clock.now, deadline)):
        with attempt:
            ...

What is raised in the end is the last error itself.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_never
from tenacity.wait import wait_random_exponential

from providers.errors import ProviderError, Throttled, Transient

Sleep = Callable[[float], Awaitable[None]]
Stop = Callable[[RetryCallState], bool]
Tell = Callable[[BaseException], None]

# Full jitter under a bound that doubles, seconds: it spreads many nodes that share one account.
_THROTTLED: Final = wait_random_exponential(multiplier=1.0, max=30.0)
_TRANSIENT: Final = wait_random_exponential(multiplier=0.5, max=20.0)
_SELDOM: Final = wait_random_exponential(multiplier=10.0, max=60.0)


def retrying(sleep: Sleep, stop: Stop = stop_never) -> AsyncRetrying:
    """Attempts at a call: again after Throttled and Transient."""
    passing = retry_if_exception_type((Throttled, Transient))
    return AsyncRetrying(sleep=sleep, stop=stop, wait=_pause, retry=passing, reraise=True)


def insisting(sleep: Sleep, tell: Tell = lambda error: None) -> AsyncRetrying:
    """Attempts at a deed until it is done: again after every ProviderError. `tell` hears of each before the pause."""
    return AsyncRetrying(
        sleep=sleep,
        wait=_pause,
        retry=retry_if_exception_type(ProviderError),
        before_sleep=lambda state: tell(_failure(state)),
        reraise=True,
    )


def until(now: Callable[[], float], deadline: float) -> Stop:
    """Stop where the next attempt would come after `deadline`."""
    return lambda state: now() + state.upcoming_sleep >= deadline


def attempts(most: int) -> Stop:
    """Stop after so many."""
    return lambda state: state.attempt_number >= most


def _pause(state: RetryCallState) -> float:
    """Seconds before the next attempt, by the error that ended this one."""
    error = _failure(state)
    match error:
        case Throttled():
            return _THROTTLED(state) if error.retry_after is None else error.retry_after
        case Transient():
            return _TRANSIENT(state)
    return _SELDOM(state)


def _failure(state: RetryCallState) -> BaseException:
    """The error that ended this attempt."""
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    return error
