"""The very bodies Azure is sent, and how its answers read."""

import base64
from dataclasses import replace
from typing import Any

import pytest

from providers import tags
from providers.azure import requests
from providers.azure.config import AzureConfig
from providers.base import Instance, InstanceState, LaunchSpec, Ownership, Purchase, Tee, Volume
from providers.errors import InvalidSpec, Unsupported

OWNER = Ownership("cluster-a", "node-1")
SUBSCRIPTION = "00000000-0000-4000-8000-000000000001"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/pods"
COMPUTE, NETWORK = f"{GROUP}/providers/Microsoft.Compute", f"{GROUP}/providers/Microsoft.Network"
CONFIG = AzureConfig(
    subscription_id=SUBSCRIPTION,
    resource_group="pods",
    region="eastus",
    subnet_id=f"{NETWORK}/virtualNetworks/net/subnets/pods",
    security_group_id=f"{NETWORK}/networkSecurityGroups/n",
    image=f"{COMPUTE}/galleries/g/images/podvm/versions/1.0.0",
    instance_types=("Standard_DC4as_v5",),
    tags=(("cost-centre", "42"), ("team", "blue")),
)
SPEC = LaunchSpec("podvm-nginx", "Standard_DC2as_v5", b'{"peerpods": 1}', tags={"team": "red", tags.SANDBOX: "s1"})
VM = "podvm-nginx-0123456789ab"
MARKS = {"Name": "podvm-nginx", tags.TOKEN: "token-1"}


def machine(
    spec: LaunchSpec = SPEC, config: AzureConfig = CONFIG, tee: Tee = Tee.SNP, root_gib: int | None = None
) -> dict[str, Any]:
    return requests.machine(VM, spec, MARKS, config=config, tee=tee, root_gib=root_gib, public_key="ssh-rsa AAAA")


def test_a_launch_is_exactly_this_request() -> None:
    assert machine() == {
        "location": "eastus",
        "tags": MARKS,
        "properties": {
            "hardwareProfile": {"vmSize": "Standard_DC2as_v5"},
            "storageProfile": {
                "imageReference": {"id": CONFIG.image},
                "osDisk": {
                    "name": f"{VM}-os",
                    "osType": "Linux",
                    "createOption": "FromImage",
                    "caching": "ReadWrite",
                    "deleteOption": "Delete",
                    "managedDisk": {
                        "storageAccountType": "Premium_LRS",
                        "securityProfile": {"securityEncryptionType": "VMGuestStateOnly"},
                    },
                },
                "dataDisks": [],
            },
            "osProfile": {
                "computerName": "podvm-nginx",
                "adminUsername": "peerpod",
                "allowExtensionOperations": False,
                "linuxConfiguration": {
                    "disablePasswordAuthentication": True,
                    "provisionVMAgent": False,
                    "ssh": {
                        "publicKeys": [
                            {"path": f"/home/{CONFIG.ssh_user}/.ssh/authorized_keys", "keyData": "ssh-rsa AAAA"}
                        ]
                    },
                },
            },
            "networkProfile": {
                "networkInterfaces": [
                    {
                        "id": f"{NETWORK}/networkInterfaces/{VM}-nic",
                        "properties": {"primary": True, "deleteOption": "Delete"},
                    }
                ]
            },
            "diagnosticsProfile": {"bootDiagnostics": {"enabled": True}},
            "userData": base64.b64encode(b'{"peerpods": 1}').decode(),
            "securityProfile": {
                "securityType": "ConfidentialVM",
                "uefiSettings": {"secureBootEnabled": False, "vTpmEnabled": True},
            },
        },
    }


def test_an_interface_is_exactly_this_request() -> None:
    assert requests.interface(VM, MARKS, CONFIG) == {
        "location": "eastus",
        "tags": MARKS,
        "properties": {
            "ipConfigurations": [
                {
                    "name": "primary",
                    "properties": {
                        "subnet": {"id": CONFIG.subnet_id},
                        "privateIPAllocationMethod": "Dynamic",
                        "primary": True,
                    },
                }
            ],
            "networkSecurityGroup": {"id": CONFIG.security_group_id},
        },
    }


def test_a_public_address_goes_with_the_interface() -> None:
    nic = requests.interface(VM, MARKS, replace(CONFIG, public_ip=True, security_group_id=None))
    (place,) = nic["properties"]["ipConfigurations"]
    assert place["properties"]["publicIPAddress"] == {
        "id": f"{NETWORK}/publicIPAddresses/{VM}-ip",
        "properties": {"deleteOption": "Delete"},
    }
    assert "networkSecurityGroup" not in nic["properties"]
    assert requests.public_address(VM, MARKS, "2", CONFIG)["zones"] == ["2"]


def test_a_plain_vm_names_no_security_type_but_for_secure_boot() -> None:
    plain = machine(tee=Tee.NONE)["properties"]
    assert "securityProfile" not in plain
    assert "securityProfile" not in plain["storageProfile"]["osDisk"]["managedDisk"]
    secure = machine(config=replace(CONFIG, secure_boot=True), tee=Tee.NONE)["properties"]["securityProfile"]
    assert secure == {
        "securityType": "TrustedLaunch",
        "uefiSettings": {"secureBootEnabled": True, "vTpmEnabled": True},
    }


@pytest.mark.parametrize(
    ("encryption", "tee", "managed"),
    [
        (
            "DiskWithVMGuestState",
            Tee.TDX,
            {"securityProfile": {"securityEncryptionType": "DiskWithVMGuestState", "diskEncryptionSet": {"id": "D"}}},
        ),
        (
            "VMGuestStateOnly",
            Tee.SNP,
            {"securityProfile": {"securityEncryptionType": "VMGuestStateOnly"}, "diskEncryptionSet": {"id": "D"}},
        ),
        ("DiskWithVMGuestState", Tee.NONE, {"diskEncryptionSet": {"id": "D"}}),
    ],
)
def test_the_customers_key_is_where_the_encryption_is(encryption: str, tee: Tee, managed: dict[str, Any]) -> None:
    config = replace(CONFIG, disk_encryption=encryption, disk_encryption_set_id="D")
    found = machine(config=config, tee=tee)["properties"]["storageProfile"]["osDisk"]["managedDisk"]
    assert found == {"storageAccountType": "Premium_LRS", **managed}


def test_a_zone_an_identity_and_a_place_are_passed_on() -> None:
    config = replace(
        CONFIG,
        identity_ids=("I",),
        proximity_placement_group_id="P",
        capacity_reservation_group_id="C",
        host_group_id="G",
        boot_diagnostics=False,
    )
    body = machine(replace(SPEC, zone="3"), config, root_gib=64)
    assert body["zones"] == ["3"]
    assert body["identity"] == {"type": "UserAssigned", "userAssignedIdentities": {"I": {}}}
    properties = body["properties"]
    assert properties["proximityPlacementGroup"] == {"id": "P"}
    assert properties["capacityReservation"] == {"capacityReservationGroup": {"id": "C"}}
    assert properties["hostGroup"] == {"id": "G"}
    assert "host" not in properties
    assert properties["diagnosticsProfile"] == {"bootDiagnostics": {"enabled": False}}
    assert properties["storageProfile"]["osDisk"]["diskSizeGB"] == 64


@pytest.mark.parametrize(("price", "most"), [(None, -1.0), (0.05, 0.05)])
def test_a_spot_vm_is_deleted_when_it_is_evicted(price: float | None, most: float) -> None:
    spec, config = replace(SPEC, purchase=Purchase.SPOT), replace(CONFIG, spot_max_price=price)
    properties = machine(spec, config)["properties"]
    assert (properties["priority"], properties["evictionPolicy"]) == ("Spot", "Delete")
    assert properties["billingProfile"] == {"maxPrice": most}
    assert "priority" not in machine()["properties"]


def test_a_pods_disks_have_their_place_as_number_and_are_kept() -> None:
    spec = replace(SPEC, volumes=(Volume(f"{COMPUTE}/disks/a"), Volume(f"{COMPUTE}/disks/b", read_only=True)))
    disks = machine(spec)["properties"]["storageProfile"]["dataDisks"]
    assert [(disk["lun"], disk["managedDisk"]["id"][-1], disk["deleteOption"]) for disk in disks] == [
        (0, "a", "Detach"),
        (1, "b", "Detach"),
    ]


@pytest.mark.parametrize(
    ("image", "key"),
    [
        (f"{COMPUTE}/images/podvm", "id"),
        ("/CommunityGalleries/g/Images/podvm/Versions/1.0.0", "communityGalleryImageId"),
        ("/sharedGalleries/g/Images/podvm", "sharedGalleryImageId"),
    ],
)
def test_a_pods_own_image_stands_where_azure_wants_its_kind(image: str, key: str) -> None:
    body = machine(replace(SPEC, image=image))
    assert body["properties"]["storageProfile"]["imageReference"] == {key: image}


def test_a_token_and_its_owner_make_the_name() -> None:
    name = requests.vm_name(SPEC, "token-1", OWNER)
    assert name == requests.vm_name(replace(SPEC, user_data=b""), "token-1", OWNER)
    assert name != requests.vm_name(SPEC, "token-2", OWNER)
    assert name != requests.vm_name(SPEC, "token-1", replace(OWNER, node="node-2"))
    assert name.startswith("podvm-nginx-")
    for spec in (replace(SPEC, name="n" * 63), replace(SPEC, name="-"), replace(SPEC, name="a" * 50 + "-b")):
        assert requests.is_name(requests.vm_name(spec, "t", OWNER))


CHANGES: list[dict[str, Any]] = [
    {"name": "podvm-other"},
    {"instance_type": "Standard_DC4as_v5"},
    {"user_data": b"other"},
    {"image": "/SharedGalleries/g/Images/podvm"},
    {"tags": {"team": "red"}},
    {"tee": Tee.SNP},
    {"zone": "1"},
    {"purchase": Purchase.SPOT},
    {"root_volume_gib": 64},
    {"scratch_gib": 1},
    {"volumes": (Volume("v"),)},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_every_field_of_a_spec_is_in_its_fingerprint(change: dict[str, Any]) -> None:
    assert requests.fingerprint(replace(SPEC, **change)) != requests.fingerprint(SPEC)
    turned = replace(SPEC, tags=dict(reversed(list(SPEC.tags.items()))))
    assert requests.fingerprint(turned) == requests.fingerprint(SPEC)


def test_the_tags_are_the_nodes_the_pods_and_ours_in_that_order() -> None:
    spec = replace(SPEC, tags={"team": "red", tags.NODE: "node-2"})
    found = requests.all_tags(spec, "token-1", CONFIG, OWNER)
    assert found == {
        "Name": "podvm-nginx",
        "cost-centre": "42",
        "team": "red",
        tags.TOKEN: "token-1",
        tags.CLUSTER: "cluster-a",
        tags.NODE: "node-1",
        requests.SPEC_TAG: requests.fingerprint(spec),
    }


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": ""}, "name"),
        ({"name": "Nginx"}, "name"),
        ({"name": "n" * 64}, "name"),
        ({"instance_type": "Standard_D96s_v5"}, "Standard_DC2as_v5, Standard_DC4as_v5"),
        ({"user_data": b"x" * 49_153}, "49153 bytes"),
        ({"image": "ami-0123456789abcdef0"}, "ami-"),
        ({"zone": "9"}, "zone 9 is not among"),
        ({"tee": Tee.SEV}, "sev"),
        ({"volumes": (Volume("vol-1"),)}, "vol-1"),
        ({"volumes": (Volume("d"),) * 65}, "65 volumes"),
        ({"tags": {"k" * 513: ""}}, "513"),
        ({"tags": {"k": "v" * 257}}, "257"),
        ({"tags": {"": "v"}}, "0 characters"),
        ({"tags": {"a/b": "v"}}, "'/'"),
        ({"tags": {"name": "v"}}, "case"),
        ({"tags": {f"key-{n}": "" for n in range(45)}}, "53 tags"),
    ],
)
def test_what_azure_would_refuse_is_refused_here(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidSpec, match=problem):
        requests.check(replace(SPEC, **changes), "token-1", replace(CONFIG, zones=("1", "2")))


@pytest.mark.parametrize("token", ["", "t" * 65, "two words", "tökén", "line\n"])
def test_a_token_that_could_be_no_tag_is_refused_here(token: str) -> None:
    with pytest.raises(InvalidSpec, match="token"):
        requests.check(SPEC, token, CONFIG)


def test_the_limits_themselves_are_allowed() -> None:
    most = {f"key-{n}": "v" * 256 for n in range(41)} | {"k" * 512: "v"}
    full = replace(SPEC, name="n" * 63, user_data=b"x" * 49_152, instance_type="Standard_DC4as_v5", tags=most)
    requests.check(full, "t" * 64, CONFIG)
    marks = requests.all_tags(full, "t" * 64, CONFIG, OWNER)
    assert len(marks) + 1 == requests.TAGS_LIMIT  # the address comes later
    assert len(machine(full)["properties"]["userData"]) == 65_536


SHAPE: dict[str, Any] = {
    "name": VM,
    "id": f"{COMPUTE}/virtualMachines/{VM}",
    "location": "eastus",
    "zones": ["2"],
    "tags": {"Name": "podvm-nginx", requests.ADDRESS_TAG: "10.0.0.7 203.0.113.7"},
    "properties": {
        "provisioningState": "Succeeded",
        "hardwareProfile": {"vmSize": "Standard_DC2as_v5"},
        "storageProfile": {"imageReference": {"id": CONFIG.image, "exactVersion": "1.0.0"}},
        "timeCreated": "2026-01-02T00:00:00.1234567+00:00",
    },
}


def with_state(state: str, *statuses: str) -> Instance:
    view = {"statuses": [{"code": code, "displayStatus": code} for code in statuses]}
    return requests.instance(
        {**SHAPE, "properties": {**SHAPE["properties"], "provisioningState": state, "instanceView": view}}
    )


def test_a_described_vm_is_all_of_our_fields() -> None:
    assert requests.instance(SHAPE) == Instance(
        id=VM,
        state=InstanceState.RUNNING,
        addresses=("10.0.0.7", "203.0.113.7"),
        name="podvm-nginx",
        instance_type="Standard_DC2as_v5",
        zone="2",
        image=CONFIG.image,
        tags=SHAPE["tags"],
        launched_at=1767312000.123456,
    )


def test_the_least_azure_may_say_of_a_vm_is_enough() -> None:
    assert requests.instance({"name": "v", "properties": {"provisioningState": "Deleting"}}) == Instance(
        "v", InstanceState.GONE, name="v"
    )


@pytest.mark.parametrize(
    ("state", "statuses", "ours"),
    [
        ("Creating", (), InstanceState.PENDING),
        ("Creating", ("PowerState/running",), InstanceState.PENDING),
        ("Hovering", (), InstanceState.PENDING),
        ("Updating", (), InstanceState.RUNNING),
        ("Deleting", ("PowerState/running",), InstanceState.GONE),
        ("Succeeded", ("PowerState/running",), InstanceState.RUNNING),
        ("Succeeded", ("PowerState/stopped",), InstanceState.STOPPED),
        ("Succeeded", ("PowerState/deallocated",), InstanceState.STOPPED),
        ("Failed", (), InstanceState.RUNNING),  # not told more: nothing may be given up for it
        ("Failed", ("ProvisioningState/failed/OSProvisioningTimedOut", "PowerState/running"), InstanceState.RUNNING),
        ("Failed", ("ProvisioningState/failed/AllocationFailed",), InstanceState.STOPPED),
    ],
)
def test_a_state_is_as_much_as_we_branch_on(state: str, statuses: tuple[str, ...], ours: InstanceState) -> None:
    seen = with_state(state, *statuses)
    assert seen.state is ours
    assert bool(seen.reason) is (ours is InstanceState.STOPPED)


def test_another_launchs_vm_is_not_taken_for_the_tokens() -> None:
    mine = {**SHAPE, "tags": requests.all_tags(SPEC, "token-1", CONFIG, OWNER)}
    assert requests.match(mine, SPEC, "token-1").id == VM
    for spec, token in ((SPEC, "token-2"), (replace(SPEC, user_data=b""), "token-1")):
        with pytest.raises(InvalidSpec, match="other parameters"):
            requests.match(mine, spec, token)


@pytest.mark.parametrize(
    ("wish", "given", "confidential", "tee"),
    [
        (None, {Tee.SNP}, True, Tee.SNP),
        (None, {Tee.TDX}, True, Tee.TDX),
        (None, {Tee.NONE}, False, Tee.NONE),
        (Tee.TDX, {Tee.TDX}, False, Tee.TDX),
        (Tee.NONE, {Tee.NONE}, True, Tee.NONE),
    ],
)
def test_a_pods_wish_for_a_tee_goes_before_the_settings(
    wish: Tee | None, given: set[Tee], confidential: bool, tee: Tee
) -> None:
    config = replace(CONFIG, confidential=confidential)
    assert requests.check_offer(replace(SPEC, tee=wish), frozenset(given), config) is tee


def test_a_tee_that_the_size_has_not_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="snp"):
        requests.check_offer(replace(SPEC, tee=Tee.SNP), frozenset({Tee.TDX}), CONFIG)
    with pytest.raises(InvalidSpec, match="without a TEE"):
        requests.check_offer(replace(SPEC, tee=Tee.NONE), frozenset({Tee.SNP}), CONFIG)
    with pytest.raises(Unsupported):
        requests.check_offer(SPEC, frozenset({Tee.NONE}), CONFIG)
