"""Metrics and probes over real sockets."""

import select
import socket
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection, HTTPResponse

import pytest

from adaptor.errors import Unavailable
from adaptor.telemetry.http import Http


class Node:
    """What readiness looks at."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def readiness(self) -> tuple[bool, Sequence[str]]:
        return not self.missing, self.missing


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def http(node: Node) -> Iterator[Http]:
    with Http(("127.0.0.1", 0), node.readiness) as server:
        yield server


def ask(http: Http, path: str, method: str = "GET", host: str = "127.0.0.1") -> tuple[HTTPResponse, str]:
    connection = HTTPConnection(host, http.address[1], timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer, answer.read().decode()
    finally:
        connection.close()


def test_metrics_are_served_as_prometheus_reads_them(http: Http) -> None:
    answer, body = ask(http, "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert "peerpods_build_info" in body


def test_the_process_is_healthy_while_it_answers(http: Http, node: Node) -> None:
    node.missing = ["relay does not answer"]
    answer, body = ask(http, "/healthz")
    assert (answer.status, body) == (200, "ok\n")


def test_readiness_follows_the_node_and_shows_its_reasons(http: Http, node: Node) -> None:
    assert ask(http, "/readyz?verbose")[0].status == 200
    node.missing = ["relay does not answer", "recovering"]
    answer, body = ask(http, "/readyz")
    assert (answer.status, body) == (503, "not ready\nrelay does not answer\nrecovering\n")


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/nothing"])
def test_head_is_get_without_the_body(http: Http, path: str) -> None:
    head, body = ask(http, path, "HEAD")
    get, _ = ask(http, path)
    assert (head.status, body) == (get.status, "")
    assert int(head.headers["Content-Length"]) > 0
    with socket.create_connection(http.address, timeout=10) as connection:  # a client that does not skip a body
        connection.sendall(f"HEAD {path} HTTP/1.0\r\n\r\n".encode())
        assert connection.makefile("rb").read().endswith(b"\r\n\r\n")


def test_an_unknown_path_says_which_there_are(http: Http) -> None:
    answer, body = ask(http, "/metricsx")
    assert answer.status == 404
    assert "/metrics" in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_the_pages_are_only_read(http: Http, method: str) -> None:
    answer, _ = ask(http, "/metrics", method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_readiness_that_breaks_ends_that_answer_only(
    http: Http, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.missing = None  # type: ignore[assignment]
    with pytest.raises((ConnectionError, OSError)):
        ask(http, "/readyz")
    assert ask(http, "/healthz")[0].status == 200
    assert "page failed" in caplog.text


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do(http: Http, node: Node) -> None:
    port = http.address[1]
    with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{port}: Address already in use; set http\.listen"):
        Http(("127.0.0.1", port), node.readiness)


def test_a_closed_server_leaves_its_port_free_and_may_be_closed_again(node: Node) -> None:
    server = Http(("127.0.0.1", 0), node.readiness)
    server.close()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        ask(server, "/healthz")
    Http(("127.0.0.1", server.address[1]), node.readiness).close()


def test_closing_does_not_wait_for_a_client_that_dawdles(node: Node) -> None:
    server = Http(("127.0.0.1", 0), node.readiness)
    with socket.create_connection(server.address) as dawdler:
        dawdler.sendall(b"GET /heal")
        ask(server, "/healthz")
        before = time.monotonic()
        server.close()
        assert time.monotonic() - before < 5  # the client would have had 10 seconds


def test_more_clients_than_slots_are_turned_away_and_later_ones_served(http: Http) -> None:
    idle = [socket.create_connection(http.address) for _ in range(20)]
    deadline = time.monotonic() + 10
    turned_away: list[socket.socket] = []
    while len(turned_away) < 4 and time.monotonic() < deadline:
        turned_away = select.select(idle, [], [], 0.1)[0]
    assert [connection.recv(1) for connection in turned_away] == [b""] * 4
    for connection in idle:
        connection.close()
    while True:
        try:
            assert ask(http, "/healthz")[0].status == 200
            break
        except ConnectionError:
            assert time.monotonic() < deadline


def test_no_host_means_every_address_of_both_families(node: Node) -> None:
    with Http(("", 0), node.readiness) as server:
        assert ask(server, "/healthz", host="127.0.0.1")[0].status == 200
        if server.address[0] == "::":
            assert ask(server, "/healthz", host="::1")[0].status == 200
