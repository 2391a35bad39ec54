"""The process: HTTPS for the API server, plain pages for kubelet and Prometheus, certificates that come and change.

    pages first ─► wait for a certificate ─► HTTPS ─► SIGTERM: not ready, go on answering while endpoints move ─► end

aiohttp's own routing is left out: there are five paths, and each pod of the cluster waits for its answer.
"""

import asyncio
import gc
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import uvloop
from aiohttp import web

from adaptor.catalog.chooser import Chooser, constraints
from adaptor.config import Config
from adaptor.errors import Unavailable
from adaptor.telemetry import logs, metrics
from adaptor.telemetry.http import Http
from webhook import review, wire
from webhook.certificates import Certificates
from webhook.mutate import Rules
from webhook.offerings import Offerings
from webhook.pods import Malformed
from webhook.review import Desk, Outcome

# Bytes of a review. The API server takes requests of 3 MiB; a review holds the pod, and what is around it.
BODY_LIMIT: Final = 4 << 20
LOOK: Final = 2.0  # seconds between looks at certificates and offerings: kubelet needs a minute for a Secret as it is
# Seconds of answering after SIGTERM: until every API server has heard that this endpoint is gone.
DRAIN: Final = 8.0
# Seconds. The client must be the one who closes an idle connection (Go: after 90), or its next review may meet our end.
_KEEP_ALIVE: Final = 3600.0
_FAULT: Final = "peerpods' webhook has a fault and cannot say what this pod needs; its log tells more"
_JSON: Final = {"Content-Type": "application/json"}

# Looked up once: `labels` would be a tenth of what a review costs.
_SECONDS: Final = {call: metrics.WEBHOOK_SECONDS.labels(method=call) for call in review.CALLS}
_REVIEWS: Final = {
    (call, decision): metrics.WEBHOOK_REVIEWS.labels(method=call, outcome=decision)
    for call in review.CALLS
    for decision in review.DECISIONS
}

log = logs.get("webhook")


class Webhook:
    """`open` listens on the plain pages, `serve` on HTTPS once there is a certificate; `aclose` ends both."""

    def __init__(self, config: Config) -> None:
        settings = config.webhook
        self._listen = settings.listen
        self._pages_at = config.http.listen
        rules = Rules(
            settings.mode, frozenset(settings.gpu_resources), settings.vm_resource, settings.quota, config.network
        )
        self._desk = Desk(frozenset(config.kubernetes.runtime_classes), rules, refuse=settings.refuse)
        self.certificates = Certificates(settings.certificates)
        self.offerings = Offerings(settings.offerings, Chooser(constraints(config.selection), config.prices))
        self._pages: Http | None = None
        self._runner: web.ServerRunner | None = None
        self._draining = False
        self.address: tuple[str, int] | None = None  # of HTTPS, port resolved
        self._posts: dict[str, tuple[str, Callable[[bytes], Outcome]]] = {
            "/mutate": (review.MUTATE, self._desk.mutate),
            "/mutate-v1-pod": (review.MUTATE, self._desk.mutate),  # upstream's
            "/validate": (review.VALIDATE, self._validate),
        }

    def open(self) -> None:
        """Probes and metrics. Raises: Unavailable."""
        if self._pages_at is not None:
            self._pages = Http(self._pages_at, self.readiness)
        self.look()

    def look(self) -> None:
        """Take up files that have changed."""
        self.certificates.refresh()
        self.offerings.refresh()

    def readiness(self) -> tuple[bool, Sequence[str]]:
        """Whether the API server is to be sent here, and why not."""
        reasons = ["told to stop"] if self._draining else []
        if self._runner is None:
            reasons.append(self.certificates.problem or "not listening yet")
        ready = not reasons
        if self.certificates.usable and self.certificates.problem:
            reasons.append(f"{self.certificates.problem}; the one before is served on")
        return ready, reasons

    async def serve(self) -> None:
        """Listen. Raises: Unavailable when the address cannot be had."""
        runner = web.ServerRunner(
            web.Server(self._answer, request_factory=_request, access_log=None, keepalive_timeout=_KEEP_ALIVE)
        )
        await runner.setup()
        host, port = self._listen
        site = web.TCPSite(runner, host or None, port, ssl_context=self.certificates.context, backlog=512)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise Unavailable(f"cannot listen on {host or '*'}:{port}: {error.strerror}; see webhook.listen") from error
        self._runner = runner
        self.address = runner.addresses[0][:2]
        log.info("serving admission reviews", address=self.address[0], port=self.address[1])

    def drain(self) -> None:
        """Answer on, but have clients leave: not ready any more, and each answer closes its connection."""
        self._draining = True

    async def aclose(self) -> None:
        """Stop listening; reviews under way are answered."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._pages is not None:
            self._pages.close()

    def _validate(self, body: bytes) -> Outcome:
        return self._desk.validate(body, self.offerings.market)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path not in self._posts:
            answer = self._page(path)
        elif request.method != "POST":
            answer = _text(405, "reviews are posted here\n")
        else:
            try:
                body = await request.read()
            except web.HTTPRequestEntityTooLarge:
                answer = _text(413, f"a review has {BODY_LIMIT} bytes at most\n")
                answer.force_close()
                return answer
            answer = self._review(path, body)
        if self._draining:
            answer.force_close()
        return answer

    def _review(self, path: str, body: bytes) -> web.Response:
        call, decide = self._posts[path]
        began = time.perf_counter()
        try:
            outcome = decide(body)
        except Malformed as error:
            _REVIEWS[call, review.MALFORMED].inc()
            log.warning("review not understood", call=call, reason=error)
            return _text(400, f"{error}\n")
        except Exception:  # whatever is wrong here, the API server gets an answer that says so, and not a closed door
            _REVIEWS[call, review.FAILED].inc()
            log.exception("review failed", call=call)
            return web.Response(body=wire.denied(_FAULT).to(wire.read(body).uid), headers=_JSON)
        _SECONDS[call].observe(time.perf_counter() - began)
        _REVIEWS[call, outcome.decision].inc()
        if outcome.pod:
            _tell(call, outcome)
        return web.Response(body=outcome.body, headers=_JSON)

    def _page(self, path: str) -> web.Response:
        if path == "/healthz":
            return _text(200, "ok\n")
        if path == "/readyz":
            ready, reasons = self.readiness()
            said = "".join(f"{each}\n" for each in ("ready" if ready else "not ready", *reasons))
            return _text(200 if ready else 503, said)
        return _text(404, "here: /mutate /validate /healthz /readyz\n")


def _tell(call: str, outcome: Outcome) -> None:
    more = {"dry_run": True} if outcome.dry_run else {}
    if outcome.decision == review.DENIED:
        log.warning("pod denied", call=call, pod=outcome.pod, reason=outcome.note, **more)
    elif call == review.MUTATE:
        log.info("pod sized", pod=outcome.pod, size=outcome.note, **more)
    else:
        log.debug("pod allowed", pod=outcome.pod, **more)


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    """As aiohttp makes it, with our limit."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=BODY_LIMIT)


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text)


def main(config: Config) -> int:
    """Serve until a signal; returns the process's exit code. Raises: AdaptorError when it cannot start."""
    logs.setup(config.log.format, config.log.level)
    for warning in config.warnings:
        log.warning("configuration", note=warning)
    gc.freeze()  # what is there now stays: a collection need not look at it, and no review waits for that
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(config))


async def run(config: Config, drain: float = DRAIN) -> int:
    """Until SIGTERM or SIGINT; a second one ends it at once."""
    webhook = Webhook(config)
    webhook.open()
    stops = _signals()
    try:
        looking = asyncio.create_task(_keep_looking(webhook))
        stop = asyncio.create_task(stops.get())
        await asyncio.wait({looking, stop}, return_when=asyncio.FIRST_COMPLETED)
        if looking.done():
            looking.result()  # raises: it cannot listen
        webhook.drain()
        log.info("stopping; reviews are answered meanwhile", drain=drain)
        try:
            async with asyncio.timeout(drain if webhook.address else 0):
                await stops.get()
        except TimeoutError:
            pass
        looking.cancel()
        stop.cancel()
    finally:
        await webhook.aclose()
    log.info("stopped")
    return 0


async def _keep_looking(webhook: Webhook) -> None:
    while True:
        if webhook.address is None and webhook.certificates.usable:
            await webhook.serve()
        await asyncio.sleep(LOOK)
        webhook.look()


def _signals() -> "asyncio.Queue[int]":
    arrived: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, arrived.put_nowait, number)
    return arrived
