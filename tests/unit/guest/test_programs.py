"""Programs that the guest runs to their end, beside its own collecting of children."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from adaptor.errors import StatusError
from podvm_images.guest.agent import Agent
from podvm_images.guest.program import _reap
from podvm_images.guest.programs import Programs


@pytest.fixture
async def programs() -> AsyncIterator[Programs]:
    """As in the guest: whoever ends is collected at once."""
    mine, agent, loop = Programs(), Agent("/nowhere"), asyncio.get_running_loop()
    before = signal.signal(signal.SIGCHLD, lambda *_: loop.call_soon_threadsafe(_reap, agent, mine))
    yield mine
    signal.signal(signal.SIGCHLD, before)


async def test_every_failure_is_noticed_though_children_are_collected_as_they_end(programs: Programs) -> None:
    async def status(number: int) -> str:
        try:
            await programs.run(["sh", "-c", f"exit {number}"], 20)
        except StatusError as error:
            return error.message
        return "success"

    ended = await asyncio.gather(*(status(number % 3) for number in range(45)))
    assert ended[:3] == [
        "success",
        "sh ended with status 1: it said nothing",
        "sh ended with status 2: it said nothing",
    ]
    assert ended == ended[:3] * 15


@pytest.mark.parametrize("now", [True, False])
async def test_its_last_words_travel_and_what_takes_too_long_is_killed(now: bool) -> None:
    programs = Programs()

    async def run(*command: str, timeout: float = 20) -> None:
        if now:
            programs.run_now(command, timeout)
        else:
            await programs.run(command, timeout)

    await run("true")
    with pytest.raises(StatusError, match="sh ended with status 3: no such luck"):
        await run("sh", "-c", "echo no such; echo luck >&2; exit 3")
    with pytest.raises(StatusError, match=r"sleep took longer than 0\.05 s"):
        await run("sleep", "60", timeout=0.05)
    with pytest.raises(StatusError, match="no-such-program cannot be run in this pod VM image: No such file"):
        await run("no-such-program")


async def test_much_output_does_not_hold_a_program_up() -> None:
    await Programs().run(["sh", "-c", "head -c 1000000 /dev/zero"], 20)
