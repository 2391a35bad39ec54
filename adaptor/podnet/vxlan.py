"""The arithmetic of the tunnels: their numbers, and what they leave of a path's MTU; pure."""

from collections.abc import Collection
from typing import Final

from adaptor.errors import Unavailable

LAST_VNI: Final = (1 << 24) - 1

# Bytes that each layer takes from a packet, by the IP family that it is sent over.
OVERHEAD: Final = {4: 20 + 8 + 8 + 14, 6: 40 + 8 + 8 + 14}  # IP, UDP, VXLAN, the inner Ethernet header
WIREGUARD_OVERHEAD: Final = {4: 20 + 8 + 32, 6: 40 + 8 + 32}  # IP, UDP, WireGuard's header and authenticator
INSIDE_WIREGUARD: Final = 6  # its inner addresses are IPv6, whatever it is sent over


def numbers(count: int, *, first: int, after: int, taken: Collection[int]) -> tuple[int, ...]:
    """`count` VNIs from `first` on that are not `taken`: the next ones after `after`, the last that was given. When the
    end is reached it goes on at `first`. So a number stays unused for long after its pod, whose VM may still send.

    Raises: Unavailable when fewer than `count` are left.
    """
    size = LAST_VNI - first + 1
    start = after + 1 - first if first <= after < LAST_VNI else 0
    found: list[int] = []
    for step in range(size):
        if len(found) == count:
            break
        number = first + (start + step) % size
        if number not in taken:
            found.append(number)
    if len(found) < count:
        raise Unavailable(
            f"this node has no number (VNI) left for another tunnel: {size} from {first} to {LAST_VNI} are in use. "
            "Lower [network] first_vni"
        )
    return tuple(found)


def wireguard_mtu(path_mtu: int, family: int) -> int:
    """What WireGuard leaves of a path of `family`: it pads packets to 16 bytes, beyond the path's MTU if it must."""
    left = path_mtu - WIREGUARD_OVERHEAD[family]
    return left - left % 16


def inner_mtu(path_mtu: int, family: int, *, encrypted: bool = False) -> int:
    """What is left for the pod's IP packets of a path of `family` (4 | 6) between worker and VM."""
    if encrypted:
        return wireguard_mtu(path_mtu, family) - OVERHEAD[INSIDE_WIREGUARD]
    return path_mtu - OVERHEAD[family]
