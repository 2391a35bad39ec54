"""Ten thousand reviews over HTTPS, good, bad and mangled: no 5xx, no wrong patch, no memory that grows."""

import asyncio
import gc
import json
import random
import resource
import ssl
from pathlib import Path
from typing import Any, Final

import pytest

from adaptor import names
from adaptor.errors import InvalidRequest
from adaptor.hypervisor import parse as createvm
from adaptor.sandbox.placing import requirements
from tests.unit.webhook import oracle
from tests.unit.webhook.test_server import Api, serving, trusting
from tests.worlds.admission import answered, applied, authority, container, pod, review

Json = dict[str, Any]
REVIEWS: Final = 10_000
CONNECTIONS: Final = 4
GROWTH: Final = (
    24 << 10
)  # KiB: what is remembered of a thousand pods, and the test's own; a leaked review each is 80 MiB
GPUS: Final = frozenset({"nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe"})
AMOUNTS: Final = {
    "cpu": ["100m", "1", "2", "1500m", "0", "3.7", "64", "1n"],
    "memory": ["64Mi", "1Gi", "1G", "7", "0", "1.5Gi", "2e9"],
    "ephemeral-storage": ["1Gi", "3G", "0"],
    "nvidia.com/gpu": ["1", "0", "4"],
    "hugepages-2Mi": ["2Mi"],
    "example.com/fpga": ["1"],
}
WORDS: Final = {
    names.DEFAULT_VCPUS: ["", "0", "2", "1.5", "x"],
    names.DEFAULT_MEMORY: ["", "4096", "8Gi"],
    names.DEFAULT_GPUS: ["0", "2"],
    names.MACHINE_TYPE: ["", "m6a.large", "m6a.*;tee=snp", ";;", "a;b=c"],
    names.SIZED: ["vcpus=2,memory-mib=2048", "nonsense"],
    names.INITDATA: ["", "H4sI", "x"],
    "peerpods.io/tee": ["snp", "sgx"],
    "peerpods.io/vcpus": ["8", "-1"],
    "peerpods.io/unknown": ["1"],
    "other.example/x": ["ü" * 9, "\ud800", ""],
}
WRONG: Final[list[Any]] = [None, 0, -1, 1.5, True, "", "x", "\ud800", [], {}, [[]], {"": None}, [1], 10**30, "0" * 300]


def some(chance: random.Random, table: dict[str, list[str]], likely: float) -> Json:
    return {key: chance.choice(values) for key, values in table.items() if chance.random() < likely}


def drawn(chance: random.Random) -> Json:
    """A pod that may be good."""

    def one(*, sidecars: bool = False) -> Json:
        limits = some(chance, AMOUNTS, 0.4) if chance.random() < 0.8 else None
        requests = some(chance, AMOUNTS, 0.3) if chance.random() < 0.5 else None
        return container("c", limits, requests, sidecar=sidecars and chance.random() < 0.4)

    made = pod(
        *(one() for _ in range(chance.randint(1, 3))),
        init=tuple(one(sidecars=True) for _ in range(chance.choice((0, 0, 1, 3)))),
        annotations=some(chance, WORDS, 0.08) if chance.random() < 0.7 else None,
    )
    if chance.random() < 0.2:
        kinds = {key: AMOUNTS[key] for key in ("cpu", "memory", "hugepages-2Mi")}
        made["spec"]["resources"] = {"limits": some(chance, kinds, 0.6), "requests": some(chance, kinds, 0.4)}
    if chance.random() < 0.05:
        made["spec"]["hostNetwork"] = True
    if chance.random() < 0.1:
        made["spec"]["runtimeClassName"] = chance.choice(("runc", "kata", ""))
    return made


def mangled(chance: random.Random, found: Json) -> None:
    """Something somewhere in it becomes something else."""
    holder: Any = found
    while True:
        key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if not isinstance(holder[key], (dict, list)) or not holder[key] or chance.random() < 0.15:
            holder[key] = chance.choice(WRONG)
            return
        holder = holder[key]


def check(asked: Json, response: Json, patch: list[Json]) -> None:
    """What must hold of every patch, by others' rules than the webhook's."""
    made = asked["request"]["object"]
    if not response["allowed"]:
        assert response["status"]["message"]
        assert not patch
        return
    if not patch:
        return
    assert made["spec"]["runtimeClassName"] == "kata-remote"
    found = applied(patch, made)
    every = [*found["spec"]["containers"], *(found["spec"].get("initContainers") or [])]
    holders = [each for each in every if "kata.peerpods.io/vm" in (each["resources"].get("limits") or {})]
    assert holders == found["spec"]["containers"][:1]
    for each in every:
        assert {key: value for key, value in each["resources"]["requests"].items() if value != "0"} in (
            {},
            {"kata.peerpods.io/vm": "1"},
        )
    same = {**found["spec"], "containers": 0, "initContainers": 0, "resources": 0}
    assert same == {**made["spec"], "containers": 0, "initContainers": 0, "resources": 0}
    marked = dict(part.split("=") for part in found["metadata"]["annotations"][names.SIZED].split(","))
    for up in (True, False):
        wanted = requirements(createvm("id", oracle.createvm(found, rounds_memory_up=up), "/netns"))
        assert (wanted.vcpus or 0, wanted.memory_mib or 0) == (int(marked["vcpus"]), int(marked["memory-mib"]))


async def connection(api: Api, ssl_context: ssl.SSLContext, seed: int, count: int, tally: dict[str, int]) -> None:
    """Reviews one after the other on one connection, as an API server's go; bare HTTP, for it is the server that is tried."""
    assert api.webhook.address
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", api.webhook.address[1], ssl=ssl_context, server_hostname="localhost"
    )
    chance = random.Random(seed)
    try:
        for number in range(count):
            asked = review(drawn(chance), uid=f"{seed}-{number}")
            broken = chance.random() < 0.3
            if broken:
                mangled(chance, asked)
            body = json.dumps(asked).encode()
            if chance.random() < 0.03:
                broken, body = True, body[: chance.randrange(len(body))]
            path = "/validate" if chance.random() < 0.25 else "/mutate"
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            top = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(top.partition("content-length: ")[2].split("\r\n")[0])
            text, status = await reader.readexactly(length), int(top[9:12])
            tally[str(status)] = tally.get(str(status), 0) + 1
            assert status == 200 or (status == 400 and broken and text), (status, asked, text)
            if status == 200:
                assert b"has a fault" not in text, asked
                response, patch = answered(text, json.loads(body)["request"]["uid"])
                tally["patched"] = tally.get("patched", 0) + bool(patch)
                try:
                    check(asked, response, patch)
                except (AttributeError, TypeError, InvalidRequest):
                    if not broken:  # the oracle reads only what an API server would send
                        raise
    finally:
        writer.close()


@pytest.mark.parametrize("seed", [20261121])
async def test_ten_thousand_reviews(seed: int, tmp_path: Path) -> None:
    ca = authority(tmp_path / "ca")
    async with serving(tmp_path, ca) as api:
        tally: dict[str, int] = {}
        await connection(api, trusting(ca), seed - 1, 500, {})
        gc.collect()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with asyncio.TaskGroup() as tasks:
            for each in range(CONNECTIONS):
                tasks.create_task(connection(api, trusting(ca), seed + each, REVIEWS // CONNECTIONS, tally))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert sum(tally[status] for status in ("200", "400")) == REVIEWS
    assert tally["patched"] > REVIEWS / 4
    assert tally["400"] > REVIEWS / 50
    assert grown < GROWTH, f"{grown} KiB"
