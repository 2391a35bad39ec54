"""Every worker process of a test run has mounts of its own.

A mount namespace that one test makes is a copy of what is mounted at that moment, and keeps another test's disk busy
after that one has unmounted it.
"""

import ctypes
import os

import pytest

from adaptor.demo import enter

_CLONE_NEWNS = 0x00020000


def pytest_configure(config: pytest.Config) -> None:
    if not os.environ.get(enter.PRIVATE) or not hasattr(config, "workerinput"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        number = ctypes.get_errno()
        raise OSError(number, f"a mount namespace for this worker: {os.strerror(number)}")
