"""errno and what QEMU says → providers.errors."""

import errno
import re
from collections.abc import Mapping
from typing import Final

from providers.errors import (
    Capacity,
    Denied,
    NotFound,
    ProviderError,
    Quota,
    Throttled,
    Transient,
    Unsupported,
    made,
)

_CLASSES: Final[Mapping[int, type[ProviderError]]] = {
    errno.ENOMEM: Capacity,
    errno.ENOSPC: Capacity,
    errno.EDQUOT: Quota,
    errno.EMFILE: Quota,
    errno.ENFILE: Quota,
    errno.EAGAIN: Throttled,  # processes: RLIMIT_NPROC, or a cgroup's pids.max
    errno.EACCES: Denied,
    errno.EPERM: Denied,
    errno.EROFS: Denied,
    errno.ENOENT: NotFound,
    errno.EADDRINUSE: Transient,
    errno.EBUSY: Transient,
    errno.EINTR: Transient,
    errno.EIO: Transient,
    errno.ESTALE: Transient,
    errno.ETIMEDOUT: Transient,
    errno.ECONNREFUSED: Transient,
    errno.ECONNRESET: Transient,
}
_HINTS: Final[Mapping[str, str]] = {
    "ENOSPC": "make room in local.state_dir",
    "EPERM": "network = tap needs CAP_NET_ADMIN; network = user needs nothing",
    "ENOMEM": "end other VMs, or choose a smaller type",
}
# What QEMU prints before it gives up: pattern, class, our code for it, what to do.
_QEMU: Final[tuple[tuple[str, type[ProviderError], str, str], ...]] = (
    (r"[Cc]annot (set up|allocate) (guest )?memory|Cannot allocate memory", Capacity, "ENOMEM", _HINTS["ENOMEM"]),
    (r"Could not access KVM kernel module|failed to initialize kvm", Unsupported, "KVM", "local.accel = auto or tcg"),
    (r"Could not set up host forwarding rule|Address already in use", Transient, "EADDRINUSE", "another program has that port"),
    (r"could not (configure|open) /dev/net/tun.*(busy|Busy)", Transient, "EBUSY", "another program has that tap"),
    (r"could not (configure|open) /dev/net/tun", Denied, "EPERM", "it needs CAP_NET_ADMIN; or local.network = user"),
    (r"[Nn]o space left", Capacity, "ENOSPC", _HINTS["ENOSPC"]),
    (r"'(sev-snp|tdx)-guest' is not a valid|invalid object type: (sev-snp|tdx)-guest", Unsupported, "TEE", "a newer QEMU: SNP needs 9.1, TDX 10.1"),
    (r"sev_|SEV|snp_launch|tdx", Unsupported, "TEE", "is the TEE on in this host's firmware and kernel?"),
    (r"Permission denied", Denied, "EACCES", "let this user read the image and write local.state_dir"),
    (r"Could not open '|could not load (kernel|PC BIOS)|No such file", NotFound, "ENOENT", "build the image again"),
)  # fmt: skip


class Refused(Exception):
    """This host cannot do it: our own reasons."""

    def __init__(self, kind: type[ProviderError], code: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code


class Ended(Exception):
    """A program that was started has ended at once, with these words."""


def of(error: Exception, doing: str) -> ProviderError:
    """As the caller's decision."""
    match error:
        case ProviderError():
            return error
        case Refused():
            return error.kind(f"{doing}: {error}", code=error.code)
        case Ended():
            return _of_words(str(error), doing)
        case OSError():
            return _of_errno(error, doing)
    return ProviderError(f"{doing}: {error}", code=type(error).__name__)


def _of_errno(error: OSError, doing: str) -> ProviderError:
    code = errno.errorcode.get(error.errno or 0, type(error).__name__)
    said = error.strerror or str(error)
    text = f"{doing}: {said}" + (f": {error.filename}" if error.filename else "")
    return made(_CLASSES.get(error.errno or 0, ProviderError), text, code, hints=_HINTS, class_hints={})


def _of_words(words: str, doing: str) -> ProviderError:
    for pattern, kind, code, hint in _QEMU:
        if re.search(pattern, words):
            return kind(f"{doing}: {words}; {hint}", code=code)
    return ProviderError(f"{doing}: {words}", code="ended")
