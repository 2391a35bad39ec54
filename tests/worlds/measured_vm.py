"""A VM that measures its boot: QEMU with OVMF and a software TPM, whose registers are read when the VM is gone.

swtpm outlives a QEMU that is killed, and holds what the boot left in its registers. It is asked for them over its control
socket, as QEMU asks: a socket for commands is handed in, and PCR_Read is sent.
Source: swtpm's documentation of its control channel; TCG, TPM 2.0 Library, part 3 (PCR_Read).
"""

import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

OVMF = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
VARIABLES = OVMF.with_name("OVMF_VARS_4M.fd")
PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "swtpm": "swtpm", "mcopy": "mtools"}
_SET_DATA_SOCKET = 0x10
_PCR_READ, _NO_SESSIONS = 0x17E, 0x8001
_SHA256, _SHA384 = 0x000B, 0x000C


def missing() -> str:
    """The packages that such a VM needs and this machine has not."""
    lacking = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    return " ".join([*lacking, *(["ovmf"] if not OVMF.exists() else [])])


@dataclass(frozen=True)
class Boot:
    """`ended`: QEMU ended by itself (the guest powered off or panicked). `seconds`: wall clock."""

    console: str
    registers: dict[int, str]
    sha384: dict[int, str]
    ended: bool
    seconds: float


def boot(disk: Path, directory: Path, until: str, deadline: float = 240) -> Boot:
    """Boot `disk` until the console has a match of `until`, or QEMU ends. Raises: TimeoutError with the console."""
    shutil.copyfile(VARIABLES, directory / "variables.fd")
    with _tpm(directory) as control:
        begun = time.monotonic()
        machine = subprocess.Popen(
            _command(disk, directory, control),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            console, ended = _watched(machine, re.compile(until), begun + deadline)
        finally:
            machine.kill()
            machine.wait()
            assert machine.stdout is not None
            machine.stdout.close()
        seconds = time.monotonic() - begun
        # A QEMU that ends by itself tells its TPM to end, too.
        registers, sha384 = ({}, {}) if ended else (_registers(control, bank) for bank in (_SHA256, _SHA384))
        return Boot(console, registers, sha384, ended, seconds)


def _command(disk: Path, directory: Path, control: Path) -> list[str]:
    return [
        "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,cx16=off", "-smp", "2",
        "-m", "768", "-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot", "-nic", "none",
        "-drive", f"if=pflash,format=raw,readonly=on,file={OVMF}",
        "-drive", f"if=pflash,format=raw,file={directory / 'variables.fd'}",
        "-drive", f"if=virtio,format=raw,readonly=on,file={disk}",
        "-chardev", f"socket,id=tpm,path={control}", "-tpmdev", "emulator,id=tpm0,chardev=tpm",
        "-device", "tpm-crb,tpmdev=tpm0",
    ]  # fmt: skip


def _watched(machine: "subprocess.Popen[bytes]", until: re.Pattern[str], deadline: float) -> tuple[str, bool]:
    console = ""
    assert machine.stdout is not None
    while time.monotonic() < deadline:
        if not select.select([machine.stdout], [], [], 1)[0]:
            continue
        chunk = os.read(machine.stdout.fileno(), 65536)
        if not chunk:
            return console, True
        console += chunk.decode("utf-8", "replace")
        if until.search(console):
            return console, False
    raise TimeoutError(f"the console has no {until.pattern!r} in time:\n{console[-2000:]}")


@contextmanager
def _tpm(directory: Path) -> Iterator[Path]:
    """A TPM's control socket; swtpm goes into the background when it listens."""
    control, pid = directory / "tpm", directory / "tpm.pid"
    subprocess.run(
        ["swtpm", "socket", "--tpm2", "--daemon", "--tpmstate", f"dir={directory}", "--pid", f"file={pid}",
         "--ctrl", f"type=unixio,path={control}", "--flags", "startup-clear"],
        check=True, timeout=30,
    )  # fmt: skip
    number = int(pid.read_text())
    try:
        yield control
    finally:
        try:
            os.kill(number, signal.SIGTERM)
        except ProcessLookupError:
            pass  # it ended with its QEMU


def _registers(control: Path, bank: int) -> dict[int, str]:
    """PCR 4, 11 and 12, hex."""
    ours, its = socket.socketpair()
    with ours, its, socket.socket(socket.AF_UNIX) as channel:
        ours.settimeout(10)
        channel.settimeout(10)
        channel.connect(str(control))
        socket.send_fds(channel, [struct.pack(">I", _SET_DATA_SOCKET)], [its.fileno()])
        assert channel.recv(4) == bytes(4)
        return {number: _register(ours, bank, number) for number in (4, 11, 12)}


def _register(tpm: socket.socket, bank: int, number: int) -> str:
    selection = struct.pack(">IHB3s", 1, bank, 3, (1 << number).to_bytes(3, "little"))
    tpm.sendall(struct.pack(">HII", _NO_SESSIONS, 10 + len(selection), _PCR_READ) + selection)
    answer = tpm.recv(4096)
    assert struct.unpack_from(">I", answer, 6) == (0,), f"PCR_Read: {answer.hex()}"
    return answer[-48 if bank == _SHA384 else -32 :].hex()
