"""A webhook server for contract tests: AdmissionReviews over TLS to a handler, with a memory of what it was asked."""

import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from aiohttp import web

from tests.worlds.kubernetes import server, world

HOST: Final = os.environ.get(
    "PEERPODS_TEST_WEBHOOK_HOST", "127.0.0.1"
)  # an address of ours that the API server reaches
Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]  # a request to a response; the uid is filled in


@dataclass(slots=True)
class Served:
    """`reviews`: every request that came, in order."""

    url: str
    ca_bundle: bytes  # PEM
    context: ssl.SSLContext
    runner: web.AppRunner
    reviews: list[dict[str, Any]] = field(default_factory=list)

    async def close(self) -> None:
        """From here on connections are refused; those that are open are cut."""
        await server.cut(self.runner)


async def serve(handler: Handler) -> Served:
    authority = world.issue(["peerpods test webhook CA"])
    certificate, key = world.issue([HOST, "localhost"], authority)
    context = world.server_context(world.pem(certificate), world.key_pem(key))
    reviews: list[dict[str, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read())
        reviews.append(asked["request"])
        response = {"uid": asked["request"]["uid"], "allowed": True} | await handler(asked["request"])
        body = {"apiVersion": asked["apiVersion"], "kind": asked["kind"], "response": response}
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0, ssl_context=context).start()
    return Served(f"https://{HOST}:{runner.addresses[0][1]}", world.pem(authority[0]), context, runner, reviews)
