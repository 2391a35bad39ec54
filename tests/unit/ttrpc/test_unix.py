"""unix: socket files and what may stand in their way."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptor.ttrpc import unix
from adaptor.ttrpc.aio import Client, ListenError, Server, Service
from tests.unit.ttrpc.sides import DESCRIPTOR, Serve, create, echo


@pytest.fixture(params=[0, 0o777], ids=["no umask", "umask 777"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_a_socket_has_its_mode_before_anybody_can_connect(tmp_path: Path, umask: int, mode: int) -> None:
    path = tmp_path / "s.sock"
    os.chmod(tmp_path, 0o700)
    with unix.bind(str(path), mode), socket.socket(socket.AF_UNIX) as early:
        assert stat.S_IMODE(path.stat().st_mode) == mode
        with pytest.raises(ConnectionRefusedError):
            early.connect(str(path))


def test_a_socket_is_never_open_to_more_than_its_mode_not_even_unserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.sock"
    before = os.umask(0)
    monkeypatch.setattr(os, "chmod", lambda *_: None)  # what the file is like until this is called
    try:
        unix.bind(str(path), 0o600).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_served_socket_is_the_owners_alone(serve: Serve) -> None:
    _, path = await serve(CreateVM=echo)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_socket_file_that_nothing_serves_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    server = Server([Service(DESCRIPTOR, {"CreateVM": echo})])
    await server.listen_unix(path)
    async with await Client.connect_unix(path) as client:
        assert await create(client) == "/a"
    await server.aclose()
    assert not path.exists()


async def test_a_socket_that_something_serves_is_refused_and_left_alone(serve: Serve) -> None:
    _, path = await serve(CreateVM=echo)
    second = Server([Service(DESCRIPTOR, {})])
    with pytest.raises(ListenError, match=f"{path}.*serves it already"):
        await second.listen_unix(path)
    await second.aclose()
    async with await Client.connect_unix(path) as client:
        assert await create(client) == "/a"


def test_a_server_too_busy_to_accept_counts_as_alive(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(path)
        busy.listen(0)
        waiting.connect(path)
        with pytest.raises(ListenError, match="serves it already"):
            unix.bind(path, 0o600)


def test_what_is_no_socket_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text("precious")
    with pytest.raises(ListenError, match="not a socket"):
        unix.bind(str(path), 0o600)
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "why"), [("absent/s.sock", "No such file or directory"), ("x" * 120, "AF_UNIX path too long")]
)
def test_a_path_where_no_socket_can_be_made_is_named_with_the_reason(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(ListenError, match=f"{name}.*{why}"):
        unix.bind(str(tmp_path / name), 0o600)


async def test_closing_leaves_a_successors_socket_file_alone(serve: Serve) -> None:
    server, path = await serve(CreateVM=echo)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))
        await server.aclose()
        assert path.exists()
    path.unlink()
    await server.aclose()


def test_a_socket_that_is_no_unix_socket_has_no_peer() -> None:
    with socket.socket(socket.AF_INET) as tcp:
        assert unix.peer_of(tcp) is None
