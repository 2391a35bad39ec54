"""What the Describe* actions for instances show: which, how much of them, and in what pages."""

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from providers.simcloud.ec2.account import Note
from providers.simcloud.ec2.errors import Refused

T = TypeVar("T")

FILTER_VALUES_LIMIT: Final = 200  # per call
_INSTANCE_ID: Final = re.compile(r"i-([0-9a-f]{8}|[0-9a-f]{17})")

# What goes with a terminated instance; its id, type, tags, token and reasons stay visible for an hour.
_GONE: Final[Mapping[str, Any]] = {
    "private_ip": None,
    "private_ip_address": None,
    "public_ip": None,
    "public_ip_address": None,
    "private_dns_name": "",
    "public_dns_name": "",
    "subnet_id": None,
    "vpc_id": None,
    "network_interfaces": [],
    "block_device_mappings": [],
    "security_groups": [],
    "dynamic_group_list": [],
}

_LATER: Final = ("public_ip", "public_ip_address")  # public addresses are not known before the instance runs


class Shown:
    """A moto instance as EC2 shows it in its state."""

    def __init__(self, instance: Any) -> None:
        self._instance = instance

    def __getattr__(self, name: str) -> Any:
        if name in _LATER and self._instance.state == "pending":
            return None
        if name in _GONE and self._instance.state == "terminated":
            return _GONE[name]
        if name == "state_reason" and not self._instance.state_reason.code:
            return None
        return getattr(self._instance, name)


def reservation(notes: Sequence[Note]) -> dict[str, Any]:
    """Instances of one reservation, as RunInstances and DescribeInstances answer."""
    made = notes[0].reservation
    return {
        "ReservationId": made.id,
        "OwnerId": made.owner_id,
        "Groups": [],
        "Instances": [Shown(note.instance) for note in notes],
    }


def by_reservation(notes: Iterable[Note]) -> list[dict[str, Any]]:
    groups: dict[str, list[Note]] = {}
    for note in notes:
        groups.setdefault(note.reservation.id, []).append(note)
    return [reservation(group) for group in groups.values()]


def well_formed_ids(ids: Iterable[str]) -> None:
    for each in ids:
        if not _INSTANCE_ID.fullmatch(each):
            raise Refused("InvalidInstanceID.Malformed", f'Invalid id: "{each}"')


def not_found(ids: Sequence[str]) -> Refused:
    what = f"ID '{ids[0]}' does not" if len(ids) == 1 else f"IDs '{', '.join(ids)}' do not"
    return Refused("InvalidInstanceID.NotFound", f"The instance {what} exist")


# -- filters --------------------------------------------------------------------------------------

_FILTERS: Final[Mapping[str, Callable[[Shown, Note], Iterable[Any]]]] = {
    "architecture": lambda i, n: [i.architecture],
    "availability-zone": lambda i, n: [i.availability_zone],
    "block-device-mapping.device-name": lambda i, n: [each["DeviceName"] for each in i.block_device_mappings],
    "block-device-mapping.volume-id": lambda i, n: [each["Ebs"].volume_id for each in i.block_device_mappings],
    "client-token": lambda i, n: [i.client_token],
    "dns-name": lambda i, n: [i.public_dns_name],
    "group-id": lambda i, n: [group.id for group in i.security_groups],
    "group-name": lambda i, n: [group.name for group in i.security_groups],
    "image-id": lambda i, n: [i.image_id],
    "instance-id": lambda i, n: [i.id],
    "instance-lifecycle": lambda i, n: [i.lifecycle],
    "instance-state-code": lambda i, n: [i.state_code],
    "instance-state-name": lambda i, n: [i.state],
    "instance-type": lambda i, n: [i.instance_type],
    "instance.group-id": lambda i, n: [group.id for group in i.security_groups],
    "instance.group-name": lambda i, n: [group.name for group in i.security_groups],
    "ip-address": lambda i, n: [i.public_ip],
    "key-name": lambda i, n: [i.key_name],
    "launch-time": lambda i, n: [i.launch_time.strftime("%Y-%m-%dT%H:%M:%S.000Z")],
    "metadata-options.http-endpoint": lambda i, n: [i.metadata_options.http_endpoint],
    "metadata-options.http-tokens": lambda i, n: [i.metadata_options.http_tokens],
    "network-interface.network-interface-id": lambda i, n: [nic.id for nic in i.network_interfaces],
    "network-interface.subnet-id": lambda i, n: [nic.subnet_id for nic in i.network_interfaces],
    "owner-id": lambda i, n: [i.owner_id],
    "private-dns-name": lambda i, n: [i.private_dns_name],
    "private-ip-address": lambda i, n: [i.private_ip],
    "reservation-id": lambda i, n: [n.reservation.id],
    "root-device-name": lambda i, n: [i.root_device_name],
    "root-device-type": lambda i, n: [i.root_device_type],
    "state-reason-code": lambda i, n: [i.state_reason.code] if i.state_reason else [],
    "subnet-id": lambda i, n: [i.subnet_id],
    "tag-key": lambda i, n: [tag["key"] for tag in i.get_tags()],
    "tag-value": lambda i, n: [tag["value"] for tag in i.get_tags()],
    "virtualization-type": lambda i, n: [i.virtualization_type],
    "vpc-id": lambda i, n: [i.vpc_id],
}


def passes(note: Note, filters: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every filter has a value that one of the instance's matches; `*` and `?` are wildcards."""
    shown = Shown(note.instance)
    return all(
        any(matches(str(value), each.get("Values") or []) for value in _values(each["Name"], shown, note))
        for each in filters
    )


def check_filters(filters: Sequence[Mapping[str, Any]]) -> None:
    """Raises Refused for what EC2 would not accept."""
    for each in filters:
        name = each.get("Name") or "null"
        if name not in _FILTERS and not name.startswith("tag:"):
            raise Refused("InvalidParameterValue", f"The filter '{name}' is invalid")
    if sum(len(each.get("Values") or []) for each in filters) > FILTER_VALUES_LIMIT:
        raise Refused(
            "FilterLimitExceeded",
            f"The maximum number of filter values specified on a single call is {FILTER_VALUES_LIMIT}",
        )


def matches(value: str, patterns: Iterable[str]) -> bool:
    """EC2's filter values: `*` is any text, `?` any character, both literal behind a backslash."""
    return any(re.fullmatch(_expression(pattern), value, re.DOTALL) for pattern in patterns)


def _expression(pattern: str) -> str:
    wild = {"*": ".*", "?": "."}
    return re.sub(r"\\?.", lambda found: wild.get(found[0], re.escape(found[0][-1])), pattern, flags=re.DOTALL)


def _values(name: str, shown: Shown, note: Note) -> list[Any]:
    if name.startswith("tag:"):
        return [tag["value"] for tag in shown.get_tags() if tag["key"] == name.removeprefix("tag:")]
    return [value for value in _FILTERS[name](shown, note) if value is not None]


# -- pages ----------------------------------------------------------------------------------------


def page(items: Sequence[T], params: Mapping[str, Any], *, least: int, most: int) -> tuple[Sequence[T], str | None]:
    """The page that MaxResults and NextToken ask for, and the token of the next. Raises Refused."""
    size, token = params.get("MaxResults"), params.get("NextToken")
    if size is not None and not least <= int(size) <= most:
        bound = f"greater than or equal to {least}" if int(size) < least else f"less than or equal to {most}"
        raise Refused(
            "InvalidParameterValue",
            f"Value ( {size} ) for parameter maxResults is invalid. Expecting a value {bound}.",
        )
    start = _offset(token) if token else 0
    end = start + int(size) if size is not None else len(items)
    return items[start:end], _token(end) if end < len(items) else None


def _token(offset: int) -> str:
    return base64.urlsafe_b64encode(f"from:{offset}".encode()).decode()


def _offset(token: str) -> int:
    try:
        word, _, offset = base64.urlsafe_b64decode(token).decode().partition(":")
        if word == "from":
            return int(offset)
    except (binascii.Error, ValueError):
        pass
    raise Refused("InvalidParameterValue", "Unable to parse pagination token")
