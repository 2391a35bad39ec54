"""A Spec becomes a config.json that fits the machine."""

from dataclasses import replace
from typing import Final

from adaptor.protos import agent_pb2
from podvm_images.guest.development_agent import bundle, machine
from podvm_images.guest.development_agent.machine import Machine
from tests.unit.development_agent.shim import ENVIRONMENT, container_request, mount, process

ROOMY: Final = Machine(
    capabilities=frozenset(machine.CAPABILITIES),
    hard_limits={},
    oom_score_adj=0,
    uids=(range((1 << 32) - 1),),
    gids=(range((1 << 32) - 1),),
    groups=True,
    sysfs=True,
)
NARROW: Final = replace(ROOMY, uids=(range(1),), gids=(range(1),), groups=False, sysfs=False)

SPEC: Final = container_request("c", process("sleep", "600", uid=1000, groups=[1000, 7])).oci


def test_what_the_shim_asks_for_is_what_runs() -> None:
    made = bundle.container(SPEC, ROOMY)
    assert made.config["ociVersion"] == "1.0.2-dev"
    assert made.config["root"] == {"path": "/run/kata-containers/c/rootfs", "readonly": False}
    run = made.config["process"]
    assert (run["args"], run["env"], run["cwd"]) == (["sleep", "600"], list(ENVIRONMENT), "/")
    assert run["user"] == {"uid": 1000, "gid": 1000, "additionalGids": [7]}
    assert "CAP_KILL" in run["capabilities"]["bounding"]
    assert run["oomScoreAdj"] == 1000
    assert made.config["linux"]["maskedPaths"] == ["/proc/kcore"]
    assert made.config["linux"]["readonlyPaths"] == ["/proc/sys"]
    assert made.omissions == ()


def test_only_mounts_and_processes_are_the_containers_own() -> None:
    config = bundle.container(SPEC, ROOMY).config
    assert config["linux"]["namespaces"] == [{"type": "mount"}, {"type": "pid"}]
    assert "hostname" not in config
    assert not {"resources", "cgroupsPath", "sysctl"} & config["linux"].keys()


def test_a_pid_namespace_to_share_is_joined() -> None:
    config = bundle.container(SPEC, ROOMY, pid_namespace="/proc/7/ns/pid").config
    assert {"type": "pid", "path": "/proc/7/ns/pid"} in config["linux"]["namespaces"]


def test_a_network_namespace_is_joined_by_its_path_and_none_is_made() -> None:
    spec = agent_pb2.Spec()
    spec.CopyFrom(SPEC)
    spec.linux.namespaces.add(type="network")
    assert bundle.container(spec, ROOMY).config == bundle.container(SPEC, ROOMY).config
    spec.linux.namespaces[-1].path = "/run/netns/podns"
    made = bundle.container(spec, ROOMY)
    assert made.config["linux"]["namespaces"][2:] == [{"type": "network", "path": "/run/netns/podns"}]
    assert made.network == "/run/netns/podns"


def test_annotations_do_not_reach_the_runtime_for_it_would_obey_some() -> None:
    spec = agent_pb2.Spec()
    spec.CopyFrom(SPEC)
    spec.annotations["run.oci.hooks.stdout"] = "/etc/passwd"
    assert "annotations" not in bundle.container(spec, ROOMY).config


def test_the_pause_container_waits_whatever_its_image_would_run() -> None:
    assert bundle.container(SPEC, ROOMY, pause=True).config["process"]["args"] == ["sleep", "infinity"]


def test_cgroup_mounts_and_repeated_mounts_are_dropped() -> None:
    targets = [one["destination"] for one in bundle.container(SPEC, ROOMY).config["mounts"]]
    assert targets == ["/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/dev/shm"]


def test_two_different_mounts_on_one_place_both_stay() -> None:
    spec = agent_pb2.Spec(mounts=[mount("/a", "tmpfs", "tmpfs"), mount("/a", "bind", "/b", "rbind")])
    assert len(bundle.container(spec, ROOMY).config["mounts"]) == 2


def test_a_narrow_machine_runs_everything_as_its_only_user_and_says_so() -> None:
    made = bundle.container(SPEC, NARROW)
    assert made.config["process"]["user"] == {"uid": 0, "gid": 0}
    assert any("user 1000:1000" in sentence for sentence in made.omissions)


def test_root_keeps_its_place_on_a_narrow_machine_without_its_groups() -> None:
    spec = agent_pb2.Spec(process=process("id", groups=[0, 7]))
    made = bundle.container(spec, NARROW)
    assert made.config["process"]["user"] == {"uid": 0, "gid": 0, "additionalGids": []}
    assert made.omissions == ("supplementary groups that this VM's user namespace does not have",)


def test_mounts_that_a_narrow_machine_would_refuse_are_fitted() -> None:
    mounts = {one["destination"]: one for one in bundle.container(SPEC, NARROW).config["mounts"]}
    assert "/sys" not in mounts
    assert mounts["/dev/pts"]["options"] == ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]


def test_options_that_only_look_like_ids_stay() -> None:
    spec = agent_pb2.Spec(mounts=[mount("/a", "tmpfs", "tmpfs", "size=5", "gid=five", "uid=0", "uid=9")])
    assert bundle.container(spec, NARROW).config["mounts"][0]["options"] == ["size=5", "gid=five", "uid=0"]


def test_limits_above_the_machines_are_dropped_and_others_kept() -> None:
    spec = agent_pb2.Spec(process=process("x"))
    spec.process.rlimits.add(type="RLIMIT_NOFILE", hard=1024, soft=512)
    spec.process.rlimits.add(type="RLIMIT_CORE", hard=1, soft=1)
    spec.process.rlimits.add(type="RLIMIT_FSIZE", hard=(1 << 64) - 1, soft=(1 << 64) - 1)
    made = bundle.container(spec, replace(ROOMY, hard_limits={"RLIMIT_NOFILE": 1024, "RLIMIT_CORE": 0}))
    assert [limit["type"] for limit in made.config["process"]["rlimits"]] == ["RLIMIT_NOFILE", "RLIMIT_FSIZE"]
    assert made.omissions == ("RLIMIT_CORE above the VM's own hard limit",)


def test_capabilities_the_machine_lacks_are_dropped_from_every_set() -> None:
    spec = agent_pb2.Spec(process=process("x"))
    spec.process.capabilities.bounding.append("CAP_SYS_RESOURCE")
    made = bundle.container(spec, replace(ROOMY, capabilities=ROOMY.capabilities - {"CAP_SYS_RESOURCE", "CAP_KILL"}))
    for names in made.config["process"]["capabilities"].values():
        assert not {"CAP_SYS_RESOURCE", "CAP_KILL"} & set(names)
    assert [sentence.partition(",")[0] for sentence in made.omissions] == ["CAP_KILL", "CAP_SYS_RESOURCE"]


def test_an_oom_score_is_never_lowered() -> None:
    run = agent_pb2.Process(oom_score_adj=-998)
    made = bundle.container(agent_pb2.Spec(process=run), ROOMY)
    assert "oomScoreAdj" not in made.config["process"]
    assert made.omissions == ("an oom_score_adj below the agent's own",)


def test_a_process_without_capabilities_says_nothing_of_them_so_that_its_container_decides() -> None:
    assert "capabilities" not in bundle.process(agent_pb2.Process(args=["x"]), ROOMY, [])


def test_a_console_size_is_for_terminals() -> None:
    size = agent_pb2.Box(height=24, width=80)
    with_terminal = bundle.process(agent_pb2.Process(terminal=True, console_size=size), ROOMY, [])
    without = bundle.process(agent_pb2.Process(console_size=size), ROOMY, [])
    assert with_terminal["consoleSize"] == {"height": 24, "width": 80}
    assert "consoleSize" not in without


def test_sysctls_of_the_pod_are_handed_out_and_the_machines_refused() -> None:
    spec = agent_pb2.Spec()
    for name in ("net.ipv4.ping_group_range", "kernel.shmmax", "kernel.core_pattern", "net/../kernel/core_pattern"):
        spec.linux.sysctl[name] = "1"
    made = bundle.container(spec, ROOMY)
    assert dict(made.sysctls) == {"net.ipv4.ping_group_range": "1", "kernel.shmmax": "1"}
    assert len(made.omissions) == 2


def test_an_empty_spec_makes_a_config_too() -> None:
    made = bundle.container(agent_pb2.Spec(), ROOMY)
    assert (made.config["process"]["cwd"], made.config["ociVersion"]) == ("/", "1.0.2")


def test_capability_masks_are_read_by_the_kernels_numbers() -> None:
    assert machine.capabilities_in(0b1) == {"CAP_CHOWN"}
    assert machine.capabilities_in(1 << 24 | 1 << 40) == {"CAP_SYS_RESOURCE", "CAP_CHECKPOINT_RESTORE"}


def test_id_maps_are_read_as_what_exists_inside() -> None:
    assert machine.ranges_of("         0          0 4294967295\n") == (range(4294967295),)
    assert machine.ranges_of("0 1000 1\n1 100000 65536\n") == (range(1), range(1, 65537))
