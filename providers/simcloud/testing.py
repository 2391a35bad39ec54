"""Simulated clouds for tests.

    async with running() as cloud:                          in this test's own loop
        await asyncio.to_thread(boto3_calls, cloud.endpoint_url)

    with running_in_thread(boot_delay="2s") as cloud:       for tests that block
        boto3.client("ec2", endpoint_url=cloud.endpoint_url, ...)

Options are those of `options.Options`. Nothing is left when the block ends: sockets, threads, processes, links.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from providers.simcloud.cloud import Simcloud
from providers.simcloud.options import Instances, Options


@asynccontextmanager
async def running(instances: Instances = "api-only", **options: Any) -> AsyncIterator[Simcloud]:
    """A cloud in the running loop. Raises SimcloudError, ValueError for options that make no sense."""
    cloud = await Simcloud.start(Options.of(instances=instances, **options))
    try:
        yield cloud
    finally:
        await cloud.close()


@contextmanager
def running_in_thread(instances: Instances = "api-only", **options: Any) -> Iterator[Simcloud]:
    """The same with a loop in a thread of its own. Its faults may be set from here: they are plain values."""
    started: Future[tuple[Simcloud, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        ended = asyncio.Event()
        try:
            async with running(instances, **options) as cloud:
                started.set_result((cloud, asyncio.get_running_loop(), ended))
                await ended.wait()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=lambda: asyncio.run(live()), name="simcloud")
    thread.start()
    try:
        cloud, loop, ended = started.result()
        try:
            yield cloud
        finally:
            loop.call_soon_threadsafe(ended.set)
    finally:
        thread.join()
