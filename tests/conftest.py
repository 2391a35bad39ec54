"""What all tests share: mounts of their own, and the one leak that is a library's."""

import ctypes
import gc
import os
import warnings
from collections.abc import Generator, Iterator

import pytest

from adaptor.demo import enter
from tests.dealing import dealt

_CLONE_NEWNS = 0x00020000


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What collecting makes stays to the end: half a gigabyte of modules and tests. The garbage collector, which would
    look at them again and again, doubles the time that collecting takes, and slows every test after it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


# Where lightkube is used. Its HTTP library leaves a connection whose TLS handshake is cancelled to the garbage collector,
# which closes it, with a warning that would be the failure of whichever test runs then.
_LIGHTKUBE = ("tests/unit/kube/", "tests/unit/cli/", "tests/contract/kubernetes/", "tests/e2e/test_kubernetes.py")
_LEFT = "ignore:unclosed (transport|.?socket):ResourceWarning"


def _uses_lightkube(node: pytest.Item | pytest.Collector) -> bool:
    return node.nodeid.startswith(_LIGHTKUBE)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if isinstance(worker := getattr(config, "workerinput", None), dict):
        items[:] = [items[index] for index in dealt([item.nodeid for item in items], worker["workercount"])]
    for item in items:
        if _uses_lightkube(item):
            item.add_marker(pytest.mark.filterwarnings(_LEFT))


@pytest.fixture(autouse=True, scope="module")
def handshakes_that_were_cut(request: pytest.FixtureRequest) -> Iterator[None]:
    """Are collected before another module's tests begin."""
    yield
    if _uses_lightkube(request.node):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


def pytest_configure(config: pytest.Config) -> None:
    """Every worker process has mounts of its own: a mount namespace that one test makes is a copy of what is mounted
    at that moment, and keeps another test's disk busy after that one has unmounted it."""
    if not os.environ.get(enter.PRIVATE) or not hasattr(config, "workerinput"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        number = ctypes.get_errno()
        raise OSError(number, f"a mount namespace for this worker: {os.strerror(number)}")
