"""The very parameters EC2 is called with, and how its answers read."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from providers import tags
from providers.aws import requests
from providers.aws import shape as shape_of_launch
from providers.aws.config import AwsConfig
from providers.aws.shape import Image, Place
from providers.base import Instance, InstanceState, LaunchSpec, Ownership, Purchase, Tee
from providers.errors import InvalidSpec

OWNER = Ownership("cluster-a", "node-1")
CONFIG = AwsConfig(
    image="ami-0123456789abcdef0",
    instance_types=("c6a.large",),
    tags=(("cost-centre", "42"), ("team", "blue")),
)
SPEC = LaunchSpec("podvm-nginx", "m6a.large", b'{"peerpods": 1}', tags={"team": "red", tags.SANDBOX: "s1"})
IMAGE = Image("/dev/xvda", (("/dev/sdb", 2), ("/dev/xvda", 8)))
PLACE = Place("subnet-1", ("sg-1", "sg-2"))
TAGS = [
    {"Key": "Name", "Value": "podvm-nginx"},
    {"Key": "cost-centre", "Value": "42"},
    {"Key": "peerpods-cluster", "Value": "cluster-a"},
    {"Key": "peerpods-node", "Value": "node-1"},
    {"Key": "peerpods-sandbox", "Value": "s1"},
    {"Key": "peerpods-token", "Value": "token-1"},
    {"Key": "team", "Value": "red"},
]


def launch(spec: LaunchSpec = SPEC, config: AwsConfig = CONFIG, image: Image = IMAGE) -> dict[str, Any]:
    return requests.run_instances(spec, "token-1", 1, config=config, owner=OWNER, image=image, place=PLACE)


def test_a_launch_is_exactly_this_request() -> None:
    assert launch() == {
        "ClientToken": "token-1",
        "MinCount": 1,
        "MaxCount": 1,
        "ImageId": "ami-0123456789abcdef0",
        "InstanceType": "m6a.large",
        "SubnetId": "subnet-1",
        "SecurityGroupIds": ["sg-1", "sg-2"],
        "UserData": b'{"peerpods": 1}',
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/sdb", "Ebs": {"DeleteOnTermination": True, "VolumeSize": 2}},
            {"DeviceName": "/dev/xvda", "Ebs": {"DeleteOnTermination": True, "VolumeSize": 8}},
        ],
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": TAGS},
            {"ResourceType": "volume", "Tags": TAGS},
            {"ResourceType": "network-interface", "Tags": TAGS},
        ],
        "CpuOptions": {"AmdSevSnp": "enabled"},
    }


def test_equal_launches_are_equal_requests_whatever_the_order_of_their_tags() -> None:
    turned = replace(SPEC, tags=dict(reversed(list(SPEC.tags.items()))))
    assert launch(turned) == launch()


def test_the_pods_wish_for_a_tee_goes_before_the_settings() -> None:
    plain = replace(CONFIG, confidential=False)
    assert "CpuOptions" not in launch(replace(SPEC, tee=Tee.NONE))
    assert "CpuOptions" not in launch(config=plain)
    assert launch(replace(SPEC, tee=Tee.SNP), plain)["CpuOptions"] == {"AmdSevSnp": "enabled"}


def test_a_pods_own_image_and_the_settings_key_are_passed_on() -> None:
    request = launch(replace(SPEC, image="ami-0aaaaaaaaaaaaaaaa"), replace(CONFIG, key_name="operators"))
    assert (request["ImageId"], request["KeyName"]) == ("ami-0aaaaaaaaaaaaaaaa", "operators")


@pytest.mark.parametrize(
    ("pods", "nodes", "size"),
    [(None, None, 8), (None, 30, 30), (50, 30, 50), (20, 30, 20), (4, None, 8), (None, 4, 8)],
)
def test_the_root_volume_is_as_asked_and_never_less_than_the_image(
    pods: int | None, nodes: int | None, size: int
) -> None:
    request = launch(replace(SPEC, root_volume_gib=pods), replace(CONFIG, root_volume_gib=nodes))
    sizes = {each["DeviceName"]: each["Ebs"]["VolumeSize"] for each in request["BlockDeviceMappings"]}
    assert sizes == {"/dev/sdb": 2, "/dev/xvda": size}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": ""}, "name"),
        ({"name": "Nginx"}, "name"),
        ({"name": "n" * 64}, "name"),
        ({"instance_type": "m6a.48xlarge"}, "m6a.large, c6a.large"),
        ({"user_data": b"x" * 16_385}, "16385 bytes"),
        ({"tee": Tee.TDX}, "tdx"),
        ({"tags": {"k" * 129: ""}}, "129"),
        ({"tags": {"k": "v" * 257}}, "257"),
        ({"tags": {"": "v"}}, "0 characters"),
        ({"tags": {"AWS:k": "v"}}, "Amazon"),
        ({"tags": {f"key-{n}": "" for n in range(45)}}, "51 tags"),
    ],
)
def test_what_ec2_would_refuse_is_refused_here(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidSpec, match=problem):
        requests.check(replace(SPEC, **changes), "token-1", CONFIG)


@pytest.mark.parametrize("token", ["", "t" * 65, "two words", "tökén", "line\n"])
def test_a_token_ec2_would_refuse_is_refused_here(token: str) -> None:
    with pytest.raises(InvalidSpec, match="token"):
        requests.check(SPEC, token, CONFIG)


def test_the_limits_themselves_are_allowed() -> None:
    most = {f"key-{n}": "v" * 256 for n in range(43)} | {"k" * 128: "v"}
    full = replace(SPEC, name="n" * 63, user_data=b"x" * 16_384, instance_type="c6a.large", tags=most)
    requests.check(full, "t" * 64, CONFIG)
    assert len(launch(full)["TagSpecifications"][0]["Tags"]) == 50


def test_a_description_of_many_is_split_where_ec2_takes_no_more() -> None:
    ids = [f"i-{number:017x}" for number in range(450)]
    asked = list(requests.by_id([*ids, ids[0]]))
    assert [len(each["Filters"][0]["Values"]) for each in asked] == [200, 200, 50]
    assert [value for each in asked for value in each["Filters"][0]["Values"]] == ids
    assert all(each["MaxResults"] == 1000 for each in asked)
    assert list(requests.by_id([])) == []


def test_a_list_asks_for_this_node_and_what_is_not_gone() -> None:
    assert requests.owned_by(Ownership("prod*", "a?\\b")) == {
        "Filters": [
            {"Name": "tag:peerpods-cluster", "Values": ["prod\\*"]},
            {"Name": "tag:peerpods-node", "Values": ["a\\?\\\\b"]},
            {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]},
        ],
        "MaxResults": 1000,
    }


def test_a_tokens_instance_is_asked_for_by_the_token_itself() -> None:
    assert requests.by_token("token-1")["Filters"] == [{"Name": "client-token", "Values": ["token-1"]}]


def test_a_zone_is_asked_which_types_it_sells() -> None:
    assert requests.types_in(["us-east-2a"], ["m6a.large", "c6a.large"]) == {
        "LocationType": "availability-zone",
        "Filters": [
            {"Name": "location", "Values": ["us-east-2a"]},
            {"Name": "instance-type", "Values": ["m6a.large", "c6a.large"]},
        ],
    }


READERS: list[Callable[[dict[str, Any]], Iterable[object]]] = [
    requests.launched,
    requests.instances,
    requests.images,
    requests.subnets,
    requests.sold,
    requests.nothing,
]


@pytest.mark.parametrize("read", READERS)
def test_a_page_that_is_not_ec2s_does_not_read_as_nothing_found(
    read: Callable[[dict[str, Any]], Iterable[object]],
) -> None:
    with pytest.raises(KeyError):
        list(read({"ResponseMetadata": {"HTTPStatusCode": 200}}))


SHAPE: dict[str, Any] = {
    "InstanceId": "i-1",
    "State": {"Code": 16, "Name": "running"},
    "PrivateIpAddress": "10.0.0.7",
    "PublicIpAddress": "203.0.113.7",
    "InstanceType": "m6a.large",
    "ImageId": "ami-1",
    "Placement": {"AvailabilityZone": "us-east-2a"},
    "Tags": [{"Key": "Name", "Value": "podvm-nginx"}],
    "LaunchTime": datetime(2026, 1, 2, tzinfo=UTC),
    "StateTransitionReason": "",
}


def test_a_described_instance_is_all_of_our_fields() -> None:
    assert requests.instance(SHAPE) == Instance(
        id="i-1",
        state=InstanceState.RUNNING,
        addresses=("10.0.0.7", "203.0.113.7"),
        name="podvm-nginx",
        instance_type="m6a.large",
        zone="us-east-2a",
        image="ami-1",
        tags={"Name": "podvm-nginx"},
        launched_at=1767312000.0,
    )


def test_a_public_address_counts_where_it_is_asked_for_and_is_waited_for() -> None:
    public = replace(CONFIG, public_ip="auto")
    both, later = requests.instance(SHAPE), requests.instance({**SHAPE, "PublicIpAddress": None})
    pending = replace(later, state=InstanceState.PENDING)
    assert requests.reachable(both, CONFIG).addresses == ("10.0.0.7",)
    assert requests.reachable(both, public).addresses == ("10.0.0.7", "203.0.113.7")
    assert requests.reachable(pending, CONFIG).addresses == ("10.0.0.7",)
    assert requests.reachable(pending, public).addresses == ()
    assert requests.reachable(later, public).addresses == ("10.0.0.7",)


def test_a_pods_labels_never_fail_its_launch() -> None:
    config = replace(CONFIG, tag_labels=("app.kubernetes.io/name", "team", "peerpods-node", "Name", "aws:x", "note"))
    asked = {
        "app.kubernetes.io/name": "web",
        "peerpods-node": "node-9",
        "Name": "mine",
        "aws:x": "y",
        "note": "<b>" * 100,
        **{f"key-{n}": "" for n in range(40)},
    }
    spec = replace(SPEC, tags=asked)
    requests.check(spec, "token-1", config)
    (first, *_) = launch(spec, config)["TagSpecifications"]
    made = {each["Key"]: each["Value"] for each in first["Tags"]}
    assert (made["app.kubernetes.io/name"], made["peerpods-node"], made["Name"]) == ("web", "node-1", "podvm-nginx")
    assert made["note"] == ("_b_" * 100)[:256]
    assert "aws:x" not in made
    assert len(made) <= 50


def test_labels_that_find_no_room_are_left_out() -> None:
    config = replace(CONFIG, tags=(), tag_labels=tuple(f"label-{n}" for n in range(20)))
    spec = replace(SPEC, tags={f"{kind}-{n}": "" for kind, many in (("key", 40), ("label", 20)) for n in range(many)})
    requests.check(spec, "token-1", config)
    (first, *_) = launch(spec, config)["TagSpecifications"]
    assert len(first["Tags"]) == 50
    assert [each["Key"] for each in first["Tags"] if each["Key"].startswith("label")] == [
        f"label-{n}" for n in range(6)
    ]


def test_spot_requests_carry_the_tags_too() -> None:
    spot = launch(replace(SPEC, purchase=Purchase.SPOT), replace(CONFIG, spot=True))
    assert "spot-instances-request" in {each["ResourceType"] for each in spot["TagSpecifications"]}


def test_the_least_ec2_may_say_of_an_instance_is_enough() -> None:
    assert requests.instance({"InstanceId": "i-1", "State": {"Name": "terminated"}}) == Instance(
        "i-1", InstanceState.GONE
    )


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("pending", InstanceState.PENDING),
        ("stopping", InstanceState.STOPPED),
        ("stopped", InstanceState.STOPPED),
        ("shutting-down", InstanceState.GONE),
        ("hovering", InstanceState.PENDING),
    ],
)
def test_a_state_is_as_much_as_we_branch_on(name: str, state: InstanceState) -> None:
    assert requests.instance({**SHAPE, "State": {"Name": name}}).state is state


def test_the_reason_is_the_clouds_most_exact_one() -> None:
    user = {**SHAPE, "StateTransitionReason": "User initiated (2026-01-02)"}
    assert requests.instance(user).reason == "User initiated (2026-01-02)"
    spot = {**user, "StateReason": {"Code": "Server.SpotInstanceTermination", "Message": "outbid"}}
    assert requests.instance(spot).reason == "outbid (EC2 took the spot capacity back)"


def test_every_reservation_of_a_page_is_read() -> None:
    page = {
        "Reservations": [
            {"Instances": [SHAPE, {**SHAPE, "InstanceId": "i-2"}]},
            {"Instances": [{**SHAPE, "InstanceId": "i-3"}]},
        ]
    }
    assert [each.id for each in requests.instances(page)] == ["i-1", "i-2", "i-3"]


def test_an_image_is_its_ebs_volumes() -> None:
    shape = {
        "RootDeviceName": "/dev/xvda",
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8, "DeleteOnTermination": False}},
            {"DeviceName": "/dev/sdb", "Ebs": {"VolumeSize": 2}},
            {"DeviceName": "/dev/sdc", "VirtualName": "ephemeral0"},
        ],
    }
    assert shape_of_launch.image(shape) == IMAGE
