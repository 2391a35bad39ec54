"""`python -m podvm_images.supervisor.conceal PROGRAM ...`: run it where no disk can be seen.

kata-agent looks through /dev for a disk that begins with `initdata` and takes its policy from there, which nothing
measures: whoever can attach a disk to the VM could replace the policy that the pod's owner wrote. No pod needs disks by
their devices here: the guest and the data hub mount them, and mounts are seen.
"""

import os
import stat
import sys
from collections.abc import Callable
from typing import Final

from podvm_images.supervisor import kernel

_ASIDE: Final = "/run/podvm/dev"
_LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}


def main(command: list[str]) -> int:
    """Does not return but with what it could not do: then nothing runs."""
    if not command:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        hide_disks()
        os.execv(command[0], command)
    except OSError as error:
        print(f"conceal: {command[0]} cannot be run without disks in sight: {error}", file=sys.stderr)
    return 1


def hide_disks() -> None:
    """From here on this process sees a /dev of its own, with everything of the VM's but block devices, as it is now."""
    kernel.unshare(kernel.NEW_MOUNTS)
    kernel.mount("", "/", "", kernel.REC | kernel.SLAVE)
    os.makedirs(_ASIDE, exist_ok=True)
    kernel.mount("/dev", _ASIDE, "", kernel.BIND | kernel.REC)
    kernel.mount("tmpfs", "/dev", "tmpfs", kernel.NOSUID, "mode=0755")
    copy(_ASIDE, "/dev")
    kernel.detach(_ASIDE)


def copy(source: str, target: str, mount: Callable[..., None] = kernel.mount) -> None:
    """Character devices and links as they are; directories with mounts of their own by those mounts; no block device."""
    for entry in os.scandir(source):
        kind = entry.stat(follow_symlinks=False)
        place = f"{target}/{entry.name}"
        if stat.S_ISLNK(kind.st_mode):
            os.symlink(os.readlink(entry.path), place)
        elif stat.S_ISCHR(kind.st_mode):
            os.mknod(place, kind.st_mode, kind.st_rdev)
            os.chmod(place, stat.S_IMODE(kind.st_mode))
        elif stat.S_ISDIR(kind.st_mode) and entry.name not in ("disk", "mapper", "block"):
            os.mkdir(place, stat.S_IMODE(kind.st_mode))
            if os.path.ismount(entry.path):
                mount(entry.path, place, "", kernel.BIND)
            else:
                copy(entry.path, place, mount)
    for name, link in _LINKS.items():
        if not os.path.lexists(f"{target}/{name}") and target == "/dev":
            os.symlink(link, f"{target}/{name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
