"""The plan of a starting adaptor: journal, relay sessions and instances in, one action per sandbox out."""

import dataclasses
from collections.abc import Sequence

import pytest

from adaptor.relay.client import Session, SessionState
from adaptor.sandbox.model import (
    Bound,
    Created,
    Event,
    InstanceDeleted,
    Kept,
    LaunchAccepted,
    LaunchIntended,
    Reached,
    SandboxSpec,
    SandboxState,
    StartRequested,
    StopDecided,
    fold,
)
from adaptor.sandbox.recovery import Adopt, CloseSession, Keep, TearDown, ended, plan, unseated
from providers import tags
from providers.base import Instance, InstanceState

NOW = 1_000_000.0
SPEC = SandboxSpec("a", "web", "shop", "/run/netns/x")
INTENT = LaunchIntended("t1", "podvm-web-a", "m6a.large", "", "dXNlcg==", "dG9rZW4=", "a")
CREATED: list[Event] = [Created(SPEC)]
LAUNCHING = [*CREATED, StartRequested(180.0), INTENT]
LAUNCHED = [*LAUNCHING, LaunchAccepted("i-1", ("10.0.0.5",))]
REACHED = [*LAUNCHED, Reached("10.0.0.5:15150", "ab")]
RUNNING = [*REACHED, Bound()]
KEPT = [*LAUNCHED, Kept("kubelet gave up", NOW + 50)]


def session(state: SessionState, reason: str = "", sandbox_id: str = "a") -> Session:
    return Session(sandbox_id, "/x", state, "", b"", False, 0, 0, 0, reason)


def instance(state: InstanceState, reason: str = "") -> dict[str, Instance]:
    return {"i-1": Instance("i-1", state, tags={"peerpods-token": "t1"}, reason=reason)}


ALIVE = instance(InstanceState.RUNNING)
JOINED = [session(SessionState.JOINED)]


def only(
    events: Sequence[Event], sessions: Sequence[Session] = JOINED, instances: dict[str, Instance] | None = ALIVE
) -> Adopt | Keep | TearDown | CloseSession:
    (action,) = plan({"a": fold(events)}, sessions, instances, NOW)
    return action


@pytest.mark.parametrize("state", [SessionState.JOINED, SessionState.RESUMING])
@pytest.mark.parametrize("instances", [ALIVE, {}, None], ids=["alive", "unknown", "cloud away"])
def test_a_running_sandbox_lives_unless_somebody_says_otherwise(
    state: SessionState, instances: dict[str, Instance] | None
) -> None:
    """One look that does not find its VM is no proof of its death."""
    assert only(RUNNING, [session(state)], instances) == Adopt(fold(RUNNING))


@pytest.mark.parametrize(("state", "how"), [(InstanceState.GONE, "terminated"), (InstanceState.STOPPED, "stopped")])
@pytest.mark.parametrize("events", [RUNNING, LAUNCHED, KEPT], ids=["running", "starting", "kept"])
def test_a_dead_vm_ends_its_sandbox_with_the_clouds_reason(events: list[Event], state: InstanceState, how: str) -> None:
    action = only(events, JOINED, instance(state, "Server.SpotInstanceTermination"))
    assert action == TearDown(fold(events), f"the VM i-1 was {how}: Server.SpotInstanceTermination")


@pytest.mark.parametrize(
    ("sessions", "why"),
    [
        ([], "the relay that held its connections is gone"),
        ([session(SessionState.SHIM_GONE, "the shim's connection: closed")], "it ended without StopVM: the shim's"),
        ([session(SessionState.LINK_LOST, "no answer")], "it ended without StopVM: no answer"),
        ([session(SessionState.LISTENING)], "it ended without StopVM: listening"),
    ],
)
def test_a_running_sandbox_whose_session_is_over_is_taken_down(sessions: list[Session], why: str) -> None:
    action = only(RUNNING, sessions)
    assert isinstance(action, TearDown)
    assert action.reason.startswith(why)


def test_a_created_sandbox_waits_for_its_start_as_long_as_its_socket_listens() -> None:
    assert only(CREATED, [session(SessionState.LISTENING)]) == Adopt(fold(CREATED))
    assert isinstance(only(CREATED, []), TearDown)


@pytest.mark.parametrize("events", [LAUNCHING, LAUNCHED], ids=["create unanswered", "launched"])
@pytest.mark.parametrize("instances", [ALIVE, {}, None], ids=["alive", "unknown", "cloud away"])
def test_a_start_that_was_cut_off_is_kept_for_the_pods_next_try(
    events: list[Event], instances: dict[str, Instance] | None
) -> None:
    action = only(events, [], instances)
    assert isinstance(action, Keep)
    assert action.until == NOW + 180


def test_a_create_without_an_answer_whose_vm_died_is_not_kept() -> None:
    assert isinstance(only(LAUNCHING, [], instance(InstanceState.STOPPED, "x")), TearDown)


@pytest.mark.parametrize(
    "events",
    [
        [*CREATED, StartRequested(180.0)],
        REACHED,
        [*CREATED, StartRequested(0.0), INTENT],
        [*CREATED, StartRequested(180.0), dataclasses.replace(INTENT, launch_token="")],
        [Created(dataclasses.replace(SPEC, pod_name="")), StartRequested(180.0), INTENT],
    ],
    ids=["nothing launched", "perhaps bound", "no grace", "upstream guest", "no pod"],
)
def test_a_start_that_nobody_can_adopt_is_taken_down(events: list[Event]) -> None:
    assert isinstance(only(events), TearDown)


def test_what_was_kept_is_kept_for_the_rest_of_its_grace_only() -> None:
    assert only(KEPT, []) == Keep(fold(KEPT), "it waits for the pod's next attempt", NOW + 50)
    over = [*LAUNCHED, Kept("x", NOW)]
    assert only(over, []) == TearDown(fold(over), "the pod was not tried again in time")


@pytest.mark.parametrize("end", [[StopDecided("StopVM")], [StopDecided("StopVM"), InstanceDeleted()]])
def test_a_teardown_goes_on_with_its_reason(end: list[Event]) -> None:
    assert only([*RUNNING, *end], [], {}) == TearDown(fold([*RUNNING, *end]), "StopVM")


def test_a_session_that_no_journal_explains_is_closed() -> None:
    assert plan({}, [session(SessionState.JOINED, sandbox_id="b")], None, NOW) == [CloseSession("b")]


@pytest.mark.parametrize("events", [CREATED, LAUNCHED, KEPT, RUNNING, [*RUNNING, StopDecided("StopVM")]])
def test_every_action_can_be_printed(events: list[Event]) -> None:
    fields = only(events).fields()
    assert fields["sandbox"] == "a"
    assert fields["pod"] == "shop/web"
    assert ("instance" in fields) == (len(events) > 1)
    assert fields["action"] in {"adopt", "keep", "tear down"}


def test_the_reaper_takes_running_sandboxes_only() -> None:
    states: dict[str, SandboxState] = {
        "a": fold(RUNNING),
        "b": fold(LAUNCHED),
        "c": fold(KEPT),
        "d": fold([*RUNNING, StopDecided("x")]),
    }
    assert [action.state for action in ended(states, [])] == [states["a"]]


def test_a_machine_whose_seat_nobody_holds_is_nobodys() -> None:
    def machine(number: int, token: str) -> Instance:
        return Instance(f"i-{number}", InstanceState.RUNNING, tags={tags.TOKEN: token})

    call = "a" * 32
    held = fold([*CREATED, StartRequested(180.0), dataclasses.replace(INTENT, token=f"{call}.0.3")])
    adopted = dataclasses.replace(held, instance_id="i-1", launch=None)  # known by its id, whatever its tag says
    machines = [machine(number, f"{call}.{number}.3") for number in range(3)]
    alone, strange = machine(7, "b" * 64), machine(8, "")
    states = {"one": held, "other": adopted}
    assert unseated([*machines, alone, strange], states) == [machines[2]]
    assert unseated(machines, {}) == machines
    assert unseated([alone, strange], {}) == [], "those are the sweep's"
