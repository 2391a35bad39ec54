"""The admission webhook behind an API server: the cases that a real cluster has taught, in both modes."""

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from adaptor import names
from adaptor.catalog import published
from adaptor.config import load
from adaptor.hypervisor import parse as createvm
from adaptor.pki import Identity
from adaptor.sandbox.placing import requirements
from providers.base import Offering
from tests.contract.kubernetes.cluster import Cluster
from tests.contract.kubernetes.hooks import HOST
from tests.unit.webhook import oracle
from tests.worlds.admission import place
from tests.worlds.kubernetes import world
from webhook.server import Webhook

Json = dict[str, Any]
BOTH = pytest.mark.parametrize("mode", ["zero", "strip"])
VM = names.VM_RESOURCE
HOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
TWO = {"cpu": "2", "memory": "2Gi"}
ZERO = {"cpu": "0", "memory": "0", "ephemeral-storage": "0"}
JSON_PATCH = "application/json-patch+json"


class Recorded(Webhook):
    """The real one; `reviews` is every question that came."""

    reviews: list[Json]

    def _review(self, path: str, body: bytes) -> web.Response:
        self.reviews.append(json.loads(body)["request"])
        return super()._review(path, body)


class Installed:
    """The webhook, registered for pods of `runtime_class` in the test's namespace."""

    def __init__(self, cluster: Cluster, webhook: Recorded, authority: Any, folder: Path, runtime_class: str) -> None:
        self.cluster, self.webhook, self.runtime_class = cluster, webhook, runtime_class
        self.reviews = webhook.reviews
        self._folder, self._authority = folder, authority
        self.ca_bundle = world.pem(authority[0])

    @property
    def url(self) -> str:
        assert self.webhook.address
        return f"https://{HOST}:{self.webhook.address[1]}"

    def issue(self, authority: Any = None) -> None:
        """A new certificate in its files, taken up at once."""
        certificate, key = world.issue([HOST, "localhost"], authority or self._authority)
        place(self._folder / "tls", Identity(world.pem(certificate), world.key_pem(key)))
        self.webhook.look()

    def object(self, *resources: Json, **more: Any) -> Json:
        """A pod of ours with a container for each of `resources`."""
        made = self.cluster.pod_object("p", **{"runtimeClassName": self.runtime_class, **more})
        (first,) = made["spec"]["containers"]
        made["spec"]["containers"] = [
            {**first, "name": f"c{n}", "resources": r} for n, r in enumerate(resources or ({},))
        ]
        return made

    async def create(self, made: Json, *, dry: bool = True) -> Any:
        """What the API server answers."""
        query: Any = {"dryRun": "All"} if dry else {}
        return await self.cluster.ask("POST", self.cluster.here("pods"), made, **query)

    async def made(self, made: Json, *, dry: bool = True) -> Json:
        """The pod as it comes out."""
        answer = await self.create(made, dry=dry)
        assert answer.status_code == 201, answer.text
        found: Json = answer.json()
        return found


Install = Callable[..., Any]


@pytest.fixture
async def install(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Install]:
    async with AsyncExitStack() as stack:

        async def install(
            mode: str = "zero", *, validating: bool = False, settings: str = "", **hook: Any
        ) -> Installed:
            return await stack.enter_async_context(_installed(cluster, tmp_path, mode, settings, validating, hook))

        yield install


@asynccontextmanager
async def _installed(
    cluster: Cluster, folder: Path, mode: str, settings: str, validating: bool, hook: Json
) -> AsyncIterator[Installed]:
    runtime_class = await cluster.runtime_class(**hook.pop("runtime_class", {}))
    file = folder / "peerpods.toml"
    file.write_text(
        f'[kubernetes]\nruntime_classes = ["{runtime_class}"]\n[http]\nlisten = ""\n'
        f'[webhook]\nlisten = "{HOST}:1"\nmode = "{mode}"\ncertificates = "{folder}/tls"\n{settings}\n'
    )
    webhook = Recorded(load(str(file), {}, needs_cloud=False))
    webhook.reviews, webhook._listen = [], (HOST, 0)
    installed = Installed(cluster, webhook, world.issue(["peerpods test webhook CA"]), folder, runtime_class)
    installed.issue()
    await webhook.serve()
    try:
        trial = installed.object(TWO and {"limits": TWO})
        fields = {"reinvocationPolicy": "IfNeeded", **hook} if not validating else hook
        path = "/validate" if validating else "/mutate"
        await cluster.until(lambda: _known(installed, trial))
        served: Any = installed
        installed.name = await cluster.hook(served, trial=trial, validating=validating, path=path, **fields)  # type: ignore[attr-defined]
        yield installed
    finally:
        await webhook.aclose()


async def _known(installed: Installed, trial: Json) -> bool:
    """Whether the API server has heard of the runtime class."""
    return bool((await installed.create(trial)).status_code == 201)


def annotations(made: Json) -> Json:
    found: Json = made["metadata"].get("annotations", {})
    return found


def vm(made: Json) -> set[tuple[int | None, int | None]]:
    """(vCPUs, MiB) that the adaptor looks for, whichever way kata rounds."""
    specs = (createvm("id", oracle.createvm(made, rounds_memory_up=up), "/netns") for up in (True, False))
    return {(found.vcpus, found.memory_mib) for found in map(requirements, specs)}


async def limited(install: Installed, **limits: Any) -> None:
    """A LimitRange for containers that the API server knows of."""
    cluster = install.cluster
    spec = {"limits": [{"type": "Container", **limits}]}
    body = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "limits"}, "spec": spec}
    await cluster.make(cluster.here("limitranges"), body)
    plain = cluster.pod_object("plain")

    async def known() -> bool:
        answer = await cluster.ask("POST", cluster.here("pods"), plain, dryRun="All")
        return answer.status_code != 201 or bool(answer.json()["spec"]["containers"][0]["resources"])

    await cluster.until(known)
    install.reviews.clear()


@BOTH
async def test_a_limit_range_that_speaks_again_cannot_shrink_the_vm(install: Install, mode: str) -> None:
    ours = await install(mode)
    await limited(ours, default={"cpu": "500m", "memory": "256Mi"}, defaultRequest={"cpu": "500m", "memory": "256Mi"})
    made = await ours.made(ours.object({"limits": TWO}, {"limits": {"cpu": "300m", "memory": "256Mi"}}, {}))
    assert annotations(made)[names.SIZED] == "vcpus=3,memory-mib=2560"
    assert vm(made) == {(3, 2560)}
    first, *others = (each["resources"] for each in made["spec"]["containers"])
    if mode == "zero":
        assert first == {"limits": {**TWO, VM: "1"}, "requests": {**ZERO, VM: "1"}}
        assert [each["requests"] for each in others] == [ZERO, ZERO]
    else:
        assert [first, *others] == [{"limits": {VM: "1"}, "requests": {VM: "1"}}, {}, {}]
        assert len(ours.reviews) == 2, "LimitRanger put its defaults back, and was called once more"


@BOTH
async def test_another_webhooks_sidecar_changes_no_vm_and_the_vm_is_asked_for_once(
    cluster: Cluster, install: Install, mode: str
) -> None:
    ours = await install(mode)

    async def inject(request: Json) -> Json:
        if len(request["object"]["spec"]["containers"]) > 1 or request["object"]["metadata"]["name"] == "trial":
            return {}
        sidecar = {**request["object"]["spec"]["containers"][0], "name": "injected", "resources": {"limits": TWO}}
        patch = [{"op": "add", "path": "/spec/containers/0", "value": sidecar}]
        return {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}

    other = await cluster.serve(inject)
    cluster.name = lambda stem: f"zz-{type(cluster).name(cluster, stem)}"  # type: ignore[method-assign]
    await cluster.hook(other)  # webhooks are called by the names of their configurations: this one behind ours
    made = await ours.made(ours.object({"limits": {"cpu": "1", "memory": "1Gi"}}))
    assert [each["name"] for each in made["spec"]["containers"]] == ["injected", "c0"]
    assert vm(made) == {(1, 1024)}
    assert [each["resources"].get("limits", {}).get(VM) for each in made["spec"]["containers"]] == ["1", None]


@pytest.mark.parametrize(("mode", "quality"), [("zero", "Burstable"), ("strip", "BestEffort")])
async def test_a_pods_quality_of_service(install: Install, mode: str, quality: str) -> None:
    ours = await install(mode)
    made = await ours.made(ours.object({"limits": TWO}))
    assert made["status"]["qosClass"] == quality


@BOTH
async def test_resources_of_the_pod_as_a_whole(install: Install, mode: str) -> None:
    ours = await install(mode)
    made = await ours.made(
        ours.object({}, {"limits": {"cpu": "1"}}, resources={"limits": {"cpu": "3", "memory": "1G"}})
    )
    assert annotations(made)[names.SIZED] == "vcpus=3,memory-mib=954"
    assert vm(made) == {(3, 954)}
    left = {"limits": {"cpu": "3", "memory": "1G"}, "requests": {"cpu": "0", "memory": "0"}}
    assert made["spec"].get("resources") == (left if mode == "zero" else None)
    assert made["spec"]["containers"][0]["resources"]["limits"] == {VM: "1"}


@BOTH
async def test_init_containers_sidecars_devices_and_huge_pages_are_taken(install: Install, mode: str) -> None:
    ours = await install(mode)
    wanted = {**TWO, "nvidia.com/gpu": "1", "hugepages-2Mi": "4Mi", "ephemeral-storage": "3Gi"}
    made = ours.object({"limits": wanted})
    init = {**made["spec"]["containers"][0], "name": "i", "resources": {"limits": {"cpu": "4"}}}
    sidecar = {**init, "name": "s", "restartPolicy": "Always", "resources": {"requests": {"memory": "1Gi"}}}
    made["spec"]["initContainers"] = [sidecar, init]
    answer = await ours.create(made)
    found = answer.json()
    assert annotations(found)[names.SIZED] == "vcpus=4,memory-mib=3072,gpus=1,scratch-gib=3"
    assert vm(found) == {(4, 3072)}
    assert annotations(found)[names.DEFAULT_GPUS] == "1"
    assert "hugepages-2Mi: taken off" in answer.headers["warning"]
    kept = {**TWO, "ephemeral-storage": "3Gi"} if mode == "zero" else {}
    assert found["spec"]["containers"][0]["resources"]["limits"] == {**kept, VM: "1"}


@BOTH
async def test_what_the_owner_wrote_counts_also_beside_limits(install: Install, mode: str) -> None:
    ours = await install(mode)
    own = {names.DEFAULT_VCPUS: "8", names.DEFAULT_MEMORY: "9000", "peerpods.io/zone": "a"}
    made = await ours.made(ours.object({"limits": TWO}, metadata={"annotations": own}))
    assert vm(made) == {(8, 9000)}
    assert own.items() <= annotations(made).items()
    assert annotations(made)[names.MACHINE_TYPE].startswith(";zone=a")


@BOTH
async def test_a_runtime_class_that_counts_vms_by_overhead(install: Install, mode: str) -> None:
    ours = await install(mode, runtime_class={"overhead": {"podFixed": {"cpu": "250m", VM: "1"}}})
    made = await ours.made(ours.object({"limits": TWO}))
    assert made["spec"]["overhead"][VM] == "1"
    assert VM not in made["spec"]["containers"][0]["resources"].get("limits", {})
    assert vm(made) == {(2, 2048)}, "overhead is the worker's"


async def test_a_quota_on_limits_and_requests_takes_zeroed_pods(cluster: Cluster, install: Install) -> None:
    ours = await install("zero")
    hard = {"limits.cpu": "3", "requests.cpu": "1", "limits.memory": "8Gi", "requests.memory": "1Gi"}
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}}
    await cluster.make(cluster.here("resourcequotas"), body)

    async def counted() -> bool:
        return "hard" in (await cluster.sure("GET", cluster.here("resourcequotas", "q"))).get("status", {})

    await cluster.until(counted)
    parked = {"nodeSelector": {"peerpods.io/no-such-node": "true"}}
    await ours.made(ours.object({"limits": TWO}, **parked), dry=False)
    second = ours.object({"limits": TWO}, **parked)
    second["metadata"]["name"] = "second"
    answer = await ours.create(second, dry=False)
    assert answer.status_code == 403
    assert (
        "exceeded quota: q, requested: limits.cpu=2, used: limits.cpu=2, limited: limits.cpu=3"
        in answer.json()["message"]
    )


@BOTH
async def test_a_limit_range_with_a_least_request_refuses_every_such_pod(install: Install, mode: str) -> None:
    ours = await install(mode)
    await limited(ours, min={"cpu": "100m"})
    answer = await ours.create(ours.object({"limits": TWO}))
    assert answer.status_code == 403
    assert "minimum cpu usage per Container is 100m" in answer.json()["message"]


async def test_pods_of_other_runtime_classes_are_left_alone(cluster: Cluster, install: Install) -> None:
    ours = await install("strip")
    other = cluster.pod_object("p", limits=TWO)
    made = await ours.made(other)
    assert made["spec"]["containers"][0]["resources"] == {"limits": TWO, "requests": TWO}
    assert names.SIZED not in annotations(made)
    assert ours.reviews, "it was asked: the server looks at the runtime class itself"


@BOTH
async def test_a_node_has_room_for_as_many_vms_as_it_says(cluster: Cluster, install: Install, mode: str) -> None:
    node = await cluster.node({VM: "1", "cpu": "1", "memory": "1Gi"})
    ours = await install(mode)

    async def placed(name: str) -> bool:
        made = ours.object({"limits": {"cpu": "64", "memory": "64Gi"}}, **cluster.on(node))
        made["metadata"]["name"] = name
        await ours.made(made, dry=False)

        async def settled() -> Json | None:
            pod = await cluster.sure("GET", cluster.here("pods", name))
            # A real scheduler may find the node still tainted as not ready, says so, and tries again.
            why = [
                one.get("message", "") for one in pod["status"].get("conditions", []) if one["type"] == "PodScheduled"
            ]
            return pod if "nodeName" in pod["spec"] or any(f"Insufficient {VM}" in each for each in why) else None

        pod: Json = await cluster.until(settled)
        where: str = pod["spec"].get("nodeName", "")
        return where == node

    assert await placed("first"), "what its VM has is not the worker's"
    assert not await placed("second"), f"one {VM} is all there is"


async def test_new_pods_are_held_where_there_is_a_quota_of_ours(cluster: Cluster, install: Install) -> None:
    ours = await install("zero", settings="quota = true")
    made = await ours.made(ours.object({"limits": TWO}), dry=False)
    assert made["spec"]["schedulingGates"] == [{"name": names.QUOTA}]
    patch = [{"op": "remove", "path": "/spec/schedulingGates"}]
    path = cluster.here("pods", "p")
    lifted = await cluster.sure("PATCH", path, patch, content_type=JSON_PATCH)
    assert "schedulingGates" not in lifted["spec"]


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "annotation", "complaint"),
    [
        ({"hostNetwork": True}, {}, "hostNetwork: true cannot work"),
        ({}, {names.INITDATA: base64.b64encode(gzip.compress(b'version = "9"')).decode()}, "has no algorithm among"),
        ({}, {names.INITDATA: "nonsense"}, "is not base64 of gzip"),
        ({}, {names.MACHINE_TYPE: "m6a.metal"}, 'requested instance type ("m6a.metal") is not part of'),
        ({}, {names.DEFAULT_VCPUS: "64"}, "no instance type found for the given vcpus (66)"),
        ({}, {"peerpods.io/tea": "snp"}, "annotation peerpods.io/tea: not a wish known here; did you mean tee?"),
    ],
)
async def test_a_pod_that_could_never_start_is_refused_with_the_reason(
    install: Install, tmp_path: Path, more: Json, annotation: Json, complaint: str
) -> None:
    sold = tmp_path / "offerings.json"
    sold.write_text(published.to_json("aws", [Offering("m6a.large", 2, 8192), Offering("m6a.xlarge", 4, 16384)]))
    ours = await install(validating=True, settings=f'offerings = "{sold}"')
    answer = await ours.create(ours.object({"limits": TWO}, metadata={"annotations": annotation}, **more), dry=False)
    assert answer.status_code == 403
    assert "denied the request: " in answer.json()["message"]
    assert complaint in answer.json()["message"]
    await ours.made(ours.object({"limits": TWO}))


async def test_refusing_can_be_turned_off(install: Install) -> None:
    ours = await install(validating=True, settings="refuse = false")
    answer = await ours.create(ours.object({}, hostNetwork=True, hostPID=True))
    assert answer.status_code == 201
    assert "hostPID: the pod's processes are in a VM" in answer.headers["warning"]


# -- certificates ---------------------------------------------------------------------------------


async def test_a_new_authority_and_certificate_come_while_pods_are_made_and_none_is_refused(
    cluster: Cluster, install: Install
) -> None:
    ours = await install("zero")
    path = f"{HOOKS}/{ours.name}"
    answers: list[int] = []
    stop = asyncio.Event()

    async def keep_making() -> None:
        while not stop.is_set():
            answers.append((await ours.create(ours.object({"limits": TWO}))).status_code)

    async def trust(*bundles: bytes) -> None:
        patch = [
            {
                "op": "replace",
                "path": "/webhooks/0/clientConfig/caBundle",
                "value": base64.b64encode(b"".join(bundles)).decode(),
            }
        ]
        await cluster.sure("PATCH", path, patch, content_type=JSON_PATCH)
        await some()

    async def some() -> None:
        seen, until = len(answers), asyncio.get_running_loop().time() + (3.0 if cluster.real else 0.0)
        while len(answers) < seen + 5 or asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.01)

    other = world.issue(["another authority"])
    new = world.pem(other[0])
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(keep_making())
        await some()
        await trust(ours.ca_bundle, new)
        ours.issue(other)
        await some()
        await trust(new)
        stop.set()
    assert set(answers) == {201}
