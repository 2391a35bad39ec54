"""The stand-in under a policy: what its defaults refuse is refused as kata-agent does it, over the wire."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptor.errors import Code, StatusError
from tests.unit.development_agent.shim import Shim
from tests.unit.development_agent.vm import REPO, Vm

pytestmark = pytest.mark.netns

POLICY = str(REPO / "podvm_images/image/files/common/etc/podvm/policy.rego")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Vm]:
    machine = Vm(tmp_path / "agent.log")
    yield machine
    machine.close()


async def test_under_the_images_policy_a_pod_lives_and_speaks_and_nobody_gets_in(machine: Vm) -> None:
    machine.start_agent("--policy", "/run/peerpod/policy.rego", "--policy", POLICY)
    shim = await Shim.connect(machine.socket)
    await shim.create_sandbox()
    await shim.run("c", "sh", "-c", "echo hello")
    assert await shim.read("c") == b"hello\n"
    with pytest.raises(StatusError, match="ExecProcessRequest is blocked by policy") as refused:
        await shim.executed("c", "id")
    assert refused.value.code == Code.PERMISSION_DENIED
    await shim.destroy_sandbox()
    await shim.client.aclose()


async def test_a_policy_out_of_initdata_takes_the_images_place(machine: Vm) -> None:
    brought = machine.path("/run/peerpod")
    brought.mkdir()
    (brought / "policy.rego").write_text(
        Path(POLICY).read_text().replace("ExecProcessRequest := false", "ExecProcessRequest := true")
    )
    machine.start_agent("--policy", "/run/peerpod/policy.rego", "--policy", POLICY)
    shim = await Shim.connect(machine.socket)
    await shim.create_sandbox()
    await shim.run("c", "sleep", "600")
    assert (await shim.executed("c", "echo", "in"))[0] == "in\n"
    await shim.destroy_sandbox()
    await shim.client.aclose()


def test_a_policy_that_cannot_be_read_is_no_leave_to_go_without(machine: Vm) -> None:
    status, said = machine.refused_agent("--policy", "/nonexistent/policy.rego")
    assert status == 1
    assert "/nonexistent/policy.rego" in said
