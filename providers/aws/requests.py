"""What is asked of EC2, and how its answers read: pure functions between our values and the API's dicts."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from providers import tags
from providers.aws import labels, shape
from providers.aws.config import AwsConfig, tag_problem
from providers.aws.shape import Image, Place
from providers.base import Instance, InstanceState, LaunchSpec, Ownership, Purchase, Seat, Tee
from providers.errors import InvalidSpec

USER_DATA_LIMIT: Final = 16_384  # bytes before base64: EC2's own limit
TOKEN_LIMIT: Final = 64  # ASCII characters of a ClientToken
TAGS_LIMIT: Final = 50  # per resource
IDS_PER_CALL: Final = 200  # EC2 takes at most 200 values per filter
ENDS_PER_CALL: Final = 100  # TerminateInstances takes 1000; one that it refuses fails all
PAGE: Final = 1000  # the largest page EC2 gives: fewest calls
TYPES_PER_CALL: Final = 100  # DescribeInstanceTypes takes no more names

_TAGGED: Final = ("instance", "volume", "network-interface")  # all that RunInstances makes and bills
_LIVE: Final = ("pending", "running", "stopping", "stopped")
_STATES: Final = {
    "pending": InstanceState.PENDING,
    "running": InstanceState.RUNNING,
    "stopping": InstanceState.STOPPED,
    "stopped": InstanceState.STOPPED,
    "shutting-down": InstanceState.GONE,
    "terminated": InstanceState.GONE,
}
Request = dict[str, Any]
Shape = Mapping[str, Any]

# What EC2's own words for the end of an instance leave open.
_WHY: Final = {
    "Server.SpotInstanceTermination": "EC2 took the spot capacity back",
    "Server.SpotInstanceShutdown": "EC2 took the spot capacity back",
    "Server.InsufficientInstanceCapacity": "EC2 had no capacity left when it should start",
    "Server.ScheduledStop": "Amazon retires the hardware",
    "Client.VolumeLimitExceeded": "the account's limit of EBS volumes or their size is reached",
    "Client.InternalError": "often: this account may not use the KMS key of a volume of the image",
    "Client.InvalidKMSKey.InvalidState": "the KMS key is disabled, being deleted, or may not be used",
    "Client.InvalidSnapshot.NotFound": "a snapshot of the image is gone, or is not shared with this account",
}


def check(spec: LaunchSpec, token: str, config: AwsConfig) -> None:
    """Refuse what EC2 would refuse, before a call is spent on it. Raises: InvalidSpec."""
    problem = _problem(spec, token, config)
    if problem:
        raise InvalidSpec(f"cannot launch {spec.name or 'an instance'}: {problem}")


def _problem(spec: LaunchSpec, token: str, config: AwsConfig) -> str:
    if not re.fullmatch(r"[a-z0-9-]{1,63}", spec.name):
        return f"the name {spec.name!r} is not 1 to 63 of a-z, 0-9 and '-'"
    if not re.fullmatch(rf"[!-~]{{1,{TOKEN_LIMIT}}}", token):
        return f"the token is not 1 to {TOKEN_LIMIT} visible ASCII characters"
    if not config.allows(spec.instance_type):
        return f"{spec.instance_type} is not among the instance types allowed here: {', '.join(config.allowed_types)}"
    if len(spec.user_data) > USER_DATA_LIMIT:
        return f"its user data has {len(spec.user_data)} bytes; EC2 takes {USER_DATA_LIMIT}"
    if spec.tee not in (None, Tee.NONE, Tee.SNP):
        return f"EC2 has no instances with {spec.tee}; it has some with {Tee.SNP}"
    if spec.purchase is Purchase.SPOT and not config.spot:
        return "the settings do not allow spot capacity; aws.spot = true does"
    return _tags_problem({**dict(config.tags), **labels.plain(spec.tags, config)})


def _tags_problem(asked: Mapping[str, str]) -> str:
    for key, value in asked.items():
        if problem := tag_problem(key, value):
            return f"its tag {key[:40]!r} {problem}"
    ours = {"Name", tags.CLUSTER, tags.NODE, tags.TOKEN}
    if len(ours | asked.keys()) > TAGS_LIMIT:
        return f"it would carry {len(ours | asked.keys())} tags; EC2 takes {TAGS_LIMIT}"
    return ""


def run_instances(
    spec: LaunchSpec, token: str, count: int, *, config: AwsConfig, owner: Ownership, image: Image, place: Place
) -> Request:
    """RunInstances. Equal arguments give equal requests: EC2 compares them under a token.

    One of several instances (`spec` has neither name nor tags then) is told from the others by its launch index.
    """
    request: Request = {
        "ClientToken": token,
        "MinCount": 1,
        "MaxCount": count,
        "ImageId": spec.image or config.image,
        "InstanceType": spec.instance_type,
        "UserData": spec.user_data,  # the SDK does the base64
        # A pod VM switches itself off when it is done for: nothing of it shall stay behind.
        "InstanceInitiatedShutdownBehavior": "terminate",
        # Session tokens only, and answers that live one hop: the pod's own network namespace is a second hop.
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "TagSpecifications": _tag_specifications(_all_tags(spec, _mark(token, count), config, owner), spec.purchase),
        **shape.parts(spec, config, image, place),
    }
    if config.key_name:
        request["KeyName"] = config.key_name
    if tee_of(spec, config) is Tee.SNP:
        request["CpuOptions"] = {"AmdSevSnp": "enabled"}
    elif place.template is not None and place.template.snp:
        request["CpuOptions"] = {"AmdSevSnp": "disabled"}
    return request


def tee_of(spec: LaunchSpec, config: AwsConfig) -> Tee:
    """What the guest is to get."""
    return config.tee if spec.tee is None else spec.tee


def _all_tags(spec: LaunchSpec, token: str, config: AwsConfig, owner: Ownership) -> dict[str, str]:
    ours = {tags.TOKEN: token, **tags.of_new(owner)}
    name = {"Name": spec.name} if spec.name else {}
    return _fitting({**dict(config.tags), **spec.tags, **name, **ours}, config)


def _fitting(given: Mapping[str, str], config: AwsConfig) -> dict[str, str]:
    """With as many of the pod's labels as there is room for."""
    others = labels.plain(given, config)
    return {**labels.fitting(given, config, TAGS_LIMIT - len(others)), **others}


def _mark(token: str, count: int) -> str:
    """The tag of instances of a call for several: EC2 writes the same to all of them."""
    return token if count == 1 else f"{token}.all.{count}"


def _seated(found: dict[str, str], index: int) -> dict[str, str]:
    """The tags with `_mark`'s made into the seat that it stands for."""
    call, _, count = found.get(tags.TOKEN, "").partition(".all.")
    return {**found, tags.TOKEN: str(Seat(call, index, int(count)))} if count.isdecimal() else found


def label(instance: Instance, config: AwsConfig) -> Request:
    """CreateTags for what RunInstances could not write, for it is this instance's alone."""
    own = {key: value for key, value in instance.tags.items() if not key.startswith("aws:")} | {"Name": instance.name}
    pairs = sorted(_fitting(own, config).items())
    return {"Resources": [instance.id], "Tags": [{"Key": key, "Value": value} for key, value in pairs]}


def _tag_specifications(all_tags: Mapping[str, str], purchase: Purchase) -> list[Request]:
    pairs = [{"Key": key, "Value": value} for key, value in sorted(all_tags.items())]
    kinds = (*_TAGGED, "spot-instances-request") if purchase is Purchase.SPOT else _TAGGED
    return [{"ResourceType": kind, "Tags": pairs} for kind in kinds]


def by_id(ids: Collection[str]) -> Iterator[Request]:
    """DescribeInstances for these ids, in as few calls as EC2 allows.

    By filter, not by `InstanceIds`: one unknown id in that list fails the whole call, and its message would
    have to be taken apart to ask again; a filter leaves unknown ones out, as `Provider.get` promises.
    """
    for chunk in chunks(sorted(set(ids)), IDS_PER_CALL):
        yield _instances(("instance-id", chunk))


def owned_by(owner: Ownership) -> Request:
    """DescribeInstances for everything alive that carries this ownership."""
    marks = ((f"tag:{key}", [value]) for key, value in sorted(tags.ownership(owner).items()))
    return _instances(*marks, ("instance-state-name", _LIVE))


def by_token(token: str) -> Request:
    """DescribeInstances for what this token launched; a terminated instance loses its tags before its token."""
    return _instances(("client-token", [token]))


def _instances(*filters: tuple[str, Sequence[str]]) -> Request:
    asked = [{"Name": name, "Values": [literal(value) for value in values]} for name, values in filters]
    return {"Filters": asked, "MaxResults": PAGE}


def literal(value: str) -> str:
    """`value` as a filter's. They take wildcards: a cluster called "prod*" would see the instances of "prod-two"."""
    return re.sub(r"([*?\\])", r"\\\1", value)


def types_in(zones: Sequence[str], names: Sequence[str]) -> Request:
    """DescribeInstanceTypeOfferings: which of these (`*` and `?` mean what they mean) these zones sell."""
    return {
        "LocationType": "availability-zone",
        "Filters": [{"Name": "location", "Values": list(zones)}, {"Name": "instance-type", "Values": list(names)}],
    }


def types_like(patterns: Sequence[str]) -> Request:
    """DescribeInstanceTypes for names with wildcards; those that match nothing are left out."""
    return {"Filters": [{"Name": "instance-type", "Values": list(patterns)}]}


def chunks(values: Sequence[str], size: int) -> Iterator[list[str]]:
    """`values` in lists of at most `size`."""
    for start in range(0, len(values), size):
        yield list(values[start : start + size])


# Readers of answers. What an answer of EC2's always has is demanded: a proxy's page must not read as "no instances".


def launched(answer: Shape) -> Iterator[tuple[int, Instance]]:
    """Every instance of a RunInstances answer, which is a reservation, with its launch index."""
    first = answer["Instances"][0]  # there is one, or this is no answer of EC2's
    yield from ((each.get("AmiLaunchIndex", 0), instance(each)) for each in (first, *answer["Instances"][1:]))


def indexed(answer: Shape) -> Iterator[tuple[int, Instance]]:
    """Every instance of a DescribeInstances page, with its launch index."""
    for reservation in answer["Reservations"]:
        yield from ((each.get("AmiLaunchIndex", 0), instance(each)) for each in reservation["Instances"])


def instances(answer: Shape) -> Iterator[Instance]:
    """Every instance of a DescribeInstances page."""
    for reservation in answer["Reservations"]:
        yield from map(instance, reservation["Instances"])


def images(answer: Shape) -> Iterator[Image]:
    """Every image of a DescribeImages answer."""
    yield from map(shape.image, answer["Images"])


def subnets(answer: Shape) -> Iterator[tuple[str, str]]:
    """Every subnet of a DescribeSubnets answer, with its zone."""
    return ((each["SubnetId"], each["AvailabilityZone"]) for each in answer["Subnets"])


def sold(answer: Shape) -> Iterator[tuple[str, str]]:
    """The types of a DescribeInstanceTypeOfferings page, each with a zone that sells it."""
    return ((item["InstanceType"], item["Location"]) for item in answer["InstanceTypeOfferings"])


def nothing(answer: Shape) -> Iterator[str]:
    """A TerminateInstances answer: that it came is all there is to know."""
    return iter(answer["TerminatingInstances"][:0])


def empty(answer: Shape) -> Iterator[str]:
    """The answer to a deletion that says nothing at all."""
    return iter(())


def instance(shape: Shape) -> Instance:
    """One of RunInstances' or DescribeInstances' instances."""
    found = _seated({tag["Key"]: tag["Value"] for tag in shape.get("Tags", [])}, shape.get("AmiLaunchIndex", 0))
    addresses = (shape.get("PrivateIpAddress"), shape.get("PublicIpAddress"))
    launched = shape.get("LaunchTime")
    return Instance(
        id=shape["InstanceId"],
        # A state EC2 has not had until now is not proof of death: nothing may be given up for it.
        state=_STATES.get(shape["State"]["Name"], InstanceState.PENDING),
        addresses=tuple(address for address in addresses if address),
        name=found.get("Name", ""),
        instance_type=shape.get("InstanceType", ""),
        zone=shape.get("Placement", {}).get("AvailabilityZone", ""),
        image=shape.get("ImageId", ""),
        tags=found,
        launched_at=launched.timestamp() if launched else None,
        reason=_reason(shape),
    )


def reachable(found: Instance, config: AwsConfig) -> Instance:
    """`found` with the addresses that workers may dial. Public ones only where the settings ask for them, and then no
    others before these are known: a worker outside the network could not reach it."""
    if config.public_ip != "auto":
        return replace(found, addresses=found.addresses[:1])
    waiting = len(found.addresses) < 2 and found.state is InstanceState.PENDING
    return replace(found, addresses=()) if waiting else found


def _reason(shape: Shape) -> str:
    said = shape.get("StateReason", {}).get("Message") or shape.get("StateTransitionReason") or ""
    code = shape.get("StateReason", {}).get("Code") or said.partition(":")[0]
    hint = _WHY.get(code)
    return f"{said} ({hint})" if hint and said else said
