"""The subscription itself: groups, permissions, lists across types, sizes and usages."""

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from providers.simcloud.arm import quotas, skus
from providers.simcloud.arm.desk import Asked, Desk, Handlers, Reply
from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.identity import CLIENT_ID, OBJECT_ID
from providers.simcloud.arm.listing import page
from providers.simcloud.arm.quotas import Load
from providers.simcloud.arm.state import (
    ADDRESS,
    ENCRYPTION_SET,
    GROUP,
    HOST,
    HOST_GROUP,
    IDENTITY,
    NIC,
    NSG,
    NSG_RULE,
    PROXIMITY,
    RESERVATION_GROUP,
    SUBNET,
    SUBSCRIPTION,
    TENANT,
    VM,
    VNET,
    Resource,
    World,
    id_of,
    shown,
)

_TAG_FILTER: Final = re.compile(
    r"\s*tagName\s+eq\s+'(?P<name>[^']*)'(\s+and\s+tagValue\s+eq\s+'(?P<value>[^']*)')?\s*", re.IGNORECASE
)
_TYPE_FILTER: Final = re.compile(r"\s*resourceType\s+eq\s+'(?P<type>[^']+)'\s*", re.IGNORECASE)
_CHILDREN: Final = {SUBNET.lower(), NSG_RULE.lower()}
_SINGLE: Final = {
    "ProximityPlacementGroups.Get": PROXIMITY,
    "CapacityReservationGroups.Get": RESERVATION_GROUP,
    "DedicatedHostGroups.Get": HOST_GROUP,
    "DiskEncryptionSets.Get": ENCRYPTION_SET,
    "UserAssignedIdentities.Get": IDENTITY,
}
# What this cloud plays of each provider; both are registered.
_PROVIDERS: Final = ("Microsoft.Compute", "Microsoft.Network")


def stock(world: World) -> None:
    """What a launch may refer to, one of each kind."""
    at = {"location": world.region}
    world.add(PROXIMITY, GROUP, "near", **at, properties={"proximityPlacementGroupType": "Standard"})
    world.add(RESERVATION_GROUP, GROUP, "reserved", **at)
    world.add(HOST_GROUP, GROUP, "hosts", **at, properties={"platformFaultDomainCount": 1})
    world.add(HOST, GROUP, "hosts", "host", **at, sku={"name": "DCasv5-Type1"})
    world.add(ENCRYPTION_SET, GROUP, "key", **at, properties={"encryptionType": "EncryptionAtRestWithCustomerKey"})
    identity = {"tenantId": TENANT, "principalId": OBJECT_ID, "clientId": CLIENT_ID}
    world.add(IDENTITY, GROUP, "podvm", **at, properties=identity)


class Account:
    """`loads`: what counts against quotas now."""

    def __init__(self, desk: Desk, loads: Callable[[], Iterable[Load]]) -> None:
        self._desk = desk
        self._world = desk.world
        self._loads = loads

    def handlers(self) -> Handlers:
        """By action."""
        made: dict[str, Callable[[Asked], Reply]] = {
            "Subscriptions.Get": self._subscription,
            "ResourceGroups.Get": lambda asked: Reply(body=self._world.group(asked.group)),
            "Resources.List": self._resources,
            "Resources.ListByResourceGroup": self._resources,
            "Permissions.ListForResourceGroup": self._permissions,
            "Permissions.ListForSubscription": self._permissions,
            "Permissions.ListForResource": self._permissions,
            "Providers.Get": self._provider,
            "ResourceSkus.List": self._skus,
            "Usage.List": self._usages,
            "NetworkUsages.List": self._network_usages,
            "VirtualMachineSizes.List": self._sizes,
            "Operations.Get": self._operation,
            "NetworkOperations.Get": self._operation,
            "VirtualNetworks.Get": self._network,
            "VirtualNetworks.List": lambda asked: self._list(VNET, asked, self._with_subnets),
            "Subnets.Get": lambda asked: self._child(SUBNET, asked),
            "Subnets.List": lambda asked: self._children(SUBNET, asked),
            "NetworkSecurityGroups.Get": self._security_group,
            "NetworkSecurityGroups.List": lambda asked: self._list(NSG, asked, self._with_rules),
            "SecurityRules.List": lambda asked: self._children(NSG_RULE, asked),
            "SecurityRules.Get": lambda asked: self._child(NSG_RULE, asked),
            "SecurityRules.CreateOrUpdate": self._put_rule,
            "SecurityRules.Delete": self._delete_rule,
            "DedicatedHosts.Get": lambda asked: self._child(HOST, asked),
        }
        for action, kind in _SINGLE.items():
            made[action] = lambda asked, kind=kind: Reply(  # type: ignore[misc]
                body=shown(self._world.named(kind, asked.group, asked.name))
            )
        return made

    # -- the subscription -------------------------------------------------------------------------

    def _subscription(self, asked: Asked) -> Reply:
        return Reply(
            body={
                "id": f"/subscriptions/{SUBSCRIPTION}",
                "subscriptionId": SUBSCRIPTION,
                "tenantId": TENANT,
                "displayName": "simcloud",
                "state": "Enabled",
            }
        )

    def _provider(self, asked: Asked) -> Reply:
        namespace = next((name for name in _PROVIDERS if name.lower() == asked.names["namespace"].lower()), "")
        if not namespace:
            raise Refused(
                "InvalidResourceNamespace",
                f"The resource namespace '{asked.names['namespace']}' is invalid.",
                status=404,
            )
        return Reply(
            body={
                "id": f"/subscriptions/{SUBSCRIPTION}/providers/{namespace}",
                "namespace": namespace,
                "registrationState": "Registered",
            }
        )

    def _permissions(self, asked: Asked) -> Reply:
        denied = sorted(self._desk.faults.denied)
        return Reply(
            body={"value": [{"actions": ["*"], "notActions": denied, "dataActions": [], "notDataActions": []}]}
        )

    def _resources(self, asked: Asked) -> Reply:
        text = asked.query.get("$filter", "")
        tag, kind = _TAG_FILTER.fullmatch(text), _TYPE_FILTER.fullmatch(text)
        if text and not tag and not kind:
            raise Refused("InvalidFilterInQueryString", f"Invalid $filter '{text}' specified in the query string.")
        found = []
        for each in self._world.all(group=asked.group):
            if each.type.lower() in _CHILDREN or (kind and each.type.lower() != kind["type"].lower()):
                continue
            if tag is None or _tagged(each, tag["name"], tag["value"]):
                found.append(_summary(each))
        return page(asked, found)

    # -- compute ----------------------------------------------------------------------------------

    def _skus(self, asked: Asked) -> Reply:
        region = skus.filtered_region(asked.query.get("$filter", ""))
        if region and region.replace(" ", "").lower() != self._world.region:
            return Reply(body={"value": []})
        return Reply(body={"value": skus.listing(self._world.region)})

    def _usages(self, asked: Asked) -> Reply:
        self._check_location(asked)
        machines = sum(1 for _ in self._world.all(VM))
        return Reply(body={"value": quotas.usages(self._loads(), machines, self._desk.faults.vcpus)})

    def _network_usages(self, asked: Asked) -> Reply:
        self._check_location(asked)
        interfaces, addresses = (sum(1 for _ in self._world.all(kind)) for kind in (NIC, ADDRESS))
        return Reply(body={"value": quotas.network_usages(interfaces, addresses)})

    def _sizes(self, asked: Asked) -> Reply:
        self._check_location(asked)
        return Reply(
            body={
                "value": [
                    {
                        "name": size.name,
                        "numberOfCores": size.vcpus,
                        "osDiskSizeInMB": 1047552,
                        "resourceDiskSizeInMB": size.local * 1024,
                        "memoryInMB": int(size.memory * 1024),
                        "maxDataDiskCount": size.disks,
                    }
                    for size in skus.SIZES.values()
                ]
            }
        )

    def _check_location(self, asked: Asked) -> None:
        if asked.names["location"].lower() != self._world.region:
            raise Refused(
                "NoRegisteredProviderFound",
                f"No registered resource provider found for location '{asked.names['location']}' and API version"
                f" '{asked.version}' for type 'locations/usages'.",
            )

    def _operation(self, asked: Asked) -> Reply:
        operation = self._desk.operations.get(asked.names["operation"])
        outcome = operation.look()
        if asked.query.get("monitor") == "true":  # Location's way: the status code says it all
            if outcome is None:
                return Reply(202, None, operation.wait())
            if outcome.error is not None:
                raise outcome.error
            return Reply(200, operation.result)
        return Reply(200, operation.shown(), operation.wait())

    # -- network ----------------------------------------------------------------------------------

    def _network(self, asked: Asked) -> Reply:
        return Reply(body=self._with_subnets(self._world.named(VNET, asked.group, asked.name)))

    def _with_subnets(self, network: Resource) -> dict[str, Any]:
        body = shown(network)
        subnets = [_with_users(self._world, each) for each in self._under(SUBNET, network)]
        return {**body, "properties": {**body["properties"], "subnets": subnets}}

    def _security_group(self, asked: Asked) -> Reply:
        return Reply(body=self._with_rules(self._world.named(NSG, asked.group, asked.name)))

    def _with_rules(self, group: Resource) -> dict[str, Any]:
        body = shown(group)
        rules = [shown(each) for each in self._under(NSG_RULE, group)]
        return {**body, "properties": {**body["properties"], "securityRules": rules}}

    def _list(self, kind: str, asked: Asked, view: Callable[[Resource], dict[str, Any]]) -> Reply:
        return page(asked, [view(each) for each in self._world.all(kind, asked.group)])

    def _under(self, kind: str, parent: Resource) -> list[Resource]:
        return [each for each in self._world.all(kind) if each.id.lower().startswith(parent.id.lower() + "/")]

    def _parent(self, kind: str, asked: Asked) -> Resource:
        parent = self._world.find(id_of(kind.rpartition("/")[0], asked.group, asked.names["parent"]))
        if parent is None:
            raise Refused(
                "ParentResourceNotFound",
                f"Can not perform requested operation on nested resource. Parent resource '{asked.names['parent']}' not"
                " found.",
            )
        return parent

    def _child(self, kind: str, asked: Asked) -> Reply:
        self._parent(kind, asked)
        child = self._world.find(id_of(kind, asked.group, asked.names["parent"], asked.name))
        if child is None:
            raise Refused(
                "NotFound", f"Resource {id_of(kind, asked.group, asked.names['parent'], asked.name)} not found."
            )
        return Reply(body=_with_users(self._world, child))

    def _children(self, kind: str, asked: Asked) -> Reply:
        return page(asked, [_with_users(self._world, each) for each in self._under(kind, self._parent(kind, asked))])

    def _put_rule(self, asked: Asked) -> Reply:
        from azure.mgmt.network import models

        from providers.simcloud.arm import schema

        self._parent(NSG_RULE, asked)
        body = schema.cleaned(models.SecurityRule, asked.body)
        made = self._world.add(
            NSG_RULE, asked.group, asked.names["parent"], asked.name, properties=dict(body.get("properties") or {})
        )
        headers = self._desk.operations.begin(made.id).headers(asked.base, asked.version)
        return Reply(201, shown(made), headers)

    def _delete_rule(self, asked: Asked) -> Reply:
        found = self._world.find(id_of(NSG_RULE, asked.group, asked.names["parent"], asked.name))
        if found is None:
            return Reply(204)
        self._world.remove(found)
        headers = self._desk.operations.begin(found.id).headers(asked.base, asked.version, located=True)
        return Reply(202, None, headers)


def _with_users(world: World, resource: Resource) -> dict[str, Any]:
    """A subnet shows who has an address in it."""
    body = shown(resource)
    if resource.type != SUBNET:
        return body
    users = [
        {"id": each["id"]}
        for nic in world.all(NIC)
        for each in nic.properties["ipConfigurations"]
        if each["properties"]["subnet"]["id"].lower() == resource.id.lower()
    ]
    return {**body, "properties": {**body["properties"], **({"ipConfigurations": users} if users else {})}}


def _tagged(resource: Resource, name: str, value: str | None) -> bool:
    return any(k.lower() == name.lower() and value in (None, v) for k, v in resource.tags.items())


def _summary(resource: Resource) -> dict[str, Any]:
    kept = ("id", "name", "type", "location", "tags", "zones", "sku", "kind", "identity", "managedBy")
    made = {key: resource.body[key] for key in kept if resource.body.get(key)}
    return {**made, "createdTime": resource.created.isoformat(), "provisioningState": "Succeeded"}
