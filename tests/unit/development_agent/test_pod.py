"""What a pod's containers find around them: files, mounts, namespaces, numbers; over the wire."""

import asyncio
import json
import shutil

import pytest

from adaptor.errors import Code, StatusError
from adaptor.protos import agent_pb2
from tests.unit.development_agent.shim import SHARED, Shim, container_request, mount, process
from tests.unit.development_agent.vm import Vm

pytestmark = pytest.mark.netns

MIB = 1 << 20


async def test_a_copied_file_is_what_its_container_reads(shim: Shim) -> None:
    data = bytes(range(256)) * (3 * MIB // 256)
    await shim.copy(f"{SHARED}/c-0123456789abcdef-data", data)
    bind = mount("/data", "bind", f"{SHARED}/c-0123456789abcdef-data", "rbind", "ro")
    await shim.run("c", "sh", "-c", "wc -c < /data; cat /data >&2", mounts=[bind])
    size, copied = await asyncio.gather(shim.read("c"), shim.read("c", stream="ReadStderr"))
    assert (int(size), copied) == (3 * MIB, data)


async def test_a_config_map_turned_to_a_new_revision_is_seen_inside(shim: Shim) -> None:
    config = f"{SHARED}/c-0123456789abcdef-config"

    async def revision(name: str, value: bytes) -> None:
        directory = agent_pb2.CopyFileRequest(path=f"{config}/..{name}", file_mode=0o040755, dir_mode=0x800001ED)
        await shim.do("CopyFile", directory)
        await shim.copy(f"{config}/..{name}/key", value)
        link = agent_pb2.CopyFileRequest(path=f"{config}/..data", file_mode=0o120777, data=f"..{name}".encode())
        await shim.do("CopyFile", link)

    await revision("one", b"old\n")
    key = agent_pb2.CopyFileRequest(path=f"{config}/key", file_mode=0o120777, data=b"..data/key")
    await shim.do("CopyFile", key)
    await shim.run("c", "sleep", "600", mounts=[mount("/config", "bind", config, "rbind", "ro")])
    assert await shim.executed("c", "cat", "/config/key") == ("old\n", 0)
    await revision("two", b"new\n")
    assert await shim.executed("c", "cat", "/config/key", name="f") == ("new\n", 0)


async def test_a_path_that_leaves_run_is_refused(shim: Shim, vm: Vm) -> None:
    link = agent_pb2.CopyFileRequest(path=f"{SHARED}/out", file_mode=0o120777, data=b"/etc")
    await shim.do("CopyFile", link)
    for path in ("/etc/evil", "/run/../etc/evil", f"{SHARED}/out/evil", "/run", "evil", "/runaway/evil"):
        with pytest.raises(StatusError) as refused:
            await shim.copy(path, b"evil")
        assert refused.value.code == Code.INVALID_ARGUMENT
    assert not vm.path("/etc/evil").exists()


async def test_the_agents_own_directory_is_out_of_reach(shim: Shim) -> None:
    for path in ("ledger", "./ledger", "runtime/c/config.json"):
        with pytest.raises(StatusError, match="the agent's own"):
            await shim.copy(f"/run/kata-containers/development-agent/{path}", b"/etc\n")


async def test_programs_come_from_the_machine_and_can_not_be_changed(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    assert (await shim.executed("c", "touch", "/usr/bin/evil"))[1] != 0
    output, status = await shim.executed("c", "sh", "-c", "echo x > /tmp/a && echo x > /a && ls /home", name="f")
    assert (output, status) == ("", 0)


async def test_a_containers_root_is_its_own_and_may_be_read_only(shim: Shim) -> None:
    await shim.run("a", "sh", "-c", "echo x > /mine; sleep 600")
    request = container_request("b", process("sh", "-c", "test -e /mine; echo $?; touch /mine; echo $?"))
    request.oci.root.readonly = True
    await shim.do("CreateContainer", request)
    await shim.start("b")
    assert await shim.read("b") == b"1\n1\n"


async def test_containers_share_host_name_memory_and_queues_but_no_processes(shim: Shim, vm: Vm) -> None:
    host = vm.run("hostname")
    await shim.run("a", "sh", "-c", "echo x > /dev/shm/shared; ipcmk -Q >/dev/null; echo up; sleep 600")
    await shim.read_until(b"up\n", "a")
    await shim.run("b", "sh", "-c", "hostname; cat /dev/shm/shared; ipcs -q | grep -c 0x; cat /proc/1/comm")
    assert (await shim.read("b")).split() == [b"gp", b"x", b"1", b"sh"]
    assert vm.run("hostname") == host


async def test_a_pod_that_shares_processes_shares_those_of_the_pause_container(shim: Shim) -> None:
    requests = [
        container_request("p", process("/pause"), image="pause"),
        container_request("a", process("sleep", "600")),
        container_request("b", process("sh", "-c", "cat /proc/[0-9]*/comm")),
    ]
    for request in requests:
        request.sandbox_pidns = True
        await shim.do("CreateContainer", request)
        await shim.start(request.container_id)
    assert (await shim.read("b")).split().count(b"sleep") == 2
    await shim.exec("a", "e", "sleep", "600")
    await shim.signal(15, "a")  # not the pause container's sleep, nor b's
    assert [*await asyncio.gather(shim.wait("a"), shim.wait("a", "e"))] == [128 + 15] * 2
    await shim.remove("a")
    assert (await shim.executed("p", "cat", "/proc/1/comm"))[0] == "sleep\n"


async def test_the_network_is_the_machines(shim: Shim, vm: Vm) -> None:
    vm.run("ip", "link", "add", "pod0", "type", "veth", "peer", "name", "pod1")
    await shim.run("c", "cat", "/proc/net/dev")
    assert b"pod0" in await shim.read("c")
    networks = (await shim.stats("c")).network_stats
    assert "pod0" in [network.name for network in networks]
    vm.run("ip", "link", "del", "pod0")


async def test_a_sysctl_of_the_pods_network_is_set_and_one_of_the_machine_is_not(shim: Shim, vm: Vm) -> None:
    request = container_request("c", process("cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"))
    request.oci.linux.sysctl["net.ipv4.ip_unprivileged_port_start"] = "99"
    request.oci.linux.sysctl["vm.swappiness"] = "1"
    before = vm.run("cat", "/proc/sys/vm/swappiness")
    await shim.do("CreateContainer", request)
    await shim.start("c")
    assert await shim.read("c") == b"99\n"
    assert vm.run("cat", "/proc/sys/vm/swappiness") == before


async def test_volumes_of_the_pod_survive_a_containers_restart(shim: Shim, vm: Vm) -> None:
    place = f"{SHARED}/pause/rootfs/local/cache"
    for id, script in (("a", "echo kept > /cache/file"), ("b", "cat /cache/file; stat -c %a /cache")):
        request = container_request(id, process("sh", "-c", script), mount("/cache", "bind", place, "rbind"))
        request.storages.add(driver="local", source="local", fstype="local", options=["mode=0777"], mount_point=place)
        await shim.do("CreateContainer", request)
        await shim.start(id)
        assert await shim.wait(id) == 0
        if id == "a":
            await shim.remove("a")
    assert await shim.read("b") == b"kept\n777\n"


async def test_what_a_container_leaves_in_a_volume_goes_with_the_pod_however_deep(shim: Shim) -> None:
    place = f"{SHARED}/pause/rootfs/local/deep"
    script = "path=/v/$(printf 'd/%.0s' $(seq 1500)); mkdir -p $path && touch $path/end"
    request = container_request("c", process("sh", "-c", script), mount("/v", "bind", place, "rbind"))
    request.storages.add(driver="local", mount_point=place)
    await shim.do("CreateContainer", request)
    await shim.start("c")
    assert await shim.wait("c") == 0  # the fixture sees that nothing is left


async def test_usage_is_counted_over_all_processes(shim: Shim) -> None:
    await shim.run("c", "sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; sleep 600")
    await shim.read_until(b"done\n", "c")
    await shim.exec("c", "e", "sleep", "600")
    found = (await shim.stats("c")).cgroup_stats
    assert found.cpu_stats.cpu_usage.total_usage >= 10_000_000
    assert found.memory_stats.usage.usage > 1 << 18
    assert found.memory_stats.usage.limit == 134217728
    assert found.pids_stats.current == 3


async def test_an_update_of_the_memory_limit_is_accepted_and_reported(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    memory = agent_pb2.LinuxResources(memory=agent_pb2.LinuxMemory(limit=1 << 30))
    await shim.do("UpdateContainer", agent_pb2.UpdateContainerRequest(container_id="c", resources=memory))
    assert (await shim.stats("c")).cgroup_stats.memory_stats.usage.limit == 1 << 30


async def test_a_containers_last_words_are_told(shim: Shim) -> None:
    source = f"{SHARED}/c-0123456789abcdef-termination-log"
    await shim.copy(source, b"")
    request = container_request(
        "c",
        process("sh", "-c", "echo because > /dev/termination-log"),
        mount("/dev/termination-log", "bind", source, "rbind"),
    )
    await shim.do("CreateContainer", request)
    await shim.start("c")
    await shim.wait("c")
    asked = agent_pb2.GetDiagnosticDataRequest(log_type="termination_log", container_id="c")
    assert (await shim.call("GetDiagnosticData", asked, agent_pb2.GetDiagnosticDataResponse)).data == "because\n"


async def test_last_words_may_lie_in_the_containers_own_files(shim: Shim) -> None:
    asked = agent_pb2.GetDiagnosticDataRequest(log_type="termination_log", container_id="c")
    request = container_request("c", process("sh", "-c", "read go; echo $go > /tmp/why; ln -s /tmp/why /tmp/link"))
    request.oci.annotations["io.kubernetes.container.terminationMessagePath"] = "/tmp/why"
    await shim.do("CreateContainer", request)
    assert (await shim.call("GetDiagnosticData", asked, agent_pb2.GetDiagnosticDataResponse)).data == ""
    await shim.start("c")
    await shim.write("c", b"oops\n")
    await shim.wait("c")
    assert (await shim.call("GetDiagnosticData", asked, agent_pb2.GetDiagnosticDataResponse)).data == "oops\n"


async def test_metrics_are_prometheus_text(shim: Shim) -> None:
    text = (await shim.call("GetMetrics", agent_pb2.Empty(), agent_pb2.Metrics)).metrics
    samples = dict(line.split() for line in text.splitlines() if not line.startswith("#"))
    assert float(samples["kata_agent_total_rss"]) > 1 << 20


async def test_what_is_left_out_is_said_once(shim: Shim, vm: Vm) -> None:
    for id in ("a", "b"):
        run = process("true")
        run.oom_score_adj = -998
        run.rlimits.add(type="RLIMIT_NOFILE", hard=1 << 40, soft=1 << 40)
        await shim.do("CreateContainer", container_request(id, run))
    lines = [json.loads(line) for line in vm.log.read_text().splitlines() if '"what"' in line]
    said = [line["what"] for line in lines]
    assert said.count("an oom_score_adj below the agent's own") == 1
    assert any("IMAGES ARE NOT PULLED" in line for line in vm.log.read_text().splitlines())


async def test_a_policy_is_stored_without_a_word_of_it_in_the_log(shim: Shim, vm: Vm) -> None:
    await shim.do("SetPolicy", agent_pb2.SetPolicyRequest(policy="default TopSecret := true"))
    assert '"characters":25' in vm.log.read_text()
    assert "TopSecret" not in vm.log.read_text()


async def test_in_a_user_namespace_with_one_id_containers_run_as_root_and_a_warning_says_so(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    vm = Vm(tmp_path_factory.mktemp("restricted") / "agent.log", restricted=True)
    try:
        vm.start_agent()
        shim = await Shim.connect(vm.socket)
        await shim.create_sandbox()
        await shim.copy(f"{SHARED}/c-data", b"data\n")
        run = process("sh", "-c", "id -u; cat /data; echo x > /dev/null; tty", uid=1000, groups=[7], terminal=True)
        await shim.do(
            "CreateContainer", container_request("c", run, mount("/data", "bind", f"{SHARED}/c-data", "rbind"))
        )
        await shim.start("c")
        assert (await shim.read("c")).split() == [b"0", b"data", b"/dev/pts/0"]
        assert "user 1000:1000, which this VM's user namespace does not have" in vm.log.read_text()
        await shim.destroy_sandbox()
        vm.check_pristine()
        await shim.client.aclose()
    finally:
        vm.close()


@pytest.mark.skipif(not shutil.which("runc"), reason="runc is not installed")
async def test_runc_serves_as_well_as_crun(tmp_path_factory: pytest.TempPathFactory) -> None:
    vm = Vm(tmp_path_factory.mktemp("runc") / "agent.log")
    try:
        vm.start_agent("--runtime", "runc")
        shim = await Shim.connect(vm.socket)
        await shim.create_sandbox()
        await shim.run("runc-c", "sh", "-c", "echo up; exec sleep 600")
        assert await shim.read_some("runc-c") == b"up\n"
        assert await shim.executed("runc-c", "sh", "-c", "echo hello; exit 7") == ("hello\n", 7)
        await shim.exec("runc-c", "t", "tty", terminal=True)
        assert await shim.read("runc-c", "t") == b"/dev/pts/0\r\n"
        with pytest.raises(StatusError, match=r"runc exec: .*nothing.* not found"):
            await shim.exec("runc-c", "n", "nothing")
        await shim.destroy_sandbox()
        vm.check_pristine()
        assert not vm.run("find", "/sys/fs/cgroup", "-name", "runc-c")
        await shim.client.aclose()
    finally:
        vm.close()
