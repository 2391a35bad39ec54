"""Azure's console: a link from ARM, a blob from storage."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from providers.azure.provider import AzureProvider
from providers.base import CONSOLE_LIMIT, ResourceKind
from providers.errors import Denied, InvalidSpec, NotFound, Transient
from providers.simcloud.exchange import Call
from tests.contract import azure_world
from tests.contract.azure_world import AzureWorld
from tests.contract.world import until_running


@pytest.fixture
async def world() -> AsyncIterator[AzureWorld]:
    async with azure_world.world() as made:
        yield made


async def machine(world: AzureWorld, **settings: Any) -> tuple[AzureProvider, str]:
    provider = world.opened(replace(world.config, **settings), world.owner)
    assert isinstance(provider, AzureProvider)
    made = await provider.create(world.spec(), "token-1")
    await until_running(provider, made.id)
    return provider, made.id


async def test_storage_sees_the_link_and_no_credentials_and_gives_the_end_only(
    world: AzureWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, vm = await machine(world)
    await world.prints(vm, b"x" * CONSOLE_LIMIT + b"the end")
    azure, seen = world.cloud._cloud, []
    perform = azure.perform

    def noting(call: Call) -> Any:
        seen.append(call)
        return perform(call)

    monkeypatch.setattr(azure, "perform", noting)
    assert (await provider.console(vm)).endswith("xthe end")
    asked, head, get = seen
    assert "Authorization" in asked.headers
    assert (head.method, get.method) == ("HEAD", "GET")
    assert not {"Authorization", "x-ms-client-request-id"} & {*head.headers, *get.headers}
    assert get.headers["Range"] == f"bytes=7-{CONSOLE_LIMIT + 6}"


async def test_a_vm_without_boot_diagnostics_has_no_console_and_the_error_says_so(world: AzureWorld) -> None:
    provider, vm = await machine(world, boot_diagnostics=False)
    with pytest.raises(InvalidSpec) as caught:
        await provider.console(vm)
    assert "Boot diagnostics is not enabled" in caught.value.message


async def test_a_vm_that_is_gone_has_no_console_any_more(world: AzureWorld) -> None:
    provider, vm = await machine(world)
    await provider.delete(vm)
    while await world.names(ResourceKind.INSTANCE):
        await asyncio.sleep(0.01)
    with pytest.raises(NotFound, match=vm):
        await provider.console(vm)


async def test_storage_that_is_away_is_transient_and_its_link_is_in_no_error(world: AzureWorld) -> None:
    provider, vm = await machine(world)
    for status, kind in ((503, Transient), (403, Denied)):
        world.cloud.faults.next(action="Blobs.Get", http_status=status)
        with pytest.raises(kind) as caught:
            await provider.console(vm)
        assert "sig=" not in str(caught.value)
        assert vm in caught.value.message
