"""Storages of a sandbox and its containers: tmpfs, directories, and the stand-in for a pulled image."""

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from adaptor.errors import Code, StatusError
from adaptor.protos import agent_pb2
from podvm_images.guest.development_agent import kernel
from podvm_images.guest.development_agent.files import Tree

GUEST_PULL: Final = "image_guest_pull"
PAUSE_IMAGE: Final = "pause"  # the source of the pause container's storage
DRIVERS: Final = ("ephemeral", "local", GUEST_PULL)

_FLAGS: Final = {
    "ro": kernel.MS_RDONLY,
    "nosuid": kernel.MS_NOSUID,
    "nodev": kernel.MS_NODEV,
    "noexec": kernel.MS_NOEXEC,
    "noatime": kernel.MS_NOATIME,
    "nodiratime": kernel.MS_NODIRATIME,
    "relatime": kernel.MS_RELATIME,
}
_DEFAULTS: Final = ("rw", "suid", "dev", "exec", "defaults", "async")

# The stand-in's directories that are the VM's own, read-only; the first two make its programs run, the others make
# Debian's alternatives (awk, editor, …) and TLS clients work.
_SHARED: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/alternatives", "/etc/ssl/certs")
_COPIED: Final = ("passwd", "group", "nsswitch.conf", "ld.so.cache", "resolv.conf", "hosts", "protocols", "services")
_EMPTY: Final = ("etc/ssl", "dev", "proc", "sys", "run", "root", "home", "mnt", "opt", "srv", "var/log")
_OPEN: Final = ("tmp", "var/tmp")  # to everybody
_OPEN_MODE: Final = 0o1777
_GROUP_MODE: Final = stat.S_ISGID | 0o070  # what Kubernetes' fsGroup asks for


class MountOptions(NamedTuple):
    """Options as mount(2) wants them, and the group that is to own the mount's top."""

    flags: int
    data: str
    group: int | None


def mount_options(options: Sequence[str]) -> MountOptions:
    """`nosuid,size=64m,fsgid=7` and the like; what is no flag goes to the file system."""
    flags, data, group = 0, [], None
    for option in options:
        name, _, value = option.partition("=")
        if name in _FLAGS:
            flags |= _FLAGS[name]
        elif name == "fsgid" and value.isdecimal():
            group = int(value)
        elif name not in _DEFAULTS:
            data.append(option)
    return MountOptions(flags, ",".join(data), group)


def prepare(storage: agent_pb2.Storage, tree: Tree) -> bool:
    """Make `storage` at its mount point, below the tree's base; True if that has to be unmounted one day.

    Raises StatusError INTERNAL for a driver this agent does not have, OSError where making it fails.
    """
    if storage.driver not in DRIVERS:
        raise StatusError(
            Code.INTERNAL,
            f"storage {storage.mount_point}: the development agent has no driver {storage.driver!r}, only "
            f"{', '.join(DRIVERS)}; volumes of other kinds need a pod VM with kata-agent",
        )
    options = mount_options(storage.options)
    tree.make_directory(storage.mount_point, 0o755)
    if storage.driver == "local":
        os.chmod(storage.mount_point, _mode_in(options.data))
    elif storage.driver == "ephemeral":
        kernel.mount(storage.source or "tmpfs", storage.mount_point, storage.fstype, options.flags, options.data)
    else:
        stand_in(storage.mount_point)
    if options.group is not None:
        os.chown(storage.mount_point, -1, options.group)
        os.chmod(storage.mount_point, os.stat(storage.mount_point).st_mode | _GROUP_MODE)
    return storage.driver != "local"


def stand_in(root: str, machine: str = "/") -> None:
    """Mount a fresh root file system at `root`: the programs of `machine`, read-only, everything else empty and new.

    One tmpfs holds all of it, so that unmounting `root` leaves nothing. Nothing stays mounted on failure.
    """
    kernel.mount("development-agent", root, "tmpfs", kernel.MS_NODEV, "mode=755")
    try:
        for name in (*_EMPTY, *_OPEN):
            os.makedirs(f"{root}/{name}", exist_ok=True)
        for name in _OPEN:
            os.chmod(f"{root}/{name}", _OPEN_MODE)
        for path in _SHARED:
            _share(machine.rstrip("/") + path, root + path)
        for name in _COPIED:
            _copy(f"{machine.rstrip('/')}/etc/{name}", f"{root}/etc/{name}")
    except BaseException:
        kernel.unmount(root)
        raise


def _share(source: str, target: str) -> None:
    if os.path.islink(source):  # merged /usr: /bin → usr/bin
        os.symlink(os.readlink(source), target)
    elif os.path.isdir(source):
        os.mkdir(target)
        kernel.bind_read_only(source, target)


def _copy(source: str, target: str) -> None:
    with suppress(FileNotFoundError), open(source, "rb") as original, open(target, "wb") as copy:
        copy.write(original.read())


def _mode_in(data: str) -> int:
    modes = [option.removeprefix("mode=") for option in data.split(",") if option.startswith("mode=")]
    return int(modes[-1], 8) if modes else 0o777
