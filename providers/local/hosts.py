"""What this host has: KVM, QEMU, firmware, memory. Blocking."""

import functools
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from providers.base import Tee
from providers.errors import NotFound, Unsupported
from providers.local.commands import Host
from providers.local.config import LocalConfig
from providers.local.errors import Refused

QEMU: Final = "qemu-system-x86_64"
PACKAGES: Final = {QEMU: "qemu-system-x86", "swtpm": "swtpm", "firmware": "ovmf", "unshare": "util-linux"}
_KVM: Final = "/dev/kvm"
# Where distributions keep OVMF: code, variables.
_FIRMWARE: Final = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),  # Debian, Ubuntu
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),  # Fedora
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),  # Arch
)
# The one file that SNP and TDX start with.
_TEE_FIRMWARE: Final = {
    Tee.SNP: ("/usr/share/ovmf/OVMF.amdsev.fd", "/usr/share/edk2/ovmf/OVMF.amdsev.fd"),
    Tee.TDX: ("/usr/share/ovmf/OVMF.inteltdx.fd", "/usr/share/edk2/ovmf/OVMF.inteltdx.fd", "/usr/share/ovmf/OVMF.fd"),
}
_NEEDED: Final = {Tee.SNP: (9, 1), Tee.TDX: (10, 1)}


def architecture() -> str:
    """As Offering.architecture has it."""
    return {"aarch64": "arm64", "amd64": "x86_64"}.get(platform.machine(), platform.machine())


def kvm_trouble(device: str = _KVM, cpuinfo: str = "/proc/cpuinfo") -> str:
    """Why KVM cannot be used; empty when it can.

    The device alone says nothing: there are kernels that open it, and even make a VM, which then never boots.
    """
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{device} cannot be opened: {error.strerror}"
    try:
        flags = re.search(r"^flags\s*:(.*)$", Path(cpuinfo).read_text(), re.MULTILINE)
    except OSError as error:
        return f"{cpuinfo} cannot be read: {error.strerror}"
    if flags is None or not {"vmx", "svm"} & set(flags[1].split()):
        return "this CPU has neither vmx nor svm: a virtual machine without nested virtualisation, or off in firmware"
    return ""


def choose_accel(config: LocalConfig) -> str:
    """Kvm or tcg. Raises Refused when the setting demands what is not there."""
    if config.accel == "tcg":
        return "tcg"
    trouble = kvm_trouble()
    if not trouble:
        return "kvm"
    if config.tee is not Tee.NONE:
        raise Refused(Unsupported, "KVM", f"{config.tee} needs KVM: {trouble}")
    if config.accel == "kvm":
        raise Refused(Unsupported, "KVM", f"local.accel is kvm: {trouble}; auto or tcg does without, far slower")
    return "tcg"


def find(config: LocalConfig, boot: str = "") -> Host:
    """All that a VM needs here. Raises Refused, naming what is missing and the package that brings it."""
    program = config.qemu or shutil.which(QEMU)
    if program is None or shutil.which(program) is None:
        raise Refused(
            NotFound, "QEMU", f"{config.qemu or QEMU} is not installed; as root: apt-get install {PACKAGES[QEMU]}"
        )
    version = _version(program)
    accel = choose_accel(config)
    boot = boot or config.boot
    if version < _NEEDED.get(config.tee, (0, 0)):
        needed = ".".join(map(str, _NEEDED[config.tee]))
        raise Refused(Unsupported, "QEMU", f"{config.tee} needs QEMU {needed}; {program} is {version[0]}.{version[1]}")
    if config.tee is not Tee.NONE:
        return Host(program, version, accel, _first(config.firmware, _TEE_FIRMWARE[config.tee], str(config.tee)))
    if boot == "direct":
        return Host(program, version, accel)
    code, variables = _firmware(config)
    tpm = shutil.which("swtpm")
    if tpm is None:
        raise Refused(NotFound, "swtpm", f"boot = uefi needs swtpm; as root: apt-get install {PACKAGES['swtpm']}")
    return Host(program, version, accel, code, variables, tpm)


def available_mib() -> int:
    """Memory that could be used without swapping."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) // 1024 if found else 0


def name_servers(config: LocalConfig, resolv: str = "/etc/resolv.conf") -> tuple[str, ...]:
    """Whom VMs ask for names: IPv4 only, and nobody on this host's loopback, which is not theirs."""
    if config.name_servers:
        return config.name_servers
    try:
        text = Path(resolv).read_text()
    except OSError:
        return ()
    found = re.findall(r"^nameserver\s+(\d+\.\d+\.\d+\.\d+)\s*$", text, re.MULTILINE)
    return tuple(each for each in found if not each.startswith("127."))


def _firmware(config: LocalConfig) -> tuple[str, str]:
    pairs: tuple[tuple[str, str], ...] = _FIRMWARE
    if config.firmware:
        pairs = ((config.firmware, config.firmware.replace("CODE", "VARS")),)
    for code, variables in pairs:
        if code != variables and os.path.exists(code) and os.path.exists(variables):
            return code, variables
    looked = ", ".join(code for code, _ in pairs)
    raise Refused(
        NotFound,
        "firmware",
        f"boot = uefi needs OVMF, its code and its variables: none at {looked}; as root: apt-get install"
        f" {PACKAGES['firmware']}, or name it in local.firmware",
    )


def _first(given: str | None, usual: tuple[str, ...], what: str) -> str:
    for each in (given,) if given else usual:
        if os.path.exists(each):
            return each
    looked = given or ", ".join(usual)
    raise Refused(NotFound, "firmware", f"{what} needs firmware made for it: none at {looked}; set local.firmware")


@functools.lru_cache(maxsize=8)
def _version(program: str) -> tuple[int, int]:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise Refused(NotFound, "QEMU", f"{program} --version fails: {error}") from error
    found = re.search(r"version (\d+)\.(\d+)", said)
    if found is None:
        raise Refused(NotFound, "QEMU", f"{program} --version says {said[:60]!r}, which is not QEMU's")
    return int(found[1]), int(found[2])
