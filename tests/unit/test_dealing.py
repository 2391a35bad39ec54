"""The order that `make test` runs in."""

import pytest

from tests.dealing import dealt

LOAD, STORM = "tests/e2e/test_load.py::test_load", "tests/e2e/test_storm.py::test_storm"
PODS = [f"tests/e2e/test_pod.py::test_{number}" for number in range(3)]
FAULTS = [f"tests/sim/test_faults.py::test_{number}" for number in range(4)]
UNITS = [f"tests/unit/test_config.py::test_{number}" for number in range(30)]
ALL = [LOAD, *PODS, STORM, *FAULTS, *UNITS]


def shares(names: list[str], workers: int) -> list[list[str]]:
    """As xdist's worksteal cuts them."""
    left, cut = [names[index] for index in dealt(names, workers)], []
    for remaining in range(workers, 0, -1):
        size = len(left) // remaining
        cut.append(left[:size])
        left = left[size:]
    return cut


def test_what_takes_long_opens_a_share() -> None:
    first, second, third, fourth = shares(ALL, 4)
    assert first[:4] == [LOAD, *PODS]
    assert second[0] == STORM
    assert third[:4] == FAULTS
    assert set(fourth) <= set(UNITS)


@pytest.mark.parametrize("names", [ALL, UNITS, [LOAD, *PODS, STORM], FAULTS, []])
@pytest.mark.parametrize("workers", [1, 2, 4, 7])
def test_every_test_is_dealt_once(names: list[str], workers: int) -> None:
    assert sorted(dealt(names, workers)) == list(range(len(names)))
