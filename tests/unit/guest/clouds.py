"""Metadata services on loopback, each as strict as its cloud's about methods, headers and paths."""

import base64
import http.server
import threading
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self


class MetadataService(AbstractContextManager["MetadataService"]):
    """One cloud's service; subclasses answer. `log` is every request as `METHOD path status`."""

    def __init__(self, user_data: bytes | None) -> None:
        self.user_data = user_data  # None = the instance was launched without
        self.log: list[str] = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._serve("GET")

            def do_PUT(self) -> None:
                self._serve("PUT")

            def _serve(self, method: str) -> None:
                status, body = service.answer(method, self.path, dict(self.headers.items()))
                service.log.append(f"{method} {self.path} {status}")
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        # Until `with` begins the port is taken and refuses connections: a service that is not up yet.
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self._server.server_bind()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._server.server_activate()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _found(self, body: bytes | None) -> tuple[int, bytes]:
        return (404, b"<html>not found</html>") if body is None else (200, body)


class Aws(MetadataService):
    TOKEN = "AQAEAB-a-session-token=="

    def answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        match method, path:
            case "PUT", "/latest/api/token":
                ttl = headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
                return (200, self.TOKEN.encode()) if ttl.isdigit() and 1 <= int(ttl) <= 21600 else (400, b"")
            case "GET", "/latest/user-data":
                if headers.get("X-aws-ec2-metadata-token") != self.TOKEN:
                    return 401, b""
                return self._found(self.user_data)
        return 404, b""


class Azure(MetadataService):
    def answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        if method != "GET":
            return 405, b""
        if headers.get("Metadata") != "true":
            return 400, b'{"error":"Required metadata header not specified"}'
        if path != "/metadata/instance/compute/userData?api-version=2021-01-01&format=text":
            return 404, b""
        # A VM without user data has the field, and it is empty.
        return 200, base64.b64encode(self.user_data or b"")


class Gcp(MetadataService):
    def answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        if method != "GET":
            return 405, b""
        if headers.get("Metadata-Flavor") != "Google":
            return 403, b""
        if path != "/computeMetadata/v1/instance/attributes/user-data":
            return 404, b""
        return self._found(None if self.user_data is None else base64.b64encode(self.user_data))
