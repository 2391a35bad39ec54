"""EC2's console: the newest where the machine is one that tells it."""

from typing import Any

import pytest

from providers.errors import NotFound
from providers.simcloud.exchange import Call
from tests.contract.aws_world import AwsWorld
from tests.contract.world import until_running


async def test_a_machine_that_keeps_only_its_boots_console_is_asked_for_that(world: AwsWorld) -> None:
    made = await world.provider.create(world.spec(), "token-1")
    await until_running(world.provider, made.id)
    await world.prints(made.id, b"booted\n")
    world.cloud.faults.next(action="GetConsoleOutput", error="UnsupportedOperation")
    assert await world.provider.console(made.id) == "booted\n"  # type: ignore[attr-defined]
    assert list(world.cloud.calls).count("GetConsoleOutput") == 2


async def test_the_newest_is_asked_for(world: AwsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await world.provider.create(world.spec(), "token-1")
    forms = []
    perform = world.cloud._cloud.perform

    def noting(call: Call) -> Any:
        forms.append(dict(call.form))
        return perform(call)

    monkeypatch.setattr(world.cloud._cloud, "perform", noting)
    await world.provider.console(made.id)  # type: ignore[attr-defined]
    assert forms[-1]["Latest"] == "true"


async def test_what_is_no_id_has_no_console(world: AwsWorld) -> None:
    with pytest.raises(NotFound):
        await world.provider.console("vm-of-another-cloud")  # type: ignore[attr-defined]
