"""The guest as the process it is: `python -m podvm_images.guest`."""

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from adaptor import names
from adaptor.errors import Code
from adaptor.pki import NodePki
from podvm_images.guest.__main__ import main
from tests.unit.guest.clouds import Azure
from tests.unit.guest.peers import DEADLINE, TOKEN, Streams, Worker, client, pod, refusal, until

GUEST = (sys.executable, "-m", "podvm_images.guest")


class Program:
    """The guest program, listening; `log` is what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log = ""

    async def line(self, pattern: str) -> re.Match[str]:
        """Wait for a line of the log that matches."""
        assert self.process.stderr is not None
        async with asyncio.timeout(DEADLINE):
            while not (found := re.search(pattern, self.log)):
                line = await self.process.stderr.readline()
                assert line, f"the guest ended: {self.log}"
                self.log += line.decode()
        return found

    async def port(self) -> int:
        return int((await self.line(r'"the guest is listening".*?:(\d+)"'))[1])

    async def ended(self) -> int:
        assert self.process.stderr is not None
        async with asyncio.timeout(DEADLINE):
            self.log += (await self.process.stderr.read()).decode()
            return await self.process.wait()


@contextlib.asynccontextmanager
async def started(
    root: Path, *arguments: str, before: Sequence[str] = (), **environment: str
) -> AsyncIterator[Program]:
    command = (*before, *GUEST, "--listen", "127.0.0.1:0", "--user-data", str(root / "user-data"))
    command = (*command, "--run-dir", str(root / "peerpod"), "--agent-socket", str(root / "agent.sock"), *arguments)
    process = await asyncio.create_subprocess_exec(
        *command, stderr=asyncio.subprocess.PIPE, env=os.environ | environment
    )
    program = Program(process)
    try:
        yield program
    finally:
        if process.returncode is None:
            process.kill()
        await program.ended()


@pytest.fixture
def user_data(tmp_path: Path, pki: NodePki) -> bytes:
    token = base64.b64encode(TOKEN).decode()
    document = json.dumps({"peerpods": 1, "launch_token": token, "worker_ca": pki.ca_pem.decode()}).encode()
    (tmp_path / "user-data").write_bytes(document)
    return document


async def test_it_tells_systemd_when_it_listens_and_ends_in_order_on_sigterm(tmp_path: Path, user_data: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        async with started(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify")) as program:
            async with asyncio.timeout(DEADLINE):
                assert await asyncio.get_running_loop().sock_recv(systemd, 100) == b"READY=1"
            program.process.send_signal(signal.SIGTERM)
            assert await program.ended() == 0
        assert systemd.recv(100) == b"STOPPING=1"
    assert '"the guest has ended"' in program.log
    assert base64.b64encode(TOKEN).decode() not in program.log


async def test_user_data_from_a_cloud_is_enough_to_serve(tmp_path: Path, user_data: bytes, pki: NodePki) -> None:
    (tmp_path / "user-data").unlink()
    with Azure(user_data) as cloud:
        async with started(tmp_path, "--imds", cloud.url) as program:
            worker = await Worker.dial(await program.port(), client(pki.worker))
            assert not (await worker.hello()).bound
            worker.close()


async def test_a_program_that_was_killed_and_restarted_takes_no_second_pod(
    tmp_path: Path, user_data: bytes, pki: NodePki
) -> None:
    async with started(tmp_path) as program:
        worker = await Worker.dial(await program.port(), client(pki.worker))
        bind = worker.bind(pod())
        with socket.socket(socket.AF_UNIX) as agent:
            agent.bind(str(tmp_path / "agent.sock"))
            agent.listen()
            await bind
        worker.close()
        program.process.kill()
        await program.ended()
    async with started(tmp_path) as program:
        worker = await Worker.dial(await program.port(), client(pki.worker))
        assert (await refusal(worker.bind(pod()))).code == Code.FAILED_PRECONDITION
        worker.close()
        assert "bound before this program started" in program.log


async def test_sigterm_ends_the_agents_link_in_order_and_the_agent_with_it(
    tmp_path: Path, user_data: bytes, pki: NodePki
) -> None:
    async with started(tmp_path, "--agent", "development") as program:
        worker = await Worker.dial(await program.port(), client(pki.worker))
        await worker.bind(pod())
        worker.close()
        await program.line("the link broke; waiting for the worker to resume it")
        worker = await Worker.dial(await program.port(), client(pki.worker))
        await worker.resume(Streams())
        await worker.call(names.HEALTH_SERVICE, "Check")
        program.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionAbortedError):  # what read_exactly calls an orderly end
            await worker.receive_raw()
        worker.close()
        assert await program.ended() == 0
    assert '"the agent has ended"' in program.log


async def test_without_user_data_it_ends_and_says_what_it_tried(tmp_path: Path) -> None:
    async with started(tmp_path, "--imds", "http://127.0.0.1:9", "--user-data-timeout", "0") as program:
        assert await program.ended() == 1
    assert "no user-data within 0 s. Tried: " in program.log
    assert f"{tmp_path}/user-data: no such file" in program.log
    assert "Traceback" not in program.log


async def test_sigterm_ends_it_while_it_still_waits_for_user_data(tmp_path: Path) -> None:
    async with started(tmp_path, "--imds", "http://127.0.0.1:9") as program:
        await program.line("no user-data yet")
        program.process.send_signal(signal.SIGTERM)
        assert await program.ended() == 0


async def test_a_worker_ca_that_is_no_certificate_is_told(tmp_path: Path, user_data: bytes) -> None:
    broken = json.loads(user_data) | {"worker_ca": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}
    (tmp_path / "user-data").write_text(json.dumps(broken))
    async with started(tmp_path) as program:
        assert await program.ended() == 1
    assert "CA certificate can not be used" in program.log
    assert "Traceback" not in program.log


async def test_a_port_that_is_taken_is_told(tmp_path: Path, user_data: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with started(tmp_path, "--listen", f"127.0.0.1:{taken.getsockname()[1]}") as program:
            assert await program.ended() == 1
    assert "Address already in use" in program.log


@pytest.mark.netns
async def test_as_pid_1_it_collects_orphans_and_obeys_sigterm(tmp_path: Path, user_data: bytes) -> None:
    namespace = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    # The shell makes an orphan that outlives it, and then becomes the guest.
    orphan = ("sh", "-c", '(cat "$0/fifo" >/dev/null &) ; exec "$@"', str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    async with started(tmp_path, before=(*namespace, *orphan)) as program:
        await program.port()
        guest = _child_of(program.process.pid)
        cat = _child_of(guest)
        os.close(os.open(tmp_path / "fifo", os.O_WRONLY))  # the orphan ends now
        await until(lambda: not os.path.exists(f"/proc/{cat}"))  # not even its exit status is left
        os.kill(guest, signal.SIGTERM)
        assert await program.ended() == 0


def _child_of(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def test_the_guest_loads_nothing_that_it_does_not_need() -> None:
    """It is measured, every pod start waits for it, and each VM pays its memory."""
    listing = "import sys, podvm_images.guest.__main__; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    foreign = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    assert {name for name in foreign if not name.startswith("_")} <= {
        "adaptor", "cryptography", "cython_runtime", "google", "podvm_images", "uvloop",
        "sitecustomize",  # the distribution's own, where it has one
    }  # fmt: skip
    rooms = {".".join(name.split(".")[:2]) for name in loaded if name.startswith("adaptor.")}
    assert rooms <= {
        "adaptor.errors", "adaptor.names", "adaptor.protos", "adaptor.relay", "adaptor.telemetry", "adaptor.ttrpc",
    }  # fmt: skip
    ours = {name for name in loaded if name.startswith(("adaptor.relay.", "adaptor.telemetry.", "adaptor.ttrpc."))}
    assert ours <= {
        "adaptor.relay.carrier", "adaptor.relay.pump", "adaptor.relay.readiness", "adaptor.relay.records",
        "adaptor.relay.splice", "adaptor.relay.tls",
        "adaptor.telemetry.logs", "adaptor.telemetry.redact",
        "adaptor.ttrpc.connection", "adaptor.ttrpc.frames", "adaptor.ttrpc.messages",
    }  # fmt: skip


def test_what_a_pods_network_needs_is_read_in_once_it_listens_and_is_no_library() -> None:
    listing = "import sys; from podvm_images.guest import network; network.prepare(); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert {"adaptor.podnet.plan", "podvm_images.guest.podns"} <= set(loaded)
    assert "pyroute2" not in loaded  # 0.1 s of every pod's start


@pytest.mark.parametrize("listen", ["15150", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536"])
def test_an_address_that_is_none_is_refused(listen: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--listen", listen])
    assert end.value.code == 2
    assert "is not HOST:PORT" in capsys.readouterr().err
