"""Network interfaces, public addresses, and the network they are in."""

import re
import uuid
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import Any, Final

from azure.mgmt.network import models

from providers.simcloud.arm import schema
from providers.simcloud.arm.desk import Asked, Desk, Handlers, Reply, check_etag
from providers.simcloud.arm.errors import Refused, no_reference
from providers.simcloud.arm.listing import page
from providers.simcloud.arm.state import (
    ADDRESS,
    GROUP,
    NIC,
    NSG,
    SUBNET,
    VNET,
    Resource,
    ResourceId,
    World,
    id_of,
    shown,
)
from providers.simcloud.arm.tags import check as check_tags

VNET_NAME: Final = "peerpods"
SUBNET_NAME: Final = "pods"
TINY_SUBNET: Final = "tiny"  # three addresses, to see what happens when there are none left
NSG_NAME: Final = "peerpods"
_PREFIX: Final = 20  # the subnet's, of the network's /16
_KEPT: Final = 4  # of a subnet's addresses Azure keeps the first four and the last
_RESERVATION: Final = 180.0  # seconds that a VM whose launch failed keeps an interface for itself
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,78}[A-Za-z0-9_])?")


def stock(world: World, network: str) -> None:
    """The network that every simulated subscription has."""
    whole = IPv4Network(network)
    subnets = list(whole.subnets(new_prefix=_PREFIX))
    tiny = next(subnets[1].subnets(new_prefix=29))
    at = {"location": world.region}
    world.add(VNET, GROUP, VNET_NAME, **at, properties={"addressSpace": {"addressPrefixes": [network]}})
    for name, prefix in ((SUBNET_NAME, subnets[0]), (TINY_SUBNET, tiny)):
        world.add(SUBNET, GROUP, VNET_NAME, name, properties={"addressPrefix": str(prefix)})
    world.add(NSG, GROUP, NSG_NAME, **at, properties={"securityRules": [], "defaultSecurityRules": _default_rules()})


def facts() -> dict[str, str]:
    """The ids that people launch with."""
    return {"subnet": id_of(SUBNET, GROUP, VNET_NAME, SUBNET_NAME), "nsg": id_of(NSG, GROUP, NSG_NAME)}


class Network:
    """The network's resources and their actions."""

    def __init__(self, desk: Desk, worker_address: str) -> None:
        self._desk = desk
        self._world = desk.world
        self._taken: dict[str, set[IPv4Address]] = {}  # by subnet id in lower case
        self._reserved: dict[str, tuple[str, float]] = {}  # interface id in lower case -> VM id, until when
        if worker_address:
            self._taken[facts()["subnet"].lower()] = {IPv4Address(worker_address)}

    def handlers(self) -> Handlers:
        """By action."""
        return {
            "NetworkInterfaces.CreateOrUpdate": self._put,
            "NetworkInterfaces.Get": lambda asked: self._get(NIC, asked),
            "NetworkInterfaces.Delete": self._delete,
            "NetworkInterfaces.UpdateTags": lambda asked: self._tag(NIC, asked),
            "NetworkInterfaces.List": lambda asked: self._list(NIC, asked),
            "NetworkInterfaces.ListAll": lambda asked: self._list(NIC, asked),
            "PublicIPAddresses.CreateOrUpdate": self._put_address,
            "PublicIPAddresses.Get": lambda asked: self._get(ADDRESS, asked),
            "PublicIPAddresses.Delete": self._delete_address,
            "PublicIPAddresses.UpdateTags": lambda asked: self._tag(ADDRESS, asked),
            "PublicIPAddresses.List": lambda asked: self._list(ADDRESS, asked),
            "PublicIPAddresses.ListAll": lambda asked: self._list(ADDRESS, asked),
        }

    # -- interfaces -------------------------------------------------------------------------------

    def _put(self, asked: Asked) -> Reply:
        body = schema.cleaned(models.NetworkInterface, asked.body)
        existing = self._world.find(id_of(NIC, asked.group, asked.name))
        check_etag(asked, existing)
        check_name(asked.name, NIC)
        made = self.make(asked.group, asked.name, body, existing)
        operation = self._desk.operations.begin(made.id)
        headers = operation.headers(asked.base, asked.version)
        return Reply(200 if existing else 201, shown(made), headers)

    def make(self, group: str, name: str, body: Mapping[str, Any], existing: Resource | None = None) -> Resource:
        """A new interface, or the changed one. Raises Refused, having done nothing."""
        check_location(self._world, body, NIC)
        check_tags(body.get("tags"))
        wanted = dict(body.get("properties") or {})
        resource_id = id_of(NIC, group, name)
        configurations = wanted.get("ipConfigurations") or []
        if not configurations:
            raise Refused("IpConfigurationsRequired", f"Network interface {resource_id} needs one IP configuration.")
        self._check_references(resource_id, wanted)
        held = self._addresses_of(existing)
        made = [self._configured(resource_id, each, n == 0, held) for n, each in enumerate(configurations)]
        properties = _interface(resource_id, wanted, made)
        if existing is not None:
            self._let_go(existing)
            properties |= {key: existing.properties[key] for key in _KEPT_LATER if key in existing.properties}
            existing.body |= {"tags": body.get("tags") or {}, "properties": properties}
            existing.revision += 1
            nic = existing
        else:
            more = {"location": self._world.region, "tags": body.get("tags") or {}}
            nic = self._world.add(NIC, group, name, **more, properties=properties)
        self._hold(nic)
        return nic

    def _configured(self, nic: str, asked: Mapping[str, Any], first: bool, held: Mapping[str, str]) -> dict[str, Any]:
        """One IP configuration with its address; the address it has is kept in the same subnet."""
        wanted = dict(asked.get("properties") or {})
        name = asked.get("name") or "ipconfig"
        subnet = self._subnet(nic, wanted)
        static = str(wanted.get("privateIPAllocationMethod", "Dynamic")) == "Static"
        given = str(wanted.get("privateIPAddress") or "") if static else ""
        if static and not given:
            raise Refused(
                "PrivateIPAddressMissing",
                f"IP configuration {nic}/ipConfigurations/{name} is static and has no address.",
            )
        before = held.get(f"{name} {subnet.id.lower()}", "")
        address = self._checked(subnet, given, before) if given else before or str(self._free(subnet))
        properties = {
            "provisioningState": "Succeeded",
            "privateIPAddress": address,
            "privateIPAllocationMethod": "Static" if static else "Dynamic",
            "subnet": {"id": subnet.id},
            "primary": wanted.get("primary", first),
            "privateIPAddressVersion": wanted.get("privateIPAddressVersion", "IPv4"),
        }
        if public := (wanted.get("publicIPAddress") or {}).get("id"):
            properties["publicIPAddress"] = {"id": public}
            if option := ((wanted["publicIPAddress"].get("properties") or {}).get("deleteOption")):
                properties["publicIPAddress"]["properties"] = {"deleteOption": option}
        kind = f"{NIC}/ipConfigurations"
        return {"name": name, "id": f"{nic}/ipConfigurations/{name}", "type": kind, "properties": properties}

    def _subnet(self, nic: str, wanted: Mapping[str, Any]) -> Resource:
        subnet_id = (wanted.get("subnet") or {}).get("id") or ""
        parsed = ResourceId.parse(subnet_id)
        if parsed is None:
            raise Refused("LinkedInvalidPropertyId", f"Property id '{subnet_id}' at path 'subnet.id' is invalid.")
        subnet = self._world.find(subnet_id, SUBNET)
        if subnet is None:
            raise no_reference(subnet_id, nic)
        return subnet

    def _free(self, subnet: Resource) -> IPv4Address:
        """The lowest address that nobody has, as Azure chooses."""
        prefix = IPv4Network(subnet.properties["addressPrefix"])
        taken = self._taken.setdefault(subnet.id.lower(), set())
        first, last = int(prefix.network_address) + _KEPT, int(prefix.broadcast_address)
        for number in range(first, last):
            if (address := IPv4Address(number)) not in taken:
                return address
        raise Refused(
            "SubnetIsFull",
            f"Subnet {subnet.name} with address prefix {prefix} does not have enough capacity for 1 IP addresses.",
        )

    def _checked(self, subnet: Resource, given: str, before: str) -> str:
        prefix = IPv4Network(subnet.properties["addressPrefix"])
        try:
            address = IPv4Address(given)
        except ValueError:
            raise Refused("InvalidIPAddressFormat", f"IP address '{given}' is not valid.") from None
        if address not in prefix:
            raise Refused(
                "PrivateIPAddressNotInSubnet",
                f"Private static IP address {given} does not belong to the range of subnet prefix {prefix}.",
            )
        if int(address) < int(prefix.network_address) + _KEPT or address == prefix.broadcast_address:
            raise Refused(
                "PrivateIPAddressInReservedRange",
                f"Private static IP address {given} falls within reserved IP range of subnet prefix {prefix}.",
            )
        if given != before and address in self._taken.get(subnet.id.lower(), set()):
            raise Refused("PrivateIPAddressIsAllocated", f"IP address {given} is already allocated to a resource.")
        return given

    def _check_references(self, nic: str, wanted: Mapping[str, Any]) -> None:
        group = (wanted.get("networkSecurityGroup") or {}).get("id")
        if group and self._world.find(group, NSG) is None:
            raise no_reference(group, nic)
        for each in wanted["ipConfigurations"]:
            public = ((each.get("properties") or {}).get("publicIPAddress") or {}).get("id")
            if not public:
                continue
            address = self._world.find(public, ADDRESS)
            if address is None:
                raise no_reference(public, nic)
            user = (address.properties.get("ipConfiguration") or {}).get("id", "")
            if user and not user.lower().startswith(nic.lower() + "/"):
                raise Refused(
                    "PublicIPAddressInUse",
                    f"Resource {nic}/ipConfigurations/{each.get('name')} is referencing public IP address {public} that"
                    f" is already allocated to resource {user}.",
                )

    def _addresses_of(self, nic: Resource | None) -> dict[str, str]:
        found = {}
        for each in nic.properties["ipConfigurations"] if nic else ():
            properties = each["properties"]
            found[f"{each['name']} {properties['subnet']['id'].lower()}"] = properties["privateIPAddress"]
        return found

    def _hold(self, nic: Resource) -> None:
        for each in nic.properties["ipConfigurations"]:
            properties = each["properties"]
            taken = self._taken.setdefault(properties["subnet"]["id"].lower(), set())
            taken.add(IPv4Address(properties["privateIPAddress"]))
            if public := properties.get("publicIPAddress"):
                address = self._world.find(public["id"], ADDRESS)
                assert address is not None
                address.properties.update({"ipConfiguration": {"id": each["id"]}, **public.get("properties", {})})

    def _let_go(self, nic: Resource) -> None:
        for each in nic.properties["ipConfigurations"]:
            properties = each["properties"]
            self._taken[properties["subnet"]["id"].lower()].discard(IPv4Address(properties["privateIPAddress"]))
            if (public := properties.get("publicIPAddress")) and (address := self._world.find(public["id"])):
                address.properties.pop("ipConfiguration", None)

    def remove(self, nic: Resource) -> None:
        """It is gone, and its address free."""
        self._let_go(nic)
        self._world.remove(nic)

    def _delete(self, asked: Asked) -> Reply:
        nic = self._world.find(id_of(NIC, asked.group, asked.name))
        if nic is None:
            return Reply(204)
        if user := (nic.properties.get("virtualMachine") or {}).get("id"):
            raise Refused(
                "NicInUse",
                f"Network Interface {nic.id} is used by existing resource {user}. In order to delete the network"
                " interface, it must be dissociated from the resource. To learn more, see aka.ms/deletenic.",
            )
        self.check_reservation(nic, "")
        self.remove(nic)
        return accepted(self._desk, asked, nic.id)

    # -- what virtual machines do with them -------------------------------------------------------

    def attach(self, nic: Resource, vm: str, *, primary: bool) -> None:
        """It is this VM's."""
        self._reserved.pop(nic.id.lower(), None)
        mac = nic.properties.get("macAddress") or _mac(nic.id)
        nic.properties.update({"virtualMachine": {"id": vm}, "primary": primary, "macAddress": mac})
        nic.revision += 1

    def detach(self, nic: Resource) -> None:
        """It is nobody's."""
        nic.properties.pop("virtualMachine", None)
        nic.revision += 1

    def reserve(self, nic: Resource, vm: str) -> None:
        """A launch failed: for a while only the same VM may have it, and nobody may delete it."""
        self._reserved[nic.id.lower()] = (vm, self._desk.now() + _RESERVATION)

    def end_reservation(self, nic: Resource, seconds: float) -> None:
        """So much of its time has gone by."""
        if nic.id.lower() in self._reserved:
            vm, until = self._reserved[nic.id.lower()]
            self._reserved[nic.id.lower()] = (vm, until - seconds)

    def check_reservation(self, nic: Resource, vm: str) -> None:
        """Raises Refused while another VM has it reserved."""
        holder, until = self._reserved.get(nic.id.lower(), ("", 0.0))
        if holder and until > self._desk.now() and holder.lower() != vm.lower():
            raise Refused(
                "NicReservedForAnotherVm",
                "Nic(s) in request is reserved for another Virtual Machine for 180 seconds. Please provide another"
                f" nic(s) or retry after 180 seconds. Reserved VM: {holder}",
            )

    # -- public addresses -------------------------------------------------------------------------

    def _put_address(self, asked: Asked) -> Reply:
        body = schema.cleaned(models.PublicIPAddress, asked.body)
        existing = self._world.find(id_of(ADDRESS, asked.group, asked.name))
        check_etag(asked, existing)
        check_name(asked.name, ADDRESS)
        made = self.make_address(asked.group, asked.name, body, existing)
        headers = self._desk.operations.begin(made.id).headers(asked.base, asked.version)
        return Reply(200 if existing else 201, shown(made), headers)

    def make_address(self, group: str, name: str, body: Mapping[str, Any], existing: Resource | None) -> Resource:
        """A public address; nothing answers there. Raises Refused."""
        check_location(self._world, body, ADDRESS)
        check_tags(body.get("tags"))
        sku = {"name": "Standard", "tier": "Regional", **(body.get("sku") or {})}
        if sku["name"] == "Basic":
            raise Refused(
                "BasicSkuPublicIpDeprecated", "Basic SKU public IP addresses can no longer be created; use Standard."
            )
        wanted = {"publicIPAllocationMethod": "Static", **(body.get("properties") or {})}
        if wanted["publicIPAllocationMethod"] != "Static":
            raise Refused(
                "PublicIPAndAllocationMethodNotSupported", "Standard publicIp must have AllocationMethod set to Static."
            )
        count = sum(1 for _ in self._world.all(ADDRESS))
        if existing is None:
            wanted |= {
                "ipAddress": str(ip_address("203.0.113.0") + count % 256),
                "publicIPAddressVersion": "IPv4",
                "idleTimeoutInMinutes": 4,
                "resourceGuid": str(uuid.uuid4()),
            }
            more = {"location": self._world.region, "tags": body.get("tags") or {}, "sku": sku}
            return self._world.add(ADDRESS, group, name, **more, zones=body.get("zones") or [], properties=wanted)
        existing.body["tags"] = body.get("tags") or {}
        existing.properties.update(wanted)
        existing.revision += 1
        return existing

    def _delete_address(self, asked: Asked) -> Reply:
        address = self._world.find(id_of(ADDRESS, asked.group, asked.name))
        if address is None:
            return Reply(204)
        if user := (address.properties.get("ipConfiguration") or {}).get("id"):
            raise Refused(
                "PublicIPAddressCannotBeDeleted",
                f"Public IP address {address.id} can not be deleted since it is still allocated to resource {user}.",
            )
        self._world.remove(address)
        return accepted(self._desk, asked, address.id)

    # -- both -------------------------------------------------------------------------------------

    def _get(self, kind: str, asked: Asked) -> Reply:
        return Reply(body=shown(self._world.named(kind, asked.group, asked.name)))

    def _list(self, kind: str, asked: Asked) -> Reply:
        return page(asked, [shown(each) for each in self._world.all(kind, asked.group)])

    def _tag(self, kind: str, asked: Asked) -> Reply:
        resource = self._world.named(kind, asked.group, asked.name)
        body = schema.cleaned(models.TagsObject, asked.body)
        check_tags(body.get("tags"))
        resource.body["tags"] = body.get("tags") or {}
        resource.revision += 1
        return Reply(body=shown(resource))


# What an interface has from its VM, and keeps when it is changed.
_KEPT_LATER: Final = ("virtualMachine", "primary", "macAddress", "resourceGuid")


def accepted(desk: Desk, asked: Asked, resource_id: str) -> Reply:
    """A deletion that is under way, and in truth done."""
    operation = desk.operations.begin(resource_id)
    return Reply(202, None, operation.headers(asked.base, asked.version, located=True))


def check_name(name: str, kind: str) -> None:
    """The rule of network resources. Raises Refused."""
    if not _NAME.fullmatch(name):
        raise Refused(
            "InvalidResourceName",
            f"Resource name {name} is invalid. The name can be up to 80 characters long. It must begin with a word"
            " character, and it must end with a word character or with '_'. The name may contain word characters or"
            " '.', '-', '_'.",
        )


def check_location(world: World, body: Mapping[str, Any], kind: str) -> None:
    """Raises Refused."""
    location = str(body.get("location") or "")
    if not location:
        raise Refused("LocationRequired", "The location property is required for this definition.")
    if location.replace(" ", "").lower() != world.region:
        raise Refused(
            "LocationNotAvailableForResourceType",
            f"The provided location '{location}' is not available for resource type '{kind}'. List of available regions"
            f" for the resource type is '{world.region}'.",
        )


def _interface(nic: str, wanted: Mapping[str, Any], configurations: list[dict[str, Any]]) -> dict[str, Any]:
    made = {
        "provisioningState": "Succeeded",
        "resourceGuid": str(uuid.uuid5(uuid.NAMESPACE_URL, nic)),
        "ipConfigurations": configurations,
        "dnsSettings": {"dnsServers": [], "appliedDnsServers": [], **(wanted.get("dnsSettings") or {})},
        "enableAcceleratedNetworking": wanted.get("enableAcceleratedNetworking", False),
        "vnetEncryptionSupported": False,
        "enableIPForwarding": wanted.get("enableIPForwarding", False),
        "disableTcpStateTracking": False,
        "hostedWorkloads": [],
        "tapConfigurations": [],
        "nicType": "Standard",
        "auxiliaryMode": "None",
    }
    if group := wanted.get("networkSecurityGroup"):
        made["networkSecurityGroup"] = {"id": group["id"]}
    return made


def _mac(nic: str) -> str:
    """In Azure's range, its own for each interface."""
    digits = uuid.uuid5(uuid.NAMESPACE_URL, nic.lower()).hex.upper()
    return f"00-0D-3A-{digits[0:2]}-{digits[2:4]}-{digits[4:6]}"


def _default_rules() -> list[dict[str, Any]]:
    rules = []
    for direction in ("Inbound", "Outbound"):
        inside = {"sourceAddressPrefix": "VirtualNetwork", "destinationAddressPrefix": "VirtualNetwork"}
        anywhere = {"sourceAddressPrefix": "*", "destinationAddressPrefix": "*"}
        for name, priority, access, prefixes in (
            (f"AllowVnet{direction.title()}", 65000, "Allow", inside),
            (f"DenyAll{direction.title()}", 65500, "Deny", anywhere),
        ):
            properties = {
                "protocol": "*", "sourcePortRange": "*", "destinationPortRange": "*", **prefixes,
                "access": access, "priority": priority, "direction": direction, "provisioningState": "Succeeded",
            }  # fmt: skip
            rules.append({"name": name, "properties": properties})
    return rules
