"""QEMU's and swtpm's command lines (pure).

TEE options are those of QEMU's own documentation (docs/system/i386/amd-memory-encryption.rst and tdx.rst, QEMU 10.1):
nobody has tried them here, for want of such a host.
"""

import json
import shlex
from dataclasses import dataclass
from typing import Final

from providers.base import Tee
from providers.local.config import LocalConfig
from providers.local.image import Image
from providers.local.requests import Intent, link_of, mac_of, machine

# Below QEMU 10, TCG gets cmpxchg16b wrong now and then: Linux 6.12 guests die of it in one boot of four.
_CX16_SOUND: Final = (10, 0)
METADATA: Final = "169.254.169.254"
_METADATA_NET: Final = "net=169.254.169.0/24,host=169.254.169.1,dns=169.254.169.3"
# No privilege, process or resource limit is to be had from inside QEMU; obsolete calls neither.
_SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True)
class Host:
    """What this host has."""

    qemu: str  # the program
    version: tuple[int, int]
    accel: str  # kvm | tcg
    firmware: str = ""  # OVMF's code, or the one file of a TEE's
    variables: str = ""  # OVMF's variables, to be copied for each VM
    swtpm: str = ""


@dataclass(frozen=True, slots=True)
class Files:
    """A VM's, in its directory."""

    directory: str

    @property
    def console(self) -> str:
        return f"{self.directory}/console.log"

    @property
    def qmp(self) -> str:
        return f"{self.directory}/qmp.sock"

    @property
    def tpm(self) -> str:
        return f"{self.directory}/swtpm.sock"

    @property
    def tpm_state(self) -> str:
        return f"{self.directory}/tpm"

    @property
    def variables(self) -> str:
        return f"{self.directory}/vars.fd"

    @property
    def disk(self) -> str:
        return f"{self.directory}/disk.raw"

    @property
    def user_data(self) -> str:
        return f"{self.directory}/user-data"

    @property
    def cidata(self) -> str:
        return f"{self.directory}/cidata.iso"


def qemu(intent: Intent, image: Image, host: Host, config: LocalConfig, files: Files, metadata: str = "") -> list[str]:
    """One VM. `metadata`: the command, as a shell writes it, that answers a connection to the metadata service."""
    vcpus, mib = machine(intent)
    return [
        host.qemu,
        *("-name", f"{intent.name}-{intent.id[3:]}"),
        *_machine(intent, host, config, mib),
        *("-cpu", _cpu(host)),
        *("-smp", str(vcpus)),
        *("-m", f"{mib}M"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        # A metadata service is a process for each connection, which QEMU's filter kills before it runs.
        *(() if intent.user_data == "imds" else ("-sandbox", _SANDBOX)),
        *("-chardev", f"file,id=console,path={_text(files.console)},append=on", "-serial", "chardev:console"),
        *("-qmp", f"unix:{_text(files.qmp)},server=on,wait=off"),
        *("-device", "virtio-rng-pci"),
        *_disk(intent, image, files),
        *_network(intent, config),
        *_user_data(intent, files, metadata),
        *_boot(intent, image, host, config, files),
    ]


def swtpm(host: Host, files: Files) -> list[str]:
    """The TPM of a VM that boots by firmware; it ends with QEMU's connection."""
    return [
        host.swtpm,
        *("socket", "--tpm2", "--terminate"),
        *("--tpmstate", f"dir={files.tpm_state}"),
        *("--ctrl", f"type=unixio,path={files.tpm}"),
    ]


def _machine(intent: Intent, host: Host, config: LocalConfig, mib: int) -> list[str]:
    accel = ["-accel", "kvm" if host.accel == "kvm" else "tcg,thread=multi"]
    match intent.tee:
        case Tee.SNP:
            hashes = ",kernel-hashes=on" if intent.boot == "direct" else ""
            return [
                *("-machine", "q35,confidential-guest-support=tee0,memory-backend=ram0"),
                *accel,
                *("-object", f"memory-backend-memfd,id=ram0,size={mib}M,share=true,prealloc=false"),
                *("-object", f"sev-snp-guest,id=tee0,cbitpos={config.snp_cbitpos},reduced-phys-bits=1{hashes}"),
            ]
        case Tee.TDX:
            tdx: dict[str, object] = {"qom-type": "tdx-guest", "id": "tee0"}
            if config.tdx_quote_port is not None:
                port = str(config.tdx_quote_port)
                tdx["quote-generation-socket"] = {"type": "vsock", "cid": "2", "port": port}
            return [
                *("-machine", "q35,kernel_irqchip=split,confidential-guest-support=tee0"),
                *accel,
                *("-object", json.dumps(tdx, separators=(",", ":"))),
            ]
    return ["-machine", "q35", *accel]


def _cpu(host: Host) -> str:
    if host.accel == "kvm":
        return "host"
    return "max" if host.version >= _CX16_SOUND else "max,cx16=off"


def _disk(intent: Intent, image: Image, files: Files) -> list[str]:
    file, mode = (files.disk, "off") if intent.disk_gib else (image.disk, "on")
    return [
        *("-drive", f"if=none,id=root,format=raw,file={_text(file)},readonly={mode}"),
        *("-device", "virtio-blk-pci,drive=root,serial=root" + (",bootindex=0" if intent.boot == "uefi" else "")),
    ]


def _network(intent: Intent, config: LocalConfig) -> list[str]:
    card = f"virtio-net-pci,netdev=n0,mac={mac_of(intent.address)},romfile="
    if intent.network == "tap":
        return ["-netdev", f"tap,id=n0,ifname={link_of(intent.id)},script=no,downscript=no", "-device", card]
    forwards = "".join(
        f",hostfwd={protocol}:{intent.address}:{port}-:{port}"
        for protocol, port in (("tcp", config.guest_port), ("udp", config.wireguard_port))
    )
    restrict = "off" if config.outbound else "on"
    return ["-netdev", f"user,id=n0,restrict={restrict}{forwards}", "-device", card]


def _user_data(intent: Intent, files: Files, metadata: str) -> list[str]:
    match intent.user_data:
        case "cidata":
            return [
                *("-drive", f"if=none,id=cidata,format=raw,file={_text(files.cidata)},readonly=on"),
                *("-device", "virtio-blk-pci,drive=cidata,serial=cidata"),
            ]
        case "imds":
            # A network of its own: forwards of QEMU's must lie in theirs. One process a connection; it outlives us.
            forward = f"guestfwd=tcp:{METADATA}:80-cmd:{_text(metadata)}"
            return [
                *("-netdev", f"user,id=n1,restrict=on,{_METADATA_NET},{forward}"),
                *("-device", "virtio-net-pci,netdev=n1,romfile="),
            ]
    return ["-fw_cfg", f"name=opt/podvm/user-data,file={_text(files.user_data)}"]


def _boot(intent: Intent, image: Image, host: Host, config: LocalConfig, files: Files) -> list[str]:
    kernel = ["-kernel", image.kernel, "-initrd", image.initrd, "-append", image.command_line]
    if intent.tee != Tee.NONE:  # both take one file, and no flash
        return ["-bios", host.firmware, *(kernel if intent.boot == "direct" else [])]
    if intent.boot == "direct":
        return kernel
    return [
        *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={_text(host.firmware)}"),
        *("-drive", f"if=pflash,format=raw,unit=1,file={_text(files.variables)}"),
        *("-chardev", f"socket,id=tpm,path={_text(files.tpm)}"),
        *("-tpmdev", "emulator,id=tpm0,chardev=tpm"),
        *("-device", "tpm-crb,tpmdev=tpm0"),
    ]


def metadata_command(python: str, program: str, files: Files) -> str:
    """What QEMU starts for each connection to the metadata service."""
    return shlex.join([python, "-I", program, files.user_data])


def _text(value: str) -> str:
    """As part of an option: a comma ends one, two stand for one."""
    return value.replace(",", ",,")
