"""The verbs for people on a node: a journal, no cluster, no relay; the cloud is a simulated EC2."""

import io
import json
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from adaptor.cli import parser
from adaptor.podnet.plan import Cord, Tunnel
from adaptor.sandbox import journal_file
from adaptor.sandbox.model import (
    Bound,
    Created,
    Event,
    InstanceDeleted,
    LaunchAccepted,
    LaunchIntended,
    LaunchRefused,
    NetworkIntended,
    Reached,
    SandboxSpec,
    StartRequested,
    StopDecided,
)
from providers.base import Ownership
from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.ec2_client import Account, client

WEB, DB = "aa" * 32, "bb" * 32
LAUNCH = LaunchIntended(
    "token-1", "podvm-web", "m6a.large", "us-east-1a", "dXNlcg==", "bGF1bmNo", tee="snp", price=0.0864
)
RUNNING: tuple[Event, ...] = (
    Created(SandboxSpec(WEB, "web", "shop", "/run/netns/web", vcpus=2, initdata="hunter2")),
    StartRequested(),
    LAUNCH,
    LaunchAccepted("i-0123456789abcdef0", ("10.0.0.1",)),
    Reached("10.0.0.1:15150", "ab" * 32),
    Bound(),
)
OFFSETS = (0.0, 0.1, 0.4, 1.9, 21.4, 21.6)

Said = pytest.CaptureFixture[str]


class Node:
    """Its files; `peerpods` runs the command on it."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.config = directory / "peerpods.toml"
        self.configure("")

    def configure(self, more: str) -> None:
        self.config.write_text(
            f'[node]\nname = "worker-1"\ncluster = "blue"\nstate_dir = "{self.state}"\n'
            f'relay_socket = "{self.state}/relay.sock"\n[cloud]\nprovider = "aws"\n'
            f'[aws]\nregion = "us-east-1"\nimage = "ami-03cf127a"\n{more}'
        )

    def journal(self, sandbox: str, events: tuple[Event, ...], *offsets: float, ago: float = 3600.0) -> None:
        db = journal_file.connect(self.state / "journal.db", 0.0, Ownership("blue", "worker-1"))
        for event, offset in zip(events, offsets, strict=True):
            journal_file.insert(db, time.time() - ago + offset, [(sandbox, event)])
        db.close()

    def peerpods(self, *arguments: str) -> int:
        return parser.main([*arguments, "--config", str(self.config)])


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}.items():
        monkeypatch.setenv(name, value)
    return Node(tmp_path)


def test_ps_lists_what_the_journal_has_with_the_relays_word(node: Node, capsys: Said) -> None:
    node.journal(WEB, RUNNING, *OFFSETS)
    node.journal(DB, (Created(SandboxSpec(DB, "", "", "")),), 0, ago=90)
    assert node.peerpods("ps") == 0
    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines()] == [
        ["NAMESPACE", "POD", "PHASE", "VM", "TYPE", "AGE", "LINK"],
        ["-", "bbbbbbbbbbbb", "created", "-", "-", "1m", "30s", "?"],
        ["shop", "web", "running", "i-0123456789abcdef0", "m6a.large", "1h", "?"],
    ]
    assert err == f"peerpods: no relay serves at {node.state}/relay.sock\n"
    assert node.peerpods("ps", "-n", "elsewhere") == 0
    assert capsys.readouterr().out == "no peer pods on the node worker-1\n"


def test_a_relay_that_does_not_answer_is_named_and_the_journal_shown(node: Node, capsys: Said) -> None:
    node.journal(WEB, RUNNING, *OFFSETS)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{node.state}/relay.sock")  # nobody listens
        assert node.peerpods("ps", "-o", "json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["pod"], found["relay_session"], found["price_per_hour"]) == ("web", "?", 0.0864)


def test_describe_shows_the_pods_wish_machine_cost_and_start_and_no_secret(node: Node, capsys: Said) -> None:
    node.journal(WEB, RUNNING, *OFFSETS)
    for name in ("web", "shop/web", "pod/web", "aaaa"):
        assert node.peerpods("describe", name) == 0
        out = capsys.readouterr().out
        assert "Asked for:     vcpus 2" in out
        assert "Price:         0.0864 USD/h, 0.0864 USD so far" in out
        assert "the guest answers: 10.0.0.1:15150" in out
        assert "#InstanceDetails:instanceId=i-0123456789abcdef0" in out
        assert "What next" not in out
        assert not any(secret in out for secret in ("hunter2", "bGF1bmNo", "dXNlcg=="))


def test_describe_shows_the_pods_tunnel_and_trace_when_it_was_made(node: Node, capsys: Said) -> None:
    intended = Tunnel("/run/netns/web", 8472, (Cord("eth0", 555_003, "vxlan1"),), encrypted=True)
    reached = replace(intended, peer="10.0.0.1", worker="10.0.0.9")
    created, started, *launched, bound = RUNNING
    events = (created, started, NetworkIntended(intended), *launched, NetworkIntended(reached), bound)
    node.journal(WEB, events, 0.0, 0.1, 0.12, 0.4, 1.9, 21.4, 21.41, 21.6)
    node.peerpods("describe", "web")
    page = capsys.readouterr().out
    assert "VXLAN number of eth0: 555003; UDP port 8472, from 10.0.0.9 to 10.0.0.1, encrypted" in page
    node.peerpods("describe", "web", "-o", "json")
    told = json.loads(capsys.readouterr().out)
    assert told["tunnel"]["cords"] == [{"interface": "eth0", "vni": 555_003, "device": "vxlan1"}]
    assert list(told["times"])[-3:] == ["reached", "network-intended", "bound"], "numbering it is no step of its own"
    node.peerpods("trace", "web")
    assert capsys.readouterr().out.count("the pod's tunnel is made") == 1


def test_a_start_that_failed_says_why_and_what_to_do(node: Node, capsys: Said) -> None:
    ended = (StopDecided("no guest answered at 10.0.0.1, TCP port 15150"), InstanceDeleted())
    node.journal(WEB, (*RUNNING[:4], *ended), 0, 0.1, 0.4, 1.9, 300.0, 300.5)
    assert node.peerpods("describe", "web") == 0
    out = capsys.readouterr().out
    assert "Reason:        no guest answered at 10.0.0.1, TCP port 15150" in out
    assert "Slowest: the VM's boot, in vain, 298.1 s" in out
    assert "its guest never answered: `peerpods console shop/web` shows how far it booted" in out


def test_every_try_at_the_cloud_is_in_the_trace(node: Node, capsys: Said) -> None:
    events = (*RUNNING[:3], LaunchRefused("InsufficientInstanceCapacity"), LAUNCH, *RUNNING[3:4])
    node.journal(WEB, events, 0, 0.1, 0.4, 1.4, 1.5, 3.0, ago=63)
    assert node.peerpods("trace", "web") == 0
    out = capsys.readouterr().out
    assert out.startswith("shop/web  starting, VM i-0123456789abcdef0 (m6a.large in us-east-1a)\n")
    assert out.count("a machine is chosen: m6a.large") == 2
    assert "the cloud refuses, the next machine is tried: InsufficientInstanceCapacity" in out
    assert "now: the VM's boot" in out
    assert "177 s are left" in out or "176 s are left" in out


def test_an_unknown_pod_is_answered_with_those_that_look_like_it(node: Node, capsys: Said) -> None:
    node.journal(WEB, RUNNING, *OFFSETS)
    assert node.peerpods("trace", "wbe") == 1
    assert capsys.readouterr().err == (
        "peerpods: this node's journal knows no pod or sandbox wbe; did you mean shop/web?\n"
    )


def test_a_name_that_two_namespaces_have_must_be_said_whole(node: Node, capsys: Said) -> None:
    node.journal(WEB, RUNNING, *OFFSETS)
    node.journal(DB, (Created(SandboxSpec(DB, "web", "test", "/run/netns/x")),), 0)
    assert node.peerpods("describe", "web") == 1
    assert "'web' could be any of shop/web, test/web" in capsys.readouterr().err
    assert node.peerpods("describe", "web", "-n", "test") == 0


def test_a_row_that_cannot_be_understood_spoils_its_own_sandbox_only(node: Node, capsys: Said) -> None:
    node.journal(WEB, RUNNING, *OFFSETS)
    node.journal(DB, (Created(SandboxSpec(DB, "db", "shop", "")), Bound()), 0, 1)
    assert node.peerpods("ps", "-o", "wide") == 0
    out = capsys.readouterr().out
    assert "bound cannot follow in phase created" in out
    assert "running" in out


def test_no_journal_and_no_cluster_is_said_in_one_sentence(node: Node, capsys: Said) -> None:
    assert node.peerpods("ps") == 1
    assert f"there is no journal {node.state}/journal.db" in capsys.readouterr().err
    assert parser.main(["ps"]) == 1
    assert "neither a cluster nor a node to look at" in capsys.readouterr().err
    assert parser.main(["ps", "--local", "--context", "x"]) == 1
    assert "say one" in capsys.readouterr().err


LOG = (
    '2026-11-21T18:00:01.0Z stderr F {"time":"2026-11-21T18:00:01.000Z","level":"info","message":"CreateVM","pod":"shop/web"}',
    '{"time":"2026-11-21T18:00:02.000Z","level":"info","message":"CreateVM","pod":"shop/webber"}',
    "18:00:03.000 WARNING guest.reach failed  pod=shop/web sandbox=aaaa",
)


def test_logs_are_read_from_a_file_or_a_pipe(
    node: Node, capsys: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").write_text("\n".join(LOG))
    wanted = ["18:00:01.000 INFO    CreateVM", LOG[2]]
    assert node.peerpods("logs", "shop/web", "--file", str(tmp_path / "log")) == 0
    assert capsys.readouterr().out.splitlines() == wanted
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(LOG)))
    assert node.peerpods("logs", "web", "--file", "-") == 0
    assert capsys.readouterr().out.splitlines() == wanted
    assert node.peerpods("logs", "web", "--file", str(tmp_path / "none")) == 1
    assert "No such file" in capsys.readouterr().err


def test_a_kept_console_is_shown_when_the_sandbox_is_gone(node: Node, capsys: Said) -> None:
    node.journal(DB, (Created(SandboxSpec(DB, "db", "shop", "")),), 0)
    kept = node.state / "consoles"
    kept.mkdir()
    (kept / f"{WEB}.txt").write_text("# pod shop/web, VM i-1\n# no guest answered\n\x1b[31mKernel\x1b[0m panic\r\n")
    for name in ("web", "shop/web", "aaaaaa"):
        assert node.peerpods("console", name) == 0
        assert capsys.readouterr().out == "# pod shop/web, VM i-1\n# no guest answered\nKernel panic\n"
    assert node.peerpods("console", "web", "--raw", "--tail", "1") == 0
    assert capsys.readouterr().out == "\x1b[31mKernel\x1b[0m panic\n"
    assert node.peerpods("console", "db", "--kept") == 1
    assert "no console was kept of a VM of db on this node" in capsys.readouterr().err
    assert node.peerpods("console", "db") == 1
    assert "shop/db has no VM yet whose console could be read" in capsys.readouterr().err


def test_a_running_vms_console_is_asked_of_the_cloud(node: Node, capsys: Said) -> None:
    with running_in_thread(instances="api-only") as cloud, client(cloud) as ec2:
        node.configure(f'subnet_ids = ["{cloud.subnet}"]\nendpoint_url = "{cloud.endpoint_url}"\n')
        vm = Account(cloud, ec2).launch()
        node.journal(WEB, (*RUNNING[:3], LaunchAccepted(vm), *RUNNING[4:]), *OFFSETS)
        assert node.peerpods("console", "web") == 1
        assert f"aws has nothing of the console of {vm} yet" in capsys.readouterr().err
        cloud._cloud.fleet.lives[vm].machine.console.write(b"booting\r\nlogin: \x1b]0;owned\x07\n")
        assert node.peerpods("console", "web") == 0
        assert capsys.readouterr().out == "booting\nlogin: \n"
        cloud.faults.next(action="GetConsoleOutput", error="UnauthorizedOperation")
        assert node.peerpods("console", "web") == 1
        assert "ec2:GetConsoleOutput" in capsys.readouterr().err
