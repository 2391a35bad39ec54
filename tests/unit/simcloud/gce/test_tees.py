"""The simulator's table of TEEs and the provider's were written apart: each checks the other."""

import pytest

from providers.simcloud.gce import tees
from providers.simcloud.gce.machine_types import TYPES

provider = pytest.importorskip("providers.gcp.tees", reason="there is no gcp provider yet")


@pytest.mark.parametrize("name", TYPES)
def test_both_say_the_same_of_a_machine_type(name: str) -> None:
    here = {tee for tee in (tees.SEV, tees.SNP, tees.TDX) if tees.has(tee, name)}
    assert {provider.API_NAMES[tee] for tee in provider.of(name)} == here
