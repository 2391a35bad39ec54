"""What a PeerPod must say of its sandbox, and the patches that make it say so."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptor import names
from adaptor.kube import peerpod, record
from adaptor.kube.peerpod import Condition, PeerPod
from adaptor.sandbox.model import (
    Created,
    Event,
    GivenAway,
    LaunchAccepted,
    LaunchRefused,
    Phase,
    SandboxSpec,
    SandboxState,
    StartRequested,
    StopDecided,
    apply,
)
from tests.worlds.cluster import END, INTENT, KEPT, START

SPEC = SandboxSpec("5" * 64, "web", "shop", "/run/netns/x")


def told(*events: Event, since: float = 1000.0) -> PeerPod:
    """After these, a second apart."""
    state: SandboxState | None = None
    wanted = record.begun(SPEC, "aws", "worker-1")
    for number, event in enumerate((Created(SPEC), *events)):
        state = apply(state, event)
        wanted = record.after(wanted, state, event, since + number)
    return wanted


def conditions(wanted: PeerPod) -> dict[str, tuple[bool, str]]:
    return {each.type: (each.status, each.reason) for each in wanted.conditions}


@pytest.mark.parametrize(
    ("events", "phase", "launched", "reached", "ready"),
    [
        ([], "created", (False, "NotAsked"), (False, "NotYet"), (False, "Created")),
        (START[:1], "starting", (False, "NotAsked"), (False, "NotYet"), (False, "Starting")),
        (START[:2], "starting", (False, "Asked"), (False, "NotYet"), (False, "Starting")),
        (START[:3], "starting", (True, "Accepted"), (False, "NotYet"), (False, "Starting")),
        (START[:4], "starting", (True, "Accepted"), (True, "Answered"), (False, "Starting")),
        (START, "running", (True, "Accepted"), (True, "Answered"), (True, "Bound")),
        ([*START[:3], KEPT], "kept", (True, "Accepted"), (False, "NotYet"), (False, "Kept")),
        ([*START[:3], KEPT, GivenAway("x")], "stopping", (False, "GivenAway"), (False, "NotYet"), (False, "Stopping")),
        ([*START[:2], LaunchRefused("no")], "starting", (False, "Refused"), (False, "NotYet"), (False, "Starting")),
        ([*START, END[0]], "stopping", (True, "Accepted"), (True, "Answered"), (False, "Stopping")),
        ([*START, *END], "stopping", (False, "Deleted"), (True, "Answered"), (False, "Stopping")),
    ],
)
def test_phase_and_conditions_say_how_far_the_sandbox_is(
    events: Sequence[Event],
    phase: str,
    launched: tuple[bool, str],
    reached: tuple[bool, str],
    ready: tuple[bool, str],
) -> None:
    wanted = told(*events)
    assert wanted.phase == phase
    assert conditions(wanted) == {"Launched": launched, "Reached": reached, "Ready": ready}


def test_a_condition_says_since_when_it_is_so() -> None:
    wanted = told(*START, *END)
    since = {each.type: each.since for each in wanted.conditions}
    assert since == {
        "Launched": "1970-01-01T00:16:47Z",  # the deletion
        "Reached": "1970-01-01T00:16:44Z",
        "Ready": "1970-01-01T00:16:46Z",  # the stop
    }
    assert wanted.times["bound"] == "1970-01-01T00:16:45.000Z"


def test_a_launch_that_was_refused_leaves_no_vm_to_look_for() -> None:
    wanted = told(*START[:2], LaunchRefused("no room"))
    assert (wanted.token, wanted.instance_type, wanted.price) == ("", "", None)


def test_a_vm_given_away_is_named_on() -> None:
    wanted = told(
        *START[:3],
        KEPT,
        GivenAway("next"),
    )
    assert (wanted.token, wanted.instance_id) == ("token-1", "i-1")


def test_a_start_that_failed_is_called_so_to_its_end() -> None:
    state = SandboxState(SPEC, Phase.STARTING)
    wanted = record.failed(told(*START[:1]), state, "x" * 5000, 1010)
    stopping = apply(state, StopDecided("its start failed"))
    wanted = record.after(wanted, stopping, StopDecided("its start failed"), 1011)
    assert (wanted.phase, len(wanted.reason)) == ("failed", 1024)
    assert conditions(wanted)["Ready"] == (False, "Failed")
    again = SandboxState(SPEC, Phase.STARTING)
    assert record.after(replace(wanted, phase="stopping"), again, StartRequested(), 1012).phase == "starting"


def test_a_restarted_adaptor_keeps_what_only_the_last_one_knew() -> None:
    found = replace(told(*START), uid="u", finalizers=(names.PEERPOD_FINALIZER,))
    fresh = record.after(
        record.begun(SPEC, "aws", "worker-1"),
        SandboxState(
            SPEC, Phase.RUNNING, launch=INTENT, instance_id="i-1", address="10.0.0.1:15150", certificate_sha256="00"
        ),
        None,
        9999.0,
    )
    wanted = record.resumed(found, fresh)
    assert (wanted.times, wanted.conditions) == (found.times, found.conditions)
    assert not record.changes(found, wanted, own=True)
    assert not record.status_changes(found, wanted)


def test_a_restarted_adaptor_names_on_what_the_last_one_gave_away() -> None:
    found = told(*START[:3], KEPT, GivenAway("next"))
    state = SandboxState(SPEC, Phase.STOPPING, stop_reason="its VM went to the pod's next sandbox")
    wanted = record.resumed(found, record.after(record.begun(SPEC, "aws", "worker-1"), state, None, 2000.0))
    assert (wanted.token, wanted.instance_id) == ("token-1", "i-1")


def test_an_owner_is_set_once_and_never_on_what_is_being_deleted() -> None:
    wanted = replace(told(*START), pod_uid="pod-uid")
    found = peerpod.from_object(
        {**peerpod.to_object(told(*START)), "metadata": {"name": wanted.name, "resourceVersion": "7"}}
    )
    patch = record.changes(found, wanted, own=True)
    assert patch["metadata"]["resourceVersion"] == "7", "a list is replaced whole: only what was seen"
    (owner,) = patch["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["blockOwnerDeletion"]) == ("pod-uid", False)
    for other in (replace(found, owners=("another",)), replace(found, deleting="2026-01-01T00:00:00Z")):
        assert "ownerReferences" not in record.changes(other, wanted, own=True).get("metadata", {})
    assert "ownerReferences" not in record.changes(found, wanted, own=False)["metadata"]


def test_a_finalizer_that_somebody_took_off_is_put_back_while_that_can_be() -> None:
    wanted = told(*START)
    found = replace(wanted, finalizers=("other/one",), resource_version="8")
    expected = {"metadata": {"finalizers": ["other/one", names.PEERPOD_FINALIZER], "resourceVersion": "8"}}
    assert record.changes(found, wanted, own=True) == expected
    assert record.changes(replace(found, deleting="2026-01-01T00:00:00Z"), wanted, own=True) == {}


def test_only_our_finalizer_is_taken_off() -> None:
    found = replace(told(), finalizers=("other/one", names.PEERPOD_FINALIZER), resource_version="9")
    assert record.release(found) == {"metadata": {"finalizers": ["other/one"], "resourceVersion": "9"}}
    assert record.release(replace(found, finalizers=("other/one",))) == {}


def test_who_names_a_vm() -> None:
    wanted = told(*START[:3])
    assert record.names_vm(wanted, wanted)
    assert record.names_vm(replace(wanted, token="other"), wanted)
    assert not record.names_vm(replace(wanted, token="other", instance_id=""), replace(wanted, instance_id=""))
    assert not record.names_vm(None, wanted)


JSON = st.recursive(
    st.none() | st.integers(0, 3) | st.text("ab", max_size=2) | st.lists(st.integers(0, 2), max_size=2),
    lambda inner: st.dictionaries(st.text("ab", min_size=1, max_size=2), inner, max_size=3),
)
OBJECTS = st.dictionaries(st.text("abc", min_size=1, max_size=2), JSON, max_size=4)


@settings(max_examples=60, deadline=None)
@given(OBJECTS, OBJECTS)
def test_a_difference_applied_gives_what_is_wanted(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert _clean(_applied(found, record.difference(found, wanted))) == _clean(wanted)
    assert record.difference(wanted, wanted) == {}


def _applied(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    made = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = _applied(made.get(key), value)
    return made


def _clean(value: Any) -> Any:
    """Without nulls: a merge patch cannot say them."""
    return {k: _clean(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def test_every_status_fits_the_schema_of_the_crd() -> None:
    import yaml

    from tests.worlds.cluster import CRD

    schema = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    phases = schema["status"]["properties"]["phase"]["enum"]
    assert {*Phase, record.FAILED} <= set(phases)
    for count in range(len(START) + 1):
        wanted = told(*START[:count])
        assert set(peerpod.status(wanted)) <= set(schema["status"]["properties"])
        assert set(peerpod.spec(wanted)) <= set(schema["spec"]["properties"])
        json.dumps(peerpod.status(wanted))


def test_a_price_of_nothing_is_told_and_one_that_is_unknown_is_not() -> None:
    assert peerpod.status(replace(told(), price=0.0))["pricePerHour"] == "0.0000"
    assert "pricePerHour" not in peerpod.status(replace(told(), price=None))


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01T00:00:00Z"])
def test_what_is_no_time_is_none(text: str) -> None:
    assert record.seconds(text) is None


def test_times_go_there_and_back() -> None:
    assert record.seconds(record.stamp(1_700_000_000.25, milliseconds=True)) == 1_700_000_000.25
    assert record.stamp(0) == "1970-01-01T00:00:00Z"


def test_a_condition_that_changes_for_good_reason_only() -> None:
    first = told(*START[:3])
    assert [each.since for each in told(*START[:3], since=1000.0).conditions] == [
        each.since for each in first.conditions
    ]
    assert Condition("Ready", False, "Starting", "", "1970-01-01T00:16:40Z") in first.conditions


def test_an_accepted_create_of_an_adopted_launch_is_seen() -> None:
    wanted = told(*START[:2], LaunchAccepted("i-7"))
    assert wanted.instance_id == "i-7"
