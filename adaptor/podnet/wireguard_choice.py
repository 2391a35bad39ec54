"""Which WireGuard there is: asked at start-up, so that nobody finds out with the first pod that there is none."""

import ctypes
import errno
import os
import shutil
import threading
from contextlib import suppress
from typing import Final

from adaptor import names
from adaptor.errors import Unavailable
from adaptor.podnet.exchange import NETLINK_ROUTE, NLM_F_CREATE, NLM_F_EXCL, Exchange, attribute, message, nested
from adaptor.podnet.wireguard_device import PATH, PROGRAM, SOCKETS, Backend, Kernel, Userspace
from adaptor.podnet.wireguard_links import Links

_TUN: Final = "/dev/net/tun"
_SWITCH: Final = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
_CLONE_NEWNET: Final = 0x40000000
# RTM_NEWLINK with a struct ifinfomsg of zeros, IFLA_IFNAME and IFLA_LINKINFO. By hand: pyroute2's import takes longer
# than all else that a VM does until it answers.
_NAMED: Final = bytes(16) + attribute(3, b"ppwgprobe\0")
_NEW_DEVICE: Final = message(16, NLM_F_CREATE | NLM_F_EXCL, _NAMED + nested(18, attribute(1, b"wireguard\0")))
_NO_DEVICE: Final = message(17, 0, _NAMED)


def choose(wish: str, device: str = names.WIREGUARD_DEVICE, *, spawn: bool = True) -> Backend:
    """The way that `wish` (auto, kernel, userspace) means here: what made the device that exists, else the kernel's,
    else wireguard-go.

    Raises: Unavailable, saying what each would need.
    """
    if os.path.exists("/proc/sys/net") and not _has_ipv6():
        raise Unavailable(f"WireGuard's inner addresses are IPv6, which is off here: set {_SWITCH[10:]} to 0")
    ways: dict[str, Backend] = {"kernel": Kernel(device), "userspace": Userspace(device, spawn=spawn)}
    with Links(device) as links:
        made_by = {"wireguard": "kernel", "tun": "userspace", None: ""}.get(kind := links.kind())
    if made_by is None:
        raise Unavailable(f"the network device {device} is a {kind} of somebody else's: WireGuard needs that name")
    # With a key, tunnels run over it: whoever wants the other kind gets it after the last of them. Without, who made it
    # has chosen.
    if made_by and (found := ways[made_by].read()) is not None and (found.private_key or wish == "auto"):
        return ways[made_by]
    refusals = []
    for way in ("kernel", "userspace") if wish == "auto" else (wish,):
        reason = kernel_wants() if way == "kernel" else userspace_wants(ways[way], spawn=spawn)
        if not reason:
            return ways[way]
        refusals.append(reason)
    raise Unavailable("; ".join(refusals))


def kernel_wants() -> str:
    """What the kernel lacks for WireGuard; empty: nothing. Asked by making a device, in a namespace that goes at once."""
    wrong: list[str] = []

    def attempt() -> None:
        try:
            with suppress(PermissionError):  # then it is here, for a moment
                _unshare_network()
            with Exchange(NETLINK_ROUTE) as kernel:
                kernel.do(_NEW_DEVICE)
                kernel.do(_NO_DEVICE)
        except OSError as error:
            why = {
                errno.EOPNOTSUPP: "it has none: load the module wireguard",
                errno.EPERM: "asking it needs CAP_NET_ADMIN",
            }
            wrong.append(why.get(error.errno or 0, os.strerror(error.errno or 0)))

    thread = threading.Thread(target=attempt, name="netns")  # it cannot come back from there
    thread.start()
    thread.join()
    return f"the kernel's WireGuard: {wrong[0]}" if wrong else ""


def userspace_wants(way: Backend | None = None, *, spawn: bool = True) -> str:
    """What wireguard-go lacks; empty: nothing."""
    if not spawn and way is not None:
        return "" if way.read() is not None else f"{PROGRAM}: nobody serves {SOCKETS}/{way.device}.sock"
    if shutil.which(PROGRAM, path=PATH) is None:
        return f"{PROGRAM}: it is not installed"
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{PROGRAM}: it needs {_TUN}: {os.strerror(error.errno or 0)}"
    return ""


def _has_ipv6() -> bool:
    try:
        with open(_SWITCH, encoding="ascii") as file:
            return file.read().strip() == "0"
    except OSError:
        return False


def _unshare_network() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):  # os.unshare needs Python 3.12
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
