"""Our ends of pipes and terminals."""

import asyncio
import os
import pty

import pytest

from adaptor.errors import StatusError
from podvm_images.guest.development_agent.streams import Input, Output


async def test_a_read_waits_for_bytes_and_then_for_the_end() -> None:
    theirs, ours = os.pipe()
    output = Output(theirs)
    reading = asyncio.create_task(output.read(100))
    await asyncio.sleep(0)
    os.write(ours, b"late")
    assert await reading == b"late"
    os.close(ours)
    assert [await output.read(100), await output.read(100)] == [b"", b""]
    assert output.closed


async def test_a_cancelled_read_takes_nothing_and_frees_the_stream() -> None:
    theirs, ours = os.pipe()
    output = Output(theirs)
    reading = asyncio.create_task(output.read(100))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    os.write(ours, b"kept")
    assert await output.read(100) == b"kept"
    output.close()
    os.close(ours)


async def test_readers_take_turns() -> None:
    theirs, ours = os.pipe()
    output = Output(theirs)
    readers = [asyncio.create_task(output.read(1)) for _ in range(3)]
    await asyncio.sleep(0)
    os.write(ours, b"abc")
    assert await asyncio.gather(*readers) == [b"a", b"b", b"c"]
    output.close()
    os.close(ours)


async def test_an_ended_stream_gives_what_it_holds_and_no_more() -> None:
    theirs, ours = os.pipe()
    output = Output(theirs)
    os.write(ours, b"held")
    output.end()
    assert [await output.read(100), await output.read(100)] == [b"held", b""]
    os.close(ours)


async def test_ending_a_stream_wakes_its_reader() -> None:
    theirs, ours = os.pipe()
    output = Output(theirs)
    reading = asyncio.create_task(output.read(100))
    await asyncio.sleep(0)
    output.end()
    assert await reading == b""
    os.close(ours)


async def test_closing_a_stream_wakes_its_reader() -> None:
    theirs, ours = os.pipe()
    output = Output(theirs)
    reading = asyncio.create_task(output.read(100))
    await asyncio.sleep(0)
    output.close()
    output.close()
    assert await reading == b""
    os.close(ours)


async def test_no_limit_means_the_usual_one_and_none_is_too_large() -> None:
    theirs, ours = os.pipe()
    output = Output(theirs)
    os.write(ours, bytes(40000))
    assert len(await output.read(0)) == 32768
    assert len(await output.read(1 << 31)) == 40000 - 32768
    output.close()
    os.close(ours)


async def test_the_end_of_a_terminal_is_an_end_not_an_error() -> None:
    master, slave = pty.openpty()
    output = Output(master)
    os.write(slave, b"x")
    os.close(slave)
    assert [await output.read(100), await output.read(100)] == [b"x", b""]


async def test_a_write_waits_for_its_reader() -> None:
    ours, theirs = os.pipe()
    sink, source = Input(theirs), Output(ours)
    writing = asyncio.create_task(sink.write(bytes(200_000)))
    read = 0
    while read < 200_000:
        read += len(await source.read(65536))
    assert await writing == 200_000
    sink.close()
    assert await source.read(1) == b""


async def test_a_write_that_nobody_will_read_says_so() -> None:
    ours, theirs = os.pipe()
    sink = Input(theirs)
    os.close(ours)
    with pytest.raises(StatusError, match="does not read its stdin"):
        await sink.write(b"x")
    with pytest.raises(StatusError, match="stdin is closed"):
        await sink.write(b"x")


async def test_closing_the_input_ends_a_write_that_waits() -> None:
    ours, theirs = os.pipe()
    sink = Input(theirs)
    writing = asyncio.create_task(sink.write(bytes(200_000)))
    await asyncio.sleep(0)
    sink.close()
    with pytest.raises(StatusError, match="stdin is closed"):
        await writing
    os.close(ours)
