"""The wire: HTTPS with bearer tokens, JSON answers and watch streams, discovery, and the faults that a test wants."""

import asyncio
import contextlib
import ssl
from typing import Any, Final

import msgspec
from aiohttp import web

from tests.worlds.kubernetes.access import Access
from tests.worlds.kubernetes.api import Api
from tests.worlds.kubernetes.calls import JSON, Call
from tests.worlds.kubernetes.discovery import discovered
from tests.worlds.kubernetes.faults import Fault, Faults
from tests.worlds.kubernetes.reads import watched
from tests.worlds.kubernetes.refusals import Refusal

_REVIEWS: Final = {
    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    "/apis/authorization.k8s.io/v1/subjectaccessreviews",
    "/apis/authentication.k8s.io/v1/selfsubjectreviews",
}


class Server:
    """Listens on loopback; `requests` is what came, as "verb resource name"."""

    def __init__(self, api: Api, access: Access, faults: Faults, tls: ssl.SSLContext | None) -> None:
        self.port = 0
        self.requests: list[str] = []
        self._api, self._access, self._faults, self._tls = api, access, faults, tls
        self._runner: web.AppRunner | None = None
        self._watches: dict[asyncio.Task[Any], asyncio.Timeout] = {}

    async def start(self) -> None:
        """Also after `stop`, on the same port."""
        app = web.Application(client_max_size=4 * 1024 * 1024)  # bytes; the API server takes 3 MiB
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """From here on connections are refused."""
        self.cut_watches()
        if self._runner is not None:
            await cut(self._runner)
            self._runner = None

    def cut_watches(self, *, politely: bool = False) -> int:
        """Ends every watch, in the middle or (politely) as the server does when a watch's time is up; how many."""
        for task, limit in self._watches.items():
            if politely:
                limit.reschedule(asyncio.get_running_loop().time())
            else:
                task.cancel()
        return len(self._watches)

    @property
    def watches(self) -> int:
        return len(self._watches)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answered(request)
        except Refusal as refusal:
            headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after is not None else {}
            body = msgspec.json.encode(refusal.status())
            return web.Response(status=refusal.code, body=body, content_type=JSON, headers=headers)

    async def _answered(self, request: web.Request) -> web.StreamResponse:
        user = self._access.who(request.headers.get("Authorization", ""))
        if found := discovered(self._api.core.kinds, request.path):
            return web.Response(body=found, content_type=JSON if found[:1] == b"{" else "text/plain")
        body = await request.read()
        if request.method == "POST" and request.path in _REVIEWS:
            answer = self._api.actions.review(user, request.path.rpartition("/")[2], msgspec.json.decode(body))
            return web.Response(status=201, body=msgspec.json.encode(answer), content_type=JSON)
        call = self._api.call(request.method, request.path, dict(request.query), user)
        call.body, call.content_type = body, request.headers.get("Content-Type", JSON)
        call.agent = request.headers.get("User-Agent", "")
        resource = call.kind.plural + (f"/{call.subresource}" if call.subresource else "")
        self.requests.append(f"{call.verb} {resource} {call.name}".strip())
        fault = self._faults.take(call.verb, resource, call.name)
        if fault is not None:
            await self._suffer(fault, request)
        if call.verb == "watch":
            self._api.demand(call)
            return await self._watch(request, call)
        status, data = await self._api.do(call)
        if fault is not None and fault.lost_reply:
            self._drop(request)
        response = web.Response(status=status, body=data, content_type=JSON)
        for warning in call.warnings:
            escaped = warning.replace("\\", "\\\\").replace('"', '\\"')
            response.headers.add("Warning", f'299 - "{escaped}"')
        return response

    async def _suffer(self, fault: Fault, request: web.Request) -> None:
        if fault.latency:
            await self._api.core.clock.sleep(fault.latency)
        if fault.status:
            raise fault.refusal()
        if not fault.latency and not fault.lost_reply:
            self._drop(request)

    @staticmethod
    def _drop(request: web.Request) -> None:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("dropped by the test")

    async def _watch(self, request: web.Request, call: Call) -> web.StreamResponse:
        """Until the client leaves, its timeoutSeconds pass, or the watch is cut."""
        lines = watched(self._api.core.store, call)
        seconds = float(call.query.get("timeoutSeconds") or 1800)
        response = web.StreamResponse(headers={"Content-Type": JSON})
        response.enable_chunked_encoding()
        limit = asyncio.timeout(seconds)
        task = asyncio.create_task(self._stream(request, response, lines, limit))
        self._watches[task] = limit
        try:
            await task
        except asyncio.CancelledError:
            if not task.cancelled():
                task.cancel()
                raise
            if request.transport is not None:
                request.transport.abort()
        finally:
            del self._watches[task]
        return response

    @staticmethod
    async def _stream(request: web.Request, response: web.StreamResponse, lines: Any, limit: asyncio.Timeout) -> None:
        await response.prepare(request)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with limit, contextlib.aclosing(lines):
                async for line in lines:
                    await response.write(line)
        with contextlib.suppress(ConnectionError):
            await response.write_eof()


async def cut(runner: web.AppRunner) -> None:
    """Ends a server without the minute that TLS would wait for the other side's goodbye."""
    for site in list(runner.sites):
        await site.stop()
    for connection in list(runner.server.connections) if runner.server is not None else ():
        if connection.transport is not None:
            connection.transport.abort()
    await runner.cleanup()
    await asyncio.sleep(0)
