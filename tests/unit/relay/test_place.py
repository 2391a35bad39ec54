"""A relay in a DaemonSet's pod: when it is ready, and that it does not end before its pod does."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.relay.nodes import Node
from tests.unit.relay.pods import Pod
from tests.unit.relay.tunnel_ends import eventually
from tests.worlds.tunnel import PATIENCE, Guest, Pki

Process = subprocess.Popen[bytes]


class Daemonset:
    """The relay pods of one node, each with a directory of its own for its serving file."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.pods: list[Process] = []

    def serving(self, number: int) -> Path:
        return self.node.directory / f"pod-{number}" / "serving"

    def start(self) -> Process:
        number = len(self.pods)
        self.serving(number).parent.mkdir(exist_ok=True)
        return self.run(number)

    def run(self, number: int) -> Process:
        """Once more in the same pod, if there is one."""
        words = [sys.executable, "-m", "adaptor", "relay", "--socket", self.node.relay.socket_path, "--takeover"]
        words += ["--serving-file", str(self.serving(number))]
        with (self.node.directory / f"pod-{number}.log").open("ab") as log:
            self.pods.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        return self.pods[-1]

    async def ready(self, number: int) -> None:
        await eventually(self.serving(number).exists)

    def close(self) -> None:
        for process in self.pods:
            if process.poll() is None:
                process.kill()
                process.wait(PATIENCE)


@pytest.fixture
def daemonset(node: Node) -> Iterator[Daemonset]:
    found = Daemonset(node)
    yield found
    found.close()


async def test_the_old_pod_stays_until_it_is_deleted_and_takes_nothing_with_it(
    daemonset: Daemonset, guest: Guest, pki: Pki
) -> None:
    old = daemonset.start()
    await daemonset.ready(0)
    pod = Pod(daemonset.node.relay, guest, pki)
    shim = await pod.start()
    new = daemonset.start()
    await daemonset.ready(1)
    assert not daemonset.serving(0).exists(), "only one of them is ready"
    assert (await daemonset.node.client.list()).pid == new.pid
    await shim.call(b"served by the new one")
    assert old.poll() is None, "kubelet would start it again, and it would take the sessions back"
    old.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(old.wait, PATIENCE) == 0
    await shim.call(b"still there")
    pod.close()


async def test_a_relay_that_has_left_holds_no_socket_of_a_pod(daemonset: Daemonset, guest: Guest, pki: Pki) -> None:
    old = daemonset.start()
    await daemonset.ready(0)
    pod = Pod(daemonset.node.relay, guest, pki)
    await pod.start()
    assert sockets(old) > 0
    daemonset.start()
    await daemonset.ready(1)
    await eventually(lambda: sockets(old) == 0)
    pod.close()


async def test_a_pod_whose_hand_over_fails_is_not_ready(daemonset: Daemonset) -> None:
    """Its container is started again and finds the file of its last life gone."""
    old = daemonset.start()
    await daemonset.ready(0)
    old.send_signal(signal.SIGSTOP)
    daemonset.serving(1).parent.mkdir()
    daemonset.serving(1).touch()
    new = daemonset.run(1)
    await eventually(lambda: not daemonset.serving(1).exists())
    new.kill()
    await asyncio.to_thread(new.wait, PATIENCE)
    old.send_signal(signal.SIGCONT)
    assert not daemonset.serving(1).exists()
    assert (await daemonset.node.client.list()).pid == old.pid


def sockets(process: Process) -> int:
    directory = f"/proc/{process.pid}/fd"
    return sum(os.readlink(f"{directory}/{each}").startswith("socket:") for each in os.listdir(directory))
