"""The fault harness finds every safeguard that is taken out; `python -m tests.sim.mutations` prints by which run."""

from typing import get_args

import pytest

from adaptor.sandbox.model import Event
from tests.sim.mutations import HARMLESS, LIMIT, MUTATIONS, Mutation, find


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name.replace(" ", "-"))
def test_a_safeguard_that_is_taken_out_is_missed(mutation: Mutation) -> None:
    assert find(mutation), f"{LIMIT} runs are sound without {mutation.disables}"


def test_every_row_of_the_journal_is_left_out_once() -> None:
    left_out = {mutation.name for mutation in MUTATIONS}
    assert {event.kind for event in get_args(Event) if f"no {event.kind}" not in left_out} == set(HARMLESS)
