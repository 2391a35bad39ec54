"""Instances that really boot: what is in them, what they reach, and how they end."""

import json
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from providers import boot
from providers.simcloud.options import SimcloudError
from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.ec2_client import Account, client, eventually
from tests.unit.simcloud.networks import held, in_own_network, links, processes

pytestmark = pytest.mark.netns

PROGRAM = Path(__file__).with_name("instance.py")
PORT = 7000


@contextmanager
def cloud_of(program: Path = PROGRAM, **options: Any) -> Iterator[Account]:
    """A cloud whose instances run the tests' program."""
    options = {"program": [sys.executable, "-S", str(program)], **options}
    with running_in_thread("namespace", **options) as cloud, client(cloud) as ec2:
        yield Account(cloud, ec2)


def tell(address: str, order: str, patience: float = 20.0) -> Any:
    """What the instance at `address` answers; dials until it listens."""
    deadline = time.monotonic() + patience
    while True:
        try:
            with socket.create_connection((address, PORT), timeout=0.25) as connection:
                connection.settimeout(10)
                connection.sendall(order.encode())
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
                return json.loads(answer) if answer else None
        except (TimeoutError, ConnectionRefusedError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def places(program: Path = PROGRAM) -> dict[str, list[str]]:
    """What is in an instance's private places: nothing, but for what the program itself needs."""
    kept = [Path(path) for path in boot.kept([sys.executable, str(program)])]
    return {
        place: sorted({path.relative_to(place).parts[0] for path in kept if path.is_relative_to(place)})
        for place in ("/tmp", "/run", "/media")
    }


def all_of(count: int, tmp_path: Path) -> list[int]:
    """So many processes with this directory on their command line, which a fresh one shows after a moment."""
    mark = str(tmp_path)
    return list(eventually(lambda: len(found := processes(mark)) == count and found))


def silent(address: str) -> bool:
    """Whether a packet to it vanishes."""
    with pytest.raises(OSError) as caught, socket.create_connection((address, PORT), timeout=0.3):
        pass
    return isinstance(caught.value, TimeoutError)


@in_own_network
def test_an_instance_boots_into_a_machine_of_its_own() -> None:
    with cloud_of() as account:
        launched = account.run(UserData="secret", MetadataOptions={"HttpTokens": "required"})
        facts = tell(launched["PrivateIpAddress"], "facts")
        assert facts["user_data"] == "secret"
        assert facts["without_token"] == 401
        assert facts["hostname"] == launched["PrivateDnsName"].partition(".")[0]
        assert facts["pid"] == 1
        assert facts["processes"] == ["1"]
        assert facts["links"] == ["eth0", "lo"]
        assert facts["places"] == places()
        assert facts["writable"] == ["/run", "/tmp", "/var/log", "/media"]
        assert not [name for name in facts["environment"] if name.startswith(("AWS", "PYTEST"))]


@in_own_network
def test_worker_and_instances_reach_each_other_in_every_subnet() -> None:
    with cloud_of() as account, socket.create_server(("", 0)) as here:
        one, near = (account.run()["PrivateIpAddress"] for _ in range(2))
        far = account.run(SubnetId=account.cloud.subnet[:-1] + "b")["PrivateIpAddress"]
        assert (one.rpartition(".")[0], far.rpartition(".")[0]) == ("172.31.0", "172.31.16")
        worker = account.cloud.worker_address
        assert {tell(address, "peer") for address in (one, near, far)} == {worker}
        assert tell(one, f"reach {worker}:{here.getsockname()[1]}") == worker
        for other in (near, far):
            assert tell(one, f"reach {other}:{PORT}") == other


@in_own_network
def test_a_second_interface_is_there_and_goes_with_its_instance() -> None:
    with cloud_of() as account, socket.create_server(("", 0)) as here:
        nics = [{"DeviceIndex": index, "SubnetId": account.cloud.subnet} for index in range(2)]
        launched = account.run(SubnetId=None, SecurityGroupIds=None, NetworkInterfaces=nics)
        first, second = (nic["PrivateIpAddress"] for nic in launched["NetworkInterfaces"])
        worker = f"{account.cloud.worker_address}:{here.getsockname()[1]}"
        assert tell(first, "facts")["links"] == ["eth0", "eth1", "lo"]
        assert {tell(address, "peer") for address in (first, second)} == {account.cloud.worker_address}
        assert tell(first, f"reach {worker}") == account.cloud.worker_address
        connection, peer = here.accept()
        connection.close()
        assert peer[0] == first, "what does not ask for the second goes by the first"
        account.terminate(launched["InstanceId"])
        assert silent(second)


@in_own_network
def test_packets_to_an_address_that_nobody_has_vanish() -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")  # as on a worker, where packets could go round in circles
    with cloud_of() as account:
        address = account.run()["PrivateIpAddress"]
        tell(address, "peer")
        assert silent("172.31.0.200")
        assert tell(address, f"reach 172.31.16.200:{PORT}") == "TimeoutError"
        account.terminate(account.ids()[0])
        assert silent(address)


@in_own_network
def test_metadata_tokens_travel_no_further_than_the_hop_limit() -> None:
    with cloud_of() as account:
        launched = account.run(MetadataOptions={"HttpPutResponseHopLimit": 1})
        address = launched["PrivateIpAddress"]
        assert (tell(address, "far 1"), tell(address, "far 2")) == ("arrived", "lost")
        account.ec2.modify_instance_metadata_options(InstanceId=launched["InstanceId"], HttpPutResponseHopLimit=2)
        assert (tell(address, "far 2"), tell(address, "far 3")) == ("arrived", "lost")


@in_own_network
def test_the_console_keeps_the_last_64_kib() -> None:
    with cloud_of() as account:
        launched = account.run()
        address, instance = launched["PrivateIpAddress"], launched["InstanceId"]
        tell(address, "peer")

        def console() -> str:
            return str(account.ec2.get_console_output(InstanceId=instance)["Output"])  # decoded by the SDK

        text = eventually(lambda: "stderr" in console() and console())
        first, *rest = text.splitlines()
        assert instance in first
        assert rest == [f"hello from {launched['PrivateDnsName'].partition('.')[0]}", "and from stderr"]
        assert account.cloud.instances()[0].console == text
        tell(address, "shout 70000")
        eventually(lambda: len(console()) == 65536)
        assert "hello" not in console()


@in_own_network
def test_terminating_ends_everything_in_it_and_its_link(tmp_path: Path) -> None:
    with cloud_of() as account:
        launched = account.run()
        tell(launched["PrivateIpAddress"], f"spawn {tmp_path}")
        all_of(1, tmp_path)
        account.terminate(launched["InstanceId"])
        assert processes(str(tmp_path)) == []
        assert processes(launched["InstanceId"]) == []


@in_own_network
def test_an_instance_that_powers_itself_off_stops_and_starts_again() -> None:
    with cloud_of() as account:
        launched = account.run()
        tell(launched["PrivateIpAddress"], "down off")
        stopped = account.becomes(launched["InstanceId"], "stopped")
        assert stopped["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
        account.ec2.start_instances(InstanceIds=[launched["InstanceId"]])
        tell(launched["PrivateIpAddress"], "peer")
        assert account.state(launched["InstanceId"]) == "running"


@in_own_network
def test_an_instance_whose_program_crashes_terminates_when_so_launched() -> None:
    with cloud_of() as account:
        launched = account.run(InstanceInitiatedShutdownBehavior="terminate")
        tell(launched["PrivateIpAddress"], "down crash")
        gone = account.becomes(launched["InstanceId"], "terminated")
        assert gone["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


@in_own_network
def test_an_instance_that_restarts_itself_boots_anew_and_stays_running() -> None:
    with cloud_of() as account:
        launched = account.run()
        address = launched["PrivateIpAddress"]
        tell(address, "down restart")
        eventually(lambda: account.cloud.instances()[0].console.count("hello from") == 2)
        tell(address, "peer")
        assert account.state(launched["InstanceId"]) == "running"


@in_own_network
def test_a_reboot_by_the_api_boots_anew() -> None:
    with cloud_of() as account:
        launched = account.run()
        tell(launched["PrivateIpAddress"], "peer")
        account.ec2.reboot_instances(InstanceIds=[launched["InstanceId"]])
        eventually(lambda: account.cloud.instances()[0].console.count("hello from") == 2)


@in_own_network
def test_a_deaf_instance_refuses_and_an_unreachable_one_is_silent() -> None:
    with cloud_of() as account:
        account.cloud.faults.boot("deaf")
        account.cloud.faults.boot("unreachable")
        deaf, unreachable = account.run(), account.run()
        for launched in (deaf, unreachable):
            eventually(lambda: "boots" in _of(account, launched["InstanceId"]).console)  # noqa: B023
            assert account.state(launched["InstanceId"]) == "running"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((deaf["PrivateIpAddress"], PORT), timeout=5)
        assert silent(unreachable["PrivateIpAddress"])


@in_own_network
def test_an_instance_whose_cable_is_out_is_silent_until_it_is_back_in() -> None:
    with cloud_of() as account:
        launched = account.run()
        address = launched["PrivateIpAddress"]
        tell(address, "peer")
        account.cloud.faults.cut(launched["InstanceId"], 2)
        eventually(lambda: not reached(address))
        eventually(lambda: reached(address))
        tell(address, "peer")


def reached(address: str) -> bool:
    try:
        with socket.create_connection((address, PORT), timeout=0.5) as connection:
            connection.sendall(b"peer")
            return bool(connection.recv(100))
    except TimeoutError:
        return False


def _of(account: Account, instance: str) -> Any:
    return next(each for each in account.cloud.instances() if each.id == instance)


@in_own_network
def test_nothing_listens_before_the_operating_system_is_up() -> None:
    with cloud_of(os_delay="2s") as account:
        launched = account.run()
        account.becomes(launched["InstanceId"], "running")
        assert silent(launched["PrivateIpAddress"])
        tell(launched["PrivateIpAddress"], "peer")


@in_own_network
def test_twenty_instances_boot_at_once() -> None:
    with cloud_of() as account:
        request = account.request(MinCount=20, MaxCount=20, UserData="for all")
        began = time.monotonic()
        addresses = [i["PrivateIpAddress"] for i in account.ec2.run_instances(**request)["Instances"]]
        assert [tell(address, "facts", patience=30)["user_data"] for address in addresses] == ["for all"] * 20
        assert time.monotonic() - began < 20
        account.ec2.terminate_instances(InstanceIds=account.ids())
        eventually(lambda: {i.state for i in account.cloud.instances()} == {"terminated"})
        assert links() == ["sim-172-31"]


@in_own_network
def test_a_program_and_its_files_in_a_private_place_are_still_there(tmp_path: Path) -> None:
    if not any(tmp_path.is_relative_to(place) for place in boot.PRIVATE):
        pytest.skip("temporary files are not in a private place here")
    (tmp_path / "beside").touch()
    program = Path(shutil.copy(PROGRAM, tmp_path))
    with cloud_of(program) as account:
        assert tell(account.run()["PrivateIpAddress"], "facts")["places"] == places(program)


@in_own_network
def test_two_clouds_take_different_networks_and_a_taken_one_is_refused() -> None:
    with cloud_of() as one, cloud_of() as two:
        assert (one.cloud.network, two.cloud.network) == ("172.31.0.0/16", "172.30.0.0/16")
        assert tell(two.run()["PrivateIpAddress"], "peer") == "172.30.0.4"
        with pytest.raises(SimcloudError, match=r"already uses 172\.31\.0\.0/16"), cloud_of(network="172.31.0.0/16"):
            pass
    assert links() == []


@in_own_network
def test_a_closed_cloud_leaves_nothing_whatever_its_instances_were_doing(tmp_path: Path) -> None:
    with cloud_of(shutdown_delay="60s") as account:
        ids = [account.launch() for _ in range(4)]
        for each in account.cloud.instances():
            tell(each.address, f"spawn {tmp_path}")
        all_of(4, tmp_path)
        account.ec2.terminate_instances(InstanceIds=ids[:1])
        account.ec2.stop_instances(InstanceIds=ids[1:2])
        account.ec2.reboot_instances(InstanceIds=ids[2:3])
    assert (processes(str(tmp_path)), links(), held()) == ([], [], [])
    assert [thread.name for thread in threading.enumerate() if "simcloud" in thread.name] == []


@in_own_network
def test_a_program_that_does_not_exist_is_refused_before_anything_is_made() -> None:
    refusal = pytest.raises(SimcloudError, match="does not exist")
    with refusal, running_in_thread("namespace", program=["/nowhere/program"]):
        pass
    assert links() == []


def test_the_first_steps_keep_what_the_program_is_and_nothing_twice(tmp_path: Path) -> None:
    if not any(tmp_path.is_relative_to(place) for place in boot.PRIVATE):
        pytest.skip("temporary files are not in a private place here")
    beneath = tmp_path / "beneath"
    beneath.touch()
    kept = [
        path
        for path in boot.kept(["/bin/sh", str(beneath), str(tmp_path), "/tmp", "relative"])
        if "beneath" not in path
    ]
    assert str(tmp_path) in kept
    assert not {"/bin/sh", "/tmp", "relative"} & set(kept)
    script = boot.script("it boots", [str(tmp_path)])
    assert script.index("mount -n -t tmpfs") < script.index("--bind") < script.index('exec "$@"')
