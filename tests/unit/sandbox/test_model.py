"""The journal's events and the state they fold into."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptor.sandbox.model import (
    Bound,
    Created,
    Event,
    InstanceDeleted,
    JournalFault,
    LaunchAccepted,
    LaunchIntended,
    LaunchRefused,
    Phase,
    Reached,
    SandboxSpec,
    StartRequested,
    StopDecided,
    fold,
    from_json,
    to_json,
)

SPEC = SandboxSpec("a" * 64, "web", "shop", "/run/netns/x", vcpus=2, initdata="version = '0.1.0'")
INTENT = LaunchIntended("t1", "podvm-web-aaaaaaaa", "m6a.large", "", "dXNlcg==", "dG9rZW4=")
LIFE: list[Event] = [
    Created(SPEC),
    StartRequested(),
    INTENT,
    LaunchAccepted("i-1", ("10.0.0.5",)),
    Reached("10.0.0.5", "ab" * 32),
    Bound(),
    StopDecided("StopVM"),
    InstanceDeleted(),
]


def test_an_ordinary_life_folds_through_every_phase() -> None:
    phases = [fold(LIFE[: n + 1]).phase for n in range(len(LIFE))]
    assert phases == [Phase.CREATED] + [Phase.STARTING] * 4 + [Phase.RUNNING] + [Phase.STOPPING] * 2
    assert fold(LIFE[:6]).instance_id == "i-1"
    assert fold(LIFE).launch is None


def test_every_event_survives_the_journal() -> None:
    for event in [*LIFE, LaunchRefused("no room")]:
        assert from_json(event.kind, json.loads(json.dumps(to_json(event)))) == event


def test_an_intent_without_an_answer_is_unresolved() -> None:
    assert fold(LIFE[:3]).launch_unresolved
    assert not fold(LIFE[:4]).launch_unresolved
    assert not fold([*LIFE[:3], LaunchRefused("no room")]).launch_unresolved


def test_a_refused_launch_may_be_followed_by_another_with_its_own_number() -> None:
    state = fold([*LIFE[:3], LaunchRefused("no room"), INTENT])
    assert (state.launches, state.launch) == (2, INTENT)


def test_a_create_answered_while_stopping_is_still_recorded() -> None:
    state = fold([*LIFE[:3], StopDecided("StopVM"), LaunchAccepted("i-1")])
    assert (state.phase, state.instance_id) == (Phase.STOPPING, "i-1")


@given(st.lists(st.sampled_from([*LIFE, LaunchRefused("x")]), max_size=10))
def test_events_in_an_impossible_order_are_a_fault_and_never_a_wrong_state(events: list[Event]) -> None:
    try:
        state = fold(events)
    except JournalFault:
        return
    assert isinstance(events[0], Created)
    if state.phase is Phase.RUNNING:
        assert Bound() in events
        assert state.instance_id
    if StopDecided("StopVM") in events:
        assert state.phase is Phase.STOPPING


@pytest.mark.parametrize(
    ("kind", "body"),
    [("levitated", {}), ("bound", {"colour": "red"}), ("created", {}), ("created", {"spec": {"id": "x", "shoe": 1}})],
)
def test_what_a_newer_version_wrote_is_a_fault_that_names_it(kind: str, body: dict[str, object]) -> None:
    with pytest.raises(JournalFault, match=kind):
        from_json(kind, body)
