"""The controller's small parts: duties that fail, queues, mirrors, events, the ConfigMap of offerings."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from prometheus_client import REGISTRY

from adaptor import names
from adaptor.catalog import published
from adaptor.config_prices import Prices
from adaptor.controller.api import CONFIG_MAP, EVENT, NODE, Object
from adaptor.controller.duties import perform
from adaptor.controller.mirror import Mirror
from adaptor.controller.offers import KEY, Offers
from adaptor.controller.queue import Queue
from adaptor.controller.voice import About, Events
from adaptor.errors import Unavailable
from adaptor.kube.errors import KubernetesError, Outdated
from providers.errors import Denied, Throttled
from tests.worlds.cloud import Cloud
from tests.worlds.loop import VirtualLoop, virtually
from tests.worlds.objects import Objects


def failures(duty: str) -> float:
    return REGISTRY.get_sample_value("peerpods_controller_duty_failures_total", {"duty": duty}) or 0.0


@virtually
async def test_a_duty_that_fails_begins_again_later_and_later_and_the_others_go_on() -> None:
    loop = VirtualLoop.running()
    begun: list[float] = []
    beats = 0

    async def failing() -> None:
        begun.append(loop.now())
        raise [Unavailable("away"), Denied("no"), ValueError("a bug")][len(begun) % 3]

    async def steady() -> None:
        nonlocal beats
        while True:
            beats += 1
            await loop.sleep(1)

    before = failures("failing")
    performing = asyncio.create_task(perform({"failing": failing, "steady": steady}, loop))
    await loop.sleep(300.5)
    performing.cancel()
    await asyncio.gather(performing, return_exceptions=True)
    pauses = [later - sooner for sooner, later in pairwise(begun)]
    assert pauses == sorted(pauses)
    assert pauses[0] == pytest.approx(2)
    assert pauses[-1] == pytest.approx(60)
    assert beats == 301
    assert failures("failing") == before + len(begun)


@virtually
async def test_a_queue_does_one_key_once_at_a_time_and_as_many_as_it_may_at_once() -> None:
    loop = VirtualLoop.running()
    busy: set[str] = set()
    most = done = 0

    async def handle(key: str) -> float | None:
        nonlocal most, done
        assert key not in busy
        busy.add(key)
        most = max(most, len(busy))
        await loop.sleep(1)
        busy.discard(key)
        done += 1
        return None

    queue = Queue(handle, loop, 3)
    running = asyncio.create_task(queue.run())
    for _ in range(3):
        for key in "abcdefg":
            queue.put(key)
        await loop.sleep(0.3)
    await loop.sleep(30)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert most == 3
    assert 7 < done <= 21  # put while it was under way: once more, and not once for each


@virtually
async def test_a_queue_tries_again_after_longer_and_longer_pauses_and_when_a_cloud_says_so() -> None:
    loop = VirtualLoop.running()
    seen: list[float] = []
    answers: list[Any] = [Unavailable("x"), ValueError("bug"), Throttled("slow", retry_after=70.0), 100.0, None]

    async def handle(key: str) -> float | None:
        seen.append(loop.now())
        answer: float | Exception | None = answers[len(seen) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    queue = Queue(handle, loop, 3)
    running = asyncio.create_task(queue.run())
    queue.put("a")
    queue.put("b", 1e9)
    await loop.sleep(2000)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    pauses = [later - sooner for sooner, later in pairwise(seen)]
    assert pauses == pytest.approx([5, 10, 70, 100], abs=0.01)


async def mirrored(api: Objects, loop: VirtualLoop) -> tuple[Mirror[str], list[str], asyncio.Task[None]]:
    def read(found: Object) -> str | None:
        label = found["metadata"].get("labels", {}).get("x")
        if label == "poison":
            raise ValueError("cannot read this")
        return str(label) if label else None

    mirror: Mirror[str] = Mirror(api, NODE, read, loop)
    told: list[str] = []
    mirror.listen(told.append)
    running = asyncio.create_task(mirror.run())
    await mirror.synced.wait()
    return mirror, told, running


def node(name: str, label: str = "1") -> Object:
    return {"metadata": {"name": name, "labels": {"x": label} if label else {}}}


@virtually
async def test_a_mirror_shows_what_comes_changes_and_goes() -> None:
    loop = VirtualLoop.running()
    api = Objects(loop)
    api.put(NODE, node("a"))
    mirror, told, running = await mirrored(api, loop)
    assert dict(mirror.items) == {"a": "1"}
    api.put(NODE, node("b"))
    api.put(NODE, node("a", "2"))
    api.put(NODE, node("c", ""))
    await loop.sleep(1)
    assert dict(mirror.items) == {"a": "2", "b": "1"}
    api.drop(NODE, "a")
    api.put(NODE, node("b", ""))
    await loop.sleep(1)
    assert dict(mirror.items) == {}
    assert told == ["a", "b", "a", "a", "b"]
    running.cancel()


@virtually
async def test_a_mirror_survives_outages_old_watches_and_events_that_never_come() -> None:
    loop = VirtualLoop.running()
    api = Objects(loop)
    mirror, told, running = await mirrored(api, loop)
    api.refuse["watch"].append(Outdated("410"))
    api.refuse["list"].extend([KubernetesError("500")] * 3)
    api.put(NODE, node("a"))
    await loop.sleep(30)
    assert dict(mirror.items) == {"a": "1"}
    api._tell = lambda *_: None  # type: ignore[method-assign]
    api.drop(NODE, "a")
    await loop.sleep(700)
    assert dict(mirror.items) == {}
    assert told[-1] == "a"
    running.cancel()


@virtually
async def test_an_object_that_cannot_be_read_does_not_hide_the_others() -> None:
    loop = VirtualLoop.running()
    api = Objects(loop)
    api.put(NODE, node("a", "poison"))
    api.put(NODE, node("b"))
    mirror, _, running = await mirrored(api, loop)
    assert dict(mirror.items) == {"b": "1"}
    running.cancel()


POD = About("v1", "Pod", "shop", "web", "u-1")


@virtually
async def test_the_same_event_again_is_counted_and_another_is_another() -> None:
    loop = VirtualLoop.running()
    api = Objects(loop)
    events = Events(api, loop)
    running = asyncio.create_task(events.run())
    for message in ("full", "full", "fuller"):
        events.say(POD, "QuotaExceeded", message, warning=True)
        await loop.sleep(5)
    events.say(About("v1", "Namespace", "", "shop", ""), "QuotaUnusable", "x" * 3000)
    await loop.sleep(5)
    found = {each["message"][:6]: each for key, each in api.held.items() if key[0] == EVENT.name}
    assert {key: each["count"] for key, each in found.items()} == {"full": 2, "fuller": 1, "xxxxxx": 1}
    assert found["full"]["type"] == "Warning"
    assert found["full"]["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": "web",
        "namespace": "shop",
        "uid": "u-1",
    }
    assert found["xxxxxx"]["metadata"]["namespace"] == "default"
    assert len(found["xxxxxx"]["message"]) == 1024
    running.cancel()


@virtually
async def test_events_survive_lost_replies_and_what_the_api_server_forgot_and_give_up_in_the_end() -> None:
    loop = VirtualLoop.running()
    api = Objects(loop)
    events = Events(api, loop)
    running = asyncio.create_task(events.run())
    api.lose["create"] = 1
    events.say(POD, "QuotaExceeded", "full")
    await loop.sleep(10)
    (key,) = [key for key in api.held if key[0] == EVENT.name]
    del api.held[key]
    events.say(POD, "QuotaExceeded", "full")
    await loop.sleep(10)
    assert key in api.held
    api.away = True
    events.say(POD, "QuotaExceeded", "fuller")
    await loop.sleep(60)
    api.away = False
    events.say(POD, "QuotaExceeded", "fullest")
    await loop.sleep(10)
    told = [each["message"] for key, each in api.held.items() if key[0] == EVENT.name]
    assert sorted(told) == ["full", "fullest"]
    running.cancel()


@virtually
async def test_what_the_cloud_sells_is_told_once_and_again_when_it_changes() -> None:
    loop = VirtualLoop.running()
    api, cloud = Objects(loop), Cloud(loop)
    offers = Offers(api, cloud, Prices(), "peerpods", loop)
    api.lose["create"] = 1
    with pytest.raises(KubernetesError):
        await offers.look()
    assert not await offers.look()
    found = api.at(CONFIG_MAP, names.OFFERINGS, "peerpods")
    assert found is not None
    assert published.from_json(found["data"][KEY]) == cloud.offered
    cloud.offered = cloud.offered[:1]
    api.refuse["replace"].append(Outdated("409"))
    assert not await offers.look()
    assert await offers.look()
    again = api.at(CONFIG_MAP, names.OFFERINGS, "peerpods")
    assert again is not None
    assert published.from_json(again["data"][KEY]) == cloud.offered
