"""Faults reach the caller as the real cloud's would, from Python, over HTTP and as texts."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError
from botocore.parsers import ResponseParserError

from providers.simcloud import wishes
from providers.simcloud.faults import Faults
from providers.simcloud.testing import running
from tests.unit.simcloud.ec2_client import Account, client, refused


def control(account: Account, path: str = "", body: Any = None) -> Any:
    """GET or POST `/_simcloud`."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    with urllib.request.urlopen(f"{account.cloud.endpoint_url}/_simcloud{path}", data, timeout=10) as answer:
        return json.load(answer)


# -- single calls ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("InsufficientInstanceCapacity", 500),
        ("RequestLimitExceeded", 503),
        ("UnauthorizedOperation", 403),
        ("AuthFailure", 401),
        ("VcpuLimitExceeded", 400),
        ("Strange.Novelty", 400),
    ],
)
def test_an_error_comes_with_its_own_http_status_and_nothing_is_done(account: Account, code: str, status: int) -> None:
    account.cloud.faults.next(action="RunInstances", error=code)
    with refused(code, status=status):
        account.launch()
    assert account.ids() == []
    account.launch()


def test_message_and_status_may_be_given(account: Account) -> None:
    account.cloud.faults.next(action="RunInstances", error="InternalError", message="boom & <bust>", http_status=502)
    with refused("InternalError", "boom & <bust>", status=502):
        account.launch()


def test_faults_are_used_up_in_order_by_the_calls_they_are_for(account: Account) -> None:
    account.cloud.faults.next(action="RunInstances", error="One", times=2)
    account.cloud.faults.next(error="Two")
    account.cloud.faults.next(action="RunInstances", error="Three")
    with refused("Two"):
        account.ids()
    for code in ("One", "One", "Three"):
        with refused(code):
            account.launch()
    assert account.launch() == account.ids()[0]


def test_a_lost_reply_leaves_the_deed_done(account: Account) -> None:
    account.cloud.faults.next(action="RunInstances", lose_reply=True)
    with pytest.raises(ConnectionClosedError):
        account.launch(ClientToken="t")
    (instance,) = account.ids()
    assert account.launch(ClientToken="t") == instance


def test_a_load_balancers_page_is_not_ec2s_answer(account: Account) -> None:
    account.cloud.faults.next(action="DescribeInstances", http_status=503)
    with pytest.raises(ClientError) as caught:
        account.ids()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert caught.value.response["Error"]["Code"] == "503"  # all that the SDK can make of it


def test_garbage_is_an_answer_that_cannot_be_read(account: Account) -> None:
    account.cloud.faults.next(action="DescribeInstances", garbage=True)
    with pytest.raises(ResponseParserError):
        account.ids()


def test_delays_are_before_the_deed_and_after_it(account: Account) -> None:
    account.cloud.faults.next(action="RunInstances", delay=0.2, delay_reply=0.2)
    began = time.monotonic()
    account.launch()
    assert time.monotonic() - began >= 0.4


async def test_a_held_reply_belongs_to_a_deed_that_is_done() -> None:
    async with running() as cloud:
        with client(cloud) as ec2:
            account = Account(cloud, ec2)
            cloud.faults.next(action="RunInstances", delay_reply=1.0)
            launching = asyncio.create_task(asyncio.to_thread(account.launch))
            while not cloud.instances():
                await asyncio.sleep(0.01)
            assert not launching.done()
            await launching


def test_calls_lists_every_action_refused_ones_too(account: Account) -> None:
    account.cloud.faults.next(action="RunInstances", error="No")
    with refused("No"):
        account.launch()
    account.ids()
    assert account.cloud.calls == ["RunInstances", "DescribeInstances"]


# -- a world that lacks things --------------------------------------------------------------------


def test_an_empty_pool_refuses_until_a_place_comes_free(account: Account) -> None:
    account.cloud.faults.capacity("m6a.large", "us-east-1a", free=1)
    instance = account.launch()
    with refused("InsufficientInstanceCapacity", "(us-east-1a)", status=500):
        account.launch()
    account.launch(InstanceType="m6a.xlarge")
    account.launch(SubnetId=account.cloud.subnet[:-1] + "b")
    account.terminate(instance)
    account.launch()


def test_without_a_zone_the_first_with_room_is_taken(account: Account) -> None:
    account.cloud.faults.capacity("m6a.large", "us-east-1a", free=0)
    assert account.run(SubnetId=None)["Placement"]["AvailabilityZone"] == "us-east-1b"


def test_a_pool_of_anything_anywhere_is_the_whole_cloud(account: Account) -> None:
    account.cloud.faults.capacity(free=0)
    with refused("InsufficientInstanceCapacity", status=500):
        account.launch(InstanceType="c6a.large", SubnetId=None)


def test_a_quota_counts_the_vcpus_that_are_up(account: Account) -> None:
    account.cloud.faults.quota(vcpus=4)
    first, _ = account.launch(), account.launch()
    with refused("VcpuLimitExceeded", "limit of 4"):
        account.launch()
    account.terminate(first)
    account.launch()


def test_an_instance_that_dies_booting_is_terminated_with_a_reason(account: Account) -> None:
    account.cloud.faults.boot("dies", reason="Client.VolumeLimitExceeded: Volume limit exceeded")
    account.cloud.faults.boot("dies")
    told, untold = (account.becomes(account.launch(), "terminated") for _ in range(2))
    assert told["StateReason"] == {
        "Code": "Client.VolumeLimitExceeded",
        "Message": "Client.VolumeLimitExceeded: Volume limit exceeded",
    }
    assert untold["StateReason"]["Code"] == "Server.InternalError"


def test_a_cleared_cloud_is_well(account: Account) -> None:
    faults = account.cloud.faults
    faults.next(error="No")
    faults.capacity(free=0)
    faults.quota(0)
    faults.boot("dies")
    faults.clear()
    account.becomes(account.launch(), "running")


def test_a_host_can_fail_from_any_thread(account: Account) -> None:
    instance = account.launch()
    account.becomes(instance, "running")
    account.cloud.faults.kill(instance)
    assert account.becomes(instance, "terminated")["StateReason"]["Code"] == "Server.InternalError"
    with pytest.raises(KeyError):
        account.cloud.faults.kill("i-0")


# -- over HTTP ------------------------------------------------------------------------------------


def test_faults_can_be_caused_and_seen_over_http(account: Account) -> None:
    left = control(account, "/faults", {"capacity": {"free": 0}, "next": {"error": "No", "times": 2}})
    assert left == control(account, "/faults")
    assert (left["capacity"][0]["free"], left["next"][0]["times"]) == (0, 2)
    with refused("No"):
        account.launch()
    control(account, "/faults", {"clear": {}})
    assert account.launch()


def test_an_instance_can_be_killed_over_http(account: Account) -> None:
    instance = account.launch()
    account.becomes(instance, "running")
    control(account, "/faults", {"kill": {"instance": instance, "reason": "the host is on fire"}})
    gone = account.becomes(instance, "terminated")
    assert gone["StateReason"]["Message"] == "Server.InternalError: the host is on fire"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"explode": {}}, 400, "there is no fault 'explode'"),
        ({"next": {"colour": "blue"}}, 400, "next has no 'colour'"),
        ({"next": {"delay": "soon"}}, 400, "'soon' is not a duration"),
        ({"capacity": {}}, 400, "capacity needs free"),
        ({"boot": {"fate": "shy"}}, 400, "dies"),
        ({"kill": {"instance": "i-0"}}, 404, "no instance"),
        (["next"], 400, "object of faults"),
        (b"{", 400, ""),
    ],
)
def test_wishes_that_make_no_sense_are_answered_with_what_would(
    account: Account, body: Any, status: int, words: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        control(account, "/faults", body)
    with caught.value as answer:
        assert (answer.code, words in json.load(answer)["error"]) == (status, True)


def test_the_control_page_says_what_to_launch_with(account: Account) -> None:
    about = control(account)
    assert account.ec2.run_instances(
        ImageId=about["ami"], SubnetId=about["subnet"], MinCount=1, MaxCount=1, InstanceType="m6a.large",
        SecurityGroupIds=[about["security_group"]],
    )  # fmt: skip
    (shown,) = control(account, "/instances")
    assert (shown["instance_type"], shown["zone"]) == ("m6a.large", "us-east-1a")


# -- as texts -------------------------------------------------------------------------------------


def test_a_text_says_the_same_as_python() -> None:
    told, called = Faults(), Faults()
    for text in (
        "capacity instance_type=m6a.large zone=us-east-1a free=2",
        "next action=RunInstances lose_reply=true delay=250ms message='none left'",
        "quota vcpus=8",
        "boot fate=deaf times=2",
    ):
        wishes.apply(told, *wishes.parse(text))
    called.capacity("m6a.large", "us-east-1a", free=2)
    called.next(action="RunInstances", lose_reply=True, delay=0.25, message="none left")
    called.quota(8)
    called.boot("deaf", times=2)
    assert told == called


@pytest.mark.parametrize("text", ["", "explode", "next colour", "capacity free=-1", "next times=many"])
def test_a_text_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        wishes.apply(Faults(), *wishes.parse(text))
