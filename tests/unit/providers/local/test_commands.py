"""QEMU's command lines, whole: what is not in them is not given to a VM."""

from dataclasses import replace

import pytest

from providers.base import Tee
from providers.local import commands
from providers.local.commands import Files, Host
from providers.local.config import LocalConfig
from providers.local.image import Image
from providers.local.requests import Intent

IMAGE = Image(
    "/img", "x86_64", "console=ttyS0 podvm.roothash=ab", "/img/vmlinuz", "/img/initrd", "/img/podvm.raw", False
)
CONFIG = LocalConfig(image="/img")
FILES = Files("/st/vms/vm-0123456789abcdef")
TCG = Host("/usr/bin/qemu-system-x86_64", (7, 2), "tcg")
UEFI = replace(TCG, firmware="/fw/CODE.fd", variables="/fw/VARS.fd", swtpm="/usr/bin/swtpm")
INTENT = Intent(
    "vm-0123456789abcdef",
    "token",
    "podvm-nginx",
    "local.medium",
    "/img",
    "digest",
    0.0,
    "10.123.0.2",
    "qemu",
    "tap",
    "direct",
    "fw_cfg",
    "tcg",
)


def line(intent: Intent = INTENT, host: Host = TCG, config: LocalConfig = CONFIG) -> list[str]:
    return commands.qemu(intent, IMAGE, host, config, FILES, "python3 -I imds.py /st/user-data")


def given(words: list[str], option: str) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words) if word == option]


def test_the_plain_vm_is_exactly_this() -> None:
    place = "/st/vms/vm-0123456789abcdef"
    assert line() == [
        "/usr/bin/qemu-system-x86_64",
        *("-name", "podvm-nginx-0123456789abcdef"),
        *("-machine", "q35", "-accel", "tcg,thread=multi"),
        *("-cpu", "max,cx16=off"),
        *("-smp", "2"),
        *("-m", "2048M"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-chardev", f"file,id=console,path={place}/console.log,append=on", "-serial", "chardev:console"),
        *("-qmp", f"unix:{place}/qmp.sock,server=on,wait=off"),
        *("-device", "virtio-rng-pci"),
        *("-drive", "if=none,id=root,format=raw,file=/img/podvm.raw,readonly=on"),
        *("-device", "virtio-blk-pci,drive=root,serial=root"),
        *("-netdev", "tap,id=n0,ifname=pp-456789abcdef,script=no,downscript=no"),
        *("-device", "virtio-net-pci,netdev=n0,mac=52:54:0a:7b:00:02,romfile="),
        *("-fw_cfg", f"name=opt/podvm/user-data,file={place}/user-data"),
        *("-kernel", "/img/vmlinuz", "-initrd", "/img/initrd", "-append", "console=ttyS0 podvm.roothash=ab"),
    ]


@pytest.mark.parametrize(
    ("host", "cpu"),
    [
        (TCG, "max,cx16=off"),
        (replace(TCG, version=(9, 2)), "max,cx16=off"),
        (replace(TCG, version=(10, 0)), "max"),
        (replace(TCG, accel="kvm"), "host"),
    ],
)
def test_tcg_before_qemu_10_goes_without_the_instruction_that_it_gets_wrong(host: Host, cpu: str) -> None:
    assert given(line(host=host), "-cpu") == [cpu]


def test_firmware_boots_the_disk_into_a_tpm_and_gets_no_kernel() -> None:
    words = line(replace(INTENT, boot="uefi"), UEFI)
    assert "-kernel" not in words
    assert "if=pflash,format=raw,unit=0,readonly=on,file=/fw/CODE.fd" in given(words, "-drive")
    assert f"if=pflash,format=raw,unit=1,file={FILES.variables}" in given(words, "-drive")
    assert f"socket,id=tpm,path={FILES.tpm}" in given(words, "-chardev")
    assert "tpm-crb,tpmdev=tpm0" in given(words, "-device")
    assert "virtio-blk-pci,drive=root,serial=root,bootindex=0" in given(words, "-device")
    assert commands.swtpm(UEFI, FILES)[-1] == f"type=unixio,path={FILES.tpm}"


def test_a_network_of_qemus_own_forwards_the_guests_two_ports_to_the_vms_own_loopback_address() -> None:
    words = line(replace(INTENT, network="user", address="127.77.0.2"))
    assert given(words, "-netdev") == [
        "user,id=n0,restrict=off,hostfwd=tcp:127.77.0.2:15150-:15150,hostfwd=udp:127.77.0.2:51820-:51820"
    ]
    shut = line(replace(INTENT, network="user"), config=replace(CONFIG, outbound=False))
    assert "restrict=on" in given(shut, "-netdev")[0]


def test_a_metadata_service_is_a_card_of_its_own_and_the_only_reason_to_go_without_qemus_filter() -> None:
    words = line(replace(INTENT, user_data="imds"))
    assert "guestfwd=tcp:169.254.169.254:80-cmd:python3 -I imds.py /st/user-data" in given(words, "-netdev")[1]
    assert "-sandbox" not in words
    assert "-fw_cfg" not in words


def test_cidata_is_a_disk_of_its_own() -> None:
    words = line(replace(INTENT, user_data="cidata"))
    assert f"if=none,id=cidata,format=raw,file={FILES.cidata},readonly=on" in given(words, "-drive")
    assert "-fw_cfg" not in words


def test_a_vm_that_may_write_to_its_disk_has_a_copy_of_its_own() -> None:
    assert f"if=none,id=root,format=raw,file={FILES.disk},readonly=off" in given(
        line(replace(INTENT, disk_gib=20)), "-drive"
    )


def test_a_comma_in_a_path_ends_no_option() -> None:
    words = commands.qemu(INTENT, replace(IMAGE, disk="/a,readonly=off"), TCG, CONFIG, FILES)
    assert "if=none,id=root,format=raw,file=/a,,readonly=off,readonly=on" in given(words, "-drive")


def test_snp_measures_the_kernel_that_it_boots_directly() -> None:
    host = replace(TCG, version=(9, 1), accel="kvm", firmware="/fw/AMDSEV.fd")
    words = line(replace(INTENT, tee="snp", accel="kvm"), host, replace(CONFIG, tee=Tee.SNP))
    assert given(words, "-machine") == ["q35,confidential-guest-support=tee0,memory-backend=ram0"]
    assert given(words, "-object") == [
        "memory-backend-memfd,id=ram0,size=2048M,share=true,prealloc=false",
        "sev-snp-guest,id=tee0,cbitpos=51,reduced-phys-bits=1,kernel-hashes=on",
    ]
    assert given(words, "-bios") == ["/fw/AMDSEV.fd"]


def test_tdx_names_its_quote_service_where_it_has_one() -> None:
    host = replace(TCG, version=(10, 1), accel="kvm", firmware="/fw/TDX.fd")
    tdx = replace(INTENT, tee="tdx", accel="kvm")
    assert given(line(tdx, host), "-object") == ['{"qom-type":"tdx-guest","id":"tee0"}']
    words = line(tdx, host, replace(CONFIG, tdx_quote_port=4050))
    assert given(words, "-object") == [
        '{"qom-type":"tdx-guest","id":"tee0","quote-generation-socket":{"type":"vsock","cid":"2","port":"4050"}}'
    ]
    assert given(words, "-machine") == ["q35,kernel_irqchip=split,confidential-guest-support=tee0"]
