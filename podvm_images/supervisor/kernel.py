"""The kernel's calls that Python has no words for. All raise OSError with the kernel's reason."""

import ctypes
import os
import platform
from typing import Any, Final

# linux/mount.h, linux/sched.h, linux/reboot.h
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, MOVE, REC, SLAVE, SHARED = (
    1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 12, 1 << 13, 1 << 14, 1 << 19, 1 << 20,
)  # fmt: skip
NEW_MOUNTS: Final = 0x00020000
NEW_NETWORK: Final = 0x40000000
_DETACH: Final = 2
_POWER_OFF: Final = 0x4321FEDC
_FINIT_MODULE: Final = {"x86_64": 313, "aarch64": 273}

_libc: Final = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    _call("mount", os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode())


def detach(target: str) -> None:
    """Take away what is mounted there, with all below it, from this namespace."""
    _call("umount2", os.fsencode(target), _DETACH)


def unshare(flags: int) -> None:
    _call("unshare", flags)


def enter(descriptor: int, kind: int) -> None:
    """Join the namespace that `descriptor` stands for."""
    _call("setns", descriptor, kind)


def load_module(path: str) -> None:
    """Load a kernel module that is not compressed; one that is there already is no error."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("syscall", ctypes.c_long(_FINIT_MODULE[platform.machine()]), descriptor, b"", 0)
    except FileExistsError:
        pass
    finally:
        os.close(descriptor)


def power_off() -> None:
    os.sync()
    _call("reboot", ctypes.c_int(_POWER_OFF))


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
