"""The journal's events and the state they fold into."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptor.podnet.plan import Cord, Tunnel
from adaptor.sandbox.model import (
    Adopted,
    Bound,
    Created,
    Event,
    GivenAway,
    InstanceDeleted,
    JournalFault,
    Kept,
    LaunchAccepted,
    LaunchIntended,
    LaunchRefused,
    NetworkIntended,
    Phase,
    Reached,
    SandboxSpec,
    StartRequested,
    StopDecided,
    apply,
    fold,
    from_json,
    to_json,
)

SPEC = SandboxSpec("a" * 64, "web", "shop", "/run/netns/x", vcpus=2, initdata="version = '0.1.0'")
INTENT = LaunchIntended("t1", "podvm-web-aaaaaaaa", "m6a.large", "", "dXNlcg==", "dG9rZW4=")
TUNNEL = Tunnel("/run/netns/x", 4789, (Cord("eth0", 555_000, "vxlan1"), Cord("net1", 555_001, "vxlan2")))
REACHED = replace(TUNNEL, peer="10.0.0.5", worker="10.0.0.4", encrypted=True, public_key="a2V5")
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


def test_a_vm_whose_deletion_was_accepted_is_not_forgotten() -> None:
    assert not fold(LIFE[:-1]).deletion_accepted
    assert fold(LIFE).deletion_accepted
    assert fold(LIFE).instance_id == "i-1"


def test_a_kept_launch_folds_into_the_sandbox_that_adopts_it_and_out_of_the_other() -> None:
    kept = fold([Created(SPEC), StartRequested(180.0), INTENT, LaunchAccepted("i-1", ("10.0.0.5",)), Kept("x", 77.0)])
    assert (kept.phase, kept.kept_until, kept.adopt_grace) == (Phase.KEPT, 77.0, 180.0)
    given = apply(kept, GivenAway("b"))
    assert (given.phase, given.launch, given.instance_id, given.addresses) == (Phase.STOPPING, None, "", ())
    taker = fold([Created(SPEC), StartRequested(180.0), Adopted("a", INTENT, "i-1", ("10.0.0.5",))])
    assert (taker.phase, taker.launch, taker.instance_id) == (Phase.STARTING, INTENT, "i-1")
    assert taker.addresses == ("10.0.0.5",)
    assert taker.launches == 0, "its own first create gets its own token"


def test_a_kept_sandbox_may_be_started_again() -> None:
    state = fold([Created(SPEC), StartRequested(180.0), INTENT, Kept("x", 77.0), StartRequested(60.0)])
    assert (state.phase, state.adopt_grace, state.kept_until) == (Phase.STARTING, 60.0, 0.0)
    assert state.launch_unresolved


@pytest.mark.parametrize("late", [Kept("x", 1.0), GivenAway("b"), Adopted("a", INTENT)])
def test_a_running_sandbox_is_neither_kept_nor_given_away(late: Event) -> None:
    with pytest.raises(JournalFault, match="cannot follow"):
        fold([*LIFE[:6], late])


def test_rows_of_an_older_version_are_understood() -> None:
    spec = {"id": "a", "pod_name": "web", "pod_namespace": "shop", "netns": "/n"}
    assert from_json("created", {"spec": spec}) == Created(SandboxSpec("a", "web", "shop", "/n"))
    assert from_json("start-requested", {}) == StartRequested()
    body = to_json(INTENT)
    del body["sandbox"]
    assert from_json("launch-intended", body) == INTENT


def test_every_event_survives_the_journal() -> None:
    new: list[Event] = [
        NetworkIntended(TUNNEL),
        NetworkIntended(REACHED),
        Kept("x", 77.5),
        GivenAway("b"),
        Adopted("a", INTENT, "i-1", ("10.0.0.5",)),
    ]
    for event in [*LIFE, LaunchRefused("no room"), *new]:
        assert from_json(event.kind, json.loads(json.dumps(to_json(event)))) == event


def test_a_later_tunnel_takes_an_earlier_ones_place() -> None:
    state = fold([*LIFE[:2], NetworkIntended(TUNNEL), *LIFE[2:5], NetworkIntended(REACHED)])
    assert (state.phase, state.network) == (Phase.STARTING, REACHED)
    assert apply(apply(state, Bound()), StopDecided("StopVM")).network == REACHED, "so that it can be taken away"


def test_a_sandbox_of_an_older_version_has_no_tunnel() -> None:
    assert fold(LIFE).network is None


def test_a_tunnel_is_its_sandboxs_and_does_not_go_with_the_vm() -> None:
    begun: list[Event] = [Created(SPEC), StartRequested(180.0), NetworkIntended(TUNNEL)]
    given = fold([*begun, INTENT, Kept("x", 77.0), GivenAway("b")])
    assert (given.launch, given.network) == (None, TUNNEL)
    other = replace(TUNNEL, netns="/run/netns/y")
    taker = fold([Created(SPEC), StartRequested(180.0), NetworkIntended(other), Adopted("a", INTENT, "i-1")])
    assert taker.network == other


@pytest.mark.parametrize("before", [LIFE[:1], LIFE[:6], LIFE[:7]])
def test_a_tunnel_is_intended_in_a_start_and_at_no_other_time(before: list[Event]) -> None:
    with pytest.raises(JournalFault, match="network-intended cannot follow"):
        fold([*before, NetworkIntended(TUNNEL)])


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


@given(
    st.lists(
        st.sampled_from([*LIFE, LaunchRefused("x"), Kept("x", 1.0), GivenAway("b"), Adopted("a", INTENT)]), max_size=10
    )
)
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
    [
        ("network-intended", {"tunnel": {"netns": "/n", "port": 1, "cords": [], "smell": 1}}),
        ("network-intended", {"tunnel": {"netns": "/n", "port": 1}}),
        ("levitated", {}),
        ("bound", {"colour": "red"}),
        ("created", {}),
        ("created", {"spec": {"id": "x", "shoe": 1}}),
    ],
)
def test_what_a_newer_version_wrote_is_a_fault_that_names_it(kind: str, body: dict[str, object]) -> None:
    with pytest.raises(JournalFault, match=kind):
        from_json(kind, body)
