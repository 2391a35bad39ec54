"""The README's first command."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.netns


def demo(*before: str) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-m", "adaptor", "demo", "--plain", "--boot-delay", "0.5s"]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def test_the_demo_plays_a_pod_and_proves_that_nothing_is_left() -> None:
    ended = demo()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "One pod, one VM, nothing left behind." in ended.stdout
    for phase in ("CreateVM", "StartVM", "logs", "exec with exit code", "exec with a terminal", "StopVM"):
        assert f"ok   {phase}" in ended.stdout
    assert "10.244.1.2, in its VM: " in ended.stdout
    assert "169.254.169.254: Network is unreachable" in ended.stdout
    assert ended.stdout.count("none left") == 13
    assert ended.stderr == ""


def test_an_ordinary_user_can_run_it_in_a_user_namespace() -> None:
    """`unshare --user` without a mapping to root is what the demo itself does for such a user; here it comes first."""
    ended = demo("unshare", "--user", "--map-user=1000", "--map-group=1000")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "One pod, one VM, nothing left behind." in ended.stdout


def test_a_kernel_that_refuses_namespaces_is_told_with_what_to_do() -> None:
    forbid = f"echo 0 > /proc/sys/user/max_net_namespaces && exec {sys.executable} -m adaptor demo --plain"
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", forbid]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "the kernel refuses them" in ended.stderr
    assert "sysctl user.max_net_namespaces=10000" in ended.stderr
    assert "Traceback" not in ended.stderr
