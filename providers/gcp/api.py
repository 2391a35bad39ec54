"""Calls to Compute Engine: the SDK's blocking methods in threads of our own, paced, their answers as plain dicts."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from providers.errors import ProviderError, Transient
from providers.gcp.config import GcpConfig
from providers.gcp.errors import translate
from providers.gcp.requests import Request, Shape
from providers.gcp.sdk import Clients
from providers.throttle import Rank, Rate, Throttle

T = TypeVar("T")

# Seconds, for connecting and for each wait for bytes: the SDK takes one number. An insert is answered within one or two,
# and a hung call is given up while a pod's start has time for two more with the same token.
TIMEOUT: Final = 20.0
UPLOAD_TIMEOUT: Final = 120.0  # seconds, for a piece of an image
# Google counts calls per project and minute, for mutations, reads and lists apart: 1,500 each where a project has not
# been given more. A bucket of two thirds of a minute's calls keeps a burst and its refill within one minute's count.
MUTATE: Final = "gce mutations"
READ: Final = "gce reads"
LIST: Final = "gce lists"
OTHER: Final = "other apis"  # Resource Manager, Cloud Billing: a handful of calls a day
_PER_MINUTE: Final = Rate(burst=1000, refill=25)
_UNREACHABLE: Final = "UNREACHABLE"


class Api:
    """Compute Engine for one node. Every call raises errors of `providers.errors` that say what was being done."""

    def __init__(self, config: GcpConfig) -> None:
        self.throttle = Throttle(dict.fromkeys((MUTATE, READ, LIST), _PER_MINUTE), at_once=config.api_concurrency)
        self._clients = Clients(config)
        self._threads = ThreadPoolExecutor(config.api_concurrency, thread_name_prefix="gcp")
        self._closed = False

    async def ask(
        self, doing: str, service: str, method: str, request: Request, *, takes: str = READ, rank: Rank = Rank.READ
    ) -> dict[str, Any]:
        """One call, one message."""
        async with self.throttle.turn(takes, rank):
            return await self.ask_now(doing, service, method, request)

    async def ask_now(self, doing: str, service: str, method: str, request: Request) -> dict[str, Any]:
        """The same by somebody who has a turn already."""
        return await self._in_thread(
            doing,
            lambda: plain(getattr(self._clients.of(service), method)(request=request, retry=None, timeout=TIMEOUT)),
            str(request.get("request_id", "")),
        )

    async def all_of(
        self, doing: str, service: str, request: Request, rank: Rank = Rank.READ
    ) -> dict[str, list[Shape]]:
        """Every page of an aggregatedList: what each scope ("zones/europe-west4-a") holds."""
        async with self.throttle.turn(LIST, rank):
            return await self.all_of_now(doing, service, request)

    async def all_of_now(self, doing: str, service: str, request: Request) -> dict[str, list[Shape]]:
        """The same by somebody who has a turn already."""

        def work() -> dict[str, list[Shape]]:
            found: dict[str, list[Shape]] = {}
            pager = self._clients.of(service).aggregated_list(request=request, retry=None, timeout=TIMEOUT)
            for page in pager.pages:
                if page.kind.partition("#")[0] != "compute":
                    raise Transient(f"{doing}: the answer is not Google's own")
                for scope, scoped in page.items.items():
                    if getattr(scoped, service):
                        found.setdefault(scope, []).extend(plain(scoped)[service])
                    elif scoped.warning.code == _UNREACHABLE:
                        raise Transient(f"{doing}: {scope} does not answer: {scoped.warning.message}")
            return found

        return await self._in_thread(doing, work)

    async def items(self, doing: str, service: str, request: Request) -> list[Shape]:
        """Every page of a list."""

        def work() -> list[Shape]:
            return [
                plain(each) for each in self._clients.of(service).list(request=request, retry=None, timeout=TIMEOUT)
            ]

        async with self.throttle.turn(LIST, Rank.LAST):
            return await self._in_thread(doing, work)

    async def rest(self, doing: str, method: str, url: str, body: Any = None) -> dict[str, Any]:
        """A call to another of Google's APIs, which this SDK does not know; JSON to and fro."""

        def work() -> dict[str, Any]:
            from google.api_core.exceptions import from_http_response

            answer = self._clients.session().request(method, url, json=body, timeout=TIMEOUT)
            if answer.status_code >= 400:
                raise from_http_response(answer)
            found = answer.json()
            return found if isinstance(found, dict) else {}

        async with self.throttle.turn(OTHER, Rank.LAST):
            return await self._in_thread(doing, work)

    async def send(
        self, doing: str, method: str, url: str, *, headers: Mapping[str, str], data: bytes = b""
    ) -> tuple[int, Mapping[str, str], str]:
        """A call whose body is no JSON, or whose answer is more than its body: status, headers, text."""

        def work() -> tuple[int, Mapping[str, str], str]:
            from google.api_core.exceptions import from_http_response

            session = self._clients.session()
            # 308 means "not all of it yet" to storage, and a redirect to the library.
            answer = session.request(
                method, url, data=data, headers=dict(headers), timeout=UPLOAD_TIMEOUT, allow_redirects=False
            )
            if answer.status_code >= 400:
                raise from_http_response(answer)
            return answer.status_code, answer.headers, answer.text

        async with self.throttle.turn(OTHER, Rank.LAST):
            return await self._in_thread(doing, work)

    async def identify(self, doing: str) -> None:
        """Have the credentials found and, where they are a token's, the token fetched."""

        def work() -> None:
            import google.auth.transport.requests

            credentials = self._clients.credentials()
            if not credentials.valid:
                credentials.refresh(google.auth.transport.requests.Request())

        await self._in_thread(doing, work)

    async def aclose(self) -> None:
        """Returns when the calls under way have ended (cancelling stops only the waiting)."""
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self._clients.close)

    async def _in_thread(self, doing: str, work: Callable[[], T], request_id: str = "") -> T:
        """Cancelling the caller drops work that waits for a thread, and lets work that has one finish."""
        if self._closed:
            raise ProviderError("the gcp provider has been closed")

        def guarded() -> T:
            try:
                return work()
            except ProviderError:
                raise
            except Exception as error:
                raise translate(error, doing, request_id) from error

        return await asyncio.get_running_loop().run_in_executor(self._threads, guarded)


def plain(message: Any) -> dict[str, Any]:
    """One of the SDK's messages as a dict, without the fields that are not set."""
    found: Mapping[str, Any] = type(message).to_dict(
        message, use_integers_for_enums=False, always_print_fields_with_no_presence=False
    )
    return dict(found)
