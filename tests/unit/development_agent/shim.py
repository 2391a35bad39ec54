"""What the kata shim sends, with the least a caller has to say; field values as recorded from the real one."""

from collections.abc import Sequence
from typing import Final, Self, TypeVar

from google.protobuf.message import Message

from adaptor import names
from adaptor.protos import agent_pb2
from adaptor.ttrpc.aio import Client

M = TypeVar("M", bound=Message)

SHARED: Final = "/run/kata-containers/shared/containers"
SHM: Final = "/run/kata-containers/sandbox/shm"
METADATA: Final = (("containerd-namespace-ttrpc", "k8s.io"),)
CHUNK: Final = 1 << 20
# What containerd gives an ordinary container.
CAPABILITIES: Final = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID CAP_SETFCAP "
    "CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE"
)
ENVIRONMENT: Final = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=gp")


def mount(destination: str, type: str, source: str, *options: str) -> agent_pb2.Mount:
    return agent_pb2.Mount(destination=destination, type=type, source=source, options=options)


MOUNTS: Final = (
    mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
    mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
    mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
    mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
    mount("/dev/shm", "bind", SHM, "rbind"),
    mount("/dev/shm", "bind", SHM, "rbind"),
)


def process(*args: str, terminal: bool = False, uid: int = 0, groups: Sequence[int] = (0,)) -> agent_pb2.Process:
    granted = CAPABILITIES.split()
    return agent_pb2.Process(
        args=args,
        env=ENVIRONMENT,
        cwd="/",
        terminal=terminal,
        user=agent_pb2.User(uid=uid, gid=uid, additional_gids=groups),
        capabilities=agent_pb2.LinuxCapabilities(bounding=granted, effective=granted, permitted=granted),
        oom_score_adj=1000,
    )


def container_request(
    id: str, run: agent_pb2.Process, *extra: agent_pb2.Mount, image: str = "docker.io/lab/busybox:1"
) -> agent_pb2.CreateContainerRequest:
    """A container of the pod; the image `pause` makes it the pause container."""
    root = f"/run/kata-containers/{id}/rootfs"
    return agent_pb2.CreateContainerRequest(
        container_id=id,
        exec_id=id,
        storages=[agent_pb2.Storage(driver="image_guest_pull", source=image, fstype="overlay", mount_point=root)],
        oci=agent_pb2.Spec(
            version="1.0.2-dev",
            process=run,
            root=agent_pb2.Root(path=root),
            hostname="gp",
            mounts=[*MOUNTS, *extra],
            linux=agent_pb2.Linux(
                namespaces=[agent_pb2.LinuxNamespace(type=kind) for kind in ("ipc", "uts", "mount")],
                cgroups_path=f"/kubepods/besteffort/podgp/{id}",
                resources=agent_pb2.LinuxResources(
                    memory=agent_pb2.LinuxMemory(limit=134217728), cpu=agent_pb2.LinuxCPU(shares=512)
                ),
                masked_paths=["/proc/kcore"],
                readonly_paths=["/proc/sys"],
            ),
        ),
    )


class Shim:
    """One sandbox's connection to its agent."""

    def __init__(self, client: Client) -> None:
        self.client = client

    @classmethod
    async def connect(cls, path: str) -> Self:
        return cls(await Client.connect_unix(path))

    async def call(self, method: str, request: Message, answer: type[M], timeout: float | None = 60.0) -> M:
        service = names.HEALTH_SERVICE if method in ("Check", "Version") else names.AGENT_SERVICE
        return await self.client.call(service, method, request, answer, timeout=timeout, metadata=METADATA)

    async def do(self, method: str, request: Message, timeout: float | None = 60.0) -> None:
        await self.call(method, request, agent_pb2.Empty, timeout)

    async def create_sandbox(self) -> None:
        shm = ["noexec", "nosuid", "nodev", "mode=1777", "size=67108864"]
        storage = agent_pb2.Storage(driver="ephemeral", source="shm", fstype="tmpfs", options=shm, mount_point=SHM)
        dns = ["search lab.svc", "nameserver 10.0.0.10", ""]
        await self.do(
            "CreateSandbox", agent_pb2.CreateSandboxRequest(hostname="gp", dns=dns, storages=[storage], sandbox_id="s")
        )

    async def create(self, id: str, *args: str, mounts: Sequence[agent_pb2.Mount] = (), terminal: bool = False) -> None:
        await self.do("CreateContainer", container_request(id, process(*args, terminal=terminal), *mounts))

    async def start(self, id: str) -> None:
        await self.do("StartContainer", agent_pb2.StartContainerRequest(container_id=id))

    async def run(self, id: str, *args: str, mounts: Sequence[agent_pb2.Mount] = (), terminal: bool = False) -> None:
        await self.create(id, *args, mounts=mounts, terminal=terminal)
        await self.start(id)

    async def exec(self, id: str, exec_id: str, *args: str, terminal: bool = False) -> None:
        run = process(*args, terminal=terminal)
        await self.do("ExecProcess", agent_pb2.ExecProcessRequest(container_id=id, exec_id=exec_id, process=run))

    async def executed(self, id: str, *args: str, name: str = "e") -> tuple[str, int]:
        """Output and status of a command in a container, asked for in the shim's order."""
        await self.exec(id, name, *args)
        output = await self.read(id, name)
        return output.decode(), await self.wait(id, name)

    async def read(self, id: str, exec_id: str = "", *, stream: str = "ReadStdout", length: int = 32768) -> bytes:
        """Everything up to the end of the stream."""
        pieces = []
        while piece := await self.read_some(id, exec_id, stream=stream, length=length):
            pieces.append(piece)
        return b"".join(pieces)

    async def read_some(self, id: str, exec_id: str = "", *, stream: str = "ReadStdout", length: int = 32768) -> bytes:
        request = agent_pb2.ReadStreamRequest(container_id=id, exec_id=exec_id or id, len=length)
        return (await self.call(stream, request, agent_pb2.ReadStreamResponse, None)).data

    async def read_until(self, text: bytes, id: str, exec_id: str = "") -> bytes:
        """Output up to and with `text`."""
        seen = b""
        while text not in seen:
            piece = await self.read_some(id, exec_id)
            assert piece, f"the stream ended before {text!r}: {seen!r}"
            seen += piece
        return seen

    async def write(self, id: str, data: bytes, exec_id: str = "") -> int:
        request = agent_pb2.WriteStreamRequest(container_id=id, exec_id=exec_id or id, data=data)
        return (await self.call("WriteStdin", request, agent_pb2.WriteStreamResponse)).len

    async def close_stdin(self, id: str, exec_id: str = "") -> None:
        await self.do("CloseStdin", agent_pb2.CloseStdinRequest(container_id=id, exec_id=exec_id or id))

    async def resize(self, rows: int, columns: int, id: str, exec_id: str = "") -> None:
        await self.do(
            "TtyWinResize",
            agent_pb2.TtyWinResizeRequest(container_id=id, exec_id=exec_id or id, row=rows, column=columns),
        )

    async def wait(self, id: str, exec_id: str = "") -> int:
        request = agent_pb2.WaitProcessRequest(container_id=id, exec_id=exec_id or id)
        return (await self.call("WaitProcess", request, agent_pb2.WaitProcessResponse, None)).status

    async def signal(self, number: int, id: str, exec_id: str = "") -> None:
        await self.do("SignalProcess", agent_pb2.SignalProcessRequest(container_id=id, exec_id=exec_id, signal=number))

    async def stats(self, id: str) -> agent_pb2.StatsContainerResponse:
        request = agent_pb2.StatsContainerRequest(container_id=id)
        return await self.call("StatsContainer", request, agent_pb2.StatsContainerResponse)

    async def remove(self, id: str) -> None:
        await self.do("RemoveContainer", agent_pb2.RemoveContainerRequest(container_id=id))
        await self.do("RemoveStaleVirtiofsShareMounts", agent_pb2.Empty())

    async def copy(self, path: str, data: bytes, *, mode: int = 0o100644) -> None:
        """A regular file in pieces of 1 MiB, one after the other."""
        for offset in range(0, max(len(data), 1), CHUNK):
            await self.do(
                "CopyFile",
                agent_pb2.CopyFileRequest(
                    path=path,
                    file_size=len(data),
                    file_mode=mode,
                    dir_mode=0x80000000 | 0o750,
                    offset=offset,
                    data=data[offset : offset + CHUNK],
                ),
            )

    async def destroy_sandbox(self) -> None:
        await self.do("DestroySandbox", agent_pb2.Empty())
