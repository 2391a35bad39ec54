"""Drivers for the hardware that is there, and for what is attached later: the kernel says what it is (modalias), modprobe
knows whose that is. What has no hardware the kernel loads by itself when somebody needs it."""

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from podvm_images.supervisor.console import say
from podvm_images.supervisor.loop import Loop

# Nothing of the machine says that these are wanted: reports for attestation, and the VM's own description by fw_cfg.
ALWAYS: Final = ("qemu_fw_cfg", "tsm", "af_packet", "tun")
_MODPROBE: Final = ("/usr/sbin/modprobe", "--quiet", "--all")
_UEVENTS: Final = 15  # NETLINK_KOBJECT_UEVENT
_KERNEL: Final = 1  # its multicast group
_SAME_TIME: Final = 0.02  # seconds in which what comes together is asked for together


class Drivers:
    """`run(command, ended)` starts a program. `loaded` is called each time that drivers have been loaded."""

    def __init__(
        self, loop: Loop, run: Callable[[Sequence[str], Callable[[int], None]], None], loaded: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._run = run
        self._loaded = loaded
        self._wanted: dict[str, None] = {}
        self._asked: set[str] = set()

    def begin(self) -> None:
        """For what is there, and from here on for what comes."""
        self._listen()
        self._want([*present(), *ALWAYS])

    def _listen(self) -> None:
        try:
            self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _UEVENTS)
            self._events.bind((0, _KERNEL))
        except OSError as error:
            say(f"hardware that is attached later gets no driver: {error}")
        else:
            self._loop.watch(self._events.fileno(), self._told)

    def _told(self) -> None:
        try:
            event, (sender, _) = self._events.recvfrom(65536)
        except OSError:  # more came than fit: look at everything
            self._want(present())
            return
        if sender == 0:
            self._want(modaliases(event))

    def _want(self, aliases: Iterable[str]) -> None:
        new = [alias for alias in aliases if alias not in self._asked]
        self._asked.update(new)
        if new and not self._wanted:
            self._loop.after(_SAME_TIME, self._load)
        self._wanted.update(dict.fromkeys(new))

    def _load(self) -> None:
        wanted, self._wanted = list(self._wanted), {}
        try:
            self._run(
                [*_MODPROBE, *wanted], lambda status: self._loaded()
            )  # its status: most of what is there needs no module
        except OSError as error:
            say(f"no drivers can be loaded: {error}")


def present(devices: str = "/sys/devices") -> list[str]:
    """The modalias of every device, each once."""
    found = (Path(folder, "modalias") for folder, _, files in os.walk(devices) if "modalias" in files)
    return list(dict.fromkeys(filter(None, map(_text, found))))


def modaliases(event: bytes) -> list[str]:
    """Of a device that the kernel's message says was added."""
    fields = dict(line.split("=", 1) for line in event.decode("utf-8", "replace").split("\0") if "=" in line)
    alias = fields.get("MODALIAS", "")
    return [alias] if alias and fields.get("ACTION") == "add" else []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
