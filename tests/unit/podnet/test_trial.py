"""The try whether a node can carry pods' networks."""

import os
import subprocess
import sys
import threading

import pytest

from adaptor.errors import Unavailable
from adaptor.podnet import devices, trial

TRY = "from adaptor.podnet import trial; trial.attempt(4789)"


@pytest.mark.netns
def test_a_node_that_can_is_left_as_it_was() -> None:
    before = os.stat("/proc/thread-self/ns/net").st_ino, sorted(os.listdir("/sys/class/net")), threading.active_count()
    trial.attempt(4789)
    assert before == (
        os.stat("/proc/thread-self/ns/net").st_ino,
        sorted(os.listdir("/sys/class/net")),
        threading.active_count(),
    )


@pytest.mark.netns
def test_who_may_not_is_told_which_capabilities_it_takes() -> None:
    words = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", sys.executable, "-c", TRY]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (
        "pods can have no network on this node: Operation not permitted. The adaptor needs CAP_NET_ADMIN" in done.stderr
    )


@pytest.mark.netns
def test_what_the_kernel_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(devices, "carry_out", refuse)
    with pytest.raises(Unavailable, match=r"no network on this node: .*Load the module vxlan"):
        trial.attempt(4789)
