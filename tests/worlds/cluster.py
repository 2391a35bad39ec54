"""A node of a cluster for tests: its NodeCluster, a pod or two, and sandboxes whose events the test makes happen."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from lightkube import AsyncClient
from lightkube.resources.core_v1 import Event as CoreEvent
from lightkube.resources.core_v1 import Pod

from adaptor import names
from adaptor.clock import RealClock
from adaptor.kube import peerpod
from adaptor.kube.client import PeerPod as Resource
from adaptor.kube.client import told
from adaptor.kube.errors import Absent
from adaptor.kube.node import NodeCluster
from adaptor.kube.peerpod import PeerPod
from adaptor.sandbox.model import (
    Adopted,
    Bound,
    Created,
    Event,
    GivenAway,
    InstanceDeleted,
    Kept,
    LaunchAccepted,
    LaunchIntended,
    Phase,
    Reached,
    SandboxSpec,
    SandboxState,
    StartRequested,
    StopDecided,
    apply,
)
from providers.base import Instance, InstanceState
from providers.errors import ProviderError

CRD: Final = Path(__file__).parents[2] / "manifests/peerpods/crds/peerpods.yaml"
NODE: Final = "worker-1"
INTENT: Final = LaunchIntended(
    "token-1", "podvm-web", "m6a.large", "us-east-1a", "", "bGF1bmNo", tee="snp", purchase="spot", price=0.0312
)
START: Final[tuple[Event, ...]] = (
    StartRequested(180.0),
    INTENT,
    LaunchAccepted("i-1", ("10.0.0.1",)),
    Reached("10.0.0.1:15150", "00"),
    Bound(),
)
END: Final[tuple[Event, ...]] = (StopDecided("StopVM"), InstanceDeleted())


class Sky:
    """A cloud that is only asked."""

    name = "memory"
    user_data_limit = 16 * 1024

    def __init__(self) -> None:
        self.instances: dict[str, Instance] = {}
        self.away = False

    async def get(self, ids: Any) -> Mapping[str, Instance]:
        self._asked()
        return {id: self.instances[id] for id in ids if id in self.instances}

    async def list(self) -> list[Instance]:
        self._asked()
        return [each for each in self.instances.values() if each.state is not InstanceState.GONE]

    def _asked(self) -> None:
        if self.away:
            raise ProviderError("away")


class Sandbox:
    """A pod's sandbox, told of to a NodeCluster as its driver would."""

    def __init__(self, node: NodeCluster, spec: SandboxSpec) -> None:
        self.node = node
        self.spec = spec
        self.state: SandboxState | None = None

    @property
    def now(self) -> SandboxState:
        assert self.state is not None
        return self.state

    @property
    def name(self) -> str:
        return peerpod.name_of(self.spec.pod_name, self.spec.id)

    def happens(self, *events: Event) -> "Sandbox":
        for event in events:
            self.state = apply(self.state, event)
            self.node.changed(self.state, event)
        return self

    async def starts(self) -> "Sandbox":
        """From CreateVM to Bind, as the driver does it."""
        self.happens(Created(self.spec), START[0])
        await self.node.announce(self.now)
        return self.happens(*START[1:])

    def ends(self) -> None:
        """StopVM, until the cloud calls the VM gone."""
        self.happens(*END)
        self.forgotten()

    def forgotten(self) -> None:
        self.node.changed(SandboxState(self.spec, Phase.GONE), None)

    def given_to(self, taker: "Sandbox") -> None:
        """Kept, and adopted by the pod's next sandbox."""
        launch = self.now.launch
        assert launch is not None
        adopted = Adopted(self.spec.id, launch, self.now.instance_id, self.now.addresses)
        taker.happens(adopted)
        self.happens(GivenAway(taker.spec.id))


class Hands:
    """What a test sees of the cluster, and does in it."""

    def __init__(self, client: AsyncClient, namespace: str) -> None:
        self.client = client
        self.namespace = namespace

    def spec(self, pod: str = "web", id: str = "", **more: Any) -> SandboxSpec:
        return SandboxSpec((id or pod).replace("-", "").ljust(64, "0"), pod, self.namespace, "/run/netns/x", **more)

    async def pod(self, name: str = "web", node: str = NODE, **metadata: Any) -> Pod:
        """A pod bound to the node."""
        body = {
            "metadata": {"name": name, "namespace": self.namespace, **metadata},
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": "docker.io/lab/busybox:1", "imagePullPolicy": "Never"}],
            },
        }
        made: Any = Pod.from_dict(body)
        found: Pod = await self.client.create(made)
        return found

    async def peerpods(self) -> dict[str, PeerPod]:
        """By name."""
        found = [peerpod.from_object(each) async for each in self.client.list(Resource, namespace=self.namespace)]
        return {each.name: each for each in found}

    async def peerpod(self, name: str) -> PeerPod | None:
        try:
            with told("look"):
                return peerpod.from_object(await self.client.get(Resource, name, namespace=self.namespace))
        except Absent:
            return None

    async def events(self) -> list[CoreEvent]:
        """Ours, the earliest first."""
        found = [each async for each in self.client.list(CoreEvent, namespace=self.namespace)]
        ours = [each for each in found if each.source and each.source.component == names.EVENT_SOURCE]
        return sorted(ours, key=lambda each: int(each.metadata.resourceVersion or 0))


async def until(true: Callable[[], Any], seconds: float = 5.0) -> Any:
    """What `true` (a function or coroutine function) returns once that is anything; fails after `seconds`."""
    found: Any = None
    async with asyncio.timeout(seconds):
        while True:
            found = true()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)


def again(spec: SandboxSpec, number: int = 2) -> SandboxSpec:
    """The pod's next sandbox."""
    return dataclasses.replace(spec, id=f"{number}try".ljust(64, "f"))


@asynccontextmanager
async def node_of(client: AsyncClient, sky: Any = None, node: str = NODE, **more: Any) -> AsyncIterator[NodeCluster]:
    """A NodeCluster at work; `client` is closed with it."""
    cloud: Any = sky or Sky()
    made = NodeCluster(client, cloud, RealClock(), node, **more)
    made.begin()
    try:
        yield made
    finally:
        await made.aclose()


KEPT: Final = Kept("kubelet gave up", 2_000_000_000.0)
