"""A pod's life over the wire, in the shim's order, with real containers."""

import asyncio
import signal

import pytest

from adaptor.errors import Code, StatusError
from adaptor.protos import agent_pb2
from tests.unit.development_agent.shim import Shim, container_request, process
from tests.unit.development_agent.vm import Vm, eventually

pytestmark = pytest.mark.netns

PAUSE = "52b7d1443bf29f4f5af64ba8a8878cc1a55916a03bbbe6d76dadbddcf6c5b9b7"
APP = "d32d460ba543b5c7effd998245656069695398fdff811a70e33d97995087f3a3"


async def test_a_pod_lives_and_ends_as_the_shim_recorded_it(vm: Vm) -> None:
    shim = await Shim.connect(vm.socket)
    health = await shim.call("Check", agent_pb2.CheckRequest(), agent_pb2.HealthCheckResponse, 30)
    assert health.status == agent_pb2.HealthCheckResponse.SERVING
    await shim.do("SetPolicy", agent_pb2.SetPolicyRequest(policy="package agent_policy\ndefault X := true\n"))
    await shim.create_sandbox()
    details = await shim.call(
        "GetGuestDetails", agent_pb2.GuestDetailsRequest(mem_block_size=True), agent_pb2.GuestDetailsResponse
    )
    assert "image_guest_pull" in details.agent_details.storage_handlers
    resolv = f"/run/kata-containers/shared/containers/{PAUSE}-e452a7450bb05634-resolv.conf"
    await shim.copy(resolv, b"nameserver 10.0.0.10\n")
    await shim.do("CreateContainer", container_request(PAUSE, process("/pause"), image="pause"))
    await shim.start(PAUSE)
    oom = asyncio.create_task(shim.call("GetOOMEvent", agent_pb2.Empty(), agent_pb2.OOMEvent, None))
    pause_ends = asyncio.create_task(shim.wait(PAUSE))

    bind = agent_pb2.Mount(destination="/etc/resolv.conf", source=resolv, type="bind", options=["rbind", "ro"])
    await shim.run(APP, "sh", "-c", "cat /etc/resolv.conf; echo to stderr >&2; exec sleep 600", mounts=[bind])
    assert await shim.read_some(APP) == b"nameserver 10.0.0.10\n"
    assert await shim.read_some(APP, stream="ReadStderr") == b"to stderr\n"
    assert await shim.executed(APP, "sh", "-c", "echo hello; exit 7") == ("hello\n", 7)
    assert vm.path("/run/kata-containers/sandbox/resolv.conf").read_text().startswith("search lab.svc\n")

    await shim.signal(signal.SIGTERM, APP)
    assert [*await asyncio.gather(shim.read(APP), shim.read(APP, stream="ReadStderr"))] == [b"", b""]
    assert await shim.wait(APP) == 128 + signal.SIGKILL  # sleep handles no SIGTERM, and an init gets none then
    await shim.signal(signal.SIGKILL, APP)
    assert await shim.wait(APP) == 128 + signal.SIGKILL
    await shim.remove(APP)

    assert not pause_ends.done()
    await shim.signal(signal.SIGKILL, PAUSE)
    assert await pause_ends == 128 + signal.SIGKILL
    await shim.signal(signal.SIGKILL, PAUSE)
    assert await shim.wait(PAUSE) == 128 + signal.SIGKILL
    await shim.remove(PAUSE)
    await shim.destroy_sandbox()
    assert not oom.done()
    vm.check_pristine()
    await shim.client.aclose()
    with pytest.raises(StatusError):
        await oom
    vm.check_disconnected()


async def test_the_exit_status_of_a_container_is_told_as_often_as_asked(shim: Shim) -> None:
    await shim.run("c", "sh", "-c", "exit 7")
    assert [await shim.wait("c"), await shim.wait("c"), await shim.wait("c")] == [7, 7, 7]


async def test_a_wait_begun_before_the_start_ends_with_the_container(shim: Shim) -> None:
    await shim.create("c", "sh", "-c", "exit 9")
    waiting = asyncio.create_task(shim.wait("c"))
    await shim.start("c")
    assert await waiting == 9


async def test_a_handled_sigterm_ends_a_container_its_own_way(shim: Shim) -> None:
    await shim.run("c", "sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done")
    assert await shim.read_some("c") == b"up\n"
    await shim.signal(signal.SIGTERM, "c")
    assert (await shim.read("c"), await shim.wait("c")) == (b"bye\n", 3)


async def test_a_container_that_ignores_sigterm_ends_by_sigkill(shim: Shim) -> None:
    await shim.run("c", "sh", "-c", "trap 'echo no' TERM; echo up; while :; do sleep 0.01; done")
    await shim.read_until(b"up\n", "c")
    await shim.signal(signal.SIGTERM, "c")
    await shim.read_until(b"no\n", "c")
    await shim.signal(signal.SIGKILL, "c")
    assert await shim.wait("c") == 128 + signal.SIGKILL


async def test_a_signal_without_process_reaches_every_process_of_the_container(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    await shim.exec("c", "e", "sh", "-c", "trap 'echo heard; exit 0' USR1; echo up; while :; do sleep 0.01; done")
    await shim.read_until(b"up\n", "c", "e")
    await shim.signal(signal.SIGUSR1, "c")
    assert await shim.read("c", "e") == b"heard\n"


async def test_a_signal_to_one_process_leaves_its_container_alone(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    await shim.exec("c", "e", "sleep", "600")
    await shim.signal(signal.SIGTERM, "c", "e")
    assert await shim.wait("c", "e") == 128 + signal.SIGTERM
    assert (await shim.executed("c", "echo", "alive", name="f"))[0] == "alive\n"


async def test_a_signal_before_the_start_ends_a_container_for_good(shim: Shim) -> None:
    await shim.create("c", "sleep", "600")
    await shim.signal(signal.SIGTERM, "c")
    assert await shim.wait("c") == 128 + signal.SIGKILL
    with pytest.raises(StatusError) as refused:
        await shim.start("c")
    assert refused.value.code == Code.INTERNAL


async def test_signals_that_race_with_the_making_of_a_container_do_no_harm(shim: Shim) -> None:
    making = asyncio.create_task(shim.create("c", "sleep", "600"))
    codes = set()
    while not making.done():
        try:
            await shim.signal(signal.SIGWINCH, "c")
        except StatusError as error:
            codes.add(error.code)
    await making
    assert codes <= {Code.INVALID_ARGUMENT}
    await shim.start("c")
    assert (await shim.executed("c", "echo", "alive"))[0] == "alive\n"


async def test_a_stopped_container_stands_still_until_it_is_resumed(shim: Shim, vm: Vm) -> None:
    await shim.run("c", "sleep", "600")
    await shim.do("PauseContainer", agent_pb2.ContainerRequest(container_id="c"))
    eventually(lambda: " stopped" in " ".join(vm.processes()), "the kernel stops it")
    await shim.do("ResumeContainer", agent_pb2.ContainerRequest(container_id="c"))
    eventually(lambda: " stopped" not in " ".join(vm.processes()), "the kernel resumes it")


async def test_removing_a_container_kills_it_and_may_be_repeated(shim: Shim, vm: Vm) -> None:
    before = vm.traces()
    await shim.run("c", "sh", "-c", "sleep 600 & sleep 600 & echo up; wait")
    await shim.read_until(b"up\n", "c")
    await asyncio.gather(*(shim.remove("c") for _ in range(4)))
    await shim.remove("c")
    assert vm.traces() == before


async def test_a_removed_container_ends_the_calls_that_wait_for_it(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    await shim.exec("c", "e", "sleep", "600")
    reads = [asyncio.create_task(shim.read_some("c", exec_id)) for exec_id in ("", "e")]
    waits = [asyncio.create_task(shim.wait("c", exec_id)) for exec_id in ("", "e")]
    await shim.call("Check", agent_pb2.CheckRequest(), agent_pb2.HealthCheckResponse)  # the calls have arrived
    await shim.remove("c")
    assert await asyncio.gather(*waits) == [128 + signal.SIGKILL] * 2
    assert await asyncio.gather(*reads) == [b"", b""]


async def test_an_id_is_given_once_and_again_after_removal(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    with pytest.raises(StatusError, match="exists already"):
        await shim.create("c", "sleep", "600")
    assert (await shim.executed("c", "echo", "alive"))[0] == "alive\n"
    await shim.remove("c")
    await shim.run("c", "sh", "-c", "exit 4")
    assert await shim.wait("c") == 4


async def test_an_id_that_is_no_file_name_is_refused(shim: Shim) -> None:
    for id in ("", "..", "a/b", "x" * 77):
        with pytest.raises(StatusError) as refused:
            await shim.create(id, "sleep", "600")
        assert refused.value.code == Code.INVALID_ARGUMENT


async def test_unknown_containers_and_processes_are_told_apart(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    for call in (shim.wait, shim.read, shim.close_stdin):
        with pytest.raises(StatusError) as unknown_process:
            await call("c", "nobody")
        with pytest.raises(StatusError) as unknown_container:
            await call("nowhere", "nobody")
        assert (unknown_process.value.code, unknown_container.value.code) == (Code.NOT_FOUND, Code.INVALID_ARGUMENT)
    with pytest.raises(StatusError) as unknown_process:
        await shim.signal(9, "c", "nobody")
    assert unknown_process.value.code == Code.NOT_FOUND
    for deed in (shim.start("nowhere"), shim.remove("nowhere"), shim.exec("nowhere", "e", "true")):
        with pytest.raises(StatusError) as unknown_container:
            await deed
        assert unknown_container.value.code == Code.INVALID_ARGUMENT


async def test_a_method_the_agent_does_not_have_is_unimplemented(shim: Shim) -> None:
    with pytest.raises(StatusError) as refused:
        await shim.do("UpdateInterface", agent_pb2.Empty())
    assert refused.value.code == Code.UNIMPLEMENTED


async def test_a_signal_that_does_not_exist_is_refused(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    with pytest.raises(StatusError) as refused:
        await shim.signal(99, "c")
    assert refused.value.code == Code.INVALID_ARGUMENT


async def test_a_missing_command_fails_the_container_in_the_runtimes_words(shim: Shim, vm: Vm) -> None:
    before = vm.traces()
    with pytest.raises(StatusError, match=r"crun create: executable file `no-such-program` not found") as refused:
        await shim.create("c", "no-such-program")
    assert refused.value.code == Code.INTERNAL
    assert vm.traces() == before
    await shim.run("c", "true")  # the id is free
    assert await shim.wait("c") == 0


async def test_a_mount_of_something_that_is_not_there_fails_the_container_in_the_runtimes_words(shim: Shim) -> None:
    ghost = agent_pb2.Mount(destination="/data", source="/run/nothing-here", type="bind", options=["rbind"])
    with pytest.raises(StatusError, match="nothing-here"):
        await shim.create("c", "true", mounts=[ghost])


async def test_a_storage_of_a_kind_the_agent_does_not_have_is_refused_with_what_to_do(shim: Shim, vm: Vm) -> None:
    before = vm.traces()
    request = container_request("c", process("true"))
    request.storages.add(driver="blk", mount_point="/run/kata-containers/sandbox/disk")
    with pytest.raises(StatusError, match=r"no driver 'blk'.*kata-agent") as refused:
        await shim.do("CreateContainer", request)
    assert refused.value.code == Code.INTERNAL
    assert vm.traces() == before


async def test_a_client_that_goes_away_leaves_a_whole_container_or_none(shim: Shim, vm: Vm) -> None:
    impatient = await Shim.connect(vm.socket)
    making = asyncio.create_task(impatient.create("c", "sleep", "600"))
    await impatient.call("Check", agent_pb2.CheckRequest(), agent_pb2.HealthCheckResponse)
    await impatient.client.aclose()
    with pytest.raises(StatusError):
        await making
    with pytest.raises(StatusError, match="exists already"):
        await shim.create("c", "true")
    await shim.remove("c")


async def test_destroying_twice_and_beginning_again_works(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    await asyncio.gather(shim.destroy_sandbox(), shim.destroy_sandbox())
    await shim.create_sandbox()
    await shim.run("c", "sh", "-c", "exit 5")
    assert await shim.wait("c") == 5


async def test_a_sandbox_destroyed_while_containers_are_made_and_run_leaves_nothing(shim: Shim) -> None:
    await shim.run("a", "sh", "-c", "sleep 600 & sleep 600")
    await shim.exec("a", "e", "sleep", "600")
    deeds = [asyncio.create_task(shim.run(id, "sleep", "600")) for id in ("b", "c")]
    deeds.append(asyncio.create_task(shim.exec("a", "f", "sleep", "600")))
    await shim.destroy_sandbox()
    await asyncio.gather(*deeds, return_exceptions=True)  # what came later than the end is the fixture's to destroy


async def test_sigterm_to_the_agent_leaves_nothing_of_a_running_pod(vm: Vm) -> None:
    shim = await Shim.connect(vm.socket)
    await shim.create_sandbox()
    await shim.run("c", "sh", "-c", "sleep 600 & sleep 600")
    await shim.copy("/run/kata-containers/shared/containers/c-hosts", b"127.0.0.1 localhost\n")
    assert vm.kill_agent(signal.SIGTERM) == 0
    assert sorted(vm.processes()) == ["sh", "sleep"]  # the VM's own
    assert list(vm.path("/run").iterdir()) in ([], [vm.path("/run/kata-containers")])
    assert not vm.path("/run/kata-containers/agent.sock").exists()
    with pytest.raises(StatusError):
        await shim.wait("c")
    await shim.client.aclose()
    vm.start_agent()


async def test_after_sigkill_the_next_agent_takes_everything_away(vm: Vm) -> None:
    shim, before = await Shim.connect(vm.socket), vm.pristine
    await shim.create_sandbox()
    await shim.run("c", "sh", "-c", "sleep 600 & sleep 600")
    await shim.copy("/run/kata-containers/shared/containers/c-hosts", b"127.0.0.1 localhost\n")
    eventually(lambda: vm.processes().count("sleep") == 3, "the container runs")
    vm.kill_agent(signal.SIGKILL)
    assert vm.processes().count("sleep") == 3
    await shim.client.aclose()
    vm.start_agent()
    eventually(lambda: vm.traces() == before, "the VM is as it was")  # its init reaps what was killed


def test_state_that_the_runtime_can_not_read_does_not_stop_the_next_agent(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    vm = Vm(tmp_path_factory.mktemp("broken") / "agent.log")
    try:
        vm.start_agent()
        vm.kill_agent(signal.SIGKILL)
        before = vm.pristine
        vm.path("/run/kata-containers/development-agent/runtime/broken").mkdir()
        vm.start_agent()
        assert vm.pristine == before
        assert "broken" in vm.log.read_text()
    finally:
        vm.close()


def test_two_agents_do_not_share_a_root(vm: Vm) -> None:
    status, log = vm.refused_agent()
    assert status == 1
    assert "another development agent works in /run/kata-containers" in log


def test_a_root_outside_of_run_is_refused(vm: Vm) -> None:
    status, log = vm.refused_agent("--root", "/tmp/x")
    assert status == 2
    assert "--root /tmp/x is not below /run" in log


def test_the_agent_is_light(vm: Vm) -> None:
    assert vm.resident() <= 30 * 1024
