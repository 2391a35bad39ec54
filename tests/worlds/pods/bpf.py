"""The eBPF programs that a Cilium host needs here: one hands what is for a pod to the far end of its veth, one drops."""

import contextlib
import ctypes
import ipaddress
import os
import platform
import struct
from collections.abc import Iterator

from tests.worlds.pods.namespaces import Namespace

_BPF = {"x86_64": 321, "aarch64": 280}  # the system call's number
_PROG_LOAD, _SCHED_CLS = 5, 3
_STORE_BYTES, _REDIRECT_PEER = 9, 155
_INGRESS = 0xFFFFFFF2


def allowed() -> bool:
    """Whether this process may load programs: in a user namespace it may not."""
    try:
        os.close(_load([_instruction(0xB7, to=0, value=-1), _instruction(0x95)]))
    except PermissionError:
        return False
    return True


def hand_over(host: Namespace, devices: list[str], address: str, mac: str, veth: str) -> None:
    """What comes in at `devices` for the IPv4 address is received by the far end of `veth`, which has `mac`."""
    program = _handing_over(int(ipaddress.IPv4Address(address)), bytes.fromhex(mac.replace(":", "")), host.index(veth))
    for device in devices:
        host.ip.tc("add", "clsact", host.index(device))
        _attach(host, device, program, "to-pod", 2)


@contextlib.contextmanager
def drop(host: Namespace, device: str, port: int) -> Iterator[None]:
    """What comes in at the device for this TCP port is dropped meanwhile, as by a NetworkPolicy, before it is handed
    over."""
    program = [
        _instruction(0xBF, to=6, of=1),
        _instruction(0x30, value=23),  # r0 = the protocol
        _instruction(0x55, ahead=4, value=6),
        _instruction(0x28, value=36),  # r0 = the port, behind an IP header without options
        _instruction(0x55, ahead=2, value=port),
        _instruction(0xB7, to=0, value=2),  # TC_ACT_SHOT
        _instruction(0x95),
        _instruction(0xB7, to=0, value=-1),
        _instruction(0x95),
    ]
    _attach(host, device, program, "policy", 1)
    try:
        yield
    finally:
        host.ip.tc("del-filter", "bpf", host.index(device), 1, parent=_INGRESS, prio=1)


def _attach(host: Namespace, device: str, program: list[bytes], name: str, priority: int) -> None:
    loaded = _load(program)
    try:
        host.ip.tc(
            "add-filter", "bpf", host.index(device), priority, fd=loaded, name=name, parent=_INGRESS, classid=1,
            direct_action=True, prio=priority,
        )  # fmt: skip
    finally:
        os.close(loaded)


def _handing_over(address: int, mac: bytes, index: int) -> list[bytes]:
    first, last = struct.unpack("=iH", mac)
    out = 18
    program = [
        _instruction(0xBF, to=6, of=1),  # r6 = the packet
        _instruction(0x28, value=12),  # r0 = its EtherType
        _instruction(0x55, ahead=out - 3, value=0x0800),
        _instruction(0x20, value=30),  # r0 = its destination
        _instruction(0x56, ahead=out - 5, value=address - (1 << 32) if address >> 31 else address),
        _instruction(0x62, to=10, ahead=-8, value=first),  # the MAC to the stack, and into the packet
        _instruction(0x6A, to=10, ahead=-4, value=last),
        _instruction(0xBF, to=1, of=6),
        _instruction(0xB7, to=2, value=0),
        _instruction(0xBF, to=3, of=10),
        _instruction(0x07, to=3, value=-8),
        _instruction(0xB7, to=4, value=6),
        _instruction(0xB7, to=5, value=0),
        _instruction(0x85, value=_STORE_BYTES),
        _instruction(0xB7, to=1, value=index),
        _instruction(0xB7, to=2, value=0),
        _instruction(0x85, value=_REDIRECT_PEER),
        _instruction(0x95),
        _instruction(0xB7, to=0, value=-1),  # nothing of ours: go on
        _instruction(0x95),
    ]
    assert program[out] == _instruction(0xB7, to=0, value=-1)
    return program


def _load(program: list[bytes]) -> int:
    code = ctypes.create_string_buffer(b"".join(program))
    licence = ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(65536)
    asked = struct.pack(
        "=IIQQIIQ",
        _SCHED_CLS, len(program), ctypes.addressof(code), ctypes.addressof(licence), 1, len(log), ctypes.addressof(log),
    )  # fmt: skip
    attributes = ctypes.create_string_buffer(asked.ljust(72, b"\0"), 72)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.syscall(_BPF[platform.machine()], _PROG_LOAD, attributes, len(attributes)))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), f"the kernel refuses the program: {log.value.decode()}")
    return descriptor


def _instruction(code: int, *, to: int = 0, of: int = 0, ahead: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, of << 4 | to, ahead, value)
