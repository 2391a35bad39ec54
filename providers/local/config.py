"""The `[local]` settings."""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from providers import forms
from providers.base import Tee
from providers.settings import Fault, Faults, Form, read, setting

TAG_KEY_LIMIT: Final = 128  # characters; as large clouds have it, so that tags can move there
TAG_VALUE_LIMIT: Final = 256
RESERVED_TAGS: Final = ("peerpods-",)  # ours (providers.tags)
SOCKET_LIMIT: Final = 107  # bytes of a unix socket's path
LONGEST_NAME: Final = "/vms/vm-0123456789abcdef/swtpm.sock"  # below the state directory

# What a machine has: vCPUs and MiB.
SIZES: Final[Mapping[str, tuple[int, int]]] = {
    "local.small": (1, 1024),
    "local.medium": (2, 2048),
    "local.large": (2, 4096),
    "local.xlarge": (4, 8192),
    "local.2xlarge": (8, 16384),
}
_SIZE: Final = re.compile(r"local\.([1-9]\d{0,2})x([1-9]\d{2,6})")


def size(instance_type: str) -> tuple[int, int] | None:
    """VCPUs and MiB that a type's name stands for; None for one that stands for none."""
    if found := _SIZE.fullmatch(instance_type):
        return int(found[1]), int(found[2])
    return SIZES.get(instance_type)


def _size(value: Any) -> str:
    if not isinstance(value, str) or size(value) is None:
        raise ValueError("is no machine type of this host's")
    return value


def _subnet(value: Any) -> str:
    try:
        network = ipaddress.IPv4Network(str(value).strip())
    except ValueError as error:
        raise ValueError(f"is no IPv4 network: {error}") from None
    if not 8 <= network.prefixlen <= 28:
        raise ValueError("is too small or too large")
    return str(network)


_type: Final = Form(f"{', '.join(SIZES)}, or local.VCPUSxMIB: local.4x6144", _size)
_bridge: Final = forms.matching(r"[a-z][a-z0-9-]{0,14}", "an interface's name: at most 15 of a-z, 0-9 and -")
_address: Final = Form("an IPv4 address: 10.0.0.53", lambda value: str(ipaddress.IPv4Address(str(value).strip())))
_network: Final = Form("an IPv4 network from /8 to /28: 10.123.0.0/24", _subnet)


def tag_problem(key: str, value: str) -> str:
    """Why this tag is not taken; empty when it is."""
    if not 1 <= len(key) <= TAG_KEY_LIMIT:
        return f"has a key of {len(key)} characters; 1 to {TAG_KEY_LIMIT} are allowed"
    if len(value) > TAG_VALUE_LIMIT:
        return f"has a value of {len(value)} characters; {TAG_VALUE_LIMIT} are allowed"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalConfig:
    """How this node launches pod VMs on itself."""

    image: str | None = setting(
        forms.optional(forms.path), None, "the pod VM image: a directory that `peerpods image build` made"
    )
    images: tuple[str, ...] = setting(
        forms.each(forms.path), (), "more such directories, which a pod's annotation may name"
    )
    vmm: str = setting(
        forms.choice("auto", "qemu", "namespace"),
        "auto",
        "auto: QEMU; namespace: NO VM AT ALL but Linux namespaces on this host, without any isolation: for trying"
        " things out and for tests only",
    )
    qemu: str | None = setting(
        forms.optional(forms.path), None, "QEMU's program; empty: qemu-system-x86_64 of the search path"
    )
    accel: str = setting(
        forms.choice("auto", "kvm", "tcg"),
        "auto",
        "auto: KVM where the CPU and /dev/kvm allow it, else TCG, which emulates: a tenth of the speed, and no security"
        " claims",
    )
    boot: str = setting(
        forms.choice("direct", "uefi"),
        "direct",
        "direct: QEMU loads the image's kernel; uefi: firmware (OVMF) boots its disk, measured into a TPM (swtpm)",
    )
    firmware: str | None = setting(
        forms.optional(forms.path), None, "the firmware's file; empty: OVMF where distributions keep it"
    )
    tee: Tee = setting(  # noqa: RUF009 - an enum's member never changes
        Form("none, snp or tdx", lambda value: Tee(forms.choice("none", "snp", "tdx").parse(value))),
        Tee.NONE,
        "what every VM gets, on a host that has it; needs KVM. Written by QEMU's documentation, untried so far",
    )
    snp_cbitpos: int = setting(
        forms.integer(32, 63), 51, "SNP: the C-bit's position on this CPU; 51 on EPYC 7003 to 9005"
    )
    tdx_quote_port: int | None = setting(
        forms.optional(forms.integer(1, 65535)),
        None,
        "TDX: vsock port of the host's quote generation service (4050 usually); empty: quotes go by the guest's own way",
    )
    user_data: str = setting(
        forms.choice("fw_cfg", "cidata", "imds"),
        "fw_cfg",
        "how the VM is told of its launch: QEMU's fw_cfg, a cidata disk as upstream's libvirt provider has it, or a"
        " metadata service at 169.254.169.254 as clouds have it",
    )
    network: str = setting(
        forms.choice("auto", "tap", "user"),
        "auto",
        "tap: a bridge of our own on this host (needs CAP_NET_ADMIN); user: QEMU's own, without privileges, for which"
        " network.encryption must be required; auto: tap where it is possible",
    )
    bridge: str = setting(_bridge, "peerpods0", "the bridge's name; made when the first VM comes")
    subnet: str = setting(
        _network, "10.123.0.0/24", "the VMs' network behind that bridge, whose first address is this host's"
    )
    name_servers: tuple[str, ...] = setting(
        forms.each(_address), (), "that VMs are told by DHCP; empty: this host's, unless they are loopback's"
    )
    outbound: bool = setting(
        forms.boolean,
        True,
        "VMs may open connections to others, to pull images and for attestation. With network = user they can reach"
        " this host's loopback then too",
    )
    instance_type: str = setting(_type, "local.medium", "for pods that ask for no size")
    instance_types: tuple[str, ...] = setting(
        forms.each(_type),
        ("local.small", "local.medium", "local.large"),
        "what pods may ask for, besides instance_type",
    )
    memory_limit_mib: int | None = setting(
        forms.optional(forms.integer(256, 1 << 26)),
        None,
        "memory that all VMs together may have; empty: as much as is available when one is launched",
    )
    machines_limit: int = setting(forms.integer(1, 1000), 64, "VMs at a time")
    ready_timeout: float = setting(
        forms.duration,
        90.0,
        "under TCG: a VM whose guest does not answer so long after its power-on is launched again, once",
    )
    guest_port: int = setting(forms.port, 15150, "network = user: the guest's TCP port, as guest.port says")
    wireguard_port: int = setting(
        forms.port, 51820, "network = user: the guest's UDP port, as network.wireguard_port says"
    )
    state_dir: str = setting(forms.path, "/var/lib/peerpods/local", "one directory for each VM is kept in it")
    tags: tuple[tuple[str, str], ...] = setting(
        forms.tags(tag_problem, RESERVED_TAGS, "this host"), (), "for every VM, in its directory"
    )

    @property
    def allowed_types(self) -> tuple[str, ...]:
        """Every type that may be launched, the default first, each once."""
        return tuple(dict.fromkeys((self.instance_type, *self.instance_types)))

    @property
    def isolated(self) -> bool:
        """Whether what it launches are VMs."""
        return self.vmm != "namespace"


def parse(table: Mapping[str, Any], env: Mapping[str, str], faults: Faults) -> LocalConfig:
    """Settings from the `[local]` table and the environment; what is wrong goes to `faults`, nothing is raised."""
    config = read(LocalConfig, table, where="local", env=env, faults=faults)
    faults.extend(contradictions(config))
    return config


def contradictions(c: LocalConfig) -> Iterator[Fault]:
    """Settings that cannot be carried out together, or that would be ignored."""
    if c.isolated and not c.image:
        yield _fault("image", "must be given", "a directory that `peerpods image build` made")
    if c.tee is not Tee.NONE and c.accel == "tcg":
        yield _fault("tee", f"{c.tee} needs KVM, and accel is tcg", "accel = auto or kvm with it")
    if not c.isolated and c.tee is not Tee.NONE:
        yield _fault("tee", f"{c.tee} is impossible with vmm = namespace: there is no VM", "vmm = qemu with it")
    if not c.isolated and c.network == "user":
        yield _fault("network", "'user' is QEMU's own, and vmm = namespace has no QEMU", "tap or auto")
    if len((c.state_dir + LONGEST_NAME).encode()) > SOCKET_LIMIT:
        most = SOCKET_LIMIT - len(LONGEST_NAME)
        yield _fault("state_dir", f"{c.state_dir!r} is too long for the unix sockets in it", f"at most {most} bytes")


def _fault(name: str, problem: str, allowed: str) -> Fault:
    return Fault(f"local.{name}", problem, allowed)
