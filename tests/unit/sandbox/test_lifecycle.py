"""The table of calls."""

from adaptor.sandbox.lifecycle import TABLE, Answer, Call, decide
from adaptor.sandbox.model import Phase, SandboxSpec, SandboxState

ONLY_A_START_CAUSES = {Call.CALLER_GONE, Call.START_FAILED, Call.ADOPT}


def test_every_call_has_a_row_in_every_phase_where_it_can_come() -> None:
    for phase in Phase:
        for call in Call:
            possible = phase is not Phase.GONE and not (phase is Phase.CREATED and call in ONLY_A_START_CAUSES)
            assert ((phase, call) in TABLE) == possible, (phase, call)


def test_every_row_says_why() -> None:
    assert all(edge.why for edge in TABLE.values())


def test_a_stop_is_never_refused() -> None:
    stops = {edge.answer for (_, call), edge in TABLE.items() if call is Call.STOP}
    assert stops == {Answer.BEGIN_STOP, Answer.JOIN_STOP}


def test_a_start_is_begun_once_or_begun_again_after_it_was_given_up() -> None:
    begun = [phase for (phase, call), edge in TABLE.items() if edge.answer is Answer.BEGIN_START]
    assert begun == [Phase.CREATED, Phase.KEPT]
    state = SandboxState(SandboxSpec("x", "p", "n", "/ns"), Phase.STARTING)
    assert decide(state, Call.START).answer is Answer.JOIN_START


def test_a_vm_is_given_away_only_while_nobody_waits_for_it_and_it_is_nobodys() -> None:
    given = [phase for (phase, call), edge in TABLE.items() if edge.answer is Answer.GIVE]
    assert given == [Phase.KEPT]
    asked = {edge.answer for (_, call), edge in TABLE.items() if call is Call.ADOPT}
    assert asked == {Answer.GIVE, Answer.REFUSE}
