"""Pods' VMs as the cluster knows them, and the errors for who asks after one that is not there."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from adaptor.errors import InvalidRequest, Unavailable
from adaptor.kube.errors import KubernetesError
from adaptor.kube.peerpod import PeerPod
from adaptor.kube.reading import Reader
from adaptor.kube.seen import Happening, Pod
from adaptor.report import links, model
from adaptor.report.model import Subject

_SIZE: Final = "io.katacontainers.config.hypervisor."  # annotations of a pod that are wishes for its VM
_WISH: Final = "peerpods.io/"


async def listed(reader: Reader, namespace: str | None) -> list[Subject]:
    """All of a namespace, None: of all of them."""
    return [_subject(each) for each in await reader.peerpods(namespace)]


async def of_pod(
    reader: Reader, namespace: str, name: str, sandbox: str, runtime_classes: Sequence[str]
) -> list[Subject]:
    """A pod's sandboxes, whoever is meant first; never empty.

    Raises: InvalidRequest, saying why there is none; KubernetesError.
    """
    peerpods = await reader.peerpods(namespace)
    try:
        pod = await reader.pod(namespace, name)
    except KubernetesError as error:
        pod, note = None, str(error)
    else:
        note = ""
    if pod is not None:  # upstream's objects name their pod by its uid only
        peerpods = [replace(each, pod_name=name) if pod.uid in each.owners else each for each in peerpods]
    found = model.of_pod([_subject(each) for each in peerpods], namespace, name, sandbox)
    if not found and not sandbox and pod is not None and pod.node and pod.runtime_class in runtime_classes:
        found = [_between(pod)]
    if not found:
        raise InvalidRequest(await _nothing(reader, pod, namespace, name, sandbox, peerpods, runtime_classes))
    return [_with_pod(each, pod, note) for each in found]


async def completed(reader: Reader, subject: Subject, settings: Any) -> Subject:
    """With its events, and the link to its VM. What cannot be read is noted."""
    known, notes = subject.peerpod, list(subject.notes)
    events: tuple[Happening, ...] = ()
    try:
        events = await reader.events(known.namespace, known.pod_name)
    except KubernetesError as error:
        notes.append(str(error))
    link = links.vm(known.cloud, known.instance_id, known.zone, settings)
    return replace(subject, events=events, link=link, notes=tuple(notes))


async def adaptor_of(reader: Reader, subject: Subject) -> str:
    """The adaptor's Pod on the sandbox's node. Raises: Unavailable where there is none."""
    node = subject.peerpod.node
    if not node:
        raise Unavailable(f"the PeerPod {subject.peerpod.name} does not say which node it belongs to")
    found = await reader.adaptors(node)
    if not found:
        raise Unavailable(
            f"no adaptor's Pod runs on the node {node} now, in the namespace that was looked at: --system-namespace says "
            "which; where the adaptor is no Pod, run this on the node"
        )
    return found[-1]


def _subject(peerpod: PeerPod) -> Subject:
    return Subject(peerpod, model.moments_of(peerpod))


def _between(pod: Pod) -> Subject:
    """A peer pod on a node that has no PeerPod now; its events and its node's log say more."""
    why = (
        f"there is no PeerPod of it now: kubelet on the node {pod.node} has not asked for a VM yet, or its last attempt has "
        "failed and nothing is left of it, or the adaptor there does not run"
    )
    return Subject(PeerPod(name="", namespace=pod.namespace, pod_name=pod.name, node=pod.node, reason=why))


def _with_pod(subject: Subject, pod: Pod | None, note: str) -> Subject:
    if pod is None:
        gone = () if note else (("State", "the Pod is gone; its VM is being taken down"),)
        return replace(subject, pod=gone, notes=(note,) if note else ())
    facts = [("State", pod.state), ("Runtime class", pod.runtime_class)]
    wishes = [
        (key.removeprefix(_SIZE).removeprefix(_WISH), value)
        for key, value in pod.annotations
        if key.startswith((_SIZE, _WISH)) and "init_data" not in key and len(value) <= 200
    ]
    return replace(subject, pod=tuple(facts), wishes=tuple(wishes))


async def _nothing(
    reader: Reader,
    pod: Pod | None,
    namespace: str,
    name: str,
    sandbox: str,
    peerpods: Sequence[PeerPod],
    runtime_classes: Sequence[str],
) -> str:
    """Why there is no PeerPod for this."""
    title = f"{namespace}/{name}"
    if sandbox:
        return f"the pod {title} has no PeerPod of a sandbox that begins with {sandbox}; `peerpods ps -n {namespace}` lists them"
    if pod is None:
        try:
            names = await reader.pods(namespace)
        except KubernetesError:
            names = [each.pod_name for each in peerpods]
        near = model.near(name, names)
        return f"there is no pod {title}{near or '; -n says the namespace, `peerpods ps -A` lists all peer pods'}"
    if pod.runtime_class not in runtime_classes:
        kind = f"its runtimeClassName is {pod.runtime_class}" if pod.runtime_class else "it has no runtimeClassName"
        return f"the pod {title} is no peer pod: {kind}, and peer pods have {' or '.join(runtime_classes)}"
    if pod.gates:
        gates = ", ".join(pod.gates)
        return f"the pod {title} has no PeerPod yet: it is held by the scheduling gate {gates}; `kubectl describe pod` has its events"
    why = pod.unscheduled or "the scheduler has not looked at it yet"
    return f"the pod {title} has no PeerPod yet: no node has been found for it: {why}"
