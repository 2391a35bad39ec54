"""The instance metadata service, asked over a real connection; its address and its network are test_namespace's."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Interface
from typing import Any

import aiohttp
import pytest

from providers.simcloud.cloud import Simcloud
from providers.simcloud.ec2 import metadata
from providers.simcloud.ec2.service import Ec2
from providers.simcloud.machines.base import Machine
from providers.simcloud.machines.imds import MetadataService
from providers.simcloud.testing import running
from tests.unit.simcloud.ec2_client import Account, client

TTL = metadata.TTL_HEADER
TOKEN = metadata.TOKEN_HEADER


class Inside:
    """What a program in the instance can do: talk HTTP to its metadata service."""

    def __init__(self, port: int, http: aiohttp.ClientSession, instance: str, account: Account) -> None:
        self._port = port
        self._http = http
        self.instance = instance
        self.account = account
        self.now = 0.0
        self.leave: Callable[[], None] = lambda: None  # the machine goes, and its address may become another's

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self._port}{path}"
        async with self._http.request(method, url, headers={k.replace("_", "-"): v for k, v in headers.items()}) as it:
            return it.status, await it.text(errors="replace")

    async def token(self, ttl: str = "60") -> str:
        status, token = await self.ask("/latest/api/token", "PUT", **{TTL: ttl})
        assert status == 200
        return token

    async def read(self, path: str) -> str:
        status, text = await self.ask(path, **{TOKEN: await self.token()})
        assert status == 200, path
        return text

    async def change(self, **options: Any) -> None:
        change = self.account.ec2.modify_instance_metadata_options
        await asyncio.to_thread(change, InstanceId=self.instance, **options)


async def enter(cloud: Simcloud, account: Account, http: aiohttp.ClientSession, **launch: Any) -> AsyncIterator[Inside]:
    instance = await asyncio.to_thread(account.launch, **launch)
    assert isinstance(cloud._cloud, Ec2)
    note = cloud._cloud.account.notes[instance]
    listener = socket.create_server(("127.0.0.1", 0))
    inside = Inside(listener.getsockname()[1], http, instance, account)
    asked = metadata.Metadata(cloud._cloud.account, note, now=lambda: inside.now)
    service = MetadataService()
    await service.serve(listener)
    machine = Machine(instance, "host", IPv4Interface("127.0.0.1/8"), "02:00:00:00:00:01", asked.answer)
    service.know(machine)
    inside.leave = lambda: service.forget(machine)
    try:
        yield inside
    finally:
        await service.aclose()


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    """In an instance that must show a token."""
    async with running() as cloud, aiohttp.ClientSession() as http:
        with client(cloud) as ec2:
            options = {"HttpTokens": "required"}
            async for each in enter(
                cloud, Account(cloud, ec2), http, UserData=b"\x00\xffdata", MetadataOptions=options
            ):
                yield each


async def test_without_a_token_everything_is_401(inside: Inside) -> None:
    for path in ("/latest/user-data", "/latest/meta-data/instance-id", "/", "/nowhere"):
        assert (await inside.ask(path))[0] == 401


async def test_with_a_token_the_instance_learns_who_it_is(inside: Inside) -> None:
    shown = await asyncio.to_thread(inside.account.show, inside.instance)
    for path, value in {
        "instance-id": inside.instance,
        "ami-id": shown["ImageId"],
        "instance-type": "m6a.large",
        "local-ipv4": shown["PrivateIpAddress"],
        "local-hostname": shown["PrivateDnsName"],
        "mac": shown["NetworkInterfaces"][0]["MacAddress"],
        "placement/availability-zone": "us-east-1a",
        "placement/region": "us-east-1",
        "security-groups": "peerpods",
        f"network/interfaces/macs/{shown['NetworkInterfaces'][0]['MacAddress']}/subnet-id": shown["SubnetId"],
    }.items():
        assert await inside.read(f"/latest/meta-data/{path}") == value
    document = json.loads(await inside.read("/latest/dynamic/instance-identity/document"))
    assert document["instanceId"] == inside.instance


async def test_user_data_is_given_as_bytes(inside: Inside) -> None:
    async with inside._http.get(
        f"http://127.0.0.1:{inside._port}/latest/user-data", headers={TOKEN: await inside.token()}
    ) as answer:
        assert (await answer.read(), answer.content_type) == (b"\x00\xffdata", "application/octet-stream")


async def test_without_user_data_it_is_404() -> None:
    async with running() as cloud, aiohttp.ClientSession() as http:
        with client(cloud) as ec2:
            async for inside in enter(cloud, Account(cloud, ec2), http):
                assert (await inside.ask("/latest/user-data"))[0] == 404
                assert "user-data" not in await inside.read("/latest/")


async def test_folders_are_listed_and_unknown_paths_are_404(inside: Inside) -> None:
    assert {"instance-id", "placement/"} <= set((await inside.read("/latest/meta-data/")).split("\n"))
    assert "latest" in (await inside.read("/")).split("\n")
    token = await inside.token()
    for path in ("/latest/meta-data/nothing", "/latest/meta-data/instance-id/more", "/1999-01-01/meta-data/"):
        assert (await inside.ask(path, **{TOKEN: token}))[0] == 404


@pytest.mark.parametrize("ttl", ["0", "21601", "soon", "-1", ""])
async def test_a_token_needs_a_sensible_time_to_live(inside: Inside, ttl: str) -> None:
    assert (await inside.ask("/latest/api/token", "PUT", **{TTL: ttl}))[0] == 400
    assert (await inside.ask("/latest/api/token", "PUT"))[0] == 400


async def test_a_token_ends_with_its_time(inside: Inside) -> None:
    token = await inside.token("60")
    inside.now = 59.0
    assert (await inside.ask("/latest/user-data", **{TOKEN: token}))[0] == 200
    inside.now = 60.0
    assert (await inside.ask("/latest/user-data", **{TOKEN: token}))[0] == 401


async def test_an_invented_token_is_401_even_where_none_is_needed(inside: Inside) -> None:
    await inside.change(HttpTokens="optional")
    assert (await inside.ask("/latest/user-data", **{TOKEN: "invented"}))[0] == 401
    assert (await inside.ask("/latest/user-data"))[0] == 200


async def test_a_proxy_gets_no_token(inside: Inside) -> None:
    assert (await inside.ask("/latest/api/token", "PUT", X_Forwarded_For="10.0.0.1", **{TTL: "60"}))[0] == 403


async def test_a_disabled_service_forbids_everything(inside: Inside) -> None:
    token = await inside.token()
    await inside.change(HttpEndpoint="disabled")
    assert (await inside.ask("/latest/user-data", **{TOKEN: token}))[0] == 403
    assert (await inside.ask("/latest/api/token", "PUT", **{TTL: "60"}))[0] == 403


async def test_tags_are_shown_only_where_that_is_enabled(inside: Inside) -> None:
    token = await inside.token()
    assert (await inside.ask("/latest/meta-data/tags/instance/app", **{TOKEN: token}))[0] == 404
    tag = {"Resources": [inside.instance], "Tags": [{"Key": "app", "Value": "web"}]}
    await asyncio.to_thread(inside.account.ec2.create_tags, **tag)
    await inside.change(InstanceMetadataTags="enabled")
    assert await inside.read("/latest/meta-data/tags/instance/app") == "web"


async def test_other_methods_are_refused(inside: Inside) -> None:
    assert (await inside.ask("/latest/user-data", "POST", **{TOKEN: await inside.token()}))[0] == 405


async def test_an_address_that_no_instance_has_learns_nothing(inside: Inside) -> None:
    token = await inside.token()
    inside.leave()
    assert (await inside.ask("/latest/user-data", **{TOKEN: token}))[0] == 404
