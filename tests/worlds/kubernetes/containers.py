"""What pods' containers have said, and what they do when they are told to: the log and exec subresources."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import WSMsgType, web

from tests.worlds.kubernetes.refusals import Refusal
from tests.worlds.kubernetes.server import Server
from tests.worlds.kubernetes.world import World

Run = Callable[[str, Sequence[str]], tuple[int, str, str]]  # pod, command -> exit status, stdout, stderr


class Containers:
    """Of a world. `logs`: lines by pod's name; `run`: answers commands, None: exec is refused."""

    def __init__(self, world: World) -> None:
        self.logs: dict[str, list[str]] = {}
        self.run: Run | None = None
        self.ran: list[tuple[str, tuple[str, ...]]] = []
        self._server: Server = world.server
        self._answered = world.server._answered
        world.server._answered = self._answer  # type: ignore[method-assign]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.split("/")  # /api/v1/namespaces/NS/pods/NAME/log
        if len(parts) != 8 or parts[5] != "pods" or parts[7] not in ("log", "exec"):
            return await self._answered(request)
        api = self._server._api
        user = self._server._access.who(request.headers.get("Authorization", ""))
        call = api.call(request.method, request.path, dict(request.query), user)
        self._server.requests.append(f"{call.verb} pods/{parts[7]} {call.name}")
        api.demand(call)
        api.core.find(call.kind, call.namespace, call.name)  # or it is not found
        if parts[7] == "log":
            return self._log(request, call.name)
        return await self._exec(request, call.name)

    def _log(self, request: web.Request, pod: str) -> web.Response:
        lines = self.logs.get(pod, [])
        if tail := request.query.get("tailLines"):
            lines = lines[-int(tail) :]
        return web.Response(text="".join(f"{line}\n" for line in lines), content_type="text/plain")

    async def _exec(self, request: web.Request, pod: str) -> web.StreamResponse:
        command = tuple(request.query.getall("command"))
        self.ran.append((pod, command))
        if self.run is None:
            raise Refusal(500, "error dialing backend: no such host")
        status, out, said = self.run(pod, command)
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"))
        await socket.prepare(request)
        for channel, text in ((1, out), (2, said), (3, json.dumps(_status(status)))):
            if text:
                await socket.send_bytes(bytes([channel]) + text.encode())
        await socket.close()
        async for message in socket:
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED):
                break
        return socket


def _status(code: int) -> dict[str, Any]:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    causes = [{"reason": "ExitCode", "message": str(code)}]
    return {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "details": {"causes": causes},
    }
