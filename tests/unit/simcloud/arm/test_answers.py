"""What is answered is what the SDK's models know: no member is invented, none is of another type."""

from collections.abc import Iterator
from enum import Enum
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
from azure.mgmt.compute import models as compute
from azure.mgmt.network import models as network

from providers.simcloud.arm import schema
from tests.unit.simcloud.arm.arm_client import GROUP, Account
from tests.unit.simcloud.arm.test_requests import group, send

ONE = [
    ("Compute/virtualMachines/vm", compute.VirtualMachine),
    ("Compute/virtualMachines/vm/instanceView", compute.VirtualMachineInstanceView),
    ("Compute/disks/root", compute.Disk),
    ("Compute/images/podvm-managed", compute.Image),
    ("Compute/galleries/peerpods", compute.Gallery),
    ("Compute/galleries/peerpods/images/podvm", compute.GalleryImage),
    ("Compute/galleries/peerpods/images/podvm/versions/1.0.0", compute.GalleryImageVersion),
    ("Compute/proximityPlacementGroups/near", compute.ProximityPlacementGroup),
    ("Compute/capacityReservationGroups/reserved", compute.CapacityReservationGroup),
    ("Compute/hostGroups/hosts", compute.DedicatedHostGroup),
    ("Compute/hostGroups/hosts/hosts/host", compute.DedicatedHost),
    ("Network/networkInterfaces/vm-nic", network.NetworkInterface),
    ("Network/publicIPAddresses/ip", network.PublicIPAddress),
    ("Network/virtualNetworks/peerpods", network.VirtualNetwork),
    ("Network/virtualNetworks/peerpods/subnets/pods", network.Subnet),
    ("Network/networkSecurityGroups/peerpods", network.NetworkSecurityGroup),
]
LISTS = [
    ("Compute/skus", compute.ResourceSku),
    ("Compute/locations/eastus/usages", compute.Usage),
    ("Compute/locations/eastus/vmSizes", compute.VirtualMachineSize),
    ("Network/locations/eastus/usages", network.Usage),
]
VERSION = "?api-version=2024-07-01"


def strange(kind: Any, value: Any, path: str) -> Iterator[str]:
    """What of an answer is not the model's: members, their case, values of enums, types."""
    inner = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        enums = [each for each in inner if isinstance(each, type) and issubclass(each, Enum)]
        outdated = any(each.__name__ == "VirtualMachineSizeTypes" for each in enums)
        if enums and not outdated and value not in [each.value for each in enums[0]]:
            yield f"{path}: {value!r} is not in {enums[0].__name__}"
    elif get_origin(kind) is list:
        for each in value:
            yield from strange(inner[0], each, f"{path}[]")
    elif get_origin(kind) is dict:
        for name, each in value.items():
            yield from strange(inner[1], each, f"{path}.{name}")
    elif hasattr(kind, "_is_model"):
        known = schema.fields(kind)
        for name, each in value.items():
            if name in known:
                yield from strange(known[name].type, each, f"{path}.{name}")
            else:
                yield f"{path}.{name} is not in {kind.__name__}"
    elif kind in (bool, int, str) and type(value) is not kind:
        yield f"{path}: {value!r} is no {kind.__name__}"


@pytest.fixture
def full(account: Account) -> Account:
    address = {"location": "eastus", "sku": {"name": "Standard"}, "properties": {"publicIPAllocationMethod": "Static"}}
    made = account.network.public_ip_addresses.begin_create_or_update(GROUP, "ip", address).result()
    account.nic("vm-nic", **account.nic_body(publicIPAddress={"id": made.id}))
    nic = account.network.network_interfaces.get(GROUP, "vm-nic").id
    account.put("vm", account.request(nic, storageProfile={"osDisk": {"name": "root"}}, root={"zones": ["1"]})).result()
    return account


def test_every_answer_fits_the_sdks_models(full: Account) -> None:
    found: list[str] = []
    for path, model in ONE:
        status, body, _ = send(full, f"{group(full)}/providers/Microsoft.{path}{VERSION}")
        assert status == 200, path
        found += strange(model, body, model.__name__)
    whole = group(full).partition("/resourceGroups")[0]
    for path, item in LISTS:
        status, body, _ = send(full, f"{whole}/providers/Microsoft.{path}{VERSION}")
        assert status == 200, path
        for each in body["value"]:
            found += strange(item, each, item.__name__)
    assert not found, "\n".join(found)
