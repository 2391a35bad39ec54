"""Nothing of a simulated cloud outlives it, however it ends; and it needs no more privileges than a namespace gives."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.simcloud.command import COMMAND, REPOSITORY, commanded, environment
from tests.unit.simcloud.ec2_client import Account, eventually
from tests.unit.simcloud.networks import in_own_network, links, processes
from tests.unit.simcloud.test_namespace import PROGRAM, all_of, cloud_of, places, tell

pytestmark = pytest.mark.netns

NAMESPACES = ("--instances", "namespace", "--rate-limits", "off")


def marked(tmp_path: Path) -> tuple[str, ...]:
    """Options for instances whose every process has this test's directory on its command line."""
    return (*NAMESPACES, "--program", f"{sys.executable} -S {PROGRAM} {tmp_path}")


def mounts() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if "/cni-" not in line]  # pods of tests that run beside this one


def launch_some(account: Account) -> list[str]:
    answer = account.ec2.run_instances(**account.request(MinCount=6, MaxCount=6))
    return [instance["InstanceId"] for instance in answer["Instances"]]


def gone(tmp_path: Path) -> bool:
    return links() == [] and not processes(str(tmp_path))


@in_own_network
def test_a_killed_cloud_leaves_nothing_of_instances_that_run(tmp_path: Path) -> None:
    mounted = mounts()
    with commanded(*marked(tmp_path), log=tmp_path / "log") as (process, account):
        launch_some(account)
        for n in range(6):
            tell(f"172.31.0.{5 + n}", f"spawn {tmp_path}")
        all_of(18, tmp_path)  # unshare, program and daemon of each
        assert links() == ["sim-172-31"]
        process.kill()
        process.wait()
        eventually(lambda: gone(tmp_path))
    assert mounts() == mounted


@in_own_network
@pytest.mark.parametrize("moment", [0.0, 0.03, 0.1])
def test_a_killed_cloud_leaves_nothing_of_instances_that_boot(tmp_path: Path, moment: float) -> None:
    delay = ("--boot-delay", f"{moment}s±{moment}s")
    with commanded(*marked(tmp_path), *delay, log=tmp_path / "log") as (process, account):
        launch_some(account)
        process.kill()
        process.wait()
        eventually(lambda: gone(tmp_path))


@in_own_network
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_cloud_told_to_end_ends_well_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    with commanded(*marked(tmp_path), log=tmp_path / "log") as (process, account):
        launch_some(account)
        tell("172.31.0.5", "peer")
        process.send_signal(number)
        assert process.wait(timeout=20) == 0
        assert gone(tmp_path)
    assert (tmp_path / "log").read_text() == ""


@in_own_network
def test_whoever_kills_an_instances_init_from_outside_ends_that_instance_only(tmp_path: Path) -> None:
    with cloud_of() as account:
        one, other = account.run(), account.run()
        for launched in (one, other):
            tell(launched["PrivateIpAddress"], "peer")
        (unshare,) = (pid for pid in processes(one["InstanceId"]) if _name(pid) == "unshare")
        os.kill(unshare, signal.SIGKILL)
        account.becomes(one["InstanceId"], "stopped")
        tell(other["PrivateIpAddress"], "peer")


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def as_a_user() -> None:
    """Runs in a user namespace: boots two instances and prints what they see."""
    with cloud_of() as account:
        addresses = [account.run(UserData="hello")["PrivateIpAddress"] for _ in range(2)]
        facts = [tell(address, "facts") for address in addresses]
        reached = tell(addresses[0], f"reach {addresses[1]}:7000")
        account.terminate(account.ids()[0])
    print(json.dumps({"facts": facts, "reached": reached, "left": links()}))


def test_it_works_in_a_user_namespace() -> None:
    inside = "from tests.unit.simcloud.test_leftovers import as_a_user; as_a_user()"
    answer = subprocess.run(
        ["unshare", "-Urnm", sys.executable, "-c", inside],
        cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    seen = json.loads(answer.stdout)
    for facts in seen["facts"]:
        assert (facts["user_data"], facts["pid"], facts["links"]) == ("hello", 1, ["eth0", "lo"])
        assert facts["places"] == places()
        assert facts["hostname"].startswith("ip-172-31-0-")
    assert (seen["reached"], seen["left"]) == ("172.31.0.6", [])


@pytest.mark.parametrize("lacking", ["sys_admin", "net_admin"])
def test_without_privileges_it_says_what_to_do(lacking: str) -> None:
    unprivileged = ["setpriv", f"--bounding-set=-{lacking}", f"--inh-caps=-{lacking}"]
    answer = subprocess.run(
        [*unprivileged, *COMMAND, *NAMESPACES],
        cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert answer.returncode == 1
    assert "peerpods demo" in answer.stderr
    assert "--instances api-only" in answer.stderr
    assert "Traceback" not in answer.stderr
