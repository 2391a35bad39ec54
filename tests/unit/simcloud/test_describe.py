"""What EC2 shows of its instances, to whom it does, and for how long."""

from typing import Any

import pytest

from providers.simcloud.ec2 import describe
from providers.simcloud.ec2.account import Note
from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.ec2_client import Account, client, eventually, refused

UNKNOWN = "i-0123456789abcdef0"


def test_an_unknown_id_is_refused_by_name(account: Account) -> None:
    with refused("InvalidInstanceID.NotFound", f"The instance ID '{UNKNOWN}' does not exist"):
        account.ids(InstanceIds=[UNKNOWN, account.launch()])
    with refused("InvalidInstanceID.NotFound", f"The instance IDs '{UNKNOWN}, i-0123abcd' do not exist"):
        account.ids(InstanceIds=[UNKNOWN, "i-0123abcd"])


@pytest.mark.parametrize("malformed", ["mine", "i-12345", "i-0123456789ABCDEF0", "vol-0123456789abcdef0"])
def test_a_malformed_id_is_refused(account: Account, malformed: str) -> None:
    with refused("InvalidInstanceID.Malformed", malformed):
        account.ids(InstanceIds=[malformed])
    with refused("InvalidInstanceID.Malformed", malformed):
        account.ec2.terminate_instances(InstanceIds=[malformed])


def test_unknown_ids_in_a_filter_are_simply_absent(account: Account) -> None:
    instance = account.launch()
    assert account.by("instance-id", UNKNOWN, instance) == [instance]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tag:app", "web"),
        ("tag-key", "app"),
        ("tag:app", "w?b"),
        ("tag:app", "*"),
        ("client-token", "mine"),
        ("instance-type", "m6a.*"),
        ("instance-state-name", "running"),
        ("instance-state-code", "16"),
        ("private-ip-address", "172.31.0.4"),
        ("image-id", "ami-051c10ad000000001"),
        ("availability-zone", "us-east-1a"),
        ("metadata-options.http-tokens", "required"),
        ("block-device-mapping.device-name", "/dev/xvda"),
        ("network-interface.subnet-id", "subnet-051c10ad00000000a"),
    ],
)
def test_an_instance_is_found_by_what_it_is(account: Account, name: str, value: str) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "app", "Value": "web"}]}]
    found = account.launch(TagSpecifications=tags, ClientToken="mine", MetadataOptions={"HttpTokens": "required"})
    account.becomes(found, "running")
    other = account.launch(InstanceType="c6a.large", ImageId="ami-03cf127a", SubnetId=account.cloud.subnet[:-1] + "b")
    account.becomes(other, "running")
    account.ec2.stop_instances(InstanceIds=[other])
    account.becomes(other, "stopped")
    assert account.by(name, value) == [found]


def test_all_filters_must_match_and_one_value_of_each(account: Account) -> None:
    one, two = account.launch(ClientToken="one"), account.launch(ClientToken="two")
    assert account.by("client-token", "one", "two", "three") == [one, two]
    both = [{"Name": "client-token", "Values": ["one", "two"]}, {"Name": "instance-id", "Values": [two]}]
    assert account.ids(Filters=both) == [two]


@pytest.mark.parametrize(
    ("pattern", "value", "matches"),
    [
        ("a*c", "abc", True),
        ("a?c", "ac", False),
        ("a\\*c", "a*c", True),
        ("a\\*c", "abc", False),
        ("[ab]", "a", False),
        ("a.c", "abc", False),
        ("a*", "a\nb", True),
        ("\\\\", "\\", True),
        ("", "", True),
    ],
)
def test_filter_values_know_two_wildcards_and_an_escape(pattern: str, value: str, matches: bool) -> None:
    assert describe.matches(value, [pattern]) is matches


def test_filters_that_ec2_does_not_know_are_refused(account: Account) -> None:
    with refused("InvalidParameterValue", "The filter 'colour' is invalid"):
        account.by("colour", "blue")


def test_more_than_200_filter_values_are_refused(account: Account) -> None:
    values = [f"i-{n:017x}" for n in range(201)]
    assert account.by("instance-id", *values[:200]) == []
    with refused("FilterLimitExceeded"):
        account.by("instance-id", *values)


def test_pages_are_as_large_as_asked_and_hold_everything_once(account: Account) -> None:
    launched = [account.launch() for _ in range(12)]
    pages = list(account.ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 5}))
    assert [len(page["Reservations"]) for page in pages] == [5, 5, 2]
    assert [r["Instances"][0]["InstanceId"] for page in pages for r in page["Reservations"]] == launched


@pytest.mark.parametrize("asked", [{"MaxResults": 4}, {"MaxResults": 1001}, {"NextToken": "page two"}])
def test_pages_that_cannot_be_are_refused(account: Account, asked: dict[str, Any]) -> None:
    with refused("InvalidParameterValue"):
        account.ec2.describe_instances(**asked)


def test_ids_and_pages_exclude_each_other(account: Account) -> None:
    with refused("InvalidParameterCombination", "maxResults"):
        account.ec2.describe_instances(InstanceIds=[account.launch()], MaxResults=5)


def test_a_terminated_instance_keeps_its_id_tags_and_token_and_loses_its_place(account: Account) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "app", "Value": "web"}]}]
    instance = account.launch(TagSpecifications=tags, ClientToken="mine")
    address = account.show(instance)["PrivateIpAddress"]
    shown = account.terminate(instance)
    assert shown["Tags"] == [{"Key": "app", "Value": "web"}]
    assert shown["ClientToken"] == "mine"
    assert not {"PrivateIpAddress", "SubnetId", "VpcId", "PublicIpAddress"} & set(shown)
    assert (shown["NetworkInterfaces"], shown["BlockDeviceMappings"], shown["SecurityGroups"]) == ([], [], [])
    assert account.by("private-ip-address", address) == []


def test_a_terminated_instance_is_forgotten_after_a_while() -> None:
    with running_in_thread(terminated_visible=0.0) as cloud, client(cloud) as ec2:
        account = Account(cloud, ec2)
        instance = account.launch()
        ec2.terminate_instances(InstanceIds=[instance])
        eventually(lambda: not account.ids())
        with refused("InvalidInstanceID.NotFound"):
            account.show(instance)


def test_a_fresh_instance_may_be_unknown_for_a_moment() -> None:
    with running_in_thread(visible_after="1h") as cloud, client(cloud) as ec2:
        account = Account(cloud, ec2)
        instance = account.launch(ClientToken="t")
        with refused("InvalidInstanceID.NotFound"):
            account.show(instance)
        with refused("InvalidInstanceID.NotFound"):
            ec2.terminate_instances(InstanceIds=[instance])
        assert account.ids() == []
        assert account.launch(ClientToken="t") == instance


def test_an_instance_is_visible_from_its_moment_until_a_while_after_its_end() -> None:
    note = Note(reservation=None, instance=None, visible_from=10.0)
    assert [note.visible(now, 60.0) for now in (9.9, 10.0, 999.0)] == [False, True, True]
    note.terminated_at = 100.0
    assert [note.visible(now, 60.0) for now in (159.9, 160.0)] == [True, False]


# -- instance types -------------------------------------------------------------------------------


def types(account: Account, **asked: Any) -> list[dict[str, Any]]:
    pages = account.ec2.get_paginator("describe_instance_types").paginate(**asked)
    return [kind for page in pages for kind in page["InstanceTypes"]]


def test_types_are_filtered_by_processor_features(account: Account) -> None:
    found = types(account, Filters=[{"Name": "processor-info.supported-features", "Values": ["amd-sev-snp"]}])
    assert {kind["InstanceType"].split(".")[0] for kind in found} == {"m6a", "c6a", "r6a"}
    assert all("amd-sev-snp" in kind["ProcessorInfo"]["SupportedFeatures"] for kind in found)


def test_types_come_in_pages_of_at_most_100(account: Account) -> None:
    first = account.ec2.describe_instance_types()
    assert (len(first["InstanceTypes"]), "NextToken" in first) == (100, True)
    with refused("InvalidParameterValue"):
        account.ec2.describe_instance_types(MaxResults=101)


def test_an_unknown_type_is_refused_by_name(account: Account) -> None:
    with refused("InvalidInstanceType", "The following supplied instance types do not exist: [m6a.tiny]"):
        types(account, InstanceTypes=["m6a.large", "m6a.tiny"])


def test_a_type_is_described_with_what_a_provider_needs(account: Account) -> None:
    (kind,) = types(account, InstanceTypes=["g5.xlarge"])
    assert (kind["VCpuInfo"]["DefaultVCpus"], kind["MemoryInfo"]["SizeInMiB"]) == (4, 16384)
    assert (kind["GpuInfo"]["Gpus"][0]["Name"], kind["GpuInfo"]["Gpus"][0]["Count"]) == ("A10G", 1)


def test_offerings_say_which_zone_sells_a_type(account: Account) -> None:
    asked = [{"Name": "instance-type", "Values": ["m6a.l*"]}]
    found = account.ec2.describe_instance_type_offerings(LocationType="availability-zone", Filters=asked)
    assert {o["Location"] for o in found["InstanceTypeOfferings"]} == {f"us-east-1{zone}" for zone in "abcdf"}
    with refused("InvalidParameterValue", "colour"):
        account.ec2.describe_instance_type_offerings(Filters=[{"Name": "colour", "Values": ["blue"]}])
