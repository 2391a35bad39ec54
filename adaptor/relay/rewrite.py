"""What the worker changes in agent calls, and for which sandboxes."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from adaptor import names
from adaptor.errors import Code, StatusError
from adaptor.protos.agent_pb2 import CreateContainerRequest, HealthCheckResponse, Mount
from adaptor.protos.relay_pb2 import DirectVolume, Rewrites
from adaptor.relay.splice import Answer, Rule, Rules, Verdict, Watch

_SERVING: Final = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()
_CSI: Final = "/volumes/kubernetes.io~csi/"
# A part of a volume (subPath), as kubelet mounts it on the worker: .../pods/<uid>/volume-subpaths/<volume>/...
_SUBPATH: Final = re.compile(r"/volume-subpaths/([^/]+)/")

# Changes the request in place, or says why it must be refused.
Change = Callable[[CreateContainerRequest, Rewrites], StatusError | None]


def rules(rewrites: Rewrites) -> Rules:
    """The splice's rules for one sandbox. A call that it does not change has none, so it is never held or decoded."""
    wanted = {call: [change for change, needed in changes if needed(rewrites)] for call, changes in TABLE.items()}
    return {call: _rule(changes, rewrites) for call, changes in wanted.items() if changes}


def check_answers(away: Callable[[], bool]) -> Rules:
    """The rule that keeps a shim from giving its pod up while its VM is `away`, that is, while its link is resumed.

    The shim asks every 5 s whether the agent serves, and ends the pod when no answer comes in 30 s.
    """
    return {(names.HEALTH_SERVICE, "Check"): lambda _: Answer(_SERVING) if away() else Watch(_SERVING)}


def name_every_gpu(request: CreateContainerRequest, rewrites: Rewrites) -> StatusError | None:
    """Put every GPU of the VM into the annotation that the guest takes CDI devices from."""
    request.oci.annotations[names.CDI_PEER_PODS] = names.CDI_ALL_GPUS
    return None


def give_volumes(request: CreateContainerRequest, rewrites: Rewrites) -> StatusError | None:
    """Put the container's disks into the annotations that stock guests mount by; our own guest has mounted them by
    then, so its mounts' sources become those places. A part of a disk (subPath) is refused."""
    entries: dict[str, dict[str, str]] = {}
    targets: list[str] = []
    for volume in rewrites.volumes:
        mounts = [
            mount for mount in request.oci.mounts if mount.source and mount.source in (volume.path, volume.device)
        ]
        if not mounts:
            continue
        if len(mounts) > 1 and not volume.guest_path:
            return _refusal(f"mounts the volume at {volume.path} twice, which stock pod VM images cannot do")
        entries[volume.name] = _entry(volume, mounts[0])
        targets.append(mounts[0].source)
        if volume.guest_path:
            for mount in mounts:
                _mount_from_guest(mount, volume)
    if part := _part(request.oci.mounts, rewrites.volumes):
        return _refusal(f"mounts a part of a disk (subPath, {part}), which a pod VM cannot do: mount the whole volume")
    if entries:
        request.oci.annotations[names.CLOUD_VOLUMES] = json.dumps(entries, separators=(",", ":"))
        request.oci.annotations[names.VOLUME_TARGET_PATH] = ",".join(targets)
    return None


def refuse_unknown_volumes(request: CreateContainerRequest, rewrites: Rewrites) -> StatusError | None:
    """Refuse a container that mounts a CSI volume where the worker could not tell whose direct volumes it has: it
    would write its data into the VM's memory."""
    for mount in request.oci.mounts:
        if _CSI in mount.source:
            return _refusal(
                f"mounts the CSI volume {mount.source}, and no disk was attached for it: the worker has direct volumes, "
                "but could not find out which pod this is. Set [volumes] bundles to the container runtime's bundles, and "
                "let the adaptor read them"
            )
    return None


TABLE: Final[dict[tuple[str, str], tuple[tuple[Change, Callable[[Rewrites], bool]], ...]]] = {
    (names.AGENT_SERVICE, "CreateContainer"): (
        (name_every_gpu, lambda rewrites: rewrites.all_gpus),
        (give_volumes, lambda rewrites: bool(rewrites.volumes)),
        (refuse_unknown_volumes, lambda rewrites: rewrites.volumes_unknown),
    ),
}


def _rule(changes: Sequence[Change], rewrites: Rewrites) -> Rule:
    def rule(message: bytes) -> Verdict:
        try:
            request = CreateContainerRequest.FromString(message)
        except DecodeError:
            return None  # the agent's own error says more than ours could
        for change in changes:
            if error := change(request, rewrites):
                return Answer(error=error)
        return request.SerializeToString()

    return rule


def _entry(volume: DirectVolume, mount: Mount) -> dict[str, str]:
    entry = {
        "mount_point": mount.destination,
        "fs_type": volume.fs_type,
        "lun": volume.lun,
        "disk_id": volume.disk_id,
        "fs_group": volume.fs_group,
        "encrypt_type": volume.encrypt_type,
        "key_id": volume.key_id,
    }
    return {key: value for key, value in entry.items() if value}


def _mount_from_guest(mount: Mount, volume: DirectVolume) -> None:
    mount.source, mount.type = volume.guest_path, "bind"
    if not {"bind", "rbind"} & set(mount.options):
        mount.options.insert(0, "rbind")
    if volume.read_only and "ro" not in mount.options:
        mount.options.append("ro")


def _part(mounts: Sequence[Mount], volumes: Sequence[DirectVolume]) -> str:
    """The source of a mount that is a part of one of the volumes."""
    ours = {part for volume in volumes for part in volume.path.split(_CSI)[-1].split("/")[:1]}
    return next((m.source for m in mounts if (found := _SUBPATH.search(m.source)) and found[1] in ours), "")


def _refusal(why: str) -> StatusError:
    return StatusError(Code.FAILED_PRECONDITION, f"peerpods refuses this container: it {why}")
