"""The simulated cloud as a program: serve until told to end, and say how to use it. `peerpods simcloud` calls this."""

import asyncio
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import TextIO

from providers.simcloud import wishes
from providers.simcloud.cloud import Simcloud
from providers.simcloud.options import Options
from providers.simcloud.wishes import Wish


def main(options: Options, faults: Sequence[Wish], *, only_environment: bool) -> None:
    """Serve, with these faults to come, until SIGINT or SIGTERM; returns when everything has been taken down.

    Raises SimcloudError when it cannot be served here.
    """
    asyncio.run(_serve(options, faults, only_environment))


async def _serve(options: Options, faults: Sequence[Wish], only_environment: bool) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    cloud = await Simcloud.start(options)
    try:
        for verb, arguments in faults:
            wishes.apply(cloud.faults, verb, arguments)
        if only_environment:
            print("\n".join(_exports(cloud)), flush=True)
        _introduce(cloud, sys.stderr if only_environment else sys.stdout)
        await ended.wait()
    finally:
        await cloud.close()


def _introduce(cloud: Simcloud, stream: TextIO) -> None:
    boot = f"boot; they see this side as {cloud.worker_address}" if cloud.worker_address else "exist in the API only"
    provider, settings = cloud.settings()
    lines = [
        f"simcloud plays {cloud.title} at {cloud.endpoint_url}",
        f"  {'instances':15} {boot}",
        f"  {'network':15} {cloud.network}",
        *(f"  {name.replace('_', ' '):15} {value}" for name, value in cloud.facts.items() if name != "region"),
        f"  {'control':15} {cloud.endpoint_url}/_simcloud",
        "",
        "for the cloud's own command and SDKs:",
        *(f"  {line}" for line in _exports(cloud)),
        "",
        "for peerpods, in its configuration:",
        "  [cloud]",
        f'  provider = "{provider}"',
        f"  [{provider}]",
        *(f"  {name} = {json.dumps(value)}" for name, value in settings.items()),
        "",
        "Ctrl-C ends it, and every instance with it.",
    ]
    print("\n".join(lines), file=stream, flush=True)


def _exports(cloud: Simcloud) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in cloud.environment().items()]
