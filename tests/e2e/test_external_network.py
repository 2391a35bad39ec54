"""Traffic that leaves from a pod's VM, end to end: a real guest in an instance with two cards, and its metadata."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adaptor.demo import cni, netdump, service
from adaptor.demo.shim import Shim
from adaptor.demo.world import World
from tests.e2e.conftest import clean

pytestmark = pytest.mark.netns

# The first line of the answer: EC2 hands tokens out so that they live one hop, and the pod is one further.
ASK_FOR_A_TOKEN = (
    "exec 3<>/dev/tcp/169.254.169.254/80; "
    r"printf 'PUT /latest/api/token HTTP/1.0\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n' >&3; head -1 <&3"
)
SETTINGS = {
    "guest": {"start_timeout": "15s"},
    "aws": {"secondary_interface": True},
    "network": {
        "external_network": "nic",
        "pod_subnets": [str(cni.IPV4), "10.96.0.0/12"],
        "imds": "allowed",
    },
}


@contextmanager
def outside() -> Iterator[tuple[int, list[str]]]:
    """A server on the worker, of no address of the cluster's: its port, and whom it has seen."""
    seen: list[str] = []
    with socket.create_server(("0.0.0.0", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, peer = listener.accept()
                except OSError:
                    return
                seen.append(peer[0])
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], seen
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


async def test_what_leaves_does_so_by_the_second_card_and_metadata_answer_who_may_ask(directory: Path) -> None:
    async with World(directory, settings=SETTINGS) as world:
        await world.start_cloud()
        await world.start_adaptor()
        with world.pod_network() as network, outside() as (port, seen):
            before = netdump.dump(network.netns)
            wish = {"io.katacontainers.config.hypervisor.machine_type": ";imds=on"}
            async with Shim(world.hypervisor_socket, pod="net/out", netns=network.netns, annotations=wish) as shim:
                await shim.start_pod()
                server = await shim.run(service.serve("0.0.0.0"))
                await server.until(lambda out: out == b"hello from out\n")
                (instance,) = await world.instances()

                async def run(command: list[str]) -> str:
                    process = await shim.exec(server, command)
                    await process.exit_code(20)
                    return bytes(process.stdout).decode().strip()

                for address in (world.cloud["worker_address"], str(cni.IPV4[1])):
                    await run(["bash", "-c", f"cat < /dev/tcp/{address}/{port}"])
                by_the_vm, by_the_tunnel = seen
                assert by_the_vm.startswith("172.31."), "from the cloud's network"
                assert by_the_vm != instance["address"], "not by the card that the worker reaches it at"
                assert by_the_tunnel == network.ipv4
                assert (await service.ask(network.ipv4, "/")).host == "out"
                assert (await run(["bash", "-c", ASK_FOR_A_TOKEN])).endswith("200 OK")
                await shim.stop(server, 9)
                await shim.stop_pod()
            assert netdump.dump(network.netns) == before
        await clean(world)
