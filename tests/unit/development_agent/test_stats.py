"""Numbers from /proc, read as proc(5) has them."""

import os
import subprocess
import time

from podvm_images.guest.development_agent import stats
from podvm_images.guest.development_agent.storages import mount_options

TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

STAT = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 200 0 0 11 22 33 44 20 0 1 0 173454 3137536 440 18446744073709551615 1 1"

NET = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     500       5    0    0    0     0          0         0      500       5    0    0    0     0       0          0
  eth0: 1000 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0
"""


def test_a_process_is_read_whatever_its_name() -> None:
    usage = stats.usage_in(STAT)
    assert (usage.user, usage.system) == (44 * TICK, 66 * TICK)
    assert usage.resident == 440 * os.sysconf("SC_PAGE_SIZE")


def test_our_own_usage_grows_with_work() -> None:
    def used() -> int:
        with open("/proc/self/stat", encoding="ascii") as file:
            usage = stats.usage_in(file.read())
        return usage.user + usage.system

    before, until = used(), time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert used() > before


def test_interfaces_are_counted_without_the_loopback() -> None:
    (eth0,) = stats.interfaces_in(NET)
    assert (eth0.name, eth0.rx_bytes, eth0.rx_packets, eth0.rx_errors, eth0.rx_dropped) == ("eth0", 1000, 10, 1, 2)
    assert (eth0.tx_bytes, eth0.tx_packets, eth0.tx_errors, eth0.tx_dropped) == (2000, 20, 3, 4)


def test_members_of_a_namespace_are_those_that_live_in_it() -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        namespace = stats.namespace_of(os.getpid(), "pid")
        assert {os.getpid(), child.pid} <= set(stats.members(namespace))
        child.kill()
    assert child.pid not in stats.members(namespace)
    assert stats.members(namespace._replace(inode=0)) == []


def test_a_process_that_ended_meanwhile_counts_for_nothing() -> None:
    assert stats.report([1 << 30], 5).cgroup_stats.pids_stats.current == 0


def test_mount_options_become_flags_data_and_group() -> None:
    options = mount_options(["rw", "noexec", "nosuid", "nodev", "mode=1777", "size=67108864", "fsgid=7"])
    assert options == (0b1110, "mode=1777,size=67108864", 7)
