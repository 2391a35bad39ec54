"""What Azure would refuse is refused here, in its words, and nothing is made."""

import base64
from typing import Any

import pytest

from tests.unit.simcloud.arm.arm_client import GROUP, KEY, USER, Account, refused

SSH = {"path": f"/home/{USER}/.ssh/authorized_keys", "keyData": KEY}
SHORT_RSA = "ssh-rsa " + base64.b64encode(b"\0\0\0\x07ssh-rsa\0\0\0\x03\x01\x00\x01\0\0\0\x80" + b"\x7f" * 128).decode()


def linux(**changes: Any) -> dict[str, Any]:
    return {"osProfile": {"linuxConfiguration": changes}}


def disk(**changes: Any) -> dict[str, Any]:
    return {"storageProfile": {"osDisk": changes}}


def data(*disks: dict[str, Any]) -> dict[str, Any]:
    return {"storageProfile": {"dataDisks": list(disks)}}


def firmware(**changes: Any) -> dict[str, Any]:
    return {"securityProfile": {"uefiSettings": changes}}


def image(name: str) -> dict[str, Any]:
    return {"storageProfile": {"imageReference": {"id": name}}}


def size(name: str) -> dict[str, Any]:
    return {"hardwareProfile": {"vmSize": name}}


def encryption(kind: str | None) -> dict[str, Any]:
    return {
        "storageProfile": {"osDisk": {"managedDisk": {"securityProfile": kind and {"securityEncryptionType": kind}}}}
    }


EMPTY = {"createOption": "Empty", "diskSizeGB": 4}

# What is changed in a VM that is right -> the code, some of the words.
CONFIDENTIAL: list[tuple[dict[str, Any], str, str]] = [
    (size("Standard_D2s_v5"), "BadRequest", "is not supported for creation of VMs and Virtual Machine Scale Set with 'Conf"),
    ({"securityProfile": None, **encryption(None)}, "BadRequest", "with '<NULL>' security type"),
    ({"securityProfile": None}, "BadRequest", "can only be set for Confidential VMs"),
    (encryption(None), "BadRequest", "Required parameter for Confidential VMs"),
    (encryption("Everything"), "InvalidParameter", "Allowed values are: VMGuestStateOnly"),
    (firmware(vTpmEnabled=False), "BadRequest", "vTpmEnabled' must be true"),
    ({**firmware(secureBootEnabled=False), **encryption("DiskWithVMGuestState")}, "BadRequest", "secureBootEnabled"),
    ({"securityProfile": {"securityType": "Standard"}}, "InvalidParameter", "UseStandardSecurityType"),
    ({"securityProfile": {"securityType": "Confidential"}}, "InvalidParameter", "Allowed values are: Standard,TrustedLaunch"),
    ({"securityProfile": {"encryptionAtHost": True}}, "InvalidParameter", "does not support encryption at host"),
    (image("podvm-plain"), "InvalidParameter", "SecurityType 'ConfidentialVM' is not supported by given image"),
    (image("podvm-gen1"), "BadRequest", "cannot boot Hypervisor Generation '1'"),
    (image("podvm-arm64"), "InvalidParameter", "only supports a CPU Architecture of 'x64'"),
]  # fmt: skip
PLAIN: list[tuple[dict[str, Any], str, str]] = [
    (image("podvm-cvm"), "BadRequest", "not compatible with the security type of associated OS Image"),
    ({**image("podvm-plain"), "securityProfile": {"securityType": "TrustedLaunch"}}, "InvalidParameter", "given image"),
    ({**image("podvm-plain"), "securityProfile": {"uefiSettings": {"vTpmEnabled": True}}}, "BadRequest", "uefiSettings"),
    (size("Standard_D2ps_v5"), "InvalidParameter", "only supports a CPU Architecture of 'Arm64'"),
    (size("Standard_D2s_v99"), "InvalidParameter", "The value Standard_D2s_v99 provided for the VM size is not valid"),
    (image("nothing"), "GalleryImageNotFound", "cannot be found"),
    ({"priority": "Spot"}, "InvalidParameter", "'evictionPolicy' is missing"),
    ({"evictionPolicy": "Delete"}, "InvalidParameter", "only on Azure Spot"),
    ({"billingProfile": {"maxPrice": 0.5}}, "InvalidParameter", "Max price"),
    ({"priority": "Spot", "evictionPolicy": "Delete", "billingProfile": {"maxPrice": -2.0}}, "InvalidParameter", "-1"),
    ({"priority": "Spot", "evictionPolicy": "Delete", **size("Standard_B2s")}, "BadRequest", "not supported for this VM"),
    ({"userData": "not base64!"}, "InvalidParameter", "Base64"),
    ({"userData": base64.b64encode(b"x" * 49_153).decode()}, "InvalidParameter", "at most 65536 characters"),
    ({"osProfile": {"customData": base64.b64encode(b"x" * 65_536).decode()}}, "InvalidParameter", "87380"),
    ({"osProfile": None}, "InvalidParameter", "'osProfile' is missing"),
    ({"osProfile": {"adminUsername": "root"}}, "InvalidParameter", "Admin Username specified is not allowed"),
    ({"osProfile": {"adminUsername": None}}, "InvalidParameter", "'adminUsername' is missing"),
    ({"osProfile": {"computerName": "a_b"}}, "InvalidParameter", "Linux host name"),
    ({"osProfile": {"computerName": "1234"}}, "InvalidParameter", "all digits"),
    (linux(ssh=None), "InvalidParameter", "Authentication using either SSH or by user name and password"),
    ({"osProfile": {"adminPassword": "simple", **linux(ssh=None, disablePasswordAuthentication=False)["osProfile"]}},
     "InvalidParameter", "complexity"),
    (linux(ssh={"publicKeys": [{**SSH, "path": "/elsewhere/authorized_keys"}]}), "InvalidParameter", "Destination path"),
    (linux(ssh={"publicKeys": [{**SSH, "keyData": "ssh-rsa AAAA"}]}), "InvalidParameter", "keyData is invalid"),
    (linux(ssh={"publicKeys": [{**SSH, "keyData": SHORT_RSA}]}), "InvalidParameter", "keyData is invalid"),
    (disk(createOption="Attach"), "InvalidParameter", "use FromImage"),
    (disk(diskSizeGB=4), "InvalidParameter", "smaller than the size of the corresponding disk in the VM image"),
    (disk(managedDisk={"storageAccountType": "UltraSSD_LRS", "securityProfile": None}), "InvalidParameter", "UltraSSD"),
    (disk(diffDiskSettings={"option": "Local"}), "NotSupported", "Ephemeral"),
    ({**size("Standard_D2ds_v5"), **disk(diffDiskSettings={"option": "Local"})}, "InvalidParameter", "caching"),
    (data({"lun": 64, **EMPTY}), "InvalidParameter", "between '0' and '63'"),
    (data({"lun": 1, **EMPTY}, {"lun": 1, **EMPTY}), "InvalidParameter", "A disk at LUN 1 already exists"),
    (data(*({"lun": n, **EMPTY} for n in range(5))), "OperationNotAllowed", "of this size is 4"),
    (data({"lun": 0, "createOption": "Empty"}), "InvalidParameter", "diskSizeGB"),
    (data({"lun": 0, "createOption": "Attach", "managedDisk": {"id": "/nowhere/x"}}), "NotFound", "Disk x is not found"),
    (data({"lun": 0, "createOption": "Attach"}), "InvalidParameter", "managedDisk.id"),
    ({"networkProfile": {"networkInterfaces": []}}, "InvalidParameter", "networkInterfaces"),
    ({"networkProfile": {"networkInterfaces": [{"id": "/nowhere"}]}}, "InvalidResourceReference", "/nowhere"),
    ({"proximityPlacementGroup": {"id": "/nowhere"}}, "InvalidResourceReference", "/nowhere"),
    ({"capacityReservation": {"capacityReservationGroup": {"id": "/no"}}}, "InvalidResourceReference", "/no"),
    ({"host": {"id": "/nowhere"}}, "InvalidResourceReference", "/nowhere"),
    ({"hostGroup": {"id": "/nowhere"}}, "InvalidResourceReference", "/nowhere"),
    ({"root": {"location": "mars"}}, "LocationNotAvailableForResourceType", "'mars' is not available"),
    ({"root": {"zones": ["1", "2"]}}, "InvalidParameter", "one availability zone only"),
    ({"root": {"zones": ["4"]}}, "AvailabilityZoneNotSupported", "supported zones for location 'eastus' are '1,2,3'"),
    ({**size("Standard_ND96asr_v4"), "root": {"zones": ["1"]}}, "SkuNotAvailable", "zones '1'"),
    ({"root": {"tags": {f"t{n}": "" for n in range(51)}}}, "InvalidTags", "51"),
    ({"root": {"tags": {"a<b": ""}}}, "InvalidTagNameCharacters", "a<b"),
    ({"root": {"tags": {"microsoft-x": ""}}}, "InvalidTagName", "reserved prefix"),
    ({"root": {"tags": {"a": "x" * 257}}}, "InvalidTagValueLength", "257"),
    ({"root": {"tags": {"a": "", "A": ""}}}, "InvalidTags", "ignore case"),
    ({"root": {"identity": {"type": "UserAssigned", "userAssignedIdentities": {"/no": {}}}}}, "FailedIdentityOperation", "/no"),
]  # fmt: skip
STATUS = {
    "SkuNotAvailable": 409, "OperationNotAllowed": 409, "NotSupported": 409, "GalleryImageNotFound": 404, "NotFound": 404,
}  # fmt: skip


def with_ids(account: Account, change: dict[str, Any]) -> dict[str, Any]:
    """Image names become ids."""
    reference = (change.get("storageProfile") or {}).get("imageReference")
    if reference and "/" not in reference["id"]:
        known = account.cloud.facts["image"].replace("/images/podvm/", f"/images/{reference['id']}/")
        change = {**change, "storageProfile": {**change["storageProfile"], "imageReference": {"id": known}}}
    return change


@pytest.mark.parametrize(("change", "code", "words"), CONFIDENTIAL, ids=lambda value: str(value)[:60])
def test_a_confidential_vm_that_azure_would_refuse(lasting: Account, change: Any, code: str, words: str) -> None:
    nic = lasting.network.network_interfaces.get(GROUP, "nic").id
    with refused(code, words, status=STATUS.get(code, 400)):
        lasting.put("vm", lasting.request(nic, **with_ids(lasting, dict(change))))
    assert (lasting.names(), lasting.disks(), lasting.nics()) == ([], [], ["nic"])


@pytest.mark.parametrize(("change", "code", "words"), PLAIN, ids=lambda value: str(value)[:60])
def test_a_vm_that_azure_would_refuse(lasting: Account, change: Any, code: str, words: str) -> None:
    nic = lasting.network.network_interfaces.get(GROUP, "nic").id
    with refused(code, words, status=STATUS.get(code, 400)):
        lasting.put("vm", lasting.plain(nic, **with_ids(lasting, dict(change))))
    assert (lasting.names(), lasting.disks(), lasting.nics()) == ([], [], ["nic"])


@pytest.mark.parametrize(
    ("size", "image", "more"),
    [
        ("Standard_DC2es_v6", "podvm", {"root": {"zones": ["3"]}}),
        ("Standard_NCC40ads_H100_v5", "podvm-cvm", {}),
        ("Standard_DC2ads_v5", "podvm", encryption("DiskWithVMGuestState")),
        ("standard_dc4as_V5", "podvm", {"userData": base64.b64encode(b"x" * 49_152).decode()}),
    ],
)
def test_a_confidential_vm_that_azure_would_take(account: Account, size: str, image: str, more: dict[str, Any]) -> None:
    reference = account.cloud.facts["image"].replace("/images/podvm/", f"/images/{image}/")
    right = {"hardwareProfile": {"vmSize": size}, "storageProfile": {"imageReference": {"id": reference}}}
    body = account.request(account.nic(), **right)
    changed = account.request(account.nic(), **more) if more else body
    body["properties"]["storageProfile"]["osDisk"] = changed["properties"]["storageProfile"]["osDisk"]
    body |= {key: changed[key] for key in ("zones",) if key in changed}
    if "userData" in changed["properties"]:
        body["properties"]["userData"] = changed["properties"]["userData"]
    assert account.put("vm", body).result().provisioning_state in ("Creating", "Succeeded")


@pytest.mark.parametrize(
    "reference",
    [
        {"id": "{gallery}/images/podvm"},
        {"id": "{gallery}/images/podvm/versions/1.0.0"},
        {"communityGalleryImageId": "{community}"},
        {"publisher": "Canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest"},
        {"id": "{managed}"},
    ],
)
def test_images_are_named_in_every_way_that_azure_knows(account: Account, reference: dict[str, str]) -> None:
    image = account.cloud.facts["image"]
    known = {
        "gallery": image.partition("/images/")[0],
        "community": account.cloud.facts["community_image"],
        "managed": image.partition("/galleries/")[0] + "/images/podvm-managed",
    }
    body = account.plain(account.nic())
    body["properties"]["storageProfile"]["imageReference"] = {k: v.format(**known) for k, v in reference.items()}
    account.put("vm", body)
    with refused("InvalidParameter", "exactly one of"):
        body["properties"]["storageProfile"]["imageReference"] = {"id": image, "communityGalleryImageId": "x"}
        account.put("other", body)


def test_an_interface_is_one_vms_only(account: Account) -> None:
    nic = account.nic()
    account.put("one", account.request(nic))
    with refused("NicInUse", "is used by existing resource"):
        account.put("two", account.request(nic))
    with refused("NicInUse", "dissociated"):
        account.network.network_interfaces.begin_delete(GROUP, "nic", polling=False)


def test_of_several_interfaces_one_is_primary_and_there_are_not_too_many(account: Account) -> None:
    nics = [{"id": account.nic(f"n{n}")} for n in range(3)]
    with refused("VirtualMachineMustHaveOneNetworkInterfaceAsPrimary"):
        account.put("vm", account.request(networkProfile={"networkInterfaces": nics[:2]}))
    with refused("NetworkInterfaceCountExceeded", "the maximum allowed is 2"):
        account.put("vm", account.request(networkProfile={"networkInterfaces": nics}))
    first = {**nics[0], "properties": {"primary": True}}
    vm = account.put("vm", account.request(networkProfile={"networkInterfaces": [nics[1], first]})).result()
    assert len(vm.network_profile.network_interfaces) == 2
    (instance,) = account.cloud.instances()
    assert (
        instance.address == account.network.network_interfaces.get(GROUP, "n0").ip_configurations[0].private_ip_address
    )


@pytest.mark.parametrize("name", ["-vm", "vm-", "v m", "x" * 65])
def test_a_name_that_is_none_is_refused(account: Account, name: str) -> None:
    with refused("InvalidParameter", "virtualMachineName"):
        account.put(name, account.request(account.nic()))


def test_a_resize_keeps_to_what_the_vm_is(account: Account) -> None:
    nic = account.nic()
    account.put("vm", account.request(nic))
    assert (
        account.put("vm", account.request(nic, **size("Standard_DC4as_v5"))).result().hardware_profile.vm_size
        == "Standard_DC4as_v5"
    )
    with refused("OperationNotAllowed", "Unable to resize", status=409):
        account.put("vm", account.request(nic, **size("Standard_D2s_v5")))


def test_a_vm_may_refer_to_what_there_is(account: Account) -> None:
    group = account.cloud.facts["image"].partition("/Microsoft.Compute/")[0]

    def known(kind: str) -> dict[str, str]:
        return {"id": f"{group}/{kind}"}

    identity: dict[str, Any] = {f"{group}/Microsoft.ManagedIdentity/userAssignedIdentities/podvm": {}}
    body = account.request(
        account.nic(),
        proximityPlacementGroup=known("Microsoft.Compute/proximityPlacementGroups/near"),
        capacityReservation={"capacityReservationGroup": known("Microsoft.Compute/capacityReservationGroups/reserved")},
        host=known("Microsoft.Compute/hostGroups/hosts/hosts/host"),
        root={"identity": {"type": "UserAssigned", "userAssignedIdentities": identity}},
    )
    vm = account.put("vm", body).result()
    assert list(vm.identity.user_assigned_identities) == list(identity)
    assert vm.host.id.endswith("/host")
    with refused("BadRequest", "'host' and 'hostGroup'"):
        body["properties"]["hostGroup"] = known("Microsoft.Compute/hostGroups/hosts")
        account.put("other", body)


def test_a_new_disk_takes_nobodys_place(account: Account) -> None:
    body = account.request(account.nic("a"), **disk(name="root"))
    account.put("one", body).result()
    with refused("ConflictingUserInput", "Disk root already exists in resource group peerpods", status=409):
        account.put("two", account.request(account.nic("b"), **disk(name="root")))


def test_an_interface_that_cannot_be_made_leaves_no_address(account: Account) -> None:
    place = {
        "subnet": {"id": account.cloud.facts["subnet"] + "x"},
        "publicIPAddressConfiguration": {"name": "ip"},
    }
    configuration = {"name": "front", "properties": {"ipConfigurations": [{"name": "one", "properties": place}]}}
    profile = {"networkInterfaces": None, "networkInterfaceConfigurations": [configuration]}
    with refused("InvalidParameter", "networkApiVersion"):
        account.put("vm", account.request(networkProfile=profile))
    with refused("InvalidResourceReference"):
        account.put("vm", account.request(networkProfile={**profile, "networkApiVersion": "2022-11-01"}))
    assert (account.nics(), list(account.network.public_ip_addresses.list(GROUP)), account.disks()) == ([], [], [])
