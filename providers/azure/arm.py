"""Azure Resource Manager: every call, its pace, and its errors as ours. The SDK's asyncio client is behind it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from azure.core import MatchConditions
from azure.core.pipeline import policies
from azure.core.pipeline.transport import AioHttpTransport
from azure.core.rest import HttpRequest
from azure.mgmt.compute.aio import ComputeManagementClient

from providers.azure import credentials
from providers.azure.config import AzureConfig
from providers.azure.errors import translate
from providers.azure.requests import Body
from providers.errors import ProviderError
from providers.throttle import Rank, Rate, Throttle

# Seconds. A regional endpoint accepts in milliseconds; five leave room for two lost SYNs (1 s, 2 s).
CONNECT_TIMEOUT: Final = 5.0
# Seconds. A VM's PUT is answered in 1-3 s, at worst in some ten; the pod's whole start must fit in kubelet's four
# minutes, so a hung call is given up while there is time for two more with the same token.
READ_TIMEOUT: Final = 30.0
# Calls at once: with a PUT of 2 s, so many keep up with what Azure Compute admits of them (8 a second).
AT_ONCE: Final = 32

COMPUTE_API: Final = "2026-04-01"
DISKS_API: Final = "2026-03-02"
GALLERIES_API: Final = "2026-03-03"
SKUS_API: Final = "2021-07-01"
NETWORK_API: Final = "2026-03-01"
AUTHORIZATION_API: Final = "2022-04-01"

# Limits as Microsoft publishes them (compute-throttling-limits, and ARM's token buckets of 2024): burst, and how much
# of it comes back per second. ARM's hold for a principal and subscription, the others for a subscription and region.
# They are called as answers call them that say how many are left.
_MINUTE, _FIVE_MINUTES = 60, 300
WRITE, READ, DELETE = "subscription-writes", "subscription-reads", "subscription-deletes"
PUT_VM: Final = "Microsoft.Compute/PutVMSubscriptionMaximum"
DELETE_VM: Final = "Microsoft.Compute/DeleteVMSubscriptionMaximum"
GET_VM: Final = "Microsoft.Compute/LowCostGetSubscriptionMaximum"
LIST_VMS: Final = "Microsoft.Compute/HighCostGetSubscriptionMaximum"
WRITE_NETWORK: Final = "Microsoft.Network/Writes5Min"
READ_NETWORK: Final = "Microsoft.Network/Reads5Min"
RATES: Final = {
    WRITE: Rate(200, 10),
    READ: Rate(250, 25),
    DELETE: Rate(200, 10),
    PUT_VM: Rate(1500, 500 / _MINUTE),
    DELETE_VM: Rate(1500, 500 / _MINUTE),
    GET_VM: Rate(24_000, 8000 / _MINUTE),
    LIST_VMS: Rate(900, 300 / _MINUTE),
    WRITE_NETWORK: Rate(1000, 1000 / _FIVE_MINUTES),
    READ_NETWORK: Rate(10_000, 10_000 / _FIVE_MINUTES),
}


Decode = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What Azure said when it said yes."""

    status: int
    body: Any  # the JSON; None where there is no body
    headers: Mapping[str, str]


class Arm:
    """One subscription's resource manager, for one resource group. Errors are those of `providers.errors`."""

    def __init__(self, config: AzureConfig) -> None:
        self._config = config
        self.throttle = Throttle(RATES, at_once=AT_ONCE)
        self._client: ComputeManagementClient | None = None
        self._credential: Any = None
        self._closed = False
        self._calls: set[asyncio.Future[Any]] = set()

    # -- virtual machines and disks: the SDK's own operations ---------------------------------------

    async def put_machine(self, name: str, body: Body, doing: str) -> Answer:
        """Create it, unless there is one of that name (PreconditionFailed). Returns once it is accepted."""

        async def ask(client: Any) -> Any:
            only_new = {"etag": "*", "match_condition": MatchConditions.IfMissing}
            poller = await client.virtual_machines.begin_create_or_update(
                self._config.resource_group, name, body, polling=False, cls=_response, **only_new
            )
            return await poller.result()

        return await self._call(doing, {PUT_VM: 1, WRITE: 1}, Rank.CREATE, ask)

    async def get_machine(self, name: str, doing: str) -> Answer:
        """It, with its instance view."""

        async def ask(client: Any) -> Any:
            group = self._config.resource_group
            return await client.virtual_machines.get(group, name, expand="instanceView", cls=_response)

        return await self._call(doing, {GET_VM: 1, READ: 1}, Rank.READ, ask)

    async def view_machine(self, name: str, doing: str) -> Answer:
        """Its instance view alone: how its creation goes, and whether it is switched on."""

        async def ask(client: Any) -> Any:
            return await client.virtual_machines.instance_view(self._config.resource_group, name, cls=_response)

        return await self._call(doing, {GET_VM: 1, READ: 1}, Rank.CREATE, ask)

    async def delete_machine(self, name: str, doing: str) -> Answer:
        """Delete it without a shutdown; returns once that is accepted. Status 204: there was none."""

        async def ask(client: Any) -> Any:
            poller = await client.virtual_machines.begin_delete(
                self._config.resource_group, name, force_deletion=True, polling=False, cls=_response
            )
            return await poller.result()

        return await self._call(doing, {DELETE_VM: 1, DELETE: 1}, Rank.DELETE, ask)

    # -- everything else: plain calls through the same pipeline -------------------------------------

    async def get(
        self, path: str, api: str, doing: str, *, bucket: str = "", decode: Decode = json.loads, **query: str
    ) -> Answer:
        """GET of a path, or of a whole URL that Azure has given."""
        return await self._send("GET", path, api, doing, [READ, bucket], Rank.READ, query=query, decode=decode)

    async def items(
        self, path: str, api: str, doing: str, *, bucket: str = "", decode: Decode = json.loads, **query: str
    ) -> list[Any]:
        """All of a list, page after page."""
        found: list[Any] = []
        while path:
            answer = await self.get(path, api, doing, bucket=bucket, decode=decode, **query)
            with reading(doing):
                found += answer.body["value"]
                path, query = answer.body.get("nextLink") or "", {}
        return found

    async def put(self, path: str, api: str, body: Body, doing: str) -> Answer:
        return await self._send("PUT", path, api, doing, [WRITE], Rank.CREATE, body=body)

    async def post(self, path: str, api: str, doing: str, body: Body | None = None) -> Answer:
        """An action that asks something; ARM counts it among the writes."""
        return await self._send("POST", path, api, doing, [WRITE], Rank.READ, body=body)

    async def delete(self, path: str, api: str, doing: str) -> Answer:
        """Status 204: there was none."""
        return await self._send("DELETE", path, api, doing, [DELETE], Rank.DELETE)

    async def aclose(self) -> None:
        """Let go of connections when the calls under way have ended. New ones are refused from now on."""
        self._closed = True
        await asyncio.gather(*self._calls, return_exceptions=True)
        client, credential, self._client, self._credential = self._client, self._credential, None, None
        for each in (client, credential):
            if each is not None:
                await each.close()

    async def _send(
        self,
        method: str,
        path: str,
        api: str,
        doing: str,
        buckets: list[str],
        rank: Rank,
        *,
        query: Mapping[str, str] | None = None,
        body: Body | None = None,
        decode: Decode = json.loads,
    ) -> Answer:
        whole = path.startswith(("http://", "https://"))
        params = dict(query or {}) if whole else {"api-version": api, **(query or {})}
        url = path if whole else credentials.endpoint(self._config) + path
        request = HttpRequest(method, url, params=params, json=body, headers={"Accept": "application/json"})

        async def ask(client: Any) -> Any:
            response = await client.send_request(request)
            response.raise_for_status()
            return response

        if "/Microsoft.Network/" in path:
            buckets = [*buckets, READ_NETWORK if method == "GET" else WRITE_NETWORK]
        return await self._call(doing, dict.fromkeys(filter(None, buckets), 1.0), rank, ask, decode)

    async def _call(
        self,
        doing: str,
        takes: Mapping[str, float],
        rank: Rank,
        ask: Callable[[Any], Awaitable[Any]],
        decode: Decode = json.loads,
    ) -> Answer:
        """What Azure answers; whatever goes wrong is an error of ours that says `doing`."""
        self._check_open()
        async with self.throttle.turn(takes, rank):
            self._check_open()
            try:
                response = await self._whole(ask(self._open()))
                self._heed(response.headers)
                text = response.text()
                return Answer(response.status_code, decode(text) if text else None, response.headers)
            except ProviderError:
                raise
            except Exception as error:
                self._heed(getattr(getattr(error, "response", None), "headers", {}))
                raise translate(error, doing) from error

    async def _whole(self, call: Awaitable[Any]) -> Any:
        """A call that was sent is seen through, also when nobody waits any more: what follows must not overtake it."""
        task = asyncio.ensure_future(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()
            raise

    def _heed(self, headers: Mapping[str, str]) -> None:
        for bucket, left in remaining(headers):
            self.throttle.told(bucket, left)

    def _check_open(self) -> None:
        if self._closed:
            raise ProviderError("the azure provider has been closed")

    def _open(self) -> ComputeManagementClient:
        if self._client is None:
            authentication, self._credential = credentials.policy(self._config)
            self._client = ComputeManagementClient(
                self._credential or _NoCredential(),
                self._config.subscription_id,
                credentials.endpoint(self._config),
                policies=_pipeline(authentication),
                transport=_Transport(connection_timeout=CONNECT_TIMEOUT, read_timeout=READ_TIMEOUT),
            )
        return self._client


class _NoCredential:
    """The client demands one, and the policies given to it ask none."""


class _Transport(AioHttpTransport):  # type: ignore[misc]
    """aiohttp repeats a PUT, DELETE or GET by itself when the connection breaks before an answer: unpaced, and unseen."""

    async def open(self) -> None:
        await super().open()
        self.session._retry_connection = False  # noqa: SLF001 - it has no public name


def _pipeline(authentication: Any) -> list[Any]:
    """The SDK's own policies but three: its retries would hide throttling from whoever paces the calls, a redirect
    is nothing that ARM does, and registering a resource provider is the admin's decision.
    """
    return [
        policies.RequestIdPolicy(),
        policies.HeadersPolicy(),
        policies.UserAgentPolicy(base_user_agent="peerpods"),
        policies.ProxyPolicy(),
        authentication,
        policies.CustomHookPolicy(),
    ]


def remaining(headers: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """What an answer says is left of those limits that are kept here."""
    for bucket in (WRITE, READ, DELETE):
        if (left := headers.get(f"x-ms-ratelimit-remaining-{bucket}", "")).isdecimal():
            yield bucket, float(left)
    for part in headers.get("x-ms-ratelimit-remaining-resource", "").split(","):
        bucket, _, left = part.strip().partition(";")
        if bucket in RATES and left.isdecimal():
            yield bucket, float(left)


@contextmanager
def reading(doing: str) -> Iterator[None]:
    """What an answer of Azure's always has, and this one lacks, is a Transient: it is somebody else's."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise translate(error, doing) from error


def _response(pipeline_response: Any, deserialized: Any, headers: Any) -> Any:
    """For an operation's `cls`: the response as it came, in place of a model of it."""
    return pipeline_response.http_response
