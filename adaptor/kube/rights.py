"""What the node's service account must be allowed, and whether it is: `peerpods check --cloud` asks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lightkube import AsyncClient
from lightkube.resources.authorization_v1 import SelfSubjectAccessReview

from adaptor import names
from adaptor.config import Kubernetes
from adaptor.kube.client import told
from adaptor.kube.errors import KubernetesError
from providers.base import Finding, Grade


@dataclass(frozen=True, slots=True)
class Right:
    """In all namespaces. Without it pods start all the same; `why` says what is not so then."""

    verb: str
    resource: str
    group: str = ""
    why: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"


_PEERPODS: Final = "PeerPods tell the cluster which VMs there are"


def needed(settings: Kubernetes) -> Iterator[Right]:
    """With these settings."""
    for verb in ("create", "get", "list", "watch", "patch", "delete"):
        yield Right(verb, names.PEERPOD_PLURAL, names.PEERPOD_GROUP, _PEERPODS)
    yield Right("patch", f"{names.PEERPOD_PLURAL}/status", names.PEERPOD_GROUP, _PEERPODS)
    yield Right("get", "pods", why="PeerPods have their pods for owners, and labels become tags")
    if settings.events:
        for verb in ("create", "patch"):
            yield Right(verb, "events", why="pods' owners are told in events what becomes of the VM")
    if settings.capacity != "off":
        yield Right("get", "nodes", why="the scheduler is told how many pod VMs there may be")
        yield Right("list", "pods", why="the number of pod VMs is never lowered below those in use")
    if settings.capacity == "status":
        yield Right("watch", "nodes", why="the number of pod VMs is put right when kubelet resets it")
        yield Right("patch", "nodes/status", why="the scheduler is told how many pod VMs there may be")
    if settings.pull_secrets == "own":
        for resource in ("secrets", "serviceaccounts"):
            yield Right("get", resource, why="images are pulled with the pods' own secrets")


async def findings(client: AsyncClient, settings: Kubernetes) -> Sequence[Finding]:
    """Whether the API server answers, and each right that is missing. Raises nothing."""
    rights = list(needed(settings))
    try:
        missing = [right for right in rights if not await _granted(client, right)]
    except KubernetesError as error:
        fix = "pods start all the same, without PeerPods, events and pull secrets: see [kubernetes]"
        return [Finding("Kubernetes", Grade.WARNING, str(error), fix)]
    found = [
        Finding(f"right to {right}", Grade.WARNING, f"is missing: {right.why}", "a ClusterRole must grant it")
        for right in missing
    ]
    if not found:
        return [Finding("Kubernetes", Grade.OK, f"the API server answers, and all {len(rights)} rights are there")]
    return found


async def _granted(client: AsyncClient, right: Right) -> bool:
    resource, _, subresource = right.resource.partition("/")
    asked = {"verb": right.verb, "group": right.group, "resource": resource, "subresource": subresource}
    review: Any = SelfSubjectAccessReview.from_dict({"spec": {"resourceAttributes": asked}})
    with told(f"ask whether this account may {right}"):
        answer = await client.create(review)
    return bool(answer.status and answer.status.allowed)
