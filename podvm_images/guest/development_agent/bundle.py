"""From grpc.Spec to the config.json of an OCI runtime, fitted to the VM. Pure.

Left out by design: IPC and UTS namespaces (the pod's are the agent's own), a network namespace but for one that the
Spec names by its path, hostname and sysctls (set by the agent there), cgroup mounts, resources and paths (no cgroup is made), annotations (`run.oci.*` would command crun).
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from adaptor.protos import agent_pb2
from podvm_images.guest.development_agent.machine import Machine

# The pause container keeps the pod's processes company; any program that waits does. A VM's /usr has the second, this
# machine's, where there is no VM, the first.
_SLEEP: Final = "/usr/bin/sleep"
PAUSE: Final = (
    ("sleep", "infinity")
    if os.path.exists(_SLEEP)
    else ("/usr/bin/python3.13", "-ISc", "import signal; signal.signal(15, lambda *_: exit()); signal.pause()")
)

# Name spaces of sysctls that belong to the pod's network and IPC namespaces; others would reach beyond the VM.
_POD_SYSCTLS: Final = ("net.", "kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bundle:
    """`config` for the runtime, `sysctls` for the agent to set, `omissions`: sentences on what had to be left out."""

    config: Json
    sysctls: Mapping[str, str]
    omissions: tuple[str, ...]
    network: str = ""  # path of the network namespace, for `net.` sysctls; empty = the agent's own


def container(spec: agent_pb2.Spec, machine: Machine, *, pause: bool = False, pid_namespace: str = "") -> Bundle:
    """What to run for `spec`. `pid_namespace` is the path of one to join; empty = one of the container's own."""
    omissions: list[str] = []
    process_config = process(spec.process, machine, omissions)
    if pause:
        process_config["args"] = list(PAUSE)
    pid: Json = {"type": "pid"} | ({"path": pid_namespace} if pid_namespace else {})
    network = next((each.path for each in spec.linux.namespaces if each.type == "network"), "")
    namespaces: list[Json] = [{"type": "mount"}, pid] + [{"type": "network", "path": network}] * bool(network)
    config: Json = {
        "ociVersion": spec.version or "1.0.2",
        "process": process_config,
        "root": {"path": spec.root.path, "readonly": spec.root.readonly},
        "mounts": list(_mounts(spec.mounts, machine, omissions)),
        "linux": {
            "namespaces": namespaces,
            "maskedPaths": list(spec.linux.masked_paths),
            "readonlyPaths": list(spec.linux.readonly_paths),
        },
    }
    sysctls = dict(_sysctls(spec.linux.sysctl, omissions))
    return Bundle(config, sysctls, tuple(omissions), network)


def process(given: agent_pb2.Process, machine: Machine, omissions: list[str]) -> Json:
    """The `process` of a config.json, or the process.json of an exec; sentences are added to `omissions`."""
    config: Json = {
        "terminal": given.terminal,
        "user": _user(given.user, machine, omissions),
        "args": list(given.args),
        "env": list(given.env),
        "cwd": given.cwd or "/",
        "noNewPrivileges": given.no_new_privileges,
        "rlimits": list(_rlimits(given.rlimits, machine, omissions)),
    }
    if given.terminal and given.HasField("console_size"):
        config["consoleSize"] = {"height": given.console_size.height, "width": given.console_size.width}
    if given.HasField("capabilities"):  # without them an exec gets its container's
        config["capabilities"] = _capabilities(given.capabilities, machine, omissions)
    if given.oom_score_adj >= machine.oom_score_adj:
        config["oomScoreAdj"] = given.oom_score_adj
    else:
        omissions.append("an oom_score_adj below the agent's own")
    return config


def _user(user: agent_pb2.User, machine: Machine, omissions: list[str]) -> Json:
    if not machine.has_uid(user.uid) or not machine.has_gid(user.gid):
        omissions.append(f"user {user.uid}:{user.gid}, which this VM's user namespace does not have: it runs as 0:0")
        return {"uid": 0, "gid": 0}
    wanted = set(user.additional_gids) - {user.gid}  # the shim names the primary group among them
    groups = sorted(gid for gid in wanted if machine.groups and machine.has_gid(gid))
    if len(groups) < len(wanted):
        omissions.append("supplementary groups that this VM's user namespace does not have")
    return {"uid": user.uid, "gid": user.gid, "additionalGids": groups}


def _rlimits(limits: Iterable[agent_pb2.POSIXRlimit], machine: Machine, omissions: list[str]) -> Iterator[Json]:
    for limit in limits:
        if limit.hard <= machine.hard_limits.get(limit.type, limit.hard):
            yield {"type": limit.type, "hard": limit.hard, "soft": limit.soft}
        else:
            omissions.append(f"{limit.type} above the VM's own hard limit")


def _capabilities(given: agent_pb2.LinuxCapabilities, machine: Machine, omissions: list[str]) -> Json:
    sets = {
        "bounding": given.bounding,
        "effective": given.effective,
        "inheritable": given.inheritable,
        "permitted": given.permitted,
        "ambient": given.ambient,
    }
    missing = {name for names in sets.values() for name in names} - machine.capabilities
    omissions.extend(f"{name}, which the VM itself does not have" for name in sorted(missing))
    return {kind: [name for name in names if name not in missing] for kind, names in sets.items()}


def _mounts(mounts: Iterable[agent_pb2.Mount], machine: Machine, omissions: list[str]) -> Iterator[Json]:
    seen: list[Json] = []
    for mount in mounts:
        entry = {
            "destination": mount.destination,
            "type": mount.type,
            "source": mount.source,
            "options": [option for option in mount.options if _mountable(option, machine)],
        }
        if mount.type == "sysfs" and not machine.sysfs:
            omissions.append("sysfs, which can not be mounted here")
        elif mount.type not in ("cgroup", "cgroup2") and entry not in seen:  # the pause container has /dev/shm twice
            seen.append(entry)
            yield entry


def _mountable(option: str, machine: Machine) -> bool:
    """Whether an id that a mount's option names exists here: devpts asks for group 5, and mount(2) would refuse."""
    name, _, value = option.partition("=")
    if name not in ("uid", "gid") or not value.isdecimal():
        return True
    return machine.has_uid(int(value)) if name == "uid" else machine.has_gid(int(value))


def _sysctls(sysctls: Mapping[str, str], omissions: list[str]) -> Iterator[tuple[str, str]]:
    for name, value in sysctls.items():
        if name.startswith(_POD_SYSCTLS) and "/" not in name:
            yield name, value
        else:
            omissions.append(f"sysctl {name}, which is not of the pod's network or IPC namespace")
