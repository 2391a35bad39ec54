"""Every way a cloud says no is exactly one class of error, and what follows a refusal works again."""

from collections.abc import Awaitable, Callable

import pytest

from providers.base import Provider
from providers.errors import Capacity, Denied, ProviderError, Quota, Throttled, Transient
from tests.contract.world import Verb, World, needs

Act = Callable[[World, Provider], Awaitable[object]]
VERBS: dict[Verb, Act] = {
    Verb.CREATE: lambda world, provider: provider.create(world.spec(), "token-1"),
    Verb.GET: lambda world, provider: provider.get([world.unknown_id]),
    Verb.LIST: lambda world, provider: provider.list(),
    Verb.DELETE: lambda world, provider: provider.delete(world.unknown_id),
    Verb.OFFERINGS: lambda world, provider: provider.offerings(),
}
EVERY_VERB = pytest.mark.parametrize("verb", list(VERBS))  # those of the sweep are in test_sweep.py


async def refusal(world: World, provider: Provider, verb: Verb) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await VERBS[verb](world, provider)
    return caught.value


@pytest.mark.parametrize("kind", [Capacity, Quota, Throttled, Denied, Transient])
async def test_a_refused_create_is_of_its_kind_and_made_nothing(
    world: World, provider: Provider, kind: type[ProviderError]
) -> None:
    world.refuse(Verb.CREATE, kind)
    error = await refusal(world, provider, Verb.CREATE)
    assert type(error) is kind
    assert error.code
    assert world.spec().name in error.message
    assert list(await provider.list()) == []
    assert (await provider.create(world.spec(), "token-1")).id


@EVERY_VERB
@pytest.mark.parametrize("kind", [Throttled, Denied, Transient])
async def test_every_verb_tells_its_callers_what_to_do(
    world: World, provider: Provider, verb: Verb, kind: type[ProviderError]
) -> None:
    world.refuse(verb, kind)
    assert type(await refusal(world, provider, verb)) is kind
    await VERBS[verb](world, provider)


async def test_the_clouds_request_id_is_kept(world: World, provider: Provider) -> None:
    needs(world, "request ids")
    world.refuse(Verb.CREATE, Denied)
    error = await refusal(world, provider, Verb.CREATE)
    assert error.request_id
    assert error.request_id in str(error)


@EVERY_VERB
async def test_an_error_nobody_knows_is_passed_on_whole_and_as_nothing_else(
    world: World, provider: Provider, verb: Verb
) -> None:
    world.refuse_strangely(verb)
    error = await refusal(world, provider, verb)
    assert type(error) is ProviderError
    assert "Strange.Novelty" in str(error)


@EVERY_VERB
async def test_a_lost_reply_may_be_asked_for_again(world: World, provider: Provider, verb: Verb) -> None:
    world.lose_reply(verb)
    assert type(await refusal(world, provider, verb)) is Transient
    await VERBS[verb](world, provider)


@EVERY_VERB
async def test_a_cloud_that_refuses_connections_is_transient(world: World, verb: Verb) -> None:
    assert type(await refusal(world, world.unreachable(), verb)) is Transient


@EVERY_VERB
async def test_a_refused_call_was_made_once(world: World, provider: Provider, verb: Verb) -> None:
    world.refuse(verb, Throttled)
    await refusal(world, provider, verb)
    assert world.calls(verb) == 1


@EVERY_VERB
async def test_a_closed_provider_refuses_and_says_so(world: World, verb: Verb) -> None:
    provider = world.connect(world.owner)
    await provider.aclose()
    error = await refusal(world, provider, verb)
    assert "closed" in error.message
    assert world.calls(verb) == 0


async def test_closing_twice_is_closing_once(world: World, provider: Provider) -> None:
    await provider.list()
    await provider.aclose()
    await provider.aclose()
