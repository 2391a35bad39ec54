"""The VM's end of an encrypted pod network: real wireguard-go at both ends, in real namespaces."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from adaptor.errors import Code, InvalidRequest, StatusError
from adaptor.podnet import wireguard, wireguard_choice
from adaptor.podnet.plan import GuestPlan, WireGuard, to_json
from adaptor.podnet.wireguard import PrivateKey
from adaptor.podnet.wireguard_device import Endpoint, Userspace
from podvm_images.guest import encrypted
from podvm_images.guest.development_agent import kernel
from podvm_images.guest.network import Network
from tests.unit.guest.vm import OURS, OURS_V6, WORKER_V6, Vm, bridge, far_end, forged, in_a_vm, inside, listener, plan

MTU = 1370  # of 1500: WireGuard over IPv4 takes 60, VXLAN over IPv6 70
LACKS = wireguard_choice.userspace_wants() if os.geteuid() == 0 else "network namespaces need root"
real = pytest.mark.skipif(bool(LACKS), reason=f"no userspace WireGuard: {LACKS}")


class Worker:
    """At the other end of the VM's uplink; its device has another name, for both have their sockets in one place."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._end = Endpoint(Userspace("far0"))
        self.public_key = self.do(self._end.ensure)
        self.inner = wireguard.inner_address(self.public_key)

    def do(self, deed: Any) -> Any:
        return self._vm.at_worker(deed)

    def plan(self) -> GuestPlan:
        return plan(bridge(), worker=self.inner, wireguard=WireGuard(self.public_key, 51999))

    def connect(self, answer: WireGuard) -> str:
        peer = wireguard.worker_peer(answer, OURS)
        self.do(lambda: self._end.put(peer))
        inner = wireguard.inner_address(answer.public_key)
        self.do(lambda: far_end(self.inner, inner, MTU, "10.244.1.1"))
        return inner

    def close(self) -> None:
        self.do(self._end.delete)


@contextmanager
def worker_of(vm: Vm) -> Iterator[Worker]:
    os.makedirs("/run/wireguard", exist_ok=True)
    kernel.mount("none", "/run/wireguard", "tmpfs", 0)
    vm.uplink()
    worker = Worker(vm)
    try:
        yield worker
    finally:
        worker.close()
        inside(f"/proc/self/task/{threading.get_native_id()}/ns/net", Endpoint(Userspace("ppwg0")).delete)


async def echoed(vm: Vm, payload: bytes) -> bytes:
    """From the worker's end to the pod and back."""
    with vm.at_worker(lambda: listener("10.244.1.1", 8)) as there, vm.in_pod(lambda: listener("10.244.1.5", 7)) as here:
        there.sendto(payload, ("10.244.1.5", 7))
        received, sender = await asyncio.to_thread(here.recvfrom, 1 << 16)
        here.sendto(received, sender)
        return await asyncio.to_thread(there.recv, 1 << 16)


@real
@in_a_vm
async def test_a_plan_with_wireguard_is_laid_and_only_what_comes_by_it_reaches_the_pod(vm: Vm) -> None:
    with worker_of(vm) as worker:
        await vm.network.make()
        answer = await vm.network.lay(worker.plan())
        assert answer.wireguard is not None
        assert answer.wireguard.port == 51999
        inner = worker.connect(answer.wireguard)
        assert vm.found().interfaces[0].mtu == MTU
        assert await echoed(vm, os.urandom(MTU - 28)) != b""
        with vm.in_pod(lambda: listener("10.244.1.5", 7)) as pod:
            vm.at_worker(lambda: forged(WORKER_V6, OURS_V6, b"in the open"))
            vm.at_worker(lambda: _astray(inner))
            vm.at_worker(lambda: forged(worker.inner, inner, b"in the open, with the worker's own address"))
            vm.at_worker(lambda: _home(inner))
            vm.at_worker(lambda: forged(worker.inner, inner, b"inside"))
            assert pod.recv(100) == b"inside"


def _astray(inner: str) -> None:
    """Have what is for the VM's inner address go by the uplink."""
    with IPRoute() as ip:
        index = ip.link_lookup(ifname="vm")[0]
        ip.route("add", dst=f"{inner}/128", gateway=OURS_V6, oif=index, family=10)


def _home(inner: str) -> None:
    with IPRoute() as ip:
        ip.route("del", dst=f"{inner}/128", family=10)


@real
@in_a_vm
async def test_a_killed_wireguard_go_is_had_again_with_the_same_key(vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encrypted, "LOOK", 0.05)
    with worker_of(vm) as worker:
        await vm.network.make()
        answer = await vm.network.lay(worker.plan())
        assert answer.wireguard is not None
        worker.connect(answer.wireguard)
        assert await echoed(vm, b"before") == b"before"
        await asyncio.sleep(0.2)  # it has looked where the worker is
        (victim,) = [
            int(folder.name)
            for folder in Path("/proc").glob("[0-9]*")
            if (folder / "cmdline").read_bytes() == b"wireguard-go\0ppwg0\0"
            and os.readlink(folder / "ns/net") == os.readlink("/proc/thread-self/ns/net")
        ]
        os.kill(victim, signal.SIGKILL)
        async with asyncio.timeout(30):
            while "ppwg0" not in Path("/proc/thread-self/net/dev").read_text():
                await asyncio.sleep(0.01)
            while await _try(vm) != b"after":
                pass


async def _try(vm: Vm) -> bytes:
    with vm.at_worker(lambda: listener("10.244.1.1", 8)) as there, vm.in_pod(lambda: listener("10.244.1.5", 7)) as here:
        here.settimeout(0.2)
        there.sendto(b"after", ("10.244.1.5", 7))
        try:
            return await asyncio.to_thread(here.recv, 100)
        except TimeoutError:
            return b""


def of_worker(key: str, port: int = 51820, worker: str | None = None) -> bytes:
    inner = wireguard.inner_address(key) if worker is None else worker
    return to_json(plan(bridge(), worker=inner, wireguard=WireGuard(key, port)))


# Names of tests hold them, and every process that runs these must have the same.
KEY, OTHER = PrivateKey(bytes(32)).public, PrivateKey(bytes(range(32))).public


def test_a_vm_without_any_wireguard_says_so_and_lays_no_such_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wireguard_choice, "kernel_wants", lambda: "the kernel's WireGuard: none")
    monkeypatch.setattr(wireguard_choice, "userspace_wants", lambda: "wireguard-go: it is not installed")
    network = Network()
    assert not network.can_encrypt()
    with pytest.raises(StatusError, match=r"cannot encrypt the pod's network: the kernel's.*; wireguard-go") as caught:
        network.understand(of_worker(KEY))
    assert caught.value.code == Code.FAILED_PRECONDITION
    assert network.understand(to_json(plan(bridge()))).wireguard is None


@pytest.mark.parametrize("userspace_lacks", ["", "none"])
def test_a_vm_with_either_wireguard_can(monkeypatch: pytest.MonkeyPatch, userspace_lacks: str) -> None:
    asked: list[str] = []

    def ask(which: str, answer: str) -> str:
        asked.append(which)
        return answer

    monkeypatch.setattr(wireguard_choice, "userspace_wants", lambda: ask("userspace", userspace_lacks))
    monkeypatch.setattr(wireguard_choice, "kernel_wants", lambda: ask("kernel", ""))
    network = Network()
    assert network.can_encrypt()
    assert network.understand(of_worker(KEY)).wireguard == WireGuard(KEY, 51820)
    wanted = ["userspace", "kernel"] if userspace_lacks else ["userspace"]
    assert asked == wanted, "every link asks, and the image does not change; the kernel would load a module"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (of_worker(KEY, worker="10.0.0.1"), "cannot come from 10.0.0.1"),
        (of_worker(KEY, worker=wireguard.inner_address(OTHER)), "the worker's key gives it"),
        (of_worker(KEY, port=0), "where WireGuard is to listen"),
    ],
)
def test_a_plan_whose_parts_contradict_each_other_is_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, given: bytes, words: str
) -> None:
    monkeypatch.setattr(wireguard_choice, "kernel_wants", lambda: "")
    with pytest.raises(InvalidRequest, match=words):
        Network().understand(given)
