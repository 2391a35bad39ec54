"""What runs in the VM, when it starts, and with which files."""

import pytest

from podvm_images.supervisor import services
from podvm_images.supervisor.services import BOUND, Service

SLOTS = [
    f"/usr/local/bin/{name}" for name in ("kata-agent", "attestation-agent", "confidential-data-hub", "api-server-rest")
]
AA, CDH, PODNS = services.AA_SOCKET, "/run/confidential-containers/cdh.sock", "/run/netns/podns"


def made(*files: str) -> dict[str, Service]:
    return {each.name: each for each in services.table(set(files).__contains__)}


def command(service: Service, *files: str) -> str:
    return " ".join(service.command(set(files).__contains__))


def test_the_guest_starts_at_once_and_is_told_which_agent_serves() -> None:
    guest = made(*SLOTS)["guest"]
    assert services.ready(guest, lambda path: False)
    assert command(guest).endswith("podvm_images.guest --agent external")


def test_an_image_without_an_agent_has_the_stand_in_with_the_images_policy_and_says_so() -> None:
    assert list(made()) == ["guest"]
    assert command(made()["guest"]).endswith("--agent development --agent-policy /etc/podvm/policy.rego")
    assert any("STAND-IN FOR KATA-AGENT" in line for line in services.loudly(lambda path: False))
    assert services.loudly(set(SLOTS).__contains__) == []


def test_they_start_one_after_the_other_and_none_before_bind() -> None:
    table = made(*SLOTS)
    assert list(table) == ["guest", "attestation-agent", "confidential-data-hub", "kata-agent", "api-server-rest"]
    order = [("attestation-agent", {BOUND}), ("confidential-data-hub", {BOUND, AA}), ("kata-agent", {BOUND, CDH})]
    for name, needs in [*order, ("api-server-rest", {BOUND, CDH, PODNS})]:
        assert services.ready(table[name], needs.__contains__)
        for lacking in needs:
            assert not services.ready(table[name], (needs - {lacking}).__contains__)


def test_an_image_without_a_data_hub_does_not_wait_for_one() -> None:
    agent = made("/usr/local/bin/kata-agent")["kata-agent"]
    assert services.ready(agent, {BOUND}.__contains__)


@pytest.mark.parametrize(("name", "file"), [("attestation-agent", "aa.toml"), ("confidential-data-hub", "cdh.toml")])
def test_configuration_is_initdatas_or_the_images_and_nobody_elses(name: str, file: str) -> None:
    service = made(*SLOTS)[name]
    assert command(service).endswith(f"-c /etc/podvm/{file}")
    assert command(service, f"/run/peerpod/{file}").endswith(f"-c /run/peerpod/{file}")


def test_the_agent_has_initdatas_policy_or_the_restrictive_one_and_sees_no_disk() -> None:
    agent = made(*SLOTS)["kata-agent"]
    assert agent.environment(lambda path: False)["KATA_AGENT_POLICY_FILE"] == "/etc/podvm/policy.rego"
    brought = {"/run/peerpod/policy.rego"}.__contains__
    assert agent.environment(brought)["KATA_AGENT_POLICY_FILE"] == "/run/peerpod/policy.rego"
    assert "podvm_images.supervisor.conceal /usr/local/bin/kata-agent --config /etc/podvm/agent.toml" in command(agent)


def test_registry_credentials_outrank_initdata_only_where_bind_brought_some() -> None:
    hub = made(*SLOTS)["confidential-data-hub"]
    variable = "CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS"
    assert variable not in hub.environment(lambda path: False)
    assert hub.environment({"/run/peerpod/auth.json"}.__contains__)[variable] == "file:///run/peerpod/auth.json"


def test_the_agent_waits_for_the_scratch_space_that_was_asked_for() -> None:
    agent = made("/usr/local/bin/kata-agent")["kata-agent"]
    asked = {BOUND, services.SCRATCH_MARKER}
    assert not services.ready(agent, asked.__contains__)
    assert services.ready(agent, (asked | {services.SCRATCH_READY}).__contains__)


def test_what_handles_the_pods_secrets_is_kept_off_the_console() -> None:
    assert [each.name for each in made(*SLOTS).values() if each.said] == ["guest"]


def test_pauses_double_up_to_a_limit_and_begin_anew_after_a_steady_run() -> None:
    pauses = [0.0]
    for _ in range(9):
        pauses.append(services.pause(pauses[-1], ran=1.0))
    assert pauses[1:5] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == services.LONGEST_PAUSE
    assert services.pause(pauses[-1], ran=services.STEADY) == services.FIRST_PAUSE
