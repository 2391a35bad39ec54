"""What a call of each cloud's SDK costs: CPU of this process, the simulated cloud being another one.

Beside it a bare exchange with the same server by http.client, which signs, checks and models nothing.
"""

import asyncio
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

from adaptor.demo.clouds import STAGES
from providers import registry
from providers.base import LaunchSpec, Ownership
from tests.bench._report import Target, load

_PATIENCE: Final = 60.0  # seconds for a simulated cloud to come up


def run(calls: int, clouds: Sequence[str]) -> list[Target]:
    """Print the table; there is no target, for the SDKs are not ours."""
    print(f"{calls} calls of each verb, one after the other, answers from memory; {load()}\n")
    print(f"{'CPU ms per call':24}{'create':>9}{'get':>9}{'list':>9}{'delete':>9}{'bare HTTP exchange':>21}")
    for name in clouds:
        with _cloud(name) as about, patch.dict(os.environ, about["environment"]):
            costs = asyncio.run(_measured(name, about, calls))
            costs["bare"] = _bare(about["endpoint_url"], calls)
        print(
            f"{name:24}{''.join(f'{costs[verb]:9.2f}' for verb in ('create', 'get', 'list', 'delete'))}{costs['bare']:21.2f}"
        )
    return []


async def _measured(name: str, about: Mapping[str, Any], calls: int) -> dict[str, float]:
    faults: list[Any] = []
    settings = registry.parse_config(name, {**about["settings"], **STAGES[name].types}, {}, faults)
    assert not faults, faults
    provider = registry.open_provider(name, settings, Ownership("bench", "bench"))
    try:
        offer = (await provider.offerings())[0]
        ids: list[str] = []

        async def create(number: int) -> None:
            spec = LaunchSpec(f"podvm-bench-{number}", offer.instance_type, b"x" * 2048, zone=offer.zone, tee=offer.tee)
            ids.append((await provider.create(spec, f"{number:064x}")).id)

        await create(calls)  # the first call of each kind reads models and opens connections
        await provider.get(ids)
        return {
            "create": await _cost(calls, create),
            "get": await _cost(calls, lambda number: provider.get([ids[number]])),
            "list": await _cost(calls, lambda _: provider.list()),
            "delete": await _cost(calls, lambda number: provider.delete(ids[number])),
        }
    finally:
        await provider.aclose()


async def _cost(calls: int, call: Callable[[int], Awaitable[object]]) -> float:
    began = time.process_time()
    for number in range(calls):
        await call(number)
    return (time.process_time() - began) * 1000 / calls


def _bare(url: str, calls: int) -> float:
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    try:
        began = time.process_time()
        for _ in range(calls):
            connection.request("GET", "/_simcloud")
            json.loads(connection.getresponse().read())
        return (time.process_time() - began) * 1000 / calls
    finally:
        connection.close()


@contextmanager
def _cloud(name: str) -> Iterator[dict[str, Any]]:
    """A simulated cloud without rate limits in a process of its own; what it says of itself."""
    command = [sys.executable, "-m", "adaptor", "simcloud", "--cloud", STAGES[name].api, "--rate-limits", "off"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split(" at ")[1].strip()
            with urllib.request.urlopen(f"{url}/_simcloud", timeout=_PATIENCE) as answer:
                yield json.load(answer)
        finally:
            process.terminate()
