"""Profile systemd's units say what profile min's table says."""

import configparser
import json
import os
from pathlib import Path

import pytest

from podvm_images.supervisor import run, services

SYSTEMD = Path(__file__).parents[3] / "podvm_images/image/files/systemd/etc/systemd"
AGENTS = ("attestation-agent", "confidential-data-hub", "kata-agent", "api-server-rest")
TABLE = {each.name: each for each in services.table(lambda path: path.startswith("/usr/local/bin"))}


def unit(name: str) -> configparser.ConfigParser:
    found = configparser.ConfigParser(strict=False, interpolation=None)
    found.optionxform = str  # type: ignore[assignment, method-assign]
    found.read_string((SYSTEMD / name).read_text())
    return found


@pytest.mark.parametrize("name", AGENTS)
def test_each_agent_is_started_from_the_table_by_what_it_needs_last(name: str) -> None:
    service, path = unit(f"system/{name}.service"), unit(f"system/{name}.path")
    assert service["Service"]["ExecStart"] == f"/usr/bin/python3.13 -S -m podvm_images.supervisor.run {name}"
    assert service["Unit"]["ConditionFileIsExecutable"] == f"/usr/local/bin/{name}"
    assert path["Path"]["PathExists"] == TABLE[name].needs[-1]
    assert service["Service"].get("NetworkNamespacePath", "") == TABLE[name].netns


def test_every_unit_is_wanted_and_restarts_as_the_table_would() -> None:
    wanted = unit("system/multi-user.target.d/podvm.conf")["Unit"]["Wants"].split()
    assert sorted(wanted) == sorted(["podvm-guest.service", "podvm-scratch.path", *(f"{name}.path" for name in AGENTS)])
    for name in ("podvm-guest", *AGENTS):
        kept = unit(f"system/{name}.service")["Service"]
        assert (kept["Restart"], kept["RestartSec"], kept["RestartMaxDelaySec"]) == ("always", "500ms", "30s")
        assert (services.FIRST_PAUSE, services.LONGEST_PAUSE) == (0.5, 30.0)


def test_images_are_pulled_after_the_scratch_space_is_there() -> None:
    assert unit("system/podvm-scratch.path")["Path"]["PathExists"] == services.SCRATCH_MARKER
    assert unit("system/podvm-scratch.service")["Unit"]["Before"] == "kata-agent.service"
    assert "podvm-scratch.service" in unit("system/kata-agent.service")["Unit"]["After"]


def test_the_network_leaves_alone_what_the_guest_makes() -> None:
    told = unit("networkd.conf.d/podvm.conf")["Network"]
    assert (told["ManageForeignRoutes"], told["ManageForeignRoutingPolicyRules"]) == ("no", "no")
    first, further = unit("network/10-first.network"), unit("network/20-further.network")
    assert first["Match"]["Kind"] == further["Match"]["Kind"] == "!*"
    assert int(first["DHCPv4"]["RouteMetric"]) < int(further["DHCPv4"]["RouteMetric"])


def test_a_program_that_the_image_lacks_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["kata-agent"]) == 2
    assert "this image has guest, not kata-agent" in capsys.readouterr().err


def test_a_unit_becomes_the_program_with_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[object] = []
    monkeypatch.setattr(os, "execve", lambda *given: became.extend(given))
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    run.main(["guest"])
    program, command, environment = became
    assert program == "/usr/bin/python3.13"
    assert "podvm_images.guest" in json.dumps(command)
    assert isinstance(environment, dict)
    assert (environment["NOTIFY_SOCKET"], environment["PYTHONPATH"]) == ("/run/systemd/notify", "/usr/lib/podvm")
