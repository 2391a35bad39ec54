"""Waiting with an end, deeds that are never left half done."""

import asyncio

import pytest

from adaptor.sandbox.patience import whole, within
from tests.worlds.clock import VirtualClock


async def test_what_takes_too_long_is_cancelled() -> None:
    clock, ended = VirtualClock(), asyncio.Event()

    async def slow() -> None:
        try:
            await clock.sleep(100)
        finally:
            ended.set()

    began = clock.now()
    with pytest.raises(TimeoutError, match="no answer within 2 s"):
        await within(clock, 2, slow())
    assert clock.now() - began == 2
    assert ended.is_set()


async def test_what_is_in_time_returns_or_raises_as_it_would() -> None:
    clock = VirtualClock()

    async def quick(fails: bool) -> int:
        await clock.sleep(1)
        if fails:
            raise ValueError("no")
        return 7

    assert await within(clock, 2, quick(fails=False)) == 7
    with pytest.raises(ValueError, match="no"):
        await within(clock, 2, quick(fails=True))


async def test_a_deed_that_has_begun_is_finished_before_its_caller_is_cancelled() -> None:
    clock, done = VirtualClock(), []

    async def deed() -> None:
        await clock.sleep(5)
        done.append("deed")

    async def caller() -> None:
        try:
            await whole(deed())
        finally:
            done.append("caller")

    task = asyncio.create_task(caller())
    await clock.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["deed", "caller"]


async def test_a_deed_that_fails_after_its_caller_was_cancelled_is_no_complaint() -> None:
    clock = VirtualClock()

    async def deed() -> None:
        await clock.sleep(5)
        raise ValueError("too late for anybody to care")

    task = asyncio.create_task(whole(deed()))
    await clock.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_deed_that_takes_longer_than_its_limit_is_cancelled_with_its_caller() -> None:
    clock, done = VirtualClock(), []

    async def deed() -> None:
        try:
            await clock.sleep(100)
        finally:
            done.append(clock.now())

    began = clock.now()
    task = asyncio.create_task(whole(deed(), lambda: clock.sleep(10)))
    await clock.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [began + 11]
