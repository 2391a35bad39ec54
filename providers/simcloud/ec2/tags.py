"""EC2's limits on tags. moto counts the tags of a resource, and checks nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from providers.simcloud.ec2.errors import Refused

PER_RESOURCE: Final = 50
KEY_LENGTH: Final = 128
VALUE_LENGTH: Final = 256
# What RunInstances makes and can tag.
LAUNCHED: Final = ("instance", "volume", "network-interface", "spot-instances-request", "elastic-gpu")


def check(tags: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """One resource's tags as a dictionary; raises Refused for any that EC2 would refuse."""
    made: dict[str, str] = {}
    for tag in tags:
        key, value = tag.get("Key", ""), tag.get("Value", "")
        if not key:
            raise Refused("MissingParameter", "The request must contain the parameter Tag.Key")
        if key.lower().startswith("aws:"):
            raise Refused("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
        if len(key) > KEY_LENGTH:
            raise Refused("InvalidParameterValue", f"Tag key exceeds the maximum length of {KEY_LENGTH} characters")
        if len(value) > VALUE_LENGTH:
            raise Refused("InvalidParameterValue", f"Tag value exceeds the maximum length of {VALUE_LENGTH} characters")
        if key in made:
            raise Refused("InvalidParameterValue", f"Duplicate tag key '{key}' specified.")
        made[key] = value
    if len(made) > PER_RESOURCE:
        raise Refused("TagLimitExceeded", "More than 50 tags specified")
    return made


def check_specifications(specifications: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """RunInstances' TagSpecifications: resource type -> its tags. Raises Refused."""
    made: dict[str, dict[str, str]] = {}
    for specification in specifications:
        kind = specification.get("ResourceType", "")
        if kind not in LAUNCHED:
            raise Refused(
                "InvalidParameterValue", f"'{kind}' is not a valid taggable resource type for this operation."
            )
        if kind in made:
            raise Refused("InvalidParameterValue", f"The resource type '{kind}' is specified more than once.")
        tags = specification.get("Tags") or []
        if not tags:
            raise Refused("InvalidParameterValue", "Tag specification must have at least one tag")
        made[kind] = check(tags)
    return made
