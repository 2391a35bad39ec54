"""Instances' states over time, as EC2 shows them; here they exist in the API only."""

from typing import Any

import pytest

from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.ec2_client import Account, client, refused


def test_an_instance_is_pending_until_it_has_booted() -> None:
    with running_in_thread(boot_delay="1h") as cloud, client(cloud) as ec2:
        account = Account(cloud, ec2)
        launched = account.run()
        assert (launched["State"], launched["StateReason"]["Code"]) == ({"Code": 0, "Name": "pending"}, "pending")
        assert launched["PrivateIpAddress"]  # known before it runs
        assert account.state(launched["InstanceId"]) == "pending"


def test_a_running_instance_has_no_reason(account: Account) -> None:
    running = account.becomes(account.launch(), "running")
    assert running["State"]["Code"] == 16
    assert "StateReason" not in running


def test_terminating_shows_both_states_and_takes_its_time() -> None:
    with running_in_thread(shutdown_delay="1h") as cloud, client(cloud) as ec2:
        account = Account(cloud, ec2)
        instance = account.launch()
        account.becomes(instance, "running")
        (change,) = ec2.terminate_instances(InstanceIds=[instance])["TerminatingInstances"]
        assert (change["PreviousState"]["Name"], change["CurrentState"]["Name"]) == ("running", "shutting-down")
        assert account.state(instance) == "shutting-down"


def test_a_terminated_instance_says_who_wanted_it(account: Account) -> None:
    gone = account.terminate(account.launch())
    assert gone["State"]["Code"] == 48
    assert gone["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert gone["StateTransitionReason"].startswith("User initiated (2")


def test_terminating_twice_succeeds(account: Account) -> None:
    instance = account.launch()
    account.terminate(instance)
    (change,) = account.ec2.terminate_instances(InstanceIds=[instance])["TerminatingInstances"]
    assert (change["PreviousState"]["Name"], change["CurrentState"]["Name"]) == ("terminated", "terminated")


def test_one_unknown_id_spares_all_the_others(account: Account) -> None:
    instance = account.launch()
    account.becomes(instance, "running")
    with refused("InvalidInstanceID.NotFound"):
        account.ec2.terminate_instances(InstanceIds=[instance, "i-0123456789abcdef0"])
    assert account.state(instance) == "running"


def test_a_protected_instance_is_not_terminated(account: Account) -> None:
    instance = account.launch(DisableApiTermination=True)
    with refused("OperationNotPermitted", "disableApiTermination"):
        account.ec2.terminate_instances(InstanceIds=[instance])
    account.ec2.modify_instance_attribute(InstanceId=instance, DisableApiTermination={"Value": False})
    account.terminate(instance)


def test_an_instance_protected_from_stopping_is_not_stopped(account: Account) -> None:
    instance = account.launch(DisableApiStop=True)
    account.becomes(instance, "running")
    with refused("OperationNotPermitted", "disableApiStop"):
        account.ec2.stop_instances(InstanceIds=[instance])
    account.terminate(instance)


def test_a_stopped_instance_keeps_its_address_and_starts_again(account: Account) -> None:
    instance = account.launch()
    before = account.becomes(instance, "running")
    account.ec2.stop_instances(InstanceIds=[instance])
    stopped = account.becomes(instance, "stopped")
    assert stopped["PrivateIpAddress"] == before["PrivateIpAddress"]
    assert "PublicIpAddress" not in stopped
    (change,) = account.ec2.start_instances(InstanceIds=[instance])["StartingInstances"]
    assert (change["PreviousState"]["Name"], change["CurrentState"]["Name"]) == ("stopped", "pending")
    assert account.becomes(instance, "running")["PublicIpAddress"]


def test_a_stopped_instance_terminates_at_once(account: Account) -> None:
    instance = account.launch()
    account.becomes(instance, "running")
    account.ec2.stop_instances(InstanceIds=[instance])
    account.becomes(instance, "stopped")
    (change,) = account.ec2.terminate_instances(InstanceIds=[instance])["TerminatingInstances"]
    assert change["CurrentState"]["Name"] == "terminated"
    assert account.ec2.describe_volumes()["Volumes"] == []


def test_terminating_while_stopping_ends_terminated() -> None:
    with running_in_thread(shutdown_delay="0.2s") as cloud, client(cloud) as ec2:
        account = Account(cloud, ec2)
        instance = account.launch()
        account.becomes(instance, "running")
        ec2.stop_instances(InstanceIds=[instance])
        ec2.terminate_instances(InstanceIds=[instance])
        account.becomes(instance, "terminated")


@pytest.mark.parametrize("verb", ["stop_instances", "start_instances", "reboot_instances"])
def test_a_terminated_instance_takes_no_orders(account: Account, verb: str) -> None:
    instance = account.launch()
    account.terminate(instance)
    with refused("IncorrectInstanceState"):
        getattr(account.ec2, verb)(InstanceIds=[instance])


def test_statuses_are_of_running_instances_unless_all_are_asked_for(account: Account) -> None:
    up, down = account.launch(), account.launch()
    account.becomes(up, "running")
    account.terminate(down)

    def ids(**asked: Any) -> list[str]:
        return [s["InstanceId"] for s in account.ec2.describe_instance_status(**asked)["InstanceStatuses"]]

    assert ids() == [up]
    assert ids(IncludeAllInstances=True) == [up, down]
