"""Azure's instance metadata service, asked over a real connection."""

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Interface
from typing import Any

import aiohttp
import pytest

from providers.simcloud.arm.metadata import Metadata
from providers.simcloud.machines.base import Machine
from providers.simcloud.machines.imds import MetadataService
from providers.simcloud.testing import running
from tests.unit.simcloud.arm.arm_client import Account, arm, clients

VERSION = "api-version=2021-02-01"
DATA = base64.b64encode(b"\x00\xffdata").decode()


class Inside:
    """What a program in the VM can do: talk HTTP to its metadata service."""

    def __init__(self, port: int, http: aiohttp.ClientSession, account: Account, vm: Any) -> None:
        self._port = port
        self._http = http
        self.account = account
        self.vm = vm

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        sent = {"Metadata": "true", **{name.replace("_", "-"): value for name, value in headers.items()}}
        url = f"http://127.0.0.1:{self._port}/metadata{path}"
        async with self._http.request(method, url, headers={k: v for k, v in sent.items() if v}) as answer:
            return answer.status, await answer.text()

    async def read(self, path: str) -> Any:
        status, text = await self.ask(path)
        assert status == 200, text
        return json.loads(text)


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    async with running(cloud="arm") as cloud, aiohttp.ClientSession() as http:
        with clients(cloud) as account:
            more = {"identity": {"type": "SystemAssigned"}, "tags": {"a": "b"}, "zones": ["2"]}
            await asyncio.to_thread(account.launch, userData=DATA, root=more)
            azure = arm(cloud)
            (vm,) = azure.machines.all.values()
            listener = socket.create_server(("127.0.0.1", 0))
            service = MetadataService()
            await service.serve(listener)
            asked = Metadata(azure.world, azure.issuer, vm)
            service.know(Machine("vm", "host", IPv4Interface("127.0.0.1/8"), "02:00:00:00:00:01", asked.answer))
            try:
                yield Inside(listener.getsockname()[1], http, account, vm)
            finally:
                await service.aclose()


async def test_user_data_is_base64_text_at_its_own_path(inside: Inside) -> None:
    assert await inside.ask("/instance/compute/userData?api-version=2021-01-01&format=text") == (200, DATA)
    status, _ = await inside.ask("/instance/compute/userData?api-version=2020-12-01&format=text")
    assert status == 404  # older than user data
    status, _ = await inside.ask("/instance/compute/userData?api-version=2021-01-01")
    assert status == 400  # a leaf has no JSON form


async def test_the_header_is_demanded_and_proxies_are_refused(inside: Inside) -> None:
    path = f"/instance?{VERSION}"
    assert (await inside.ask(path, Metadata=""))[0] == 400
    assert (await inside.ask(path, Metadata="false"))[0] == 400
    assert (await inside.ask(path, X_Forwarded_For="1.2.3.4"))[0] == 400
    assert (await inside.ask(path, method="POST"))[0] == 405
    assert (await inside.ask(path, Metadata="True"))[0] == 200


async def test_the_version_must_be_one_of_those_that_are_listed(inside: Inside) -> None:
    status, text = await inside.ask("/instance")
    assert (status, "newest-versions" in json.loads(text)) == (400, True)
    assert (await inside.ask("/instance?api-version=2021-02-02"))[0] == 400
    assert "2021-02-01" in (await inside.read("/versions"))["apiVersions"]


async def test_a_vm_learns_about_itself(inside: Inside) -> None:
    told = await inside.read(f"/instance?{VERSION}")
    compute = told["compute"]
    assert (compute["name"], compute["vmSize"], compute["zone"]) == ("vm", "Standard_DC2as_v5", "2")
    assert (compute["location"], compute["resourceGroupName"], compute["vmId"]) == ("eastus", "peerpods", inside.vm.id)
    assert (compute["tags"], compute["tagsList"]) == ("a:b", [{"name": "a", "value": "b"}])
    assert compute["securityProfile"]["virtualTpmEnabled"] == "true"
    (interface,) = told["network"]["interface"]
    assert interface["ipv4"]["ipAddress"][0]["privateIpAddress"] == inside.account.cloud.instances()[0].address
    assert interface["ipv4"]["subnet"] == [{"address": "172.31.0.0", "prefix": "20"}]
    assert len(interface["macAddress"]) == 12
    path = f"/instance/network/interface/0/ipv4/ipAddress/0/privateIpAddress?{VERSION}&format=text"
    assert (await inside.ask(path))[1] == inside.account.cloud.instances()[0].address
    assert "vmId" in (await inside.ask(f"/instance/compute?{VERSION}&format=text"))[1].split("\n")
    assert (await inside.ask(f"/instance/nothing?{VERSION}"))[0] == 404
    assert (await inside.ask("/nothing"))[0] == 404


async def test_tags_that_change_are_seen(inside: Inside) -> None:
    change = inside.account.compute.virtual_machines.begin_update
    await asyncio.to_thread(change, "peerpods", "vm", {"tags": {"c": "d"}}, polling=False)
    assert (await inside.read(f"/instance/compute?{VERSION}"))["tags"] == "c:d"


async def test_a_vm_with_an_identity_gets_a_token_that_the_cloud_takes(inside: Inside) -> None:
    path = "/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/"
    inside.account.bearer.token = (await inside.read(path))["access_token"]
    assert await asyncio.to_thread(inside.account.names) == ["vm"]
    status, text = await inside.ask(path + "&client_id=other")
    assert (status, json.loads(text)["error_description"]) == (400, "Identity not found")
    inside.vm.resource.body.pop("identity")
    assert (await inside.ask(path))[0] == 400
