"""What a container uses, counted from /proc: there is no cgroup to ask."""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from adaptor.protos import agent_pb2

_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_FIRST_FIELD: Final = 3  # of /proc/<pid>/stat behind the parenthesised name, as proc(5) counts


class NamespaceId(NamedTuple):
    """A namespace's identity, as its file in /proc has it. `kind` is `pid` or `mnt`."""

    kind: str
    device: int
    inode: int


def namespace_of(pid: int, kind: str) -> NamespaceId:
    """Raises OSError for a process that has ended."""
    found = os.stat(f"/proc/{pid}/ns/{kind}")
    return NamespaceId(kind, found.st_dev, found.st_ino)


def members(namespace: NamespaceId) -> list[int]:
    """Processes living in `namespace`, lowest pid first; those ended but not reaped are not among them."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError):  # it ended meanwhile
                if namespace_of(int(name), namespace.kind) == namespace:
                    found.append(int(name))
    return sorted(found)


@dataclass(frozen=True, slots=True)
class Usage:
    """Nanoseconds of CPU, bytes of memory."""

    user: int
    system: int
    resident: int


def usage_in(stat: str) -> Usage:
    """From a line of /proc/<pid>/stat; the time of children it has reaped is its own."""
    fields = stat.rpartition(")")[2].split()

    def field(number: int) -> int:
        return int(fields[number - _FIRST_FIELD])

    return Usage((field(14) + field(16)) * _TICK_NS, (field(15) + field(17)) * _TICK_NS, field(24) * _PAGE)


def interfaces_in(table: str) -> list[agent_pb2.NetworkStats]:
    """From /proc/<pid>/net/dev, without the loopback."""
    found = []
    for line in table.splitlines()[2:]:
        name, _, counts = line.partition(":")
        values = [int(value) for value in counts.split()]
        if name.strip() != "lo":
            found.append(
                agent_pb2.NetworkStats(
                    name=name.strip(),
                    **dict(zip(("rx_bytes", "rx_packets", "rx_errors", "rx_dropped"), values, strict=False)),
                    **dict(zip(("tx_bytes", "tx_packets", "tx_errors", "tx_dropped"), values[8:], strict=False)),
                )
            )
    return found


def report(pids: Iterable[int], memory_limit: int) -> agent_pb2.StatsContainerResponse:
    """The answer to StatsContainer; `memory_limit` in bytes, 0 = none."""
    used = list(_usages(pids := list(pids)))
    user, system = sum(one.user for one in used), sum(one.system for one in used)
    memory = agent_pb2.MemoryData(usage=sum(one.resident for one in used), limit=max(0, memory_limit))
    return agent_pb2.StatsContainerResponse(
        cgroup_stats=agent_pb2.CgroupStats(
            cpu_stats=agent_pb2.CpuStats(
                cpu_usage=agent_pb2.CpuUsage(
                    total_usage=user + system, usage_in_usermode=user, usage_in_kernelmode=system
                )
            ),
            memory_stats=agent_pb2.MemoryStats(usage=memory),
            pids_stats=agent_pb2.PidsStats(current=len(used)),
        ),
        network_stats=_interfaces(pids),
    )


def metrics(containers: int) -> str:
    """Prometheus text about the agent itself."""
    used = usage_in(_read("/proc/self/stat"))
    seconds = (used.user + used.system) / 1e9
    return (
        "# TYPE kata_agent_total_rss gauge\n"
        f"kata_agent_total_rss {used.resident}\n"
        "# TYPE kata_agent_total_time counter\n"
        f"kata_agent_total_time {seconds}\n"
        "# TYPE peerpods_development_agent_containers gauge\n"
        f"peerpods_development_agent_containers {containers}\n"
    )


def memory_block_size() -> int:
    """Bytes by which memory would be plugged in; 0 where the kernel does not say."""
    with suppress(OSError):
        return int(_read("/sys/devices/system/memory/block_size_bytes"), 16)
    return 0


def _interfaces(pids: Iterable[int]) -> list[agent_pb2.NetworkStats]:
    """Those of the network namespace that the processes are in; where none is left, of our own."""
    for pid in (*pids, "self"):
        with suppress(OSError):
            return interfaces_in(_read(f"/proc/{pid}/net/dev"))
    return []


def _usages(pids: Iterable[int]) -> Iterable[Usage]:
    for pid in pids:
        with suppress(OSError):  # it ended meanwhile
            yield usage_in(_read(f"/proc/{pid}/stat"))


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
