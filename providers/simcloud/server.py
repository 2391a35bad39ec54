"""The HTTP front: cloud API calls with the faults they meet, and the control endpoints beside them."""

import asyncio
import logging
import math
import socket
import time
from contextlib import suppress
from dataclasses import replace
from typing import Final

from aiohttp import web

from providers.simcloud.exchange import Answer, Call, Cloud
from providers.simcloud.faults import Faults, Rule
from providers.simcloud.options import SimcloudError

LOG: Final = logging.getLogger("providers.simcloud")

_PAGE: Final = b"<html><body><h1>Service Unavailable</h1></body></html>"  # a load balancer's
_GARBAGE: Final = b"\x00 this is not the answer you are looking for"
# Seconds. Idle keep-alive connections are cut at once; a call under way is worth no more waiting when all ends.
_GRACE: Final = 0.1


class Front:
    """Serves one cloud on one port. `calls` are the actions received, in order, refused ones included."""

    def __init__(self, cloud: Cloud, faults: Faults, control: web.Application) -> None:
        self._cloud = cloud
        self._faults = faults
        self.calls: list[str] = []
        application = web.Application(client_max_size=16 << 20)  # images come in pieces of 8 MiB
        application.add_subapp("/_simcloud", control)
        application.router.add_route("*", "/{rest:.*}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=_GRACE, handle_signals=False)
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; `port` says where when it was 0. Raises SimcloudError."""
        await self._runner.setup()
        try:
            listener = socket.create_server((host, port))
        except OSError as error:
            raise SimcloudError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        self.port = listener.getsockname()[1]
        await web.SockSite(self._runner, listener).start()

    async def aclose(self) -> None:
        """Stop listening, cut every connection."""
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        began = time.monotonic()
        call = self._cloud.read(request.method, request.path_qs, request.headers, await request.read())
        self.calls.append(call.action)
        rule = self._faults.take(call.action)
        await asyncio.sleep(rule.delay)
        answer = self._answer(call, rule)
        await asyncio.sleep(rule.delay_reply)
        LOG.info(
            "%s %d%s (%.0f ms)",
            call.action or "?",
            answer.status,
            f" {answer.code}" if answer.code else "",
            (time.monotonic() - began) * 1000,
        )
        if rule.lose_reply:
            return _cut(request)
        return web.Response(
            status=answer.status,
            body=answer.body,
            headers={"Content-Type": answer.content_type, **answer.headers},
        )

    def _answer(self, call: Call, rule: Rule) -> Answer:
        if rule.error:
            return _with_wait(self._cloud.refusal(rule.error, rule.message, rule.http_status), rule)
        if rule.garbage:
            return Answer(rule.http_status or 200, _GARBAGE, "text/xml")
        if rule.http_status:
            return _with_wait(Answer(rule.http_status, _PAGE, "text/html"), rule)
        try:
            return self._cloud.perform(call)
        except Exception:
            LOG.exception("%s: a fault of simcloud or moto", call.action)
            return self._cloud.refusal("InternalError", f"simcloud has failed in {call.action}; its log says how", 0)


def _with_wait(answer: Answer, rule: Rule) -> Answer:
    if not rule.retry_after:
        return answer
    return replace(answer, headers={**answer.headers, "Retry-After": str(math.ceil(rule.retry_after))})


def _cut(request: web.Request) -> web.StreamResponse:
    """Close the connection without one byte of an answer."""
    if request.transport is not None:
        with suppress(OSError):
            request.transport.abort()
    return web.Response()
