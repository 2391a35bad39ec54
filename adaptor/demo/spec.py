"""What the shim sends to create a container, as recorded from the real one: OCI spec, storages, paths."""

import json
from collections.abc import Sequence
from typing import Final

from adaptor.protos import agent_pb2 as pb

SHARED: Final = "/run/kata-containers/shared/containers"
SHM: Final = "/run/kata-containers/sandbox/shm"
_CAPABILITIES: Final = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
]
_MASKED: Final = ("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware")
_READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def container(
    sandbox_id: str, container_id: str, pod: str, args: Sequence[str], *, image: str, resolv_conf: str
) -> pb.CreateContainerRequest:
    """CreateContainer for an ordinary container; `image` "pause" makes it the sandbox's own."""
    pause = image == "pause"
    namespace, _, name = pod.partition("/")
    annotations = {
        "io.kubernetes.cri.container-type": "sandbox" if pause else "container",
        "io.kubernetes.cri.sandbox-id": sandbox_id,
        "io.kubernetes.cri.sandbox-name": name,
        "io.kubernetes.cri.sandbox-namespace": namespace,
    }
    if not pause:
        annotations |= {"io.kubernetes.cri.image-name": image, "io.kubernetes.cri.container-name": "main"}
    root = f"/run/kata-containers/{container_id}/rootfs"
    return pb.CreateContainerRequest(
        container_id=container_id,
        exec_id=container_id,
        storages=[
            pb.Storage(
                driver="image_guest_pull",
                driver_options=["image_guest_pull=" + json.dumps({"metadata": annotations})],
                source=image,
                fstype="overlay",
                mount_point=root,
            )
        ],
        oci=pb.Spec(
            version="1.0.2-dev",
            process=process(args, cwd="/"),
            root=pb.Root(path=root, readonly=pause),
            hostname=name,
            mounts=_mounts(resolv_conf),
            annotations=annotations,
            linux=pb.Linux(
                resources=pb.LinuxResources(cpu=pb.LinuxCPU(shares=2 if pause else 512)),
                cgroups_path=f"/kubepods/besteffort/pod{name}/{container_id}",
                namespaces=[pb.LinuxNamespace(type=kind) for kind in ("ipc", "uts", "mount")],
                masked_paths=_MASKED,
                readonly_paths=_READ_ONLY,
            ),
        ),
    )


def process(args: Sequence[str], *, cwd: str = "/", terminal: bool = False) -> pb.Process:
    """What to run, in a container or as an exec."""
    return pb.Process(
        terminal=terminal,
        user=pb.User(),
        args=args,
        env=[_PATH, "TERM=xterm"],
        cwd=cwd,
        capabilities=pb.LinuxCapabilities(bounding=_CAPABILITIES, effective=_CAPABILITIES, permitted=_CAPABILITIES),
    )


def _mounts(resolv_conf: str) -> list[pb.Mount]:
    private = ["nosuid", "noexec", "nodev"]
    return [
        pb.Mount(destination="/proc", source="proc", type="proc", options=private),
        pb.Mount(destination="/dev", source="tmpfs", type="tmpfs", options=["nosuid", "mode=755", "size=65536k"]),
        pb.Mount(
            destination="/dev/pts",
            source="devpts",
            type="devpts",
            options=["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        pb.Mount(destination="/dev/shm", source=SHM, type="bind", options=["rbind"]),  # noqa: S108
        pb.Mount(destination="/dev/mqueue", source="mqueue", type="mqueue", options=private),
        pb.Mount(destination="/sys", source="sysfs", type="sysfs", options=[*private, "ro"]),
        pb.Mount(destination="/etc/resolv.conf", source=resolv_conf, type="bind", options=["rbind", "ro"]),
    ]
