"""fsGroup: the group that a pod's processes write a volume's files as, set as kubelet sets it.

Every file gets the group, and the group may read and write it; directories are also entered by it, and hand the group
on to what is made in them. Links are given the group, never followed; the owner stays.
"""

import os
import stat
from typing import Final

_FILE: Final = stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IWGRP
_DIRECTORY: Final = _FILE | stat.S_ISGID | stat.S_IXUSR | stat.S_IXGRP


def hand_over(root: str, group: int, *, on_mismatch: bool) -> int:
    """Give the volume mounted at `root` to `group`; returns how many files were looked at. Raises OSError.

    `on_mismatch`: nothing where the root directory has the group and the permissions already.
    """
    if on_mismatch and _fits(os.lstat(root), group):
        return 0
    seen = 0
    # The root last, as it is what `on_mismatch` goes by: a walk that was cut off is begun anew.
    for _, directories, files, descriptor in os.fwalk(root, topdown=False, follow_symlinks=False, onerror=_raise):
        for name in (*files, *directories):
            _give(name, group, descriptor)
            seen += 1
    _give(root, group, None)
    return seen + 1


def _fits(found: os.stat_result, group: int) -> bool:
    return found.st_gid == group and found.st_mode & _DIRECTORY == _DIRECTORY


def _give(name: str, group: int, directory: int | None) -> None:
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if found.st_gid != group:
        os.chown(name, -1, group, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        return
    mode = stat.S_IMODE(found.st_mode) | (_DIRECTORY if stat.S_ISDIR(found.st_mode) else _FILE)
    if mode != stat.S_IMODE(found.st_mode) or found.st_gid != group:  # a change of group takes S_ISGID of a file away
        os.chmod(name, mode, dir_fd=directory)


def _raise(error: OSError) -> None:
    raise error
