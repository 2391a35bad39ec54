"""Which actions a launch takes, and whether roles allow them (pure)."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from providers.azure.config import AzureConfig

_COMPUTE: Final = "Microsoft.Compute/"
_NETWORK: Final = "Microsoft.Network/"
JOIN_SUBNET: Final = _NETWORK + "virtualNetworks/subnets/join/action"


def needed(config: AzureConfig) -> Iterator[str]:
    """The actions on the resource group, as roles name them."""
    for kind in ("virtualMachines", "disks"):
        yield from (f"{_COMPUTE}{kind}/{verb}" for verb in ("read", "write", "delete"))
    for kind in ("networkInterfaces", *(["publicIPAddresses"] if config.public_ip else [])):
        yield from (f"{_NETWORK}{kind}/{verb}" for verb in ("read", "write", "delete", "join/action"))
    elsewhere = (
        (config.security_group_id, _NETWORK + "networkSecurityGroups/join/action"),
        (config.disk_encryption_set_id, _COMPUTE + "diskEncryptionSets/read"),
        (config.proximity_placement_group_id, _COMPUTE + "proximityPlacementGroups/read"),
        (config.capacity_reservation_group_id, _COMPUTE + "capacityReservationGroups/deploy/action"),
        (config.host_group_id or config.host_id, _COMPUTE + "hostGroups/read"),
        *((id, "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action") for id in config.identity_ids),
    )
    for id, action in elsewhere:
        if id and id.lower().startswith(config.group_id.lower() + "/"):  # what is in another group has its own roles
            yield action


def missing(actions: Iterable[str], granted: Iterable[Mapping[str, Any]]) -> list[str]:
    """Those that no role grants. Each role's `notActions` take from its own `actions` only."""
    roles = list(granted)
    return [action for action in actions if not any(_grants(role, action) for role in roles)]


def _grants(role: Mapping[str, Any], action: str) -> bool:
    return _any(role.get("actions") or [], action) and not _any(role.get("notActions") or [], action)


def _any(patterns: Iterable[str], action: str) -> bool:
    return any(re.fullmatch(".*".join(map(re.escape, each.split("*"))), action, re.IGNORECASE) for each in patterns)
