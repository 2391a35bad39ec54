"""The policy that images bring: every request of the agent is decided on purpose."""

import re
import tomllib
from pathlib import Path

import pytest

from adaptor.protos import agent_pb2
from podvm_images.guest.development_agent import defaults

FILES = Path(__file__).parents[3] / "podvm_images/image/files/common/etc/podvm"
POLICY = (FILES / "policy.rego").read_text()

# The requests that kata-agent asks its policy about (kata-containers 7c6ba40c): its agent.proto's messages, and what
# its own example policies name besides.
REQUESTS = """
AddARPNeighborsRequest AddSwapPathRequest AddSwapRequest CloseStdinRequest CopyFileRequest CreateContainerRequest
CreateSandboxRequest DestroySandboxRequest ExecProcessRequest GetDiagnosticDataRequest GetIPTablesRequest
GetMetricsRequest GetOOMEventRequest GuestDetailsRequest ListInterfacesRequest ListRoutesRequest MemAgentCompactConfig
MemAgentMemcgConfig MemHotplugByProbeRequest OnlineCPUMemRequest PauseContainerRequest PullImageRequest
ReadStreamRequest RemoveContainerRequest RemoveStaleVirtiofsShareMountsRequest ReseedRandomDevRequest
ResizeVolumeRequest ResumeContainerRequest SetGuestDateTimeRequest SetIPTablesRequest SetPolicyRequest
SignalProcessRequest StartContainerRequest StartTracingRequest StatsContainerRequest StopTracingRequest
TtyWinResizeRequest UpdateContainerRequest UpdateEphemeralMountsRequest UpdateInterfaceRequest UpdateRoutesRequest
VolumeStatsRequest WaitProcessRequest WriteStreamRequest
""".split()  # noqa: SIM905 - one name a line would take a screen
REFUSED = {
    "AddSwapPathRequest", "AddSwapRequest", "ExecProcessRequest", "GetIPTablesRequest", "MemAgentCompactConfig",
    "MemAgentMemcgConfig", "MemHotplugByProbeRequest", "ResizeVolumeRequest", "SetIPTablesRequest", "SetPolicyRequest",
    "StartTracingRequest", "StopTracingRequest", "WriteStreamRequest",
}  # fmt: skip


def test_every_request_is_allowed_or_refused_on_purpose_and_once() -> None:
    decided = re.findall(r"^default (\w+) := (true|false)", POLICY, re.MULTILINE)
    assert sorted(name for name, _ in decided) == sorted(REQUESTS)
    assert {name for name, allowed in decided if allowed == "false"} == REFUSED


def test_it_is_the_agents_package_and_holds_nothing_but_defaults() -> None:
    assert "\npackage agent_policy\n" in POLICY
    assert "AllowRequestsFailingPolicy" not in POLICY
    assert defaults.read(POLICY).beyond == 0


@pytest.mark.parametrize(
    "call", [method.name for method in agent_pb2.DESCRIPTOR.services_by_name["AgentService"].methods]
)
def test_the_stand_in_finds_every_call_of_ours_in_it(call: str) -> None:
    assert defaults.rule(call) in REQUESTS
    assert defaults.read(POLICY).allows(call) is (defaults.rule(call) not in REFUSED)


def test_a_call_that_a_policy_does_not_name_is_refused() -> None:
    assert not defaults.read("package agent_policy\n").allows("CreateSandbox")


def test_rules_beyond_defaults_are_counted_and_never_allow() -> None:
    policy = "package agent_policy\ndefault ExecProcessRequest := false\nExecProcessRequest if {\n  true\n}\n"
    read = defaults.read(policy)
    assert read.beyond == 3
    assert not read.allows("ExecProcess")
    assert not defaults.read("# default ExecProcessRequest := true\n").allows("ExecProcess")


def test_the_agents_own_configuration_starts_no_helpers_and_opens_no_console() -> None:
    agent = tomllib.loads((FILES / "agent.toml").read_text())
    assert agent["guest_components_procs"] == "none"
    assert (agent["debug_console"], agent["dev_mode"]) == (False, False)
    assert agent["server_addr"] == "unix:///run/kata-containers/agent.sock"


def test_the_helpers_own_configuration_can_be_read() -> None:
    assert tomllib.loads((FILES / "cdh.toml").read_text())["kbc"]["name"] == "offline_fs_kbc"
    assert "token_configs" not in tomllib.loads((FILES / "aa.toml").read_text())
