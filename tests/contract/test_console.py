"""SupportsConsole: what a machine printed can be read by whoever launched it, its newest part, in few calls."""

import pytest

from providers.base import CONSOLE_LIMIT, Provider, SupportsConsole
from providers.errors import Denied, NotFound, ProviderError, Throttled, Transient
from tests.contract.world import Verb, World, until_running


@pytest.fixture
def cloud(provider: Provider) -> SupportsConsole:
    if not isinstance(provider, SupportsConsole):
        pytest.skip(f"the {provider.name} provider keeps no consoles")
    return provider


@pytest.fixture
async def machine(world: World, provider: Provider) -> str:
    """A running machine that has printed nothing."""
    made = await provider.create(world.spec(), "token-1")
    await until_running(provider, made.id)
    return made.id


async def test_what_a_machine_printed_is_told_as_it_was(world: World, cloud: SupportsConsole, machine: str) -> None:
    await world.prints(machine, b"[    0.000000] Linux version 6.12\r\n")
    assert await cloud.console(machine) == "[    0.000000] Linux version 6.12\r\n"
    await world.prints(machine, "Gr\u00fc\u00dfe\n".encode())
    assert await cloud.console(machine) == "[    0.000000] Linux version 6.12\r\nGr\u00fc\u00dfe\n"


async def test_a_machine_that_has_printed_nothing_has_an_empty_console(
    cloud: SupportsConsole, machine: str, world: World
) -> None:
    assert await cloud.console(machine) == ""
    assert world.calls(Verb.CONSOLE) == 1


async def test_of_a_long_console_the_end_is_told(world: World, cloud: SupportsConsole, machine: str) -> None:
    for number in range(3000):
        await world.prints(machine, f"line {number:06} of a guest that says a lot\n".encode() + b"\xff" * 9)
    told = await cloud.console(machine)
    assert "line 002999 of a guest that says a lot\n" in told[-60:]
    assert CONSOLE_LIMIT - 100 < len(told.encode()) <= CONSOLE_LIMIT


async def test_what_is_no_text_is_told_all_the_same(world: World, cloud: SupportsConsole, machine: str) -> None:
    await world.prints(machine, b"\x1b[31mred\x1b[0m \xff\xfe end\n")
    told = await cloud.console(machine)
    assert told.endswith(" end\n")
    assert "red" in told


async def test_the_console_of_no_machine_is_not_found(world: World, cloud: SupportsConsole) -> None:
    for nobody in (world.unknown_id, "no id at all"):
        with pytest.raises(NotFound) as caught:
            await cloud.console(nobody)
        assert nobody in caught.value.message


async def test_a_refused_console_is_of_its_kind_and_says_whose_it_is(
    world: World, cloud: SupportsConsole, machine: str
) -> None:
    for kind in (Throttled, Denied, Transient):
        world.refuse(Verb.CONSOLE, kind)
        with pytest.raises(ProviderError) as caught:
            await cloud.console(machine)
        assert type(caught.value) is kind
        assert machine in caught.value.message
    world.lose_reply(Verb.CONSOLE)
    with pytest.raises(Transient):
        await cloud.console(machine)
    await world.prints(machine, b"login:\n")
    assert await cloud.console(machine) == "login:\n"
