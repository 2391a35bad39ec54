"""The clouds' token endpoints, played: what a workload shows there, and what it gets for it."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    """A request, its form or query as a flat table, the names of its headers in small letters."""

    method: str
    path: str
    fields: Mapping[str, str]
    headers: Mapping[str, str]


Answer = Callable[[Asked], tuple[int, Any]]  # JSON, or text as it is


@dataclass
class Endpoint:
    """`url` of a server that keeps what it was asked."""

    url: str
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def serving(answer: Answer, tls: SSLContext | None = None) -> Iterator[Endpoint]:
    """A server on loopback; with `tls` its name is localhost."""

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            path, _, query = self.path.partition("?")
            fields = {**parse_qs(query), **(parse_qs(body) if not body.startswith("{") else {})}
            flat = {key: values[0] for key, values in fields.items()}
            flat |= json.loads(body) if body.startswith("{") else {}
            asked = Asked(self.command, path, flat, {key.lower(): value for key, value in self.headers.items()})
            endpoint.asked.append(asked)
            status, said = answer(asked)
            text = (said if isinstance(said, str) else json.dumps(said)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/xml" if text.startswith(b"<") else "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.send_header("Metadata-Flavor", "Google")
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = _do  # noqa: N815 - http.server looks methods up by these names

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    port = server.server_address[1]
    endpoint = Endpoint(f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}")
    assert urlsplit(endpoint.url).port == port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
