"""The relay as a process: how it starts, what it survives, what it never writes down, how much it takes."""

import asyncio
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptor.errors import GuestUnreachable, Unavailable
from adaptor.relay.client import RelayClient, SessionState, ensure_relay
from adaptor.sandbox import launch
from tests.unit.relay.pods import Pod, RunningRelay
from tests.unit.relay.tunnel_ends import eventually
from tests.worlds.bound import Agent
from tests.worlds.tunnel import PATIENCE, Guest, Pki


@pytest.fixture
def own_relay(tmp_path: Path) -> Iterator[RunningRelay]:
    """A relay that the test may end."""
    with RunningRelay(tmp_path) as running:
        yield running


async def test_a_second_relay_is_refused_and_the_first_serves_on(own_relay: RunningRelay) -> None:
    second = subprocess.run(own_relay.process.args, check=False, capture_output=True, timeout=PATIENCE)
    assert second.returncode == 1
    assert b"something serves it already" in second.stderr
    assert (await own_relay.client.list()).pid == own_relay.process.pid


async def test_relays_that_start_at_the_same_moment_take_turns(tmp_path: Path) -> None:
    """Or each would take the other's socket for one left behind, in the moment before it listens."""
    directory = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    words = [sys.executable, "-m", "adaptor.relay.process", "--socket", str(tmp_path / "relay.sock")]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as relay:
        try:
            await eventually(lambda: waits_for_a_lock(relay.pid))
            assert not os.path.exists(tmp_path / "relay.sock")
            os.close(directory)
            await eventually(lambda: os.path.exists(tmp_path / "relay.sock"))
        finally:
            relay.terminate()


def waits_for_a_lock(pid: int) -> bool:
    return any("->" in line and f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines())


async def test_a_relay_takes_over_the_socket_of_one_that_was_killed(own_relay: RunningRelay, tmp_path: Path) -> None:
    before = await own_relay.client.list()
    own_relay.stop(signal.SIGKILL)
    assert os.path.exists(own_relay.socket_path)
    with pytest.raises(Unavailable, match="Is peerpods' relay running"):
        await own_relay.client.list()
    with RunningRelay(tmp_path):
        after = await own_relay.client.watch(before.generation)  # who watched the dead one hears of it at once
        assert after.generation != before.generation


async def test_being_told_to_end_it_ends_every_pod_in_order(own_relay: RunningRelay, guest: Guest, pki: Pki) -> None:
    pod = Pod(own_relay, guest, pki)
    shim = await pod.start()
    watching = asyncio.create_task(own_relay.client.watch((await own_relay.client.list()).generation))
    await asyncio.sleep(0)
    assert own_relay.stop() == 0
    assert await shim.hears_the_end()
    assert not os.path.exists(pod.path)
    assert not os.path.exists(own_relay.socket_path)
    with pytest.raises(Unavailable):
        await watching
    pod.close()


async def test_a_closed_terminal_does_not_end_it(own_relay: RunningRelay) -> None:
    assert os.getsid(own_relay.process.pid) == own_relay.process.pid
    own_relay.process.send_signal(signal.SIGHUP)
    assert (await own_relay.client.list()).pid == own_relay.process.pid


async def test_a_dying_adaptor_ends_its_dial_and_no_session(own_relay: RunningRelay, guest: Guest, pki: Pki) -> None:
    running, starting = Pod(own_relay, guest, pki), Pod(own_relay, guest, pki)
    shim = await running.start()
    await starting.open()
    guest.greets = False
    adaptor = subprocess.Popen(
        [sys.executable, "-c", _DIALS, own_relay.socket_path, starting.sandbox_id, str(guest.port)],
        stdin=subprocess.PIPE,
    )
    assert adaptor.stdin is not None
    adaptor.stdin.write(pki.worker.certificate + pki.worker.key)
    adaptor.stdin.close()
    await starting.becomes(SessionState.DIALLING)
    adaptor.kill()
    adaptor.wait()
    await starting.becomes(SessionState.LISTENING)
    await shim.call(b"nothing noticed")
    running.close()


_DIALS = """
import asyncio, sys
from adaptor.relay.client import Identity, OwnGuest, RelayClient
pem = sys.stdin.buffer.read()
relay, sandbox, port = sys.argv[1:]
dial = RelayClient(relay).dial(sandbox, ["127.0.0.1"], int(port), 60.0, Identity(pem, pem), OwnGuest(b"nonce"))
asyncio.run(dial)
"""


async def test_no_key_is_ever_logged(own_relay: RunningRelay, guest: Guest, pki: Pki) -> None:
    pod = Pod(own_relay, guest, pki)
    await pod.open()
    with pytest.raises(GuestUnreachable):
        await pod.dial(pki.own(pinned=bytes(32)))
    await pod.dial()
    await pod.bind()
    pod.close()
    own_relay.stop()
    log = own_relay.log.read_text()
    assert pod.sandbox_id in log
    assert "PRIVATE" not in log
    assert pki.worker.key.splitlines()[1].decode() not in log


async def test_the_largest_bind_that_the_adaptor_lets_pass_reaches_the_guest_whole(
    own_relay: RunningRelay, guest: Guest, pki: Pki
) -> None:
    pod = Pod(own_relay, guest, pki)
    room = launch.BIND_LIMIT - pod.bind_request.ByteSize() - 8  # the field's own head
    pod.bind_request.registry_auth = b"x" * room
    assert room > 4_000_000
    assert launch.BIND_LIMIT - 8 <= pod.bind_request.ByteSize() <= launch.BIND_LIMIT
    await pod.open()
    await pod.dial()
    await pod.bind()
    assert guest.binds == [pod.bind_request]
    pod.close()


async def test_it_starts_small(own_relay: RunningRelay) -> None:
    await own_relay.client.list()
    assert own_relay.rss_kib < 40 << 10


async def test_a_vm_that_does_not_read_does_not_make_it_grow(own_relay: RunningRelay, guest: Guest, pki: Pki) -> None:
    pod = Pod(own_relay, guest, pki)
    release = threading.Event()

    def deaf(agent: Agent) -> None:
        release.wait(PATIENCE)

    guest.agent = deaf
    shim = await pod.start()
    before, taken, idle = own_relay.rss_kib, 0, 0
    while idle < 50:
        try:
            taken += shim.socket.send(bytes(1 << 16))
            idle = 0
        except BlockingIOError:
            idle += 1
        await asyncio.sleep(0.002)
    assert taken < 32 << 20
    assert own_relay.rss_kib - before < 7 << 10, "4 MiB are kept until the VM has them"
    release.set()
    pod.close()


def test_it_allows_itself_more_descriptors_than_programs_usually_may_have(tmp_path: Path) -> None:
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, usual[1]))
    try:
        with RunningRelay(tmp_path) as relay:
            assert resource.prlimit(relay.process.pid, resource.RLIMIT_NOFILE)[0] == usual[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)


async def test_running_out_of_descriptors_delays_a_shim_and_does_not_lose_it(
    own_relay: RunningRelay, guest: Guest, pki: Pki
) -> None:
    pod = Pod(own_relay, guest, pki)
    await pod.open()
    await pod.dial()
    await pod.bind()
    pid = own_relay.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))  # what is open stays open
    shim = await pod.connect()
    await eventually(lambda: "cannot accept the shim's connection" in own_relay.log.read_text())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    await shim.call(b"late, and whole")
    assert own_relay.log.read_text().count("cannot accept") < 10
    pod.close()


async def test_a_started_relay_outlives_who_started_it_in_a_session_of_its_own(tmp_path: Path) -> None:
    path = str(tmp_path / "relay.sock")
    starts = f"import asyncio; from adaptor.relay.client import ensure_relay; asyncio.run(ensure_relay({path!r}))"
    subprocess.run([sys.executable, "-c", starts], check=True, timeout=PATIENCE)
    pid = (await RelayClient(path).list()).pid
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/fd/1") == os.devnull
    os.kill(pid, signal.SIGTERM)
    await eventually(lambda: not os.path.exists(path))


async def test_a_relay_is_started_once_and_found_afterwards(tmp_path: Path) -> None:
    path = str(tmp_path / "relay.sock")
    with pytest.raises(Unavailable, match=f"the relay does not answer: nothing can be reached at {path}"):
        await ensure_relay(path, spawn=False)
    with (tmp_path / "log").open("wb") as log:
        one, other = await asyncio.gather(ensure_relay(path, log=log.fileno()), ensure_relay(path, log=log.fileno()))
    pid = (await one.list()).pid
    assert (await other.list()).pid == pid
    assert (await (await ensure_relay(path, spawn=False)).list()).pid == pid
    assert "the relay is serving" in (tmp_path / "log").read_text()
    os.kill(pid, signal.SIGTERM)
    await asyncio.to_thread(os.waitpid, pid, 0)


async def test_a_relative_path_is_meant_from_where_it_was_given(tmp_path: Path) -> None:
    client = await ensure_relay(os.path.relpath(tmp_path / "relay.sock"))
    pid = (await client.list()).pid
    os.kill(pid, signal.SIGTERM)
    await asyncio.to_thread(os.waitpid, pid, 0)


async def test_a_relay_that_cannot_start_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        (tmp_path / "log").open("wb") as log,
        pytest.raises(Unavailable, match="ended at once; its log says why"),
    ):
        await ensure_relay(str(tmp_path / "file" / "relay.sock"), log=log.fileno())
    assert "the relay cannot serve" in (tmp_path / "log").read_text()


async def test_a_relay_that_goes_away_during_a_call_is_said_to_have(own_relay: RunningRelay) -> None:
    watching = asyncio.create_task(own_relay.client.watch((await own_relay.client.list()).generation))
    await asyncio.sleep(0.05)
    own_relay.stop(signal.SIGKILL)
    with pytest.raises(Unavailable, match="the relay went away during Watch"):
        await watching


async def test_closing_a_client_ends_its_calls(own_relay: RunningRelay) -> None:
    watching = asyncio.create_task(own_relay.client.watch((await own_relay.client.list()).generation))
    await asyncio.sleep(0.05)
    await own_relay.client.aclose()
    with pytest.raises(Unavailable):
        await watching
