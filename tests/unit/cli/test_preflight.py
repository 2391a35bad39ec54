"""`peerpods check --cloud`: what the cloud's findings come to."""

import dataclasses
import json
import os
from collections.abc import Sequence

import pytest

from adaptor import daemon
from adaptor.cli import preflight
from adaptor.config import Config, load
from adaptor.errors import Unavailable
from adaptor.podnet import trial
from adaptor.podnet.encryption import Encryption
from providers.base import Finding, Grade, Ownership, Provider
from providers.errors import Denied
from tests.worlds.clock import VirtualClock
from tests.worlds.cloud import Cloud

FINE = Finding("image ami-1", Grade.OK, "available, x86_64")
DOUBTFUL = Finding("quota", Grade.WARNING, "the cloud does not tell", "allow servicequotas:GetServiceQuota")
BROKEN = Finding("permission ec2:RunInstances", Grade.FAULT, "denied", "allow ec2:RunInstances to the node's role")


class Careful(Cloud):
    """The memory cloud, with a preflight."""

    findings: Sequence[Finding] = ()

    async def preflight(self, port: int, tunnel_port: int) -> Sequence[Finding]:
        assert (port, tunnel_port) == (15150, 4789)
        return self.findings


@pytest.fixture
def config() -> Config:
    return load(None, {"CLOUD_PROVIDER": "aws", "PODVM_AMI_ID": "ami-0123456789abcdef0", "NODE_NAME": "node-1"})


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Careful:
    made = Careful(VirtualClock())

    async def opened(config: Config, owner: Ownership) -> Provider:
        return made

    monkeypatch.setattr(daemon, "open_provider", opened)
    monkeypatch.setattr(trial, "attempt", lambda port: None)
    return made


async def test_faults_come_first_each_with_its_remedy_and_fail_the_command(
    cloud: Careful, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.findings = [FINE, DOUBTFUL, BROKEN]
    assert await preflight.check(config, as_json=False) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fault    permission ec2:RunInstances: denied"
    assert lines[1].strip() == "fix: allow ec2:RunInstances to the node's role"
    assert lines[2].startswith("warning  quota")
    assert lines[-1] == "memory: pods will not start (1 fault, 1 warning, 2 ok)"


async def test_warnings_do_not_fail_it(cloud: Careful, config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.findings = [FINE, DOUBTFUL]
    assert await preflight.check(config, as_json=False) == 0
    assert "memory: pods can start (0 faults, 1 warning, 2 ok)" in capsys.readouterr().out


async def test_a_cloud_that_refuses_to_say_what_it_offers_is_a_fault_of_its_own(
    cloud: Careful, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.refuse["offerings"].append(Denied("the token has expired", code="ExpiredToken"))
    assert await preflight.check(config, as_json=True) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found[0]["subject"], found[0]["grade"]) == ("instance types", "fault")
    assert "the token has expired" in found[0]["message"]


async def test_a_provider_without_preflight_is_not_called_fine(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def opened(config: Config, owner: Ownership) -> Provider:
        return Cloud(VirtualClock())

    monkeypatch.setattr(daemon, "open_provider", opened)
    assert await preflight.check(config, as_json=False) == 0
    assert "warning  preflight: the memory provider has no preflight" in capsys.readouterr().out


@pytest.mark.parametrize(("user", "grade", "status"), [(0, "fault", 1), (1000, "warning", 0)])
async def test_a_node_that_cannot_carry_pods_networks_is_told_apart_from_a_user_who_may_not_try(
    cloud: Careful,
    config: Config,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    user: int,
    grade: str,
    status: int,
) -> None:
    def refuse(port: int) -> None:
        raise Unavailable("pods can have no network on this node: Load the module vxlan")

    cloud.findings = [FINE]
    monkeypatch.setattr(trial, "attempt", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert await preflight.check(config, as_json=True) == status
    found = {each["subject"]: each for each in json.loads(capsys.readouterr().out)}["pods' network"]
    assert (found["grade"], "Load the module vxlan" in found["message"], bool(found["fix"])) == (grade, True, True)


async def test_whether_encryption_can_be_had_is_asked_where_it_is_required(
    cloud: Careful, config: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(wish: str, port: int) -> Encryption:
        raise Unavailable(f"this node has no WireGuard for network.wireguard = {wish}")

    cloud.findings = [FINE]
    monkeypatch.setattr(Encryption, "open", none)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert await preflight.check(config, as_json=False) == 0
    network = dataclasses.replace(config.network, encryption="required")
    assert await preflight.check(dataclasses.replace(config, network=network), as_json=False) == 1
    assert "fault    encryption: this node has no WireGuard for network.wireguard = auto" in capsys.readouterr().out
