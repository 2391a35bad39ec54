"""What a pod's owner reads: each text, how often, and never a secret."""

import dataclasses
from collections.abc import Callable
from typing import get_args

import pytest
from lightkube import AsyncClient

from adaptor.errors import NetworkFailed, StartFailed
from adaptor.kube import events, reasons, record
from adaptor.kube.events import BURST, Bucket
from adaptor.kube.node import NodeCluster
from adaptor.sandbox.model import Adopted, Created, Event, SandboxSpec, SandboxState, apply
from providers.base import Offering, Tee
from providers.errors import Capacity
from tests.worlds.cluster import END, INTENT, KEPT, NODE, START, Hands, Sandbox, again, node_of, until
from tests.worlds.kubernetes.faults import Fault
from tests.worlds.kubernetes.world import World

OFFERING = Offering("m6a.large", 2, 8192, tee=Tee.SNP, zone="us-east-1a", price=0.0864)
FULL = Capacity(
    "We currently do not have sufficient m6a.large capacity", code="InsufficientInstanceCapacity", request_id="req-77"
)


async def told(hands: Hands, count: int) -> list[tuple[str, str, str]]:
    """Reason, type and message of so many events, once there are."""
    found = await until(lambda: _at_least(hands, count))
    return [(each.reason, each.type, each.message) for each in found]


async def _at_least(hands: Hands, count: int) -> object:
    found = await hands.events()
    return found if len(found) >= count else None


async def test_each_step_of_a_start_is_told_on_the_pod(hands: Hands, cluster: NodeCluster) -> None:
    pod = await hands.pod()
    web = Sandbox(cluster, hands.spec()).happens(Created(hands.spec()), START[0])
    cluster.chose(web.now, OFFERING, lambda: "the first of 7 offerings that fit")
    cluster.tried(web.now, OFFERING, FULL)
    web.happens(*START[1:])
    machine = "m6a.large in us-east-1a, spot, snp, 0.0312 USD/h"
    found = await told(hands, 5)
    assert found[:4] == [
        (
            "VMChosen",
            "Normal",
            "m6a.large in us-east-1a (snp, 0.0864 USD/h) is asked for: the first of 7 offerings that fit",
        ),
        (
            "VMUnavailable",
            "Warning",
            (
                "memory has no room for m6a.large in us-east-1a: We currently do not have sufficient m6a.large capacity "
                "(InsufficientInstanceCapacity, request req-77). The next machine that fits is tried"
            ),
        ),
        ("VMLaunched", "Normal", f"memory accepted the create of the VM i-1 ({machine}); it boots now"),
        ("VMReached", "Normal", found[3][2]),
    ]
    assert found[3][2].startswith("the VM i-1 answers at 10.0.0.1:15150, ")
    assert found[4] == (
        "VMReady",
        "Normal",
        f"the VM i-1 ({machine}) is the pod's: its containers are started in there",
    )
    (first, *_) = await hands.events()
    assert first.involvedObject.uid == pod.metadata.uid  # type: ignore[union-attr]
    assert (first.involvedObject.kind, first.involvedObject.name) == ("Pod", "web")
    assert (first.source.component, first.source.host) == ("peerpods", NODE)  # type: ignore[union-attr]


async def test_an_end_that_nobody_asked_for_is_told_with_the_clouds_reason(hands: Hands, cluster: NodeCluster) -> None:
    await hands.pod()
    web = await Sandbox(cluster, hands.spec()).starts()
    cluster.lost(web.now, "the VM i-1 was terminated: Server.SpotInstanceTermination: Spot interruption")
    found = {reason: (kind, text) for reason, kind, text in await told(hands, 4)}
    assert found["VMLost"][0] == "Warning"
    assert "Server.SpotInstanceTermination" in found["VMLost"][1]
    assert "a controller of the pod makes another" in found["VMLost"][1]


async def test_a_failure_is_told_in_full_and_without_secrets(hands: Hands, cluster: NodeCluster) -> None:
    await hands.pod()
    web = Sandbox(cluster, hands.spec()).happens(Created(hands.spec()), START[0])
    cluster.failed(web.now, StartFailed("x" * 3000))
    cluster.failed(web.now, StartFailed("-----BEGIN PRIVATE KEY-----\nMIIE"))
    found = await told(hands, 2)
    assert len(found[0][2]) == reasons.MESSAGE_LIMIT
    assert found[1][2] == "(secret)"


async def test_a_failure_of_the_pods_network_has_a_reason_of_its_own(hands: Hands, cluster: NodeCluster) -> None:
    await hands.pod()
    web = Sandbox(cluster, hands.spec()).happens(Created(hands.spec()), START[0])
    cluster.failed(web.now, NetworkFailed("nothing came back through the tunnel of eth0 within 10 s"))
    ((reason, kind, message),) = await told(hands, 1)
    assert (reason, kind) == ("PodNetworkFailed", "Warning")
    assert "nothing came back through the tunnel" in message


async def test_the_same_again_is_counted_and_not_listed(hands: Hands, cluster: NodeCluster, world: World) -> None:
    await hands.pod()
    web = Sandbox(cluster, hands.spec()).happens(Created(hands.spec()), START[0])
    for _ in range(5):
        cluster.tried(web.now, OFFERING, FULL)
        await until(lambda: _counted(hands))
    await until(lambda: _counted(hands, 5))
    assert len(await hands.events()) == 1
    assert sum(each.startswith("create events") for each in world.server.requests) == 1


async def test_the_same_failure_of_the_pods_next_sandbox_is_counted_too(hands: Hands, cluster: NodeCluster) -> None:
    await hands.pod()
    first = Sandbox(cluster, hands.spec()).happens(Created(hands.spec()), START[0])
    second = Sandbox(cluster, again(hands.spec())).happens(Created(again(hands.spec())), START[0])
    for each in (first, second):
        cluster.failed(each.now, StartFailed("the account may have no more of these"))
    await until(lambda: _counted(hands, 2))
    assert len(await hands.events()) == 1


async def _counted(hands: Hands, count: int = 1) -> bool:
    found = await hands.events()
    return bool(found) and (found[0].count or 0) >= count


async def test_a_pod_has_a_budget(hands: Hands, cluster: NodeCluster) -> None:
    await hands.pod()
    web = Sandbox(cluster, hands.spec()).happens(Created(hands.spec()), START[0])
    for number in range(3 * BURST):
        cluster.tried(web.now, OFFERING, Capacity(f"no {number}"))
    cluster.tried(dataclasses.replace(web.now, spec=hands.spec("other")), OFFERING, FULL)
    found = await told(hands, BURST + 1)
    assert len(found) == BURST + 1, "another pod's are not its"


def test_a_budget_fills_again() -> None:
    bucket = Bucket(1, 0.0)
    assert [bucket.take(now) for now in (0, 1, 299, 301, 302)] == [True, False, False, True, False]


@pytest.mark.parametrize("fault", [{"lost_reply": True}, {}, {"status": 500}, {"status": 429}], ids=str)
@pytest.mark.parametrize("verb", ["create", "patch"])
async def test_an_event_whose_sending_went_wrong_is_there_once(
    hands: Hands, cluster: NodeCluster, world: World, verb: str, fault: dict[str, object]
) -> None:
    await hands.pod()
    world.faults.add(Fault(verb=verb, resource="events", times=2, **fault))  # type: ignore[arg-type]
    web = Sandbox(cluster, hands.spec()).happens(Created(hands.spec()), START[0])
    cluster.tried(web.now, OFFERING, FULL)
    await until(lambda: _counted(hands))
    cluster.tried(web.now, OFFERING, FULL)
    await until(lambda: _counted(hands, 2))
    assert len(await hands.events()) == 1


async def test_an_event_that_the_api_server_has_forgotten_is_made_anew(
    hands: Hands, cluster: NodeCluster, world: World
) -> None:
    await hands.pod()
    web = Sandbox(cluster, hands.spec()).happens(Created(hands.spec()), START[0])
    cluster.tried(web.now, OFFERING, FULL)
    await until(lambda: _counted(hands))
    (first,) = await hands.events()
    await hands.client.delete(type(first), first.metadata.name or "", namespace="shop")
    cluster.tried(web.now, OFFERING, FULL)
    await until(lambda: _counted(hands, 2))


async def test_events_can_be_turned_off(hands: Hands, connect: Callable[[], AsyncClient], world: World) -> None:
    await hands.pod()
    async with node_of(connect(), events=False) as cluster:
        web = await Sandbox(cluster, hands.spec()).starts()
        cluster.lost(web.now, "gone")
        await until(lambda: any("patch peerpods/status" in each for each in world.server.requests))
    assert not await hands.events()


async def test_the_last_events_are_sent_before_the_adaptor_ends(
    hands: Hands, connect: Callable[[], AsyncClient]
) -> None:
    await hands.pod()
    async with node_of(connect()) as cluster:
        web = Sandbox(cluster, hands.spec()).happens(Created(hands.spec()))
        cluster.failed(web.now, StartFailed("no"))
    assert [each.reason for each in await hands.events()] == ["VMStartFailed"]


async def test_events_that_cannot_be_sent_are_bounded(
    hands: Hands, cluster: NodeCluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_QUEUE", 8)
    await world.server.stop()
    for number in range(50):
        web = dataclasses.replace(hands.spec(), id=f"{number}")
        cluster.tried(SandboxState(web), OFFERING, FULL)
    recorder = cluster.recorder
    assert recorder is not None
    assert len(recorder) <= 8
    await world.server.start()


async def test_what_cannot_be_read_of_pull_secrets_is_told_and_the_start_goes_on(
    hands: Hands, connect: Callable[[], AsyncClient]
) -> None:
    class Secrets:
        async def auth(self, *about: str) -> tuple[bytes, list[str]]:
            return b"{}", ["the image pull secret regcred does not exist in shop"]

        async def aclose(self) -> None:
            pass

    await hands.pod()
    async with node_of(connect(), pull_secrets=Secrets()) as cluster:
        web = Sandbox(cluster, hands.spec()).happens(Created(hands.spec()), START[0])
        assert await cluster.registry_auth(web.now) == b"{}"
        ((reason, kind, text),) = await told(hands, 1)
        assert (reason, kind) == ("PullSecretsUnread", "Warning")
        assert "regcred does not exist in shop" in text


# -- the table ------------------------------------------------------------------------------------

SPEC = SandboxSpec("5" * 64, "web", "shop", "/run/netns/x")


def test_every_reason_is_in_the_table_once_and_camel_case() -> None:
    constants = [value for value in vars(reasons).values() if isinstance(value, reasons.Reason)]
    assert sorted(each.name for each in reasons.TABLE) == sorted(each.name for each in constants)
    assert all(each.name.isalnum() and each.name[0].isupper() and len(each.name) <= 128 for each in reasons.TABLE)


@pytest.mark.parametrize("unresolved", [False, True])
def test_every_event_has_its_text_or_is_nobodys_business(unresolved: bool) -> None:
    happened: list[Event] = [Created(SPEC), *START, *END, KEPT, Adopted("a", INTENT, "" if unresolved else "i-1")]
    silent = {
        "created",
        "start-requested",
        "network-intended",
        "launch-intended",
        "launch-refused",
        "given-away",
        "stop-decided",
    }
    wanted = record.begun(SPEC, "aws", NODE)
    seen = set()
    for event in happened:
        note = reasons.of(event, SandboxState(SPEC), wanted)
        seen.add(event.kind)
        assert (note is None) == (event.kind in silent), event.kind
    assert seen | silent == {cls.kind for cls in get_args(Event)}


def test_a_name_is_the_same_for_the_same_event_and_fits() -> None:
    long = dataclasses.replace(SPEC, pod_name="p" * 253)
    note = reasons.note(reasons.LOST, "x")
    first, second = (events.to_object(long, note, "u", NODE, 1.0, last, 1) for last in (1.0, 2.0))
    assert first["metadata"]["name"] == second["metadata"]["name"]
    assert len(first["metadata"]["name"]) <= 253
    other = events.to_object(long, reasons.note(reasons.LOST, "y"), "u", NODE, 1.0, 1.0, 1)
    assert other["metadata"]["name"] != first["metadata"]["name"]


def test_how_long_a_boot_took_is_told() -> None:
    state, wanted = None, record.begun(SPEC, "aws", NODE)
    for number, event in enumerate((Created(SPEC), *START[:4])):
        state = apply(state, event)
        wanted = record.after(wanted, state, event, 1000.0 + 10 * number)
    assert state is not None
    note = reasons.of(START[3], state, wanted)
    assert note is not None
    assert note.message == "the VM i-1 answers at 10.0.0.1:15150, 20.0 s after it was asked for"
