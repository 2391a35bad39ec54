"""Pods for the sizing policy: each kind of its own, and many by chance."""

import random
from collections.abc import Iterator, Mapping
from typing import Any, Final

KATA: Final = "io.katacontainers.config.hypervisor."
Pod = dict[str, Any]


def container(
    name: str = "a",
    limits: Mapping[str, str] | None = None,
    requests: Mapping[str, str] | None = None,
    *,
    sidecar: bool = False,
) -> dict[str, Any]:
    resources = {key: dict(value) for key, value in (("limits", limits), ("requests", requests)) if value}
    made: dict[str, Any] = {"name": name, "image": "none", "resources": resources}
    return made | ({"restartPolicy": "Always"} if sidecar else {})


def pod(
    *containers: dict[str, Any],
    init: tuple[dict[str, Any], ...] = (),
    annotations: Mapping[str, str] | None = None,
    whole: Mapping[str, Any] | None = None,
) -> Pod:
    spec: dict[str, Any] = {"containers": list(containers)}
    if init:
        spec["initContainers"] = list(init)
    if whole:
        spec["resources"] = dict(whole)
    metadata: dict[str, Any] = {"generateName": "sized-"}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _gpu(count: str = "1", kind: str = "nvidia.com/gpu") -> dict[str, str]:
    return {kind: count}


_TWO_GIB: Final = {"cpu": "2", "memory": "2Gi"}

NAMED: Final[dict[str, Pod]] = {
    "nothing": pod(container()),
    "limits": pod(container(limits=_TWO_GIB)),
    "requests": pod(container(requests={"cpu": "1500m", "memory": "512Mi"})),
    "both": pod(container(limits=_TWO_GIB, requests={"cpu": "100m", "memory": "64Mi"})),
    "cpu limit, memory request": pod(container(limits={"cpu": "2"}, requests={"memory": "1Gi"})),
    "two containers": pod(
        container(limits={"cpu": "300m", "memory": "256Mi"}), container("b", requests={"cpu": "1.7", "memory": "3G"})
    ),
    "tenths that add up to one": pod(*(container(f"c{n}", limits={"cpu": "100m"}) for n in range(10))),
    "a large init container": pod(
        container(limits={"cpu": "1", "memory": "1Gi"}), init=(container("i", limits={"cpu": "4", "memory": "512Mi"}),)
    ),
    "two init containers": pod(
        container(limits={"cpu": "1"}),
        init=(container("i", limits={"cpu": "3"}), container("k", requests={"cpu": "2", "memory": "5Gi"})),
    ),
    "a sidecar": pod(
        container(limits={"cpu": "1", "memory": "1Gi"}),
        init=(container("s", limits={"cpu": "1", "memory": "1Gi"}, sidecar=True),),
    ),
    "a sidecar before and after an init container": pod(
        container(limits={"cpu": "1"}),
        init=(
            container("s", limits={"cpu": "2"}, sidecar=True),
            container("i", limits={"cpu": "3"}),
            container("t", limits={"cpu": "5"}, sidecar=True),
        ),
    ),
    "pod-level": pod(container(), whole={"limits": {"cpu": "3", "memory": "4Gi"}}),
    "pod-level requests": pod(
        container(requests={"cpu": "1", "memory": "1Gi"}), whole={"requests": {"cpu": "2", "memory": "3Gi"}}
    ),
    "pod-level cpu only": pod(container(limits={"cpu": "1", "memory": "1Gi"}), whole={"limits": {"cpu": "2"}}),
    "a GPU": pod(container(limits={**_TWO_GIB, **_gpu("2")})),
    "GPUs of two makers": pod(container(limits=_gpu()), container("b", limits=_gpu("1", "amd.com/gpu"))),
    "scratch": pod(container(limits={"ephemeral-storage": "15Gi"})),
    "scratch beside a wish": pod(
        container(requests={"ephemeral-storage": "15G"}), annotations={f"{KATA}machine_type": "m6a.large;tee=snp"}
    ),
    "scratch that is wished for": pod(
        container(requests={"ephemeral-storage": "15G"}), annotations={f"{KATA}machine_type": ";scratch-gib=7"}
    ),
    "no scratch, by wish": pod(
        container(limits={"ephemeral-storage": "15G"}), annotations={f"{KATA}machine_type": ";scratch-gib=0"}
    ),
    "an empty number of GPUs": pod(container(), annotations={f"{KATA}default_gpus": ""}),
    "an empty number beside requests": pod(container(requests={"cpu": "3"}), annotations={f"{KATA}default_vcpus": ""}),
    "half a MiB": pod(container(limits={"memory": "1048577"})),
    "a type": pod(container(limits=_TWO_GIB), annotations={f"{KATA}machine_type": "m6a.4xlarge"}),
    "vcpus of its own, no limits": pod(container(), annotations={f"{KATA}default_vcpus": "4"}),
    "a fraction of its own": pod(container(), annotations={f"{KATA}default_vcpus": "2.5"}),
    "sizes of its own beside limits": pod(
        container(limits=_TWO_GIB), annotations={f"{KATA}default_vcpus": "4", f"{KATA}default_memory": "8192"}
    ),
    "sizes that mean nothing": pod(
        container(limits=_TWO_GIB), annotations={f"{KATA}default_vcpus": "0", f"{KATA}default_memory": ""}
    ),
    "a wished size": pod(container(limits=_TWO_GIB), annotations={f"{KATA}machine_type": ";vcpus=8;memory-mib=16384"}),
    "a GPU model": pod(container(limits=_TWO_GIB), annotations={f"{KATA}machine_type": ";gpu-model=L4"}),
    "a GPU model as kata has it": pod(container(), annotations={f"{KATA}default_gpu_model": "L4"}),
    "gpus of its own": pod(container(limits=_gpu()), annotations={f"{KATA}default_gpus": "4"}),
    "a marker": pod(
        container(limits={"cpu": "1", "memory": "1Gi"}),
        annotations={"kata.peerpods.io/size": "vcpus=4,memory-mib=4096,gpus=1", "other": "kept"},
    ),
    "a marker of nobody's": pod(container(limits=_TWO_GIB), annotations={"kata.peerpods.io/size": "large"}),
    "huge pages": pod(container(limits={**_TWO_GIB, "hugepages-2Mi": "4Mi"})),
    "another device": pod(container(limits={**_TWO_GIB, "example.com/nic": "1"})),
    "an e": pod(container(limits={"cpu": "2e0", "memory": "1e9"})),
    "milli-bytes": pod(container(limits={"memory": "1073741824000m"})),
}

_CPU: Final = ("100m", "250m", "333m", "1", "1.5", "2300m", "7")
_MEMORY: Final = ("64Mi", "100M", "1Gi", "1.5Gi", "1000000000", "3G")
_STORAGE: Final = ("1Gi", "10G", "512Mi")


def by_chance(count: int, seed: int) -> Iterator[Pod]:
    dice = random.Random(seed)

    def amounts() -> dict[str, str]:
        found = {}
        if dice.random() < 0.6:
            found["cpu"] = dice.choice(_CPU)
        if dice.random() < 0.6:
            found["memory"] = dice.choice(_MEMORY)
        if dice.random() < 0.2:
            found["ephemeral-storage"] = dice.choice(_STORAGE)
        return found

    def one(name: str, *, sidecar: bool = False) -> dict[str, Any]:
        # Limits or requests, for a request above its limit is refused by the API server itself.
        kind = dice.choice(("limits", "requests"))
        made = container(name, **{kind: amounts()}, sidecar=sidecar)
        if kind == "limits" and dice.random() < 0.2:
            made["resources"].setdefault("limits", {})["nvidia.com/gpu"] = dice.choice(("1", "2"))
        return made

    for _ in range(count):
        init = tuple(one(f"i{n}", sidecar=dice.random() < 0.5) for n in range(dice.randrange(4)))
        annotations = {}
        if dice.random() < 0.2:
            annotations[f"{KATA}default_vcpus"] = dice.choice(("1", "3", "2.5"))
        if dice.random() < 0.2:
            annotations[f"{KATA}default_memory"] = dice.choice(("2048", "100"))
        if dice.random() < 0.2:
            annotations[f"{KATA}machine_type"] = dice.choice(("m6a.large", ";tee=snp", "a.b,c.d;vcpus=2;spot=allowed"))
        yield pod(*(one(f"c{n}") for n in range(dice.randrange(1, 4))), init=init, annotations=annotations)
