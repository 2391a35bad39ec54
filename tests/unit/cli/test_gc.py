"""`peerpods gc` as an admin meets it: the real command and the real SDK against a simulated EC2 with planted leaks."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from adaptor.clock import RealClock
from adaptor.report.text import age_text
from adaptor.sandbox.journal import Journal
from adaptor.sandbox.model import Created, Event, LaunchAccepted, LaunchIntended, SandboxSpec, StartRequested
from providers import tags
from providers.simcloud.cloud import Simcloud
from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.ec2_client import Account, client

NODE, CLUSTER = "node-1", "cluster-a"
SPEC = SandboxSpec("a" * 64, "web", "shop", "/run/netns/x")
DAY = 86_400.0


class Site:
    """A node's files, and the cloud it runs pods in."""

    def __init__(self, directory: Path, cloud: Simcloud, account: Account) -> None:
        self.directory = directory
        self.cloud = cloud
        self.account = account
        self.ec2 = account.ec2
        self.config = directory / "peerpods.toml"
        self.state = directory / "state"
        self.configure()

    def configure(self, **node: str) -> None:
        tables: dict[str, dict[str, Any]] = {
            "node": {
                "name": NODE,
                "cluster": CLUSTER,
                "state_dir": str(self.state),
                "relay_socket": str(self.directory / "relay.sock"),
                **node,
            },
            "cloud": {"provider": "aws"},
            "aws": {
                "region": self.cloud.region,
                "endpoint_url": self.cloud.endpoint_url,
                "subnet_ids": [self.cloud.subnet],
                "image": self.cloud.ami,
            },
        }
        self.config.write_text(
            "\n".join(
                f"[{name}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
                for name, table in tables.items()
            )
        )

    def journal(self, *events: Event) -> None:
        """A journal with this sandbox in it."""

        async def write() -> None:
            journal = await Journal.open(self.state / "journal.db", RealClock())
            for event in events:
                await journal.append(SPEC.id, event)
            await journal.aclose()

        asyncio.run(write())

    def gc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return subprocess.run(
            [sys.executable, "-m", "adaptor", "gc", "--config", str(self.config), *arguments],
            env={**kept, **self.cloud.environment()}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    # -- what is planted --------------------------------------------------------------------------

    def instance(self, *, age: float = DAY, node: str = NODE, cluster: str = CLUSTER, **more: str) -> str:
        made = self.account.launch(TagSpecifications=tagged("instance", node, cluster, **more))
        self.account.becomes(made, "running")
        self.cloud.age(made, age)
        for mapping in self.account.show(made)["BlockDeviceMappings"]:
            if found := pairs(node, cluster, **more):
                self.ec2.create_tags(Resources=[mapping["Ebs"]["VolumeId"]], Tags=found)
        return made

    def disk(self, *, age: float = DAY, node: str = NODE, cluster: str = CLUSTER, **more: str) -> str:
        zone = {"AvailabilityZone": "us-east-1a", "Size": 20, "VolumeType": "gp3"}
        made = self.ec2.create_volume(TagSpecifications=tagged("volume", node, cluster, **more), **zone)
        self.cloud.age(made["VolumeId"], age)
        return str(made["VolumeId"])

    def interface(self, *, node: str = NODE, cluster: str = CLUSTER, **more: str) -> str:
        made = self.ec2.create_network_interface(
            SubnetId=self.cloud.subnet,
            PrivateIpAddress="172.31.0.77",
            TagSpecifications=tagged("network-interface", node, cluster, **more),
        )
        return str(made["NetworkInterface"]["NetworkInterfaceId"])

    def address(self, *, node: str = NODE, cluster: str = CLUSTER, **more: str) -> str:
        made = self.ec2.allocate_address(Domain="vpc", TagSpecifications=tagged("elastic-ip", node, cluster, **more))
        return str(made["AllocationId"])

    def seen_an_hour_ago(self, *ids: str) -> None:
        """As a look then would have noted them."""
        self.state.mkdir(exist_ok=True)
        then = RealClock().wall() - 3600.0
        (self.state / "first-seen.json").write_text(json.dumps(dict.fromkeys(ids, then)))

    def everything(self) -> set[str]:
        """All that is in the account."""
        return {
            *self.account.by("instance-state-name", "pending", "running", "stopped"),
            *(each["VolumeId"] for each in self.ec2.describe_volumes()["Volumes"]),
            *(each["NetworkInterfaceId"] for each in self.ec2.describe_network_interfaces()["NetworkInterfaces"]),
            *(each["AllocationId"] for each in self.ec2.describe_addresses()["Addresses"]),
        }


def pairs(node: str, cluster: str, **more: str) -> list[dict[str, str]]:
    found = {tags.CLUSTER: cluster, tags.NODE: node, **{f"peerpods-{k.replace('_', '-')}": v for k, v in more.items()}}
    return [{"Key": key, "Value": value} for key, value in found.items() if value]


def tagged(kind: str, node: str, cluster: str, **more: str) -> list[dict[str, Any]]:
    found = pairs(node, cluster, **more)
    return [{"ResourceType": kind, "Tags": found}] if found else []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_in_thread() as cloud, client(cloud) as ec2:
        yield Site(tmp_path, cloud, Account(cloud, ec2))


def fold_ids(text: str, *ids: str) -> str:
    """`text` with the ids replaced by A, B, ..., what varies made equal, and every run of blanks by one."""
    for letter, each in zip("ABCDEFGH", ids, strict=False):
        text = text.replace(each, letter)
    for pattern, same in (
        (r"public address [\d.]+", "public address X"),
        (r"1m( \d+s)?", "1m"),
        (r"\b\d+ s ago", "60 s ago"),
    ):
        text = re.sub(pattern, same, text)  # made up by the cloud; the machine may be slow
    return re.sub(r" +", " ", text)


def test_leaks_of_every_kind_are_listed_with_their_reasons_and_yes_removes_exactly_these(site: Site) -> None:
    gone = site.instance(sandbox="b" * 64, pod_namespace="shop", pod_name="db")
    leaks = [gone, site.address(), site.interface(), site.disk()]
    site.seen_an_hour_ago(leaks[1], leaks[2])
    launch = LaunchIntended("token-1", "podvm-web", "m6a.large", "", "", "")
    running = site.instance(token="token-1", sandbox=SPEC.id)
    site.journal(Created(SPEC), StartRequested(), launch, LaunchAccepted(running))
    held = site.disk()
    site.ec2.attach_volume(VolumeId=held, InstanceId=running, Device="/dev/sdf")
    young = site.disk(age=60.0)
    for node, cluster in (("node-2", CLUSTER), (NODE, "cluster-b"), ("", CLUSTER), ("", "")):
        site.instance(node=node, cluster=cluster)
        site.disk(node=node, cluster=cluster)
        site.interface(node=node, cluster=cluster)
        site.address(node=node, cluster=cluster)
    before = site.everything()

    answer = site.gc()
    assert (answer.returncode, answer.stderr) == (3, "")
    assert fold_ids(answer.stdout, *leaks, young).splitlines() == [
        "KIND ID NODE AGE WHAT IT IS VERDICT WHY",
        "address B node-1 1h idle public address X leaked no sandbox of this node has it",
        "disk D node-1 1d 20 GiB gp3 in us-east-1a leaked no sandbox of this node has it",
        "instance A node-1 1d m6a.large running in us-east-1a leaked sandbox bbbbbbbbbbbb (shop/db) is gone",
        "network interface C node-1 1h 172.31.0.77 of subnet-051c10ad00000000a leaked no sandbox of this node has it",
        "disk E node-1 1m 20 GiB gp3 in us-east-1a too young made 60 s ago; counts from 900 s on",
        "",
        "cluster cluster-a, node node-1: 1 owned, 3 attached, 1 too young, 4 leaked; --yes removes what has leaked",
    ]
    assert site.everything() == before
    assert site.gc("--dry-run").stdout.split("\n\n")[1] == answer.stdout.split("\n\n")[1]

    (root,) = [each["Ebs"]["VolumeId"] for each in site.account.show(leaks[0])["BlockDeviceMappings"]]
    (nic,) = [each["NetworkInterfaceId"] for each in site.account.show(leaks[0])["NetworkInterfaces"]]
    answer = site.gc("--yes")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert [line.split("  ")[0] for line in answer.stdout.splitlines() if " removed " in line] == [
        "address",
        "disk",
        "instance",
        "network interface",
    ]
    site.account.becomes(leaks[0], "terminated")
    assert before - site.everything() == {*leaks, root, nic}, "these, and what went with the instance"
    again = site.gc("--yes")
    assert (again.returncode, "leaked" in again.stdout) == (0, False)


def test_other_nodes_are_listed_on_demand_and_never_removed(site: Site) -> None:
    site.journal()
    theirs = [site.disk(node="node-2"), site.instance(node="node-2"), site.disk(node="")]
    assert theirs[0] not in site.gc().stdout
    answer = site.gc("--all-nodes", "--yes")
    assert answer.returncode == 0
    for each, why in zip(theirs, ("left to node node-2", "left to node node-2", "it has no tag"), strict=True):
        (line,) = [line for line in answer.stdout.splitlines() if each in line]
        assert "another node's" in line
        assert why in line
    assert set(theirs) <= site.everything()


def test_json_has_every_resource_with_its_verdict(site: Site) -> None:
    site.journal()
    leaked, young = site.disk(), site.address()
    answer = site.gc("--json")
    told = json.loads(answer.stdout)
    assert (answer.returncode, told["cluster"], told["node"]) == (3, CLUSTER, NODE)
    by_id = {each.pop("id"): each for each in told["resources"]}
    assert by_id[leaked].pop("age_seconds") == pytest.approx(DAY, abs=60)
    assert by_id[leaked] == {
        "kind": "disk",
        "name": "",
        "node": NODE,
        "attached_to": "",
        "facts": "20 GiB gp3 in us-east-1a",
        "verdict": "leaked",
        "reason": "no sandbox of this node has it",
    }
    assert (by_id[young]["verdict"], by_id[young]["age_seconds"]) == ("too young", 0)
    removed = json.loads(site.gc("--json", "--yes").stdout)["resources"]
    assert {each["id"]: each.get("outcome") for each in removed} == {leaked: "removed", young: None}


def test_a_create_that_is_not_answered_yet_keeps_what_it_made(site: Site) -> None:
    launch = LaunchIntended("token-1", "podvm-web", "m6a.large", "", "", "")
    site.journal(Created(SPEC), StartRequested(), launch)
    awaited = site.instance(token="token-1", sandbox=SPEC.id)
    answer = site.gc("--yes")
    assert (answer.returncode, answer.stdout) == (0, "cluster cluster-a, node node-1: 1 owned, 1 attached\n")
    assert awaited in site.everything()


def test_an_idle_account_is_said_to_be_so(site: Site) -> None:
    site.journal()
    answer = site.gc()
    assert (answer.returncode, answer.stdout) == (0, "cluster cluster-a, node node-1: nothing in the cloud\n")


# -- refusals -------------------------------------------------------------------------------------


def test_without_a_journal_nothing_is_called_leaked_and_the_cloud_is_not_asked(site: Site) -> None:
    leaked = site.disk()
    site.state.mkdir()
    calls = len(list(site.cloud.calls))
    answer = site.gc("--yes")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert f"there is no journal {site.state}/journal.db" in answer.stderr
    assert len(list(site.cloud.calls)) == calls
    assert leaked in site.everything()


def test_a_damaged_journal_is_refused(site: Site) -> None:
    leaked = site.disk()
    site.state.mkdir()
    (site.state / "journal.db").write_bytes(b"not a database at all, whatever its name says" * 100)
    answer = site.gc("--yes")
    assert answer.returncode == 1
    assert "journal.db" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert leaked in site.everything()


@contextmanager
def silent_relay(path: Path) -> Iterator[None]:
    """Something listens there, and is no relay."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def hang_up() -> None:
            try:
                while True:
                    listener.accept()[0].close()
            except OSError:
                pass

        thread = threading.Thread(target=hang_up)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_relay_that_does_not_answer_may_hold_sessions(site: Site) -> None:
    site.journal()
    leaked = site.disk()
    with silent_relay(site.directory / "relay.sock"):
        answer = site.gc("--yes")
    assert answer.returncode == 1
    assert "relay" in answer.stderr
    assert leaked in site.everything()


def test_the_clouds_refusal_is_one_line_and_status_1(site: Site) -> None:
    site.journal()
    site.cloud.faults.next(action="DescribeVolumes", error="UnauthorizedOperation")
    answer = site.gc()
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.count("\n") == 1
    assert "cannot list the resources of cluster cluster-a (disk)" in answer.stderr


def test_what_cannot_be_removed_is_told_with_status_1_and_the_others_go(site: Site) -> None:
    site.journal()
    disks = sorted(site.disk() for _ in range(2))
    site.cloud.faults.next(action="DeleteVolume", error="UnauthorizedOperation")
    answer = site.gc("--yes")
    assert answer.returncode == 1
    assert "not authorized" in answer.stdout
    assert len(set(disks) & site.everything()) == 1


def test_without_an_id_of_the_cluster_the_error_says_which_setting_to_make(site: Site) -> None:
    site.configure(cluster="")
    site.journal()
    answer = site.gc()
    assert answer.returncode == 1
    assert "set node.cluster" in answer.stderr
    (site.state / "cluster").write_text("cluster-a\n")
    assert site.gc().stdout == "cluster cluster-a, node node-1: nothing in the cloud\n"


def test_yes_and_dry_run_exclude_each_other(site: Site) -> None:
    assert site.gc("--yes", "--dry-run").returncode == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"), (-5, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m"), (61, "1m 1s"), (3600, "1h"), (3661, "1h 1m"),
        (86_400, "1d"), (90_000, "1d 1h"), (86_460, "1d"),
    ],
)  # fmt: skip
def test_an_age_has_two_units_at_most(seconds: float | None, text: str) -> None:
    assert age_text(seconds) == text
