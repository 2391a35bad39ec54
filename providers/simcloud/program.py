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
    settings = {
        "endpoint_url": cloud.endpoint_url,
        "region": cloud.region,
        "subnet_id": cloud.subnet,
        "security_group_ids": [cloud.security_group],
        "image": cloud.ami,
    }
    lines = [
        f"simcloud plays EC2's {cloud.region} at {cloud.endpoint_url}",
        f"  instances       {boot}",
        f"  default VPC     {cloud.network}",
        f"  subnet          {cloud.subnet}",
        f"  security group  {cloud.security_group}",
        f"  image           {cloud.ami} (x86_64), {cloud.arm_ami} (arm64)",
        f"  control         {cloud.endpoint_url}/_simcloud",
        "",
        "for the aws command, boto3 and other SDKs:",
        *(f"  {line}" for line in _exports(cloud)),
        "",
        "for peerpods, in its configuration:",
        "  [cloud]",
        '  provider = "aws"',
        "  [aws]",
        *(f"  {name} = {json.dumps(value)}" for name, value in settings.items()),
        "",
        "Ctrl-C ends it, and every instance with it.",
    ]
    print("\n".join(lines), file=stream, flush=True)


def _exports(cloud: Simcloud) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in cloud.environment().items()]
