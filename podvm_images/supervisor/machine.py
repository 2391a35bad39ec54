"""What a Linux machine needs before programs can run on it: mounts, a name, loopback, drivers, a clock that is not absurd.

Nothing here may end PID 1: what fails is told, and the VM goes on with less.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from podvm_images.guest.rtnetlink import Rtnetlink
from podvm_images.supervisor import kernel
from podvm_images.supervisor.console import say
from podvm_images.supervisor.kernel import NODEV, NOEXEC, NOSUID

_IMAGE: Final = "/etc/os-release"  # made when the image was, whose time is in its lock file


@dataclass(frozen=True, slots=True)
class Mount:
    """`target` is made if it is missing, where that can be."""

    kind: str
    target: str
    flags: int = NOSUID | NODEV | NOEXEC
    options: str = ""


# Those of the initrd are there already. The root is read-only, so what programs write to is in memory.
MOUNTS: Final[Sequence[Mount]] = (
    Mount("proc", "/proc"),
    Mount("sysfs", "/sys"),
    Mount("devtmpfs", "/dev", NOSUID, "mode=0755"),
    Mount("tmpfs", "/run", NOSUID | NODEV, "mode=0755"),
    Mount("devpts", "/dev/pts", NOSUID | NOEXEC, "mode=0620,gid=5,ptmxmode=0666"),
    Mount("tmpfs", "/dev/shm", NOSUID | NODEV, "mode=1777"),  # noqa: S108 - that is where it is
    Mount("tmpfs", "/tmp", NOSUID | NODEV, "mode=1777"),  # noqa: S108
    Mount("tmpfs", "/var", NOSUID | NODEV, "mode=0755"),
    Mount("cgroup2", "/sys/fs/cgroup", NOSUID | NODEV | NOEXEC, "nsdelegate"),
    Mount("securityfs", "/sys/kernel/security"),  # the firmware's event log
)
REPORTS: Final = (Mount("configfs", "/sys/kernel/config"),)  # attestation reports come by it: a module's, see `drivers`
DIRECTORIES: Final = ("/var/lib", "/var/log", "/var/tmp", "/run/lock", "/run/netns")  # noqa: S108
# Enabled below the root, so that containers' limits count.
CONTROLLERS: Final = ("cpu", "cpuset", "io", "memory", "pids", "hugetlb")


def mount_all(mounts: Sequence[Mount] = MOUNTS) -> None:
    """Everything that is not mounted yet, and what is mounted later is seen in every namespace made before."""
    mount_some(mounts)
    for directory in DIRECTORIES:
        with _telling(f"make {directory}"):
            os.makedirs(directory, mode=0o1777 if directory.endswith("tmp") else 0o755, exist_ok=True)
    with _telling("share the mounts"):
        kernel.mount("", "/", "", kernel.REC | kernel.SHARED)


def mount_some(mounts: Sequence[Mount]) -> None:
    for each in mounts:
        with _telling(f"mount {each.kind} at {each.target}"):
            with suppress(OSError):  # the root is read-only: the place is there, or the mount says what is wrong
                os.makedirs(each.target, exist_ok=True)
            if not os.path.ismount(each.target):
                kernel.mount(each.kind, each.target, each.kind, each.flags, each.options)


def settle(name: str = "podvm") -> None:
    """The rest that takes no time."""
    with _telling("set the host's name"):
        socket.sethostname(name)
    with _telling("bring loopback up"):
        network = Rtnetlink()
        try:
            for link in network.links():
                if link.loopback:
                    network.bring_up(link.index)
        finally:
            network.close()
    controllers = [word for word in _read("/sys/fs/cgroup/cgroup.controllers").split() if word in CONTROLLERS]
    with _telling("enable the cgroups' controllers"):
        _write("/sys/fs/cgroup/cgroup.subtree_control", " ".join(f"+{each}" for each in controllers))
    with _telling("set the clock"):
        made = os.stat(_IMAGE).st_mtime
        if time.time() < made:  # a clock that was never set: certificates would be of the future
            time.clock_settime(time.CLOCK_REALTIME, made)
            say("the machine's clock is before the image was made: it starts from then")


@contextlib.contextmanager
def _telling(deed: str) -> Iterator[None]:
    """What fails inside is told; then it goes on behind."""
    try:
        yield
    except OSError as error:
        say(f"cannot {deed}: {error}")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
