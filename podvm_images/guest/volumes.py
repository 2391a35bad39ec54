"""The pod's disks: found, looked at, formatted where they are new, and mounted before the pod begins.

    Bind ─► check ─► find the device, 60 s ─► look at it ─┬─ the file system asked for ─► mount
                                                          ├─ blank ─► make one ─► mount
                                                          ├─ LUKS, or blank, and to be encrypted ─► data hub
                                                          └─ anything else ─► refused, and never written to
    DestroySandbox ─► flush, unmount, close LUKS; then the agent hears of it

What Bind says comes from a worker that the pod need not trust. So a name cannot lead out of the directory, a disk that
is to be encrypted is never mounted plain, one that holds data is never formatted, and initdata, which is measured, may
bind the worker: its entry `volumes.toml` with `encrypted = true`, or with the `keys` that are allowed.
"""

import asyncio
import os
import re
import time
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adaptor import names
from adaptor.errors import AdaptorError, Code, InvalidRequest, StatusError
from adaptor.protos.guest_pb2 import Volume
from adaptor.telemetry import logs
from podvm_images.guest import blocks, devices, ownership
from podvm_images.guest.blocks import Content
from podvm_images.guest.programs import Programs

DEMANDS: Final = "volumes.toml"
# Seconds from here on that an attached disk gets to show up: clouds take 1 to 30.
DEVICE_TIMEOUT: Final = 60.0
_LOOK: Final = 0.2
# Of a worker's own deadline, or seconds where it names none: making a file system on a large disk, the key's release,
# and changing the group of many files all count.
DEFAULT_TIMEOUT: Final = 240.0
# Seconds for all volumes to be flushed and unmounted at the pod's end. The shim waits 60 for DestroySandbox, and the VM
# is deleted next, whatever has come of it.
_RELEASE: Final = 50.0
_NAME: Final = re.compile(r"vol-\d{1,3}")
_KEY: Final = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+){2}")
_MAPPER: Final = "peerpods-"
_HOLDS: Final = {"ext4": Content.EXT, "ext3": Content.EXT, "xfs": Content.XFS}
_MAKE: Final = {"ext4": ("mkfs.ext4", "-q", "-m0"), "ext3": ("mkfs.ext3", "-q", "-m0"), "xfs": ("mkfs.xfs", "-q")}

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class _Mounted:
    target: str
    mapper: str  # what LUKS calls it; empty: it is plain


class Volumes:
    """The VM's volumes, for its one pod. `root` is where /sys and /dev are looked for."""

    def __init__(
        self,
        programs: Programs,
        directory: str = names.GUEST_VOLUMES_DIR,
        cdh_socket: str = names.CDH_SOCKET,
        root: str = "/",
        device_timeout: float = DEVICE_TIMEOUT,
    ) -> None:
        self._programs = programs
        self._directory = Path(directory)
        self._cdh_socket = cdh_socket
        self._root = Path(root)
        self._device_timeout = device_timeout
        self._mounted: list[_Mounted] = []

    async def mount(self, volumes: Sequence[Volume], timeout: float | None) -> None:
        """Mount them all, in order; what is mounted already stays. Raises StatusError naming disk and reason."""
        deadline = asyncio.get_running_loop().time() + (DEFAULT_TIMEOUT if timeout is None else timeout)
        for volume in volumes:
            try:
                await self._mount(volume, deadline)
            except (AdaptorError, OSError, devices.Ambiguous) as error:
                code = error.code if isinstance(error, StatusError) else Code.INTERNAL
                raise StatusError(
                    code, f"the pod's disk {volume.disk} ({volume.name}) cannot be used: {error}"
                ) from error

    def release(self) -> None:
        """Flush and unmount everything, the last first. What fails is logged: the VM is at its end either way."""
        deadline = time.monotonic() + _RELEASE
        while self._mounted:
            mounted = self._mounted.pop()
            steps = [("sync", "-f", mounted.target), ("umount", mounted.target)]
            if mounted.mapper:
                steps.append(("cryptsetup", "close", mounted.mapper))
            for command in steps:
                try:
                    self._programs.run_now(command, max(0.5, deadline - time.monotonic()))
                except StatusError as error:
                    log.warning("a volume could not be let go of in order", target=mounted.target, reason=error)
            log.info("a volume was let go of", target=mounted.target)

    async def _mount(self, volume: Volume, deadline: float) -> None:
        target = str(self._directory / volume.name)
        if any(mounted.target == target for mounted in self._mounted):
            return
        device = await self._device(volume, deadline)
        content = await asyncio.to_thread(blocks.inspect, device)
        os.makedirs(target, mode=0o755, exist_ok=True)
        if volume.key_id:
            await self._mount_encrypted(volume, device, content, target, deadline)
        else:
            await self._mount_plain(volume, device, content, target, deadline)
        if volume.HasField("fs_group") and not volume.read_only:
            await self._hand_over(volume, target)
        log.info("a volume is mounted", disk=volume.disk, device=device, target=target, encrypted=bool(volume.key_id))

    async def _device(self, volume: Volume, deadline: float) -> str:
        loop = asyncio.get_running_loop()
        deadline = min(deadline, loop.time() + self._device_timeout)
        while (device := devices.find(volume, self._root)) is None:
            if loop.time() + _LOOK > deadline:
                sought = f"serial or name {volume.serial!r}" if volume.serial else f"LUN {volume.lun}"
                raise StatusError(
                    Code.DEADLINE_EXCEEDED,
                    f"no block device with {sought} came up in the VM: the cloud may not have attached it",
                )
            await asyncio.sleep(_LOOK)
        return device

    async def _mount_plain(self, volume: Volume, device: str, content: Content, target: str, deadline: float) -> None:
        if content is Content.BLANK and not volume.read_only:
            log.info("a blank disk gets a file system", disk=volume.disk, device=device, fs_type=volume.fs_type)
            await self._programs.run((*_MAKE[volume.fs_type], device), _left(deadline))
        elif content is not _HOLDS[volume.fs_type]:
            raise StatusError(
                Code.FAILED_PRECONDITION,
                f"it holds {content}, and {volume.fs_type} was asked for. Only a disk that is provably blank is "
                "formatted; to have this one formatted, overwrite it with zeros, or take a new one",
            )
        options = "ro,nodev" if volume.read_only else "nodev"
        await self._programs.run(("mount", "-t", volume.fs_type, "-o", options, device, target), _left(deadline))
        self._mounted.append(_Mounted(target, ""))

    async def _mount_encrypted(
        self, volume: Volume, device: str, content: Content, target: str, deadline: float
    ) -> None:
        from podvm_images.guest import cdh  # few pods need it, and every pod's start waits for this program's

        if content not in (Content.LUKS, Content.BLANK) or (content is Content.BLANK and volume.read_only):
            raise StatusError(
                Code.FAILED_PRECONDITION,
                f"it is to be encrypted and holds {content}: only LUKS is opened, and only a disk that is provably "
                "blank is formatted",
            )
        mapper = f"{_MAPPER}{volume.name}"
        options = {
            "devicePath": device,
            "sourceType": "encrypted" if content is Content.LUKS else "empty",
            "targetType": "fileSystem",
            "encryptionType": "luks2",
            "filesystemType": volume.fs_type,
            "mapperName": mapper,
            "key": f"kbs:///{volume.key_id}",
        }
        await cdh.secure_mount(self._cdh_socket, options, target, _left(deadline))
        if not _mounted_by_another(target, device):
            raise StatusError(Code.INTERNAL, "the confidential data hub says that it is mounted, and it is not")
        self._mounted.append(_Mounted(target, mapper))
        if volume.read_only:
            await self._programs.run(("mount", "-o", "remount,ro", target), _left(deadline))

    async def _hand_over(self, volume: Volume, target: str) -> None:
        files = await asyncio.to_thread(
            ownership.hand_over, target, volume.fs_group, on_mismatch=volume.fs_group_on_mismatch
        )
        if files:
            log.info("a volume was given to the pod's group", target=target, group=volume.fs_group, files=files)


@dataclass(frozen=True, slots=True)
class Demands:
    """What the pod's owner demands of every volume, in initdata."""

    encrypted: bool = False
    keys: tuple[str, ...] | None = None  # None: any


def demands(text: str) -> Demands:
    """Out of initdata's `volumes.toml`; raises InvalidRequest: what is not understood must not be passed over."""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidRequest(f"initdata's {DEMANDS} is not TOML: {error}") from None
    encrypted, keys = table.pop("encrypted", False), table.pop("keys", None)
    if table or not isinstance(encrypted, bool) or not (keys is None or _texts(keys)):
        raise InvalidRequest(
            f"initdata's {DEMANDS} may hold encrypted = true or false, keys = a list of texts, no more"
        )
    return Demands(encrypted or keys is not None, None if keys is None else tuple(keys))


def check(volumes: Iterable[Volume], wanted: Demands) -> None:
    """Raises InvalidRequest for what no worker of ours would ask, or the pod's owner does not allow."""
    seen: set[str] = set()
    for volume in volumes:
        if not _NAME.fullmatch(volume.name) or volume.name in seen:
            raise InvalidRequest(f"volume {volume.name[:40]!r} is not called vol-<number>, or is there twice")
        seen.add(volume.name)
        if volume.fs_type not in _MAKE:
            raise InvalidRequest(f"{volume.name} asks for {volume.fs_type[:40]!r}; {', '.join(_MAKE)} are mounted")
        if volume.key_id and (not _KEY.fullmatch(volume.key_id) or ".." in volume.key_id.split("/")):
            raise InvalidRequest(f"{volume.name} has the key {volume.key_id[:80]!r}, not one as repository/type/tag")
        if not volume.serial and not volume.HasField("lun"):
            raise InvalidRequest(f"{volume.name} comes with neither serial nor LUN: it could be any disk of this VM")
        if "/" in volume.serial or volume.serial.startswith("."):
            raise InvalidRequest(f"{volume.name} has the serial {volume.serial[:80]!r}, which is none")
        if wanted.encrypted and not volume.key_id:
            raise InvalidRequest(
                f"{volume.name} ({volume.disk}) is not encrypted, and the pod's initdata demands that it is"
            )
        if wanted.keys is not None and volume.key_id not in wanted.keys:
            raise InvalidRequest(f"{volume.name} has the key {volume.key_id}, which the pod's initdata does not allow")


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _mounted_by_another(target: str, device: str) -> bool:
    """Whether something that is not `device` itself is mounted there."""
    return os.path.ismount(target) and os.stat(target).st_dev != os.stat(device).st_rdev


def _left(deadline: float) -> float:
    return max(0.1, deadline - asyncio.get_running_loop().time())
