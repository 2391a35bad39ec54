"""SupportsPreflight and SupportsQuota: told beforehand, with the fix, and nothing is made."""

import pytest

from providers.base import Grade, Provider, SupportsPreflight, SupportsQuota, SupportsSweep
from providers.errors import Denied, ProviderError, Throttled, Transient
from tests.contract.world import Verb, World

PORTS = (15150, 4789)


@pytest.fixture
def cloud(provider: Provider) -> SupportsPreflight:
    if not isinstance(provider, SupportsPreflight):
        pytest.skip(f"the {provider.name} provider has no preflight")
    return provider


@pytest.fixture
def limits(provider: Provider) -> SupportsQuota:
    if not isinstance(provider, SupportsQuota):
        pytest.skip(f"the {provider.name} provider does not tell its limits")
    return provider


async def test_a_sound_configuration_has_no_faults(cloud: SupportsPreflight) -> None:
    findings = await cloud.preflight(*PORTS)
    assert findings
    assert [each for each in findings if each.grade is Grade.FAULT] == []
    assert all(each.subject and each.message for each in findings)


async def test_what_is_not_well_comes_with_its_fix(world: World, cloud: SupportsPreflight) -> None:
    world.forbid(Verb.CREATE)
    for each in await cloud.preflight(*PORTS):
        assert bool(each.fix) == (each.grade is not Grade.OK), each


async def test_a_preflight_makes_nothing(world: World, provider: Provider, cloud: SupportsPreflight) -> None:
    await cloud.preflight(*PORTS)
    assert list(await provider.list()) == []
    if isinstance(provider, SupportsSweep):
        assert list(await provider.resources()) == []


@pytest.mark.parametrize("verb", [Verb.CREATE, Verb.DELETE])
async def test_a_missing_permission_is_a_fault_that_names_it(
    world: World, provider: Provider, cloud: SupportsPreflight, verb: Verb
) -> None:
    await provider.create(world.spec(), "token-1")  # some clouds can try a deletion on an existing machine only
    world.forbid(verb)
    faults = [each for each in await cloud.preflight(*PORTS) if each.grade is Grade.FAULT]
    assert [each for each in faults if "permission" in each.subject], faults
    assert len(await provider.list()) == 1


async def test_a_cloud_that_does_not_answer_is_a_finding(world: World) -> None:
    provider = world.unreachable()
    if not isinstance(provider, SupportsPreflight):
        pytest.skip(f"the {provider.name} provider has no preflight")
    assert Grade.FAULT in {each.grade for each in await provider.preflight(*PORTS)}


async def test_a_limit_is_told_with_what_is_used_of_it(world: World, provider: Provider, limits: SupportsQuota) -> None:
    (default, *_) = await provider.offerings()
    before = [each for each in await limits.quota() if default.instance_type in each.types]
    await provider.create(world.spec(instance_type=default.instance_type), "token-1")
    after = {each.name: each for each in await limits.quota()}
    assert before
    for each in before:
        assert each.limit > 0
        assert each.name
        seen = after[each.name].used
        if each.used is not None and seen is not None and each.unit == "vCPU":
            assert seen - each.used in (0, default.vcpus)
    used = [after[each.name].used or 0 for each in before if each.unit == "vCPU" and each.used is not None]
    assert not used or max(used) >= default.vcpus


@pytest.mark.parametrize("kind", [Throttled, Denied, Transient])
async def test_refused_questions_for_limits_are_of_their_kind(
    world: World, limits: SupportsQuota, kind: type[ProviderError]
) -> None:
    world.refuse(Verb.QUOTA, kind)
    with pytest.raises(ProviderError) as caught:
        await limits.quota()
    assert type(caught.value) is kind
