"""The guest's links, over real TLS: from the handshake to the agent."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import logging
import os
import ssl
import stat
from pathlib import Path

import pytest

from adaptor import __version__, names
from adaptor.pki import NodePki
from adaptor.protos.agent_pb2 import CheckRequest
from adaptor.relay import tls
from adaptor.ttrpc.frames import HEADER, MAX_PAYLOAD
from podvm_images.guest import service
from tests.unit.guest.peers import (
    DEADLINE,
    TOKEN,
    Dial,
    GuestWorld,
    client,
    guest,
    pod,
    raw_frame,
    refusal,
)

INITDATA = b"""version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"aa.toml" = "aa"\n"""
AUTH = b'{"auths": {"registry.example": {"auth": "c2VjcmV0LXBhc3N3b3Jk"}}}'


def custom(pki: NodePki | None, alpn: list[str], version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client that a relay is not; without `pki` it has no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(alpn)
    if pki is not None:
        descriptor = os.memfd_create("client")
        os.write(descriptor, pki.worker.certificate + pki.worker.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        os.close(descriptor)
    return context


# -- the way it should go ---------------------------------------------------------------------------


async def test_hello_proves_the_launch_token_for_this_very_certificate(world: GuestWorld, dial: Dial) -> None:
    worker = await dial(world)
    nonce = os.urandom(32)
    answer = await worker.hello(nonce)
    message = names.LAUNCH_PROOF_LABEL + nonce + hashlib.sha256(worker.certificate).digest()
    assert answer.proof == hmac.new(TOKEN, message, hashlib.sha256).digest()
    assert (answer.protocol, answer.version, answer.bound) == (names.GUEST_PROTOCOL, __version__, False)


async def test_after_bind_the_same_link_is_the_agents(world: GuestWorld, dial: Dial) -> None:
    worker = await dial(world)
    await worker.hello()
    await worker.bind(pod(initdata=INITDATA, registry_auth=AUTH, scratch_space=True))
    assert world.files() == {
        "aa.toml", "auth.json", "bound", "initdata", "initdata.digest", "scratch-space.marker",
    }  # fmt: skip
    check = CheckRequest(service="grpc.Health").SerializeToString()
    assert await worker.call(names.HEALTH_SERVICE, "Check", check) == check
    assert world.agent.calls == [(1, names.HEALTH_SERVICE, "Check")]  # stream ids have started anew


async def test_large_messages_pass_both_ways_unchanged(world: GuestWorld, dial: Dial) -> None:
    worker = await dial(world)
    await worker.bind(pod())
    data = os.urandom(3 << 20)
    assert await worker.call(names.AGENT_SERVICE, "CopyFile", data) == data


async def test_pull_secrets_of_any_size_that_a_frame_can_hold_are_written_for_the_guest_alone(
    world: GuestWorld, dial: Dial
) -> None:
    worker = await dial(world)
    auth = json.dumps({"auths": {"quay.io": {"auth": "x" * (4_000_000)}}}).encode()
    await worker.bind(pod(registry_auth=auth))
    path = world.run_dir / "auth.json"
    assert path.read_bytes() == auth
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_vm_may_be_bound_without_a_hello_on_that_link(world: GuestWorld, dial: Dial) -> None:
    first, second = await dial(world), await dial(world)
    await first.hello()
    await second.bind(pod())
    assert world.agent.connections == 1


async def test_the_agent_is_not_touched_before_bind(world: GuestWorld, dial: Dial) -> None:
    worker = await dial(world)
    for _ in range(3):
        await worker.hello()
    assert world.agent.connections == 0


async def test_a_warm_vm_may_wait_for_its_pod_longer_than_strangers_may_be_silent(
    tmp_path: Path, pki: NodePki, dial: Dial
) -> None:
    async with guest(tmp_path, pki.ca_pem, patience=1.0) as world:
        warm = await dial(world)
        await warm.hello()
        later = await dial(world)
        assert await later.dropped()  # patience is over
        await warm.bind(pod())
        assert world.agent.connections == 1


async def test_when_the_agent_hangs_up_the_link_ends(world: GuestWorld, dial: Dial) -> None:
    worker = await dial(world)
    await worker.bind(pod())
    await world.agent.stop()
    assert await worker.dropped()


async def test_when_the_worker_ends_the_link_in_order_the_agent_is_hung_up_on(world: GuestWorld, dial: Dial) -> None:
    worker = await dial(world)
    await worker.bind(pod())
    assert await worker.call(names.HEALTH_SERVICE, "Check") == b""
    worker.say_goodbye()
    await world.agent.left_alone()


async def test_ending_the_service_closes_every_link(world: GuestWorld, dial: Dial) -> None:
    waiting, bound = await dial(world), await dial(world)
    await waiting.hello()
    await bound.bind(pod())
    world.task.cancel()
    assert await waiting.dropped()
    assert await bound.dropped()
    with pytest.raises(ConnectionRefusedError):
        await dial(world)


# -- who is let in ----------------------------------------------------------------------------------


async def let_in(world: GuestWorld, dial: Dial, context: ssl.SSLContext) -> bool:
    """Whether a call of this client is answered. With TLS 1.3 a client learns only afterwards that it was refused."""
    try:
        worker = await dial(world, context)
        await worker.hello()
    except OSError:
        return False
    return True


async def test_only_a_client_of_the_workers_ca_with_our_alpn_over_tls_13_is_let_in(
    world: GuestWorld, dial: Dial, pki: NodePki, stranger: NodePki
) -> None:
    ours = [names.GUEST_ALPN]
    assert not await let_in(world, dial, client(stranger.worker))
    assert not await let_in(world, dial, custom(None, ours))
    assert not await let_in(world, dial, custom(pki, ["h2", "http/1.1"]))
    assert not await let_in(world, dial, custom(pki, []))
    assert not await let_in(world, dial, custom(pki, ours, ssl.TLSVersion.TLSv1_2))
    assert await let_in(world, dial, custom(pki, ours))  # none of the others did any harm


async def test_the_guests_own_certificate_lets_nobody_in(world: GuestWorld, dial: Dial) -> None:
    context = tls.own_client(world.me.certificate, world.me.key)
    assert not await let_in(world, dial, context)


async def test_what_is_no_tls_at_all_is_dropped_and_the_guest_serves_on(world: GuestWorld, dial: Dial) -> None:
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, raw_frame(1, 1, b"x"), b"\x16\x03\x01\xff\xff"):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(noise)
        writer.write_eof()
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(DEADLINE):
                await reader.read()  # an alert, or nothing
        writer.close()
    worker = await dial(world)
    assert (await worker.hello()).protocol == names.GUEST_PROTOCOL


async def test_a_peer_that_says_nothing_is_dropped(tmp_path: Path, pki: NodePki, dial: Dial) -> None:
    async with guest(tmp_path, pki.ca_pem, patience=1.0) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)  # not even a handshake
        async with asyncio.timeout(DEADLINE):
            assert await reader.read() == b""
        writer.close()
        assert await (await dial(world)).dropped()  # a handshake, and nothing else
        assert (await (await dial(world)).hello()).protocol == names.GUEST_PROTOCOL


async def test_a_peer_that_never_finishes_a_call_is_dropped(tmp_path: Path, pki: NodePki, dial: Dial) -> None:
    dribbles = [
        HEADER.pack(20, 1, 1, 0)[:4],
        HEADER.pack(20, 1, 1, 0),
        HEADER.pack(20, 1, 1, 0) + b"\x0a",
        HEADER.pack(MAX_PAYLOAD + 1, 1, 1, 0) + b"x" * 100,
        raw_frame(1, 77, b"of a type nobody knows") * 3,
        raw_frame(1, 2, b"an answer to nothing") * 3,
    ]
    async with guest(tmp_path, pki.ca_pem, patience=1.0) as world:
        links = [await dial(world) for _ in dribbles]
        for link, dribble in zip(links, dribbles, strict=True):
            await link.send(dribble)
        assert [await link.dropped() for link in links] == [True] * len(dribbles)


async def test_strangers_cannot_lock_the_worker_out(tmp_path: Path, pki: NodePki, dial: Dial) -> None:
    async with guest(tmp_path, pki.ca_pem, patience=3600) as world:  # nobody is dropped for being silent
        waiting = await dial(world)
        await waiting.hello()
        strangers = [await asyncio.open_connection("127.0.0.1", world.port) for _ in range(service.MOST_LINKS + 5)]
        assert (await (await dial(world)).hello()).protocol == names.GUEST_PROTOCOL
        async with asyncio.timeout(DEADLINE):
            assert await strangers[0][0].read() == b""  # the oldest has made room
        assert (await waiting.hello()).protocol == names.GUEST_PROTOCOL  # a worker's link, older still, has not
        for _, writer in strangers:
            writer.close()


async def test_even_workers_get_only_so_many_links(world: GuestWorld, dial: Dial) -> None:
    workers = [await dial(world) for _ in range(service.MOST_LINKS)]
    for worker in workers:
        await worker.hello()
    with pytest.raises(OSError):
        await (await dial(world)).hello()
    await workers[0].bind(pod())  # a joined link does not count any more
    assert (await (await dial(world)).hello()).bound


# -- secrets ----------------------------------------------------------------------------------------


async def test_no_secret_is_ever_logged(
    tmp_path: Path, pki: NodePki, dial: Dial, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with guest(tmp_path, pki.ca_pem) as world:
        worker = await dial(world)
        await worker.hello()
        await refusal(worker.bind(pod(registry_auth=AUTH, initdata=b"=")))
        await refusal(worker.bind(pod(registry_auth=AUTH[1:])))
        await worker.bind(pod(registry_auth=AUTH, initdata=INITDATA + b'"mine" = "hunter2"\n'))
        await worker.call(names.HEALTH_SERVICE, "Check")
        worker.say_goodbye()
        await world.agent.left_alone()
    lines = "\n".join(str(record.msg) for record in caplog.records)
    assert "bound to a pod" in lines
    assert "mine" in lines  # an ignored entry's name, not its value
    for secret in (
        "c2VjcmV0LXBhc3N3b3Jk",
        "hunter2",
        "PRIVATE KEY",
        base64.b64encode(TOKEN).decode(),
        TOKEN.hex(),
        repr(TOKEN),
    ):
        assert secret not in lines
