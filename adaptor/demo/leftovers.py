"""Proof that a pod left nothing: everything countable, before and after.

Taken inside the demo's own pid, mount and network namespaces, and in the pod's own network namespace, which is not ours
to change: so whatever differs is the pod's VM's.
"""

import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from adaptor.demo import netdump, netns

# What SQLite keeps beside an open database comes and goes with its checkpoints; the rows are counted on their own.
_SQLITE_OWN: Final = ("-wal", "-shm")
# mount(8) makes it at its first use on a machine, for itself.
_MOUNT_OWN: Final = "/run/mount"
_WIREGUARD_GO_OWN: Final = "/run/wireguard"  # likewise; a socket in it would be a device's


@dataclass(frozen=True, slots=True)
class Inventory:
    """What exists at one moment; each field a set of names."""

    instances: frozenset[str]
    processes: frozenset[str]
    namespaces: frozenset[str]
    interfaces: frozenset[str]
    tunnels: frozenset[str]  # VXLAN and WireGuard devices
    routes: frozenset[str]  # with addresses, neighbours and routing rules
    traffic_control: frozenset[str]  # qdiscs and filters
    nftables: frozenset[str]
    mounts: frozenset[str]
    sockets: frozenset[str]
    files: frozenset[str]
    journal_rows: frozenset[str]

    def added_since(self, before: "Inventory") -> dict[str, list[str]]:
        """What is here now and was not then, by kind; every kind is named, also those with nothing."""
        return {
            field.name: sorted(getattr(self, field.name) - getattr(before, field.name)) for field in fields(Inventory)
        }


# The first word of netdump's lines → where it counts.
_KINDS: Final = {
    "address": "routes",
    "route": "routes",
    "rule": "routes",
    "neighbour": "routes",
    "qdisc": "traffic_control",
    "filter": "traffic_control",
    "nftables": "nftables",
}
_TUNNELS: Final = ("vxlan", "wireguard", "tun")  # kinds of devices; wireguard-go's is a tun


def take(
    instances: Iterable[str], places: Iterable[str], journal: str, networks: Mapping[str, str] | None = None
) -> Inventory:
    """Count everything now. `places`: directories whose files count; `journal`: the adaptor's database; `networks`:
    more network namespaces than this one, by the name that their things get."""
    pids = [pid for pid in os.listdir("/proc") if pid.isdigit()]
    found = _networks({"": netns.HERE, **(networks or {})})
    return Inventory(
        instances=frozenset(instances),
        processes=frozenset(filter(None, map(_command, pids))),
        namespaces=frozenset(name for pid in pids for name in _namespaces(pid)),
        interfaces=frozenset(os.listdir("/sys/class/net")) | interfaces() | found["interfaces"],
        tunnels=found["tunnels"],
        routes=found["routes"],
        traffic_control=found["traffic_control"],
        nftables=found["nftables"],
        mounts=frozenset(line.split()[4] for line in _lines("/proc/self/mountinfo")),
        sockets=frozenset(filter(None, (_socket_path(line) for line in _lines("/proc/net/unix")))),
        files=frozenset(str(path) for place in places for path in _walk(place)),
        journal_rows=frozenset(journal_rows(journal)),
    )


def _networks(networks: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """What netlink tells of each, by the inventory's fields."""
    found: dict[str, set[str]] = {field: set() for field in ("interfaces", "tunnels", *_KINDS.values())}
    for name, path in networks.items():
        for line in netdump.dump(path):
            first, thing, kind = (*line.split(" ", 3), "", "")[:3]
            fields_of = ["interfaces"] + ["tunnels"] * (kind in _TUNNELS) if first == "link" else [_KINDS[first]]
            for field in fields_of:
                found[field].add(f"{name} {thing if first == 'link' else line}".strip())
    return {field: frozenset(lines) for field, lines in found.items()}


def _command(pid: str) -> str:
    """`pid command line`; empty for one that has just ended."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return (
        f"{pid} {b' '.join(words).decode(errors='replace')[:120]}"
        if words != [b""]
        else f"{pid} (ended, not waited for)"
    )


def _namespaces(pid: str) -> Iterable[str]:
    for kind in ("net", "mnt", "pid", "uts"):
        try:
            yield os.readlink(f"/proc/{pid}/ns/{kind}")
        except OSError:
            return


def interfaces() -> frozenset[str]:
    """/sys shows the network namespace it was mounted in; the kernel itself is asked for ours."""
    return frozenset(line.split(":")[0].strip() for line in _lines("/proc/net/dev")[2:])


def _socket_path(line: str) -> str:
    words = line.split()
    return words[7] if len(words) == 8 and words[7].startswith("/") else ""


def _walk(place: str) -> Iterable[Path]:
    found = (path for path in Path(place).rglob("*") if not path.name.endswith(_SQLITE_OWN))
    return (path for path in found if not str(path).startswith(_MOUNT_OWN) and str(path) != _WIREGUARD_GO_OWN)


def journal_rows(journal: str) -> Iterable[str]:
    if not Path(journal).exists():
        return []
    db = sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=10)
    try:
        return [
            f"{seq} {kind} of {sandbox[:12]}"
            for seq, sandbox, kind in db.execute("SELECT seq, sandbox, kind FROM journal")
        ]
    finally:
        db.close()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
