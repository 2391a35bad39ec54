"""What the VM we run in allows; read once at start, so that a Spec can be fitted to it without trial and error."""

import resource
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from podvm_images.guest.development_agent import kernel

# linux/capability.h, in the order of their numbers.
_NAMES: Final = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITIES: Final = tuple(f"CAP_{name}" for name in _NAMES.split())

_INFINITY: Final = (1 << 64) - 1  # how the OCI spec writes "no limit"
_ALL_IDS: Final = (range((1 << 32) - 1),)  # the map of the initial user namespace


@dataclass(frozen=True, slots=True)
class Machine:
    """`hard_limits`: RLIMIT name → the most we may grant (absent = anything); `uids`, `gids`: those that exist here."""

    capabilities: frozenset[str]
    hard_limits: Mapping[str, int]
    oom_score_adj: int
    uids: tuple[range, ...]
    gids: tuple[range, ...]
    groups: bool  # supplementary groups may be set
    sysfs: bool  # can be mounted

    def has_uid(self, uid: int) -> bool:
        return any(uid in ids for ids in self.uids)

    def has_gid(self, gid: int) -> bool:
        return any(gid in ids for ids in self.gids)


def inspect(place: str) -> Machine:
    """Look around, in a mount namespace of our own; `place` is a directory to try mounts on."""
    capabilities = capabilities_in(int(_status_field("CapPrm"), 16))
    uids = ranges_of(_read("/proc/self/uid_map"))
    initial = uids == _ALL_IDS  # else a user namespace's CAP_SYS_RESOURCE, which raises no limits
    return Machine(
        capabilities=capabilities,
        hard_limits={} if initial and "CAP_SYS_RESOURCE" in capabilities else _hard_limits(),
        oom_score_adj=int(_read("/proc/self/oom_score_adj")),
        uids=uids,
        gids=ranges_of(_read("/proc/self/gid_map")),
        groups=_read("/proc/self/setgroups").strip() != "deny",
        sysfs=_sysfs_mounts(place),
    )


def capabilities_in(mask: int) -> frozenset[str]:
    return frozenset(name for number, name in enumerate(CAPABILITIES) if mask >> number & 1)


def ranges_of(id_map: str) -> tuple[range, ...]:
    """The ids inside, of the kernel's lines `inside outside count`."""
    lines = [[int(word) for word in line.split()] for line in id_map.splitlines()]
    return tuple(range(first, first + count) for first, _, count in lines)


def _hard_limits() -> dict[str, int]:
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    limits = {name: resource.getrlimit(getattr(resource, name))[1] for name in names}
    return {name: _INFINITY if hard == resource.RLIM_INFINITY else hard for name, hard in limits.items()}


def _sysfs_mounts(place: str) -> bool:
    """A user namespace may mount sysfs only where the network namespace is its own, too."""
    with suppress(PermissionError):
        kernel.mount("sysfs", place, "sysfs", kernel.MS_RDONLY)
        kernel.unmount(place)
        return True
    return False


def _status_field(name: str) -> str:
    lines = dict(line.split(":", 1) for line in _read("/proc/self/status").splitlines())
    return lines[name].strip()


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
