"""The system calls that Python 3.11 has no name for, with errors that say what was tried on what."""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Final

# linux/mount.h, linux/sched.h, linux/prctl.h
MS_RDONLY: Final = 1 << 0
MS_NOSUID: Final = 1 << 1
MS_NODEV: Final = 1 << 2
MS_NOEXEC: Final = 1 << 3
MS_REMOUNT: Final = 1 << 5
MS_NOATIME: Final = 1 << 10
MS_NODIRATIME: Final = 1 << 11
MS_BIND: Final = 1 << 12
MS_REC: Final = 1 << 14
MS_SLAVE: Final = 1 << 19
MS_RELATIME: Final = 1 << 21
CLONE_NEWNS: Final = 1 << 17
CLONE_NEWUTS: Final = 1 << 26
CLONE_NEWIPC: Final = 1 << 27
CLONE_NEWNET: Final = 1 << 30

_MNT_DETACH: Final = 2
_PR_SET_CHILD_SUBREAPER: Final = 36

# What statvfs says of a mount → the flag that keeps it so. A user namespace may not take these off a mount it was
# given, not even by leaving them out of a remount.
_KEPT: Final = {
    os.ST_RDONLY: MS_RDONLY,
    os.ST_NOSUID: MS_NOSUID,
    os.ST_NODEV: MS_NODEV,
    os.ST_NOEXEC: MS_NOEXEC,
    os.ST_NOATIME: MS_NOATIME,
    os.ST_NODIRATIME: MS_NODIRATIME,
    os.ST_RELATIME: MS_RELATIME,
}

_libc: Final = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """The system call of that name. Raises OSError whose text names source, target and reason."""
    _check(
        _libc.mount(
            os.fsencode(source), os.fsencode(target), os.fsencode(fstype), ctypes.c_ulong(flags), os.fsencode(data)
        ),
        f"mount {source} on {target}",
    )


def bind_read_only(source: str, target: str) -> None:
    """Show `source`, with what is mounted below it, at `target`; its own files can not be written there."""
    mount(source, target, "", MS_BIND | MS_REC)
    told = os.statvfs(target).f_flag
    kept = sum(flag for seen, flag in _KEPT.items() if told & seen)
    mount("", target, "", MS_REMOUNT | MS_BIND | MS_RDONLY | kept)


def unmount(target: str) -> None:
    """Take the topmost mount off `target` now; files still open in it live until they are closed."""
    _check(_libc.umount2(os.fsencode(target), _MNT_DETACH), f"unmount {target}")


def unshare(flags: int) -> None:
    """Give the calling thread, and what it starts from now on, namespaces of its own."""
    _check(_libc.unshare(flags), "make namespaces of our own")


def write(path: str, value: str) -> None:
    """Write a sysctl. Raises OSError, and UnicodeError for what is not ASCII."""
    with open(path, "w", encoding="ascii") as file:
        file.write(value)


def write_in_network(namespace: str, path: str, value: str) -> None:
    """Write a sysctl of a network namespace, by a thread that enters it and ends there. Raises as `write` does."""

    def enter_and_write() -> None:
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(descriptor, CLONE_NEWNET), f"enter {namespace}")
        finally:
            os.close(descriptor)
        write(path, value)

    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(enter_and_write).result()


def become_subreaper() -> None:
    """Become the parent of orphaned descendants: exit statuses of what a runtime started and left are ours to take."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "become a subreaper")


def _check(result: int, deed: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{deed}: {os.strerror(number)}")
