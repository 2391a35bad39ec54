"""The table of session states."""

from adaptor.protos import relay_pb2
from adaptor.relay.states import OVER, TRANSITIONS, SessionState


def test_every_state_of_the_wire_is_reached_and_nothing_leads_out_of_the_last_ones() -> None:
    assert {state.name for state in SessionState} | {"STATE_UNKNOWN"} == set(relay_pb2.State.keys())
    assert set(TRANSITIONS.values()) == set(SessionState)
    assert {state for state, _ in TRANSITIONS} == set(SessionState) - OVER
