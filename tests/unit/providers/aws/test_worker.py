"""This node's own place in EC2, over a real socket."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from providers.aws import worker
from providers.errors import InvalidSpec

MAC = "02:29:96:8f:6a:2d"
PAGES = {
    "/latest/meta-data/placement/region": "us-east-2",
    "/latest/meta-data/mac": MAC,
    f"/latest/meta-data/network/interfaces/macs/{MAC}/subnet-id": "subnet-0123456789abcdef0",
    f"/latest/meta-data/network/interfaces/macs/{MAC}/security-group-ids": "sg-1\nsg-2",
}


class Metadata(BaseHTTPRequestHandler):
    """IMDS with session tokens only, as a hardened worker has it."""

    pages: dict[str, str]

    def do_PUT(self) -> None:
        known = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"].isdecimal()
        self.answer(200 if known else 400, "a-session")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != "a-session":
            self.answer(401, "")
        elif self.path in self.pages:
            self.answer(200, self.pages[self.path])
        else:
            self.answer(404, "")

    def answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    pages = dict(PAGES)
    handler = type("Handler", (Metadata,), {"pages": pages})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
        yield pages
        server.shutdown()


@pytest.mark.usefixtures("metadata")
def test_region_subnet_and_groups_are_this_nodes_own() -> None:
    assert worker.region() == "us-east-2"
    assert worker.subnet_id() == "subnet-0123456789abcdef0"
    assert worker.security_group_ids() == ("sg-1", "sg-2")


@pytest.mark.usefixtures("metadata")
def test_a_proxy_is_not_asked_about_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert worker.region() == "us-east-2"


def test_what_the_metadata_does_not_tell_is_a_setting_to_be_given(metadata: dict[str, str]) -> None:
    del metadata["/latest/meta-data/placement/region"]
    with pytest.raises(InvalidSpec, match=r"404.*set aws\.region"):
        worker.region()


@pytest.mark.parametrize("endpoint", ["no-url", "http://127.0.0.1:1"])
def test_whatever_is_wrong_with_the_metadata_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint)
    with pytest.raises(InvalidSpec, match=r"set aws\.region"):
        worker.region()


def test_off_ec2_the_settings_to_give_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(InvalidSpec, match=r"refused.*set aws\.subnet_ids and aws\.security_group_ids"):
        worker.subnet_id()
