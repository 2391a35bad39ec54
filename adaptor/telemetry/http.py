"""GET /metrics, /healthz and /readyz, on a thread of its own.

The standard library's server, for a page every few seconds: aiohttp would cost 28 MiB. `/healthz` answers as long
as the process can; `/readyz` asks the callable it was given and shows its reasons, so that a person with curl sees
why a node takes no pods.
"""

import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socket import AF_INET, AF_INET6, IPPROTO_IPV6, IPV6_V6ONLY, SHUT_RDWR, has_dualstack_ipv6, socket
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final, Self

from adaptor.errors import Unavailable
from adaptor.telemetry import logs, metrics

Readiness = Callable[[], tuple[bool, Sequence[str]]]

_log: Final = logs.get(__name__)
_TEXT: Final = "text/plain; charset=utf-8"
_PATIENCE: Final = 10.0  # seconds for a client to send its request: kubelet and Prometheus need milliseconds
_CLIENTS: Final = 16  # at once; a kubelet and a few scrapers make 3, and each is a thread


class Http:
    """The pages, served from construction until `close`. `address` is what it listens on, port resolved."""

    def __init__(self, listen: tuple[str, int], readiness: Readiness) -> None:
        """Listen on `listen` (host, port); no host is every address, port 0 a free one.

        `readiness` is called on the server's threads and must only look.
        Raises: Unavailable when the address cannot be had.
        """
        host, port = listen
        try:
            self._server = _Server(host, port, readiness)
        except OSError as error:
            raise Unavailable(
                f"cannot serve metrics and probes on {host or '*'}:{port}: {error.strerror or error}; "
                "set http.listen to an address of this machine and a port nobody uses"
            ) from error
        self.address: tuple[str, int] = self._server.socket.getsockname()[:2]
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)
        self._thread.start()
        _log.info("serving metrics and probes", address=self.address[0], port=self.address[1])

    def close(self) -> None:
        """Stop listening; returns when the port is free. May be called twice."""
        if self._closing:
            return
        self._closing = True
        self._server.socket.shutdown(
            SHUT_RDWR
        )  # wakes the thread, which `serve_forever` would do at its next poll only
        self._thread.join()
        self._server.server_close()

    def _serve(self) -> None:
        while not self._closing:
            self._server.handle_request()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingMixIn, TCPServer):
    """Not http.server's own, which asks DNS for this machine's name and waits for the answer."""

    allow_reuse_address = True
    request_queue_size = 2 * _CLIENTS
    daemon_threads = True
    block_on_close = False  # a client that dawdles must not hold up the daemon's end

    def __init__(self, host: str, port: int, readiness: Readiness) -> None:
        self.readiness = readiness
        self._slots = threading.BoundedSemaphore(_CLIENTS)
        self._dual = not host and has_dualstack_ipv6()
        self.address_family = AF_INET6 if self._dual or ":" in host else AF_INET
        super().__init__((host, port), _Pages)

    def server_bind(self) -> None:
        if self._dual:
            self.socket.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: object, client_address: object) -> None:
        _log.exception("page failed")


class _Pages(BaseHTTPRequestHandler):
    server: _Server
    timeout = _PATIENCE
    server_version = "peerpods"
    sys_version = ""

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/metrics":
                self._answer(HTTPStatus.OK, *metrics.page())
            case "/healthz":
                self._answer(HTTPStatus.OK, b"ok\n")
            case "/readyz":
                ok, reasons = self.server.readiness()
                said = "".join(f"{reason}\n" for reason in ("ready" if ok else "not ready", *reasons))
                self._answer(HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE, said.encode())
            case _:
                self._answer(HTTPStatus.NOT_FOUND, b"pages here: /metrics /healthz /readyz\n")

    do_HEAD = do_GET  # noqa: N815 - http.server looks methods up by these names; `_answer` leaves the body out

    def _refuse(self) -> None:
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, b"these pages are only read\n")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = _TEXT) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A probe every few seconds is no news."""
