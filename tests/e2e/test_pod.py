"""One pod on real processes: simcloud, the adaptor with the real AWS SDK, the relay, the guest, a container runtime."""

import asyncio
import os
import signal

import pytest

from adaptor.demo import service
from adaptor.demo.shim import Shim
from adaptor.demo.world import World
from adaptor.errors import Code, StatusError
from adaptor.relay.client import RelayClient
from adaptor.relay.states import SessionState

pytestmark = pytest.mark.netns


async def test_killing_the_adaptor_disturbs_no_log_stream_and_the_next_one_finds_the_pod(world: World) -> None:
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/stream", netns=netns) as shim:
            await shim.start_pod()
            ticker = await shim.run(["sh", "-c", "n=0; while :; do echo tick $n; n=$((n+1)); sleep 0.05; done"])
            await ticker.until(lambda out: b"tick 5\n" in out)
            await world.stop("adaptor", signal.SIGKILL)
            seen = len(ticker.stdout)
            await ticker.until(lambda out: len(out) > seen + 200)
            lines = bytes(ticker.stdout).splitlines()
            assert lines == [b"tick %d" % n for n in range(len(lines))], "no line lost, none twice"
            sessions = await RelayClient(world.relay_socket).sessions()
            assert [(s.sandbox_id, s.state) for s in sessions] == [(shim.sandbox_id, SessionState.JOINED)]
            await world.start_adaptor()
            assert await (await shim.exec(ticker, ["true"])).exit_code() == 0
            assert await shim.stop(ticker, signal.SIGKILL) == 128 + signal.SIGKILL
            await shim.stop_pod()
            assert not shim.checks_failed


async def test_two_megabytes_of_output_arrive_whole(world: World) -> None:
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/bulk", netns=netns) as shim:
            await shim.start_pod()
            process = await shim.run(["sh", "-c", "seq 1 300000"])
            assert await process.exit_code(30) == 0
            assert bytes(process.stdout) == b"".join(b"%d\n" % n for n in range(1, 300001))
            await shim.stop(process)
            await shim.stop_pod()


async def test_the_guest_sees_what_bind_brought(world: World) -> None:
    initdata = 'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"aa.toml" = "x = 1"\n'
    annotations = {"io.katacontainers.config.hypervisor.cc_init_data": initdata}
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/init", netns=netns, annotations=annotations) as shim:
            await shim.start_pod()
            console = (await world.instances())[0]["console"]
            assert "initdata.digest" in console
            await shim.stop_pod()


async def nothing_left(world: World) -> None:
    """Until the VM is gone and the journal has forgotten it."""
    async with asyncio.timeout(20):
        while await world.living() or world.journal_rows():
            await asyncio.sleep(0.05)


async def refused(shim: Shim) -> StatusError:
    """The status StartVM fails with; then StopVM, as the shim does."""
    await shim.create_vm()
    with pytest.raises(StatusError) as caught:
        await shim.start_vm()
    await shim.stop_vm()
    return caught.value


async def test_an_unreadable_netns_is_refused_before_anything_is_made(world: World) -> None:
    async with Shim(world.hypervisor_socket, pod="e2e/bad", netns="/run/netns/gone") as shim:
        with pytest.raises(StatusError, match=r"/run/netns/gone cannot be opened: No such file") as caught:
            await shim.create_vm()
        assert caught.value.code == Code.INVALID_ARGUMENT


async def test_a_host_network_pod_is_refused_in_words_for_its_owner(world: World) -> None:
    async with Shim(world.hypervisor_socket, pod="e2e/host", netns="") as shim:
        with pytest.raises(StatusError, match="hostNetwork: true"):
            await shim.create_vm()


async def test_a_vm_that_never_answers_fails_in_time_with_what_to_check(world: World) -> None:
    await world.cause(boot={"fate": "deaf"})
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/deaf", netns=netns) as shim:
            error = await refused(shim)
    assert error.code == Code.DEADLINE_EXCEEDED
    assert "TCP port 15150, within" in error.message
    assert "security group" in error.message


async def test_an_instance_that_dies_while_booting_fails_with_the_clouds_reason(world: World) -> None:
    await world.cause(boot={"fate": "dies"})
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/dies", netns=netns) as shim:
            error = await refused(shim)
    assert "ended while it was starting: Server." in error.message


async def test_a_type_outside_the_allow_list_is_refused(world: World) -> None:
    annotations = {"io.katacontainers.config.hypervisor.machine_type": "x9.huge"}
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/huge", netns=netns, annotations=annotations) as shim:
            error = await refused(shim)
    assert 'requested instance type ("x9.huge") is not part of supported instance types list' in error.message


async def test_an_ami_that_does_not_exist_is_refused_in_ec2s_words(world: World) -> None:
    annotations = {"io.katacontainers.config.hypervisor.image": "ami-0123456789abcdef0"}
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/ami", netns=netns, annotations=annotations) as shim:
            error = await refused(shim)
    assert "InvalidAMIID.NotFound" in error.message


async def test_unusable_initdata_is_refused_by_the_guest_and_the_vm_is_deleted(world: World) -> None:
    annotations = {"io.katacontainers.config.hypervisor.cc_init_data": "this is = not toml ="}
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/junk", netns=netns, annotations=annotations) as shim:
            error = await refused(shim)
    assert "initdata" in error.message


async def test_a_lost_reply_to_the_create_call_makes_one_vm(world: World) -> None:
    await world.cause(next={"action": "RunInstances", "lose_reply": True})
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/lost", netns=netns) as shim:
            await shim.start_pod()
            await shim.stop_pod()
    assert len(await world.instances()) == 1


async def test_a_full_type_gives_way_to_the_next(world: World) -> None:
    await world.cause(capacity={"instance_type": "m6a.large", "free": 0})
    annotations = {"io.katacontainers.config.hypervisor.default_vcpus": "2"}
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/next", netns=netns, annotations=annotations) as shim:
            await shim.start_pod()
            assert [i["instance_type"] for i in await world.instances()] == ["m6a.xlarge"]
            await shim.stop_pod()


async def test_a_shim_that_dies_during_start_vm_leaves_its_vm_to_the_pods_next_try(world: World) -> None:
    await world.cause(next={"action": "RunInstances", "delay_reply": 2})
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/again", netns=netns) as shim:
            await shim.create_vm()
            start = asyncio.create_task(shim.start_vm())
            async with asyncio.timeout(10):
                while not await world.living():
                    await asyncio.sleep(0.05)
            start.cancel()
            await asyncio.gather(start, return_exceptions=True)
    with world.pod_network() as network:  # a pod's next sandbox has a new one, with another address
        async with Shim(world.hypervisor_socket, pod="e2e/again", netns=network.netns) as shim:
            await shim.start_pod()
            await (await shim.run(service.serve())).until(lambda out: out == b"hello from again\n")
            assert (await service.ask(network.ipv4)).host == "again"
            assert len(await world.instances()) == 1, "the same VM"
            await shim.stop_pod()


async def test_a_vm_left_by_a_dead_shim_is_deleted_when_the_pod_is_not_tried_again(world: World) -> None:
    await world.cause(boot={"fate": "deaf"})
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/gone", netns=netns) as shim:
            await shim.create_vm()
            start = asyncio.create_task(shim.start_vm())
            async with asyncio.timeout(10):
                while not await world.living():
                    await asyncio.sleep(0.05)
            start.cancel()
            await asyncio.gather(start, return_exceptions=True)
            await nothing_left(world)


async def test_a_shim_that_is_killed_under_a_running_pod_leaves_no_vm(world: World) -> None:
    with world.pod_netns() as netns:
        shim = Shim(world.hypervisor_socket, pod="e2e/killed", netns=netns)
        await shim.start_pod()
        await shim.aclose()  # the kernel closes a killed process's sockets; StopVM never comes
        await nothing_left(world)


async def test_a_relay_that_is_killed_is_replaced_and_its_pods_vms_deleted(world: World) -> None:
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/relay", netns=netns) as shim:
            await shim.start_pod()
            await world.stop_relay(signal.SIGKILL)
            await nothing_left(world)
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/next", netns=netns) as shim:
            await shim.start_pod()
            await shim.stop_pod()


async def test_garbage_on_the_hypervisor_socket_harms_nobody(world: World) -> None:
    for junk in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\0" * 10, b"\xff\xff\xff\xff\0\0\0\1\1\0" + b"x" * 100):
        reader, writer = await asyncio.open_unix_connection(world.hypervisor_socket)
        writer.write(junk)
        writer.write_eof()
        await reader.read()
        writer.close()
        await writer.wait_closed()
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/after", netns=netns) as shim:
            await shim.start_pod()
            await shim.stop_pod()


async def test_metrics_and_probes_tell_of_it(world: World) -> None:
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/metrics", netns=netns) as shim:
            await shim.start_pod()
            page = await world.page("/metrics")
            assert 'peerpods_sandboxes{state="running"} 1.0' in page
            assert 'peerpods_phase_seconds_count{outcome="complete",phase="sandbox.start"} 1.0' in page
            assert 'peerpods_hypervisor_calls_total{code="OK",method="StartVM"} 1.0' in page
            assert await world.page("/readyz") == "ready\n"
            await shim.stop_pod()


async def test_no_secret_reaches_a_log(world: World) -> None:
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/quiet", netns=netns) as shim:
            await shim.start_pod()
            await shim.stop_pod()
    console = (await world.instances())[0]["console"]
    for text in (world.log_of("adaptor"), world.log_of("simcloud"), console):
        assert "PRIVATE KEY" not in text
        assert "launch_token" not in text
