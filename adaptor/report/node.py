"""Pods' VMs as this node knows them: its journal, read-only, and its relay."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from adaptor import names
from adaptor.errors import InvalidRequest, Unavailable
from adaptor.kube import record
from adaptor.kube.peerpod import PeerPod
from adaptor.relay.client import RelayClient, Session
from adaptor.report import links, model
from adaptor.report.model import Moment, Subject
from adaptor.sandbox import journal_file
from adaptor.sandbox.consoles import DIRECTORY
from adaptor.sandbox.journal_file import Row
from adaptor.sandbox.model import JournalFault, SandboxState, apply

_WISHES: Final = ("instance_type", "image", "vcpus", "memory_mib", "gpus", "gpu_model", "wishes")
_DETAILS: Final[Mapping[str, str]] = {
    "launch-intended": "instance_type",
    "launch-accepted": "instance_id",
    "launch-refused": "reason",
    "reached": "address",
    "stop-decided": "reason",
    "adopted": "instance_id",
}


async def listed(state_dir: Path, relay_socket: str, *, node: str, cloud: str, settings: Any) -> list[Subject]:
    """Every sandbox of the journal. Raises: Unavailable, JournalFault."""
    rows: dict[str, list[Row]] = {}
    for row in journal_file.read(state_dir / names.JOURNAL):
        rows.setdefault(row.sandbox, []).append(row)
    sessions, note = await _sessions(relay_socket)
    found = []
    for sandbox, own in rows.items():
        subject = told(own, node=node, cloud=cloud)
        link = links.vm(cloud, subject.peerpod.instance_id, subject.peerpod.zone, settings)
        word = "?" if note else _word(sessions.get(sandbox))
        found.append(replace(subject, session=word, link=link, notes=(note,) if note else ()))
    return found


def of_pod(subjects: Sequence[Subject], namespace: str, name: str, sandbox: str) -> list[Subject]:
    """A pod's sandboxes, whoever is meant first; never empty. Raises: InvalidRequest."""
    found = model.of_pod(subjects, namespace, name, sandbox)
    if not found:
        near = model.near(name, [each.title for each in subjects])
        title = f"{namespace}/{name}" if namespace else name
        raise InvalidRequest(
            f"this node's journal knows no pod or sandbox {title}{near or '; `peerpods ps` lists all'}"
        )
    return found


def told(rows: Sequence[Row], *, node: str, cloud: str) -> Subject:
    """What the journal has of one sandbox."""
    state: SandboxState | None = None
    peerpod = PeerPod(name="", namespace="", sandbox=rows[0].sandbox, node=node, cloud=cloud)
    moments = []
    for row in rows:
        detail = str(row.body.get(_DETAILS.get(row.kind, ""), "") or "")
        try:
            event = row.event()
            state = apply(state, event)
        except JournalFault as error:
            moments.append(Moment(row.kind, row.at, detail))
            return Subject(replace(peerpod, phase="?", reason=str(error)), tuple(moments))
        if not moments:
            peerpod = record.begun(state.spec, cloud, node)
        peerpod = record.after(peerpod, state, event, row.at)
        if event.kind in peerpod.times:
            moments.append(Moment(row.kind, row.at, detail))
    assert state is not None, "a sandbox has rows"
    wishes = [(key, str(value)) for key in _WISHES if (value := getattr(state.spec, key))]
    return Subject(
        replace(peerpod, pod_uid=state.spec.pod_uid), tuple(moments), tunnel=state.network, wishes=tuple(wishes)
    )


def kept_console(state_dir: Path, namespace: str, name: str) -> str | None:
    """The newest console that was kept of this pod's VMs, or of this sandbox's; None: there is none."""
    try:
        files = sorted((state_dir / DIRECTORY).glob("*.txt"), key=lambda each: each.stat().st_mtime, reverse=True)
        for path in files:
            text = path.read_text(encoding="utf-8", errors="replace")
            pod = text.partition("\n")[0].removeprefix("# pod ").partition(", VM ")[0]
            if pod == f"{namespace}/{name}" or (not namespace and pod.endswith(f"/{name}")):
                return text
            if len(name) >= 4 and path.name.startswith(name):
                return text
    except OSError as error:
        raise Unavailable(f"the kept consoles cannot be read: {error.filename}: {error.strerror}") from error
    return None


async def _sessions(path: str) -> tuple[dict[str, Session], str]:
    """By sandbox, and why they are not known. No relay: none."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return {}, f"no relay serves at {path}"
        except OSError as error:
            return {}, f"the relay cannot be asked for its sessions: {path}: {error.strerror}"
    try:
        return {each.sandbox_id: each for each in await RelayClient(path).sessions()}, ""
    except Unavailable as error:
        return {}, str(error)


def _word(session: Session | None) -> str:
    if session is None:
        return "none"
    word = session.state.name.lower().replace("_", " ")
    return f"{word}: {session.reason}" if session.reason else word
