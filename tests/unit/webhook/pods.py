"""Pods as hypothesis draws them: containers, init containers, sidecars, limits, GPUs, resources of the whole pod."""

from typing import Any

from hypothesis import strategies as st

from tests.worlds.admission import container, pod

Json = dict[str, Any]
GPUS = frozenset({"nvidia.com/gpu", "amd.com/gpu"})

cpu = st.sampled_from(["100m", "250m", "0.1", "1", "1500m", "2", "3.3", "1m", "999999u", "4e0", "0", "64"])
memory = st.sampled_from(
    ["64Mi", "1Gi", "1G", "1500M", "0.5Gi", "123456789", "1", "0", "3e9", "1048577", "2Ti", "100m"]
)
storage = st.sampled_from(["1Gi", "500Mi", "10G", "1", "0"])
device = st.sampled_from(["1", "2", "0", "8"])


def _amounts(*kinds: str) -> st.SearchStrategy[Json]:
    every: dict[str, st.SearchStrategy[str]] = {
        "cpu": cpu,
        "memory": memory,
        "ephemeral-storage": storage,
        "nvidia.com/gpu": device,
        "amd.com/gpu": device,
        "hugepages-2Mi": st.just("4Mi"),
        "example.com/fpga": device,
    }
    return st.fixed_dictionaries({}, optional={kind: every[kind] for kind in kinds or every})


def containers(*, sidecars: bool = False) -> st.SearchStrategy[Json]:
    return st.builds(
        container,
        st.just("c"),
        st.none() | _amounts(),
        st.none() | _amounts("cpu", "memory", "ephemeral-storage"),
        sidecar=st.booleans() if sidecars else st.just(False),
    )


whole = st.none() | st.fixed_dictionaries(
    {}, optional={"limits": _amounts("cpu", "memory", "hugepages-2Mi"), "requests": _amounts("cpu", "memory")}
)


@st.composite
def pods(draw: st.DrawFn, annotations: st.SearchStrategy[Json | None] | None = None) -> Json:
    found = pod(
        *draw(st.lists(containers(), min_size=1, max_size=4)),
        init=tuple(draw(st.lists(containers(sidecars=True), max_size=4))),
        annotations=draw(annotations) if annotations is not None else None,
        overhead={"cpu": "250m", "memory": "120Mi"},
    )
    if own := draw(whole):
        found["spec"]["resources"] = own
    return found
