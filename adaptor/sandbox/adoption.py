"""Who may keep its VM for the pod's next sandbox, and which sandbox may have it (D8). Pure.

An upstream guest is never kept: its user-data holds the pod's network. A VM that was reached is not kept either: the
Bind that follows at once is for one sandbox, and may have been carried out.
"""

import base64
from dataclasses import replace

from adaptor.sandbox import launch
from adaptor.sandbox.model import SandboxSpec, SandboxState


def keepable(state: SandboxState) -> bool:
    """Whether the launch of a start that was given up could serve another sandbox of the same pod."""
    return (
        state.adopt_grace > 0
        and bool(state.spec.pod_name and state.spec.pod_namespace)
        and state.launch is not None
        and bool(state.launch.launch_token)  # our own guest's
        and not state.address
    )


def fits(newcomer: SandboxSpec, state: SandboxState, worker_ca: bytes, port: int) -> bool:
    """Whether `newcomer` may have what `state` launched: the same pod wants the same machine, and this adaptor would
    launch it the same way. Only the sandbox's id and its network namespace may differ."""
    if not keepable(state) or newcomer.id == state.spec.id:
        return False
    uids = {newcomer.pod_uid, state.spec.pod_uid} - {""}
    return len(uids) < 2 and _wish(newcomer) == _wish(state.spec) and _launched_alike(state, worker_ca, port)


def _wish(spec: SandboxSpec) -> SandboxSpec:
    return replace(spec, id="", netns="", pod_uid="", volumes_unknown=False)


def _launched_alike(state: SandboxState, worker_ca: bytes, port: int) -> bool:
    """False after a change of guest.port or of the node's keys: this adaptor could not reach such a guest."""
    assert state.launch is not None, "it is keepable"
    token = base64.b64decode(state.launch.launch_token)
    return base64.b64decode(state.launch.user_data) == launch.own_user_data(token, worker_ca, port)
