"""What a caller must be allowed to do for each action, and what Azure says when it is not."""

import fnmatch
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.identity import CLIENT_ID, OBJECT_ID
from providers.simcloud.arm.routes import TYPES

_VERBS: Final = {"PUT": "write", "PATCH": "write", "DELETE": "delete", "GET": "read"}


def operation(action: str, method: str) -> str:
    """The operation's name in roles: Microsoft.Compute/virtualMachines/write."""
    kind = TYPES.get(action, "")
    if not kind:
        return ""
    if method == "POST":
        verb = action.partition(".")[2]
        return f"{kind}/{verb[0].lower()}{verb[1:]}/action"
    return f"{kind}/{_VERBS.get(method, 'read')}"


def check(action: str, method: str, path: str, body: Mapping[str, Any], denied: Collection[str]) -> None:
    """Raises Refused."""
    if not denied:
        return
    needed = operation(action, method)
    who = f"The client '{CLIENT_ID}' with object id '{OBJECT_ID}'"
    if needed and _is_denied(needed, denied):
        raise Refused(
            "AuthorizationFailed",
            f"{who} does not have authorization to perform action '{needed}' over scope '{path}' or the scope is invalid."
            " If access was recently granted, please refresh your credentials.",
        )
    if method != "PUT":
        return
    for linked, scope in _linked(body):
        if _is_denied(linked, denied):
            raise Refused(
                "LinkedAuthorizationFailed",
                f"{who} has permission to perform action '{needed}' on scope '{path}'; however, it does not have"
                f" permission to perform action(s) '{linked}' on the linked scope(s) '{scope}' (respectively) or the"
                " linked scope(s) are invalid.",
            )


def _is_denied(needed: str, denied: Collection[str]) -> bool:
    return any(fnmatch.fnmatch(needed.lower(), each.lower()) for each in denied)


_JOINED: Final = {
    "microsoft.network/virtualnetworks/subnets": "Microsoft.Network/virtualNetworks/subnets/join/action",
    "microsoft.network/networkinterfaces": "Microsoft.Network/networkInterfaces/join/action",
    "microsoft.network/networksecuritygroups": "Microsoft.Network/networkSecurityGroups/join/action",
    "microsoft.network/publicipaddresses": "Microsoft.Network/publicIPAddresses/join/action",
    "microsoft.managedidentity/userassignedidentities": (
        "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action"
    ),
    "microsoft.compute/galleries/images/versions": "Microsoft.Compute/galleries/images/versions/read",
}


def _linked(value: Any) -> Iterator[tuple[str, str]]:
    """Everything in a body that is another resource's id, with what it takes to use that."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _linked(key)
            yield from _linked(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _linked(inner)
    elif isinstance(value, str) and value.lower().startswith("/subscriptions/") and "/providers/" in value:
        parts = value.lower().partition("/providers/")[2].split("/")
        kind = "/".join([parts[0], *parts[1::2]])
        if kind in _JOINED:
            yield _JOINED[kind], value
