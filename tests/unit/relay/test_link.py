"""Dialling a VM that boots, hides, hangs, or is somebody else."""

import asyncio
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from adaptor.errors import Code, GuestUnreachable, InvalidRequest, StatusError
from adaptor.protos import relay_pb2
from adaptor.protos.guest_pb2 import HelloResponse
from adaptor.protos.relay_pb2 import DialRequest
from adaptor.relay import link as link_module
from adaptor.relay import tls
from adaptor.relay.link import Link, dial
from adaptor.ttrpc.connection import ProtocolError
from adaptor.ttrpc.frames import HEADER
from tests.unit.relay.tunnel_ends import eventually, link_pair
from tests.worlds.tunnel import NONCE, PATIENCE, Guest, Pki, answer, issue, server_context

CHECKS = "Check that the security group or firewall lets TCP .* in from this node"


def wanted(pki: Pki, port: int, *addresses: str, timeout: float = PATIENCE, **own: bytes) -> DialRequest:
    return DialRequest(
        sandbox_id="s",
        addresses=addresses or ["127.0.0.1"],
        port=port,
        timeout=timeout,
        identity=relay_pb2.Identity(certificate=pki.worker.certificate, key=pki.worker.key),
        own=relay_pb2.OwnGuest(nonce=NONCE, **own),
    )


def upstream(pki: Pki, port: int, name: str, ca: bytes | None = None) -> DialRequest:
    request = wanted(pki, port, timeout=2.0)
    request.upstream.MergeFrom(relay_pb2.UpstreamGuest(ca=ca or pki.ca.pem, server_name=name))
    return request


async def reached(request: DialRequest) -> Link:
    link = await dial(request)
    link.tls.close()
    return link


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def test_a_guest_that_listens_is_reached_and_its_hello_brought_back(pki: Pki, guest: Guest) -> None:
    link = await dial(wanted(pki, guest.port))
    assert (link.address, link.attempts, link.ours) == (f"127.0.0.1:{guest.port}", 1, True)
    assert link.certificate == pki.guest.der
    assert HelloResponse.FromString(link.hello).version == "stand-in"
    assert guest.hellos[0].nonce == NONCE
    assert link.tls.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    link.tls.close()


async def test_a_guest_that_refuses_while_it_boots_is_reached_soon_after_it_listens(pki: Pki) -> None:
    port = unused_port()
    loop = asyncio.get_running_loop()
    dialling = asyncio.create_task(reached(wanted(pki, port)))
    await asyncio.sleep(0.35)
    assert not dialling.done()
    with Guest(server_context(pki.guest, pki.ca.pem), pki.guest, socket.create_server(("127.0.0.1", port))):
        listening = loop.time()
        link = await dialling
        assert link.attempts > 1
        assert loop.time() - listening < 2.0  # 0.1 s on a machine with nothing else to do


@contextmanager
def deaf_listener() -> Iterator[tuple[socket.socket, list[socket.socket]]]:
    """Drops further SYNs in silence, as a firewall or a VM without an address does: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        queued = [socket.socket() for _ in range(3)]
        for each in queued:
            each.setblocking(False)
            with suppress(BlockingIOError):
                each.connect(listener.getsockname())
        yield listener, queued
        for each in queued:
            each.close()


async def test_a_vm_that_drops_packets_at_first_is_reached_when_it_no_longer_does(pki: Pki) -> None:
    with deaf_listener() as (listener, queued):
        dialling = asyncio.create_task(reached(wanted(pki, listener.getsockname()[1])))
        await asyncio.sleep(0.7)
        assert not dialling.done()
        for each in queued:
            each.close()
        with Guest(server_context(pki.guest, pki.ca.pem), pki.guest, listener):
            assert (await dialling).attempts > 1


async def test_a_vm_that_drops_packets_for_good_is_given_up_with_what_to_check(pki: Pki) -> None:
    with deaf_listener() as (listener, _):
        port = listener.getsockname()[1]
        with pytest.raises(
            GuestUnreachable, match=f"port {port}, within 0.9 s .2 attempts.*no answer to TCP.*{CHECKS}"
        ):
            await dial(wanted(pki, port, timeout=0.9))


async def test_every_address_is_tried_in_turn_and_named_in_the_end(pki: Pki, guest: Guest) -> None:
    link = await reached(wanted(pki, guest.port, "127.0.0.2", "::1", "127.0.0.1"))
    assert link.attempts == 3
    port = unused_port()
    with pytest.raises(
        GuestUnreachable,
        match=f"127.0.0.1, 127.0.0.2, TCP port {port}, within 0.3 s .[23] attempts, .*Connection refused",
    ):
        await dial(wanted(pki, port, "127.0.0.1", "127.0.0.2", timeout=0.3))


async def test_a_server_that_accepts_and_says_nothing_is_dialled_again(
    pki: Pki, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "GREETING", 0.5)
    guest.greets = False
    dialling = asyncio.create_task(reached(wanted(pki, guest.port)))
    await eventually(lambda: guest.accepted > 1)
    guest.greets = True
    assert (await dialling).attempts > 1


async def test_a_server_that_never_says_anything_is_given_up(
    pki: Pki, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "GREETING", 0.1)
    guest.greets = False
    with pytest.raises(GuestUnreachable, match="TLS and Hello did not finish"):
        await dial(wanted(pki, guest.port, timeout=0.5))


async def test_a_connection_that_is_closed_in_the_handshake_is_dialled_again(pki: Pki) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def refuse_once() -> None:
        listener.accept()[0].close()

    refusing = threading.Thread(target=refuse_once)
    refusing.start()
    dialling = asyncio.create_task(reached(wanted(pki, listener.getsockname()[1])))
    await asyncio.to_thread(refusing.join)
    with Guest(server_context(pki.guest, pki.ca.pem), pki.guest, listener):
        assert (await dialling).attempts > 1


async def test_a_vm_whose_certificate_is_not_the_pinned_one_is_refused_at_once(pki: Pki, guest: Guest) -> None:
    own = hashlib.sha256(pki.guest.der).digest()
    await reached(wanted(pki, guest.port, pinned_sha256=own))
    with pytest.raises(GuestUnreachable, match="its certificate has changed"):
        await dial(wanted(pki, guest.port, pinned_sha256=bytes(32)))
    assert len(guest.hellos) == 1, "the impostor was told nothing"


async def test_an_upstream_vm_where_ours_is_expected_is_named_as_such(pki: Pki) -> None:
    with (
        Guest(server_context(pki.guest, pki.ca.pem, alpn=False), pki.guest) as other,
        pytest.raises(GuestUnreachable, match=r"no peerpods guest.*set guest.flavor to upstream"),
    ):
        await dial(wanted(pki, other.port))


async def test_an_upstream_vm_is_reached_without_a_hello(pki: Pki) -> None:
    certificate, _ = pki.upstream("podvm-web-0")
    with Guest(server_context(certificate, pki.ca.pem, alpn=False), certificate) as vm:
        link = await reached(upstream(pki, vm.port, "podvm-web-0"))
        assert (link.ours, link.hello, vm.hellos) == (False, b"", [])


@pytest.mark.parametrize("wrong", ["name", "ca", "flavor"])
async def test_an_upstream_vm_that_cannot_prove_its_name_is_refused_at_once(pki: Pki, wrong: str) -> None:
    certificate = pki.guest if wrong == "flavor" else issue("podvm-web-0", pki.ca)
    with Guest(server_context(certificate, pki.ca.pem, alpn=wrong == "flavor"), certificate) as vm:
        name = "podvm-web-1" if wrong == "name" else "podvm-web-0"
        ca = issue("another ca", ca=True).pem if wrong == "ca" else None
        with pytest.raises(GuestUnreachable, match=r"not the one that was created.*guest.flavor must be own"):
            await dial(upstream(pki, vm.port, name, ca))


async def test_a_vm_that_does_not_trust_this_node_is_not_dialled_for_minutes(pki: Pki) -> None:
    with Guest(server_context(pki.guest, issue("another ca", ca=True).pem), pki.guest) as other:
        with pytest.raises(GuestUnreachable, match="does not trust this node's certificate"):
            await dial(wanted(pki, other.port))
        assert other.accepted == 1


async def test_something_that_speaks_no_tls_is_not_dialled_for_minutes(pki: Pki) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(1 << 16)

        speaking = threading.Thread(target=speak)
        speaking.start()
        with pytest.raises(GuestUnreachable, match="Something else may be listening there"):
            await dial(wanted(pki, listener.getsockname()[1]))
        await asyncio.to_thread(speaking.join)


async def test_dialling_that_is_given_up_leaves_nothing_open(pki: Pki, guest: Guest) -> None:
    guest.greets = False
    before = len(os.listdir("/proc/self/fd"))
    dialling = asyncio.create_task(dial(wanted(pki, guest.port)))
    await eventually(lambda: guest.accepted > 0)
    dialling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialling
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"addresses": ["podvm.example"]}, "'podvm.example' is no IP address"),
        ({"addresses": []}, "needs an address"),
        ({"port": 0}, "a port below 65536"),
        ({"port": 65536}, "a port below 65536"),
        ({"timeout": 0.0}, "a timeout"),
        ({"timeout": float("nan")}, "a timeout"),
        ({"own": relay_pb2.OwnGuest()}, "own.nonce is empty"),
        ({"own": None}, "whom to trust"),
        ({"own": None, "upstream": relay_pb2.UpstreamGuest()}, "upstream.server_name is empty"),
        ({"identity": None}, "TLS certificate and key can not be used"),
    ],
)
async def test_what_can_never_work_is_refused_before_anything_is_dialled(
    pki: Pki, change: dict[str, object], reason: str
) -> None:
    request = wanted(pki, 15150)
    for name, value in change.items():
        request.ClearField(name)
        if value is not None:
            request.MergeFrom(DialRequest(**{name: value}))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=reason):
        await dial(request)


async def test_what_follows_an_answer_stays_on_the_link(pki: Pki) -> None:
    near, far = await link_pair(pki)
    link = Link(near, "here", ours=True)
    with near, far:
        calling = asyncio.create_task(link.call("Bind", b"pod", PATIENCE))
        header = await tls.read_exactly(far, HEADER.size)
        await tls.read_exactly(far, HEADER.unpack(header)[0])
        for byte in answer(1, b"bound"):
            await tls.write_all(far, bytes([byte]))
        await tls.write_all(far, b"the agent's")
        assert await calling == b"bound"
        assert await tls.read_exactly(near, 11) == b"the agent's"


async def test_a_guest_that_announces_an_endless_answer_is_not_listened_to(pki: Pki) -> None:
    near, far = await link_pair(pki)
    with near, far:
        await tls.write_all(far, HEADER.pack((4 << 20) + 1, 1, 2, 0))
        with pytest.raises(ProtocolError, match="4194305 bytes"):
            await Link(near, "here", ours=True).call("Hello", b"", PATIENCE)


async def test_a_hello_that_is_refused_is_told_in_the_guests_own_words(pki: Pki, guest: Guest) -> None:
    guest.hello_refusal = StatusError(Code.FAILED_PRECONDITION, "this VM's user-data is of another version")
    with pytest.raises(GuestUnreachable, match="did not accept Hello: this VM's user-data is of another version"):
        await dial(wanted(pki, guest.port))
