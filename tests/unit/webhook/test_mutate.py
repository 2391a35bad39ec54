"""What becomes of a pod: its VM comes out right, whatever the mode and whoever else had a hand in it."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptor import names
from adaptor.catalog.wishes import from_annotations, parse
from adaptor.errors import InvalidRequest
from adaptor.hypervisor import parse as createvm
from adaptor.sandbox.placing import requirements
from tests.unit.webhook import oracle
from tests.unit.webhook.pods import GPUS, pods
from tests.worlds.admission import applied, container, pod
from webhook import mutate
from webhook.mutate import Rules
from webhook.pods import read
from webhook.sizes import Size

Json = dict[str, Any]
ZERO = Rules("zero", GPUS)
STRIP = Rules("strip", GPUS)
BOTH = pytest.mark.parametrize("rules", [ZERO, STRIP], ids=["zero", "strip"])
NONE = {"cpu": "0", "memory": "0", "ephemeral-storage": "0"}
VM = {"kata.peerpods.io/vm": "1"}
TWO = {"cpu": "2", "memory": "2Gi"}


def after(made: Json, rules: Rules = ZERO) -> Json:
    """The pod with the patch applied."""
    return applied(mutate.mutate(read(made), rules).operations, made)


def annotations(made: Json) -> dict[str, str]:
    found: dict[str, str] = made["metadata"].get("annotations", {})
    return found


def vm(made: Json) -> set[tuple[int | None, int | None, int | None]]:
    """(vCPUs, MiB, GPUs) that the adaptor looks for, with each kata that rounds memory in its way. None = any."""
    specs = (createvm("id", oracle.createvm(made, rounds_memory_up=up), "/netns") for up in (True, False))
    return {(r.vcpus, r.memory_mib, r.gpus) for r in map(requirements, specs)}


def sized(vcpus: int, memory: int, gpus: int = 0) -> set[tuple[int | None, int | None, int | None]]:
    return {(vcpus or None, memory or None, gpus or None)}


def said() -> st.SearchStrategy[Json | None]:
    """What a pod's owner may have written already."""
    return st.none() | st.fixed_dictionaries(
        {},
        optional={
            names.DEFAULT_VCPUS: st.sampled_from(["", "0", "1", "3", "2.5", "40"]),
            names.DEFAULT_MEMORY: st.sampled_from(["", "0", "1", "3000"]),
            names.DEFAULT_GPUS: st.sampled_from(["0", "1", "4"]),
            names.DEFAULT_GPU_MODEL: st.just("L4"),
            names.MACHINE_TYPE: st.sampled_from(["", "m6a.large", ";zone=b", "m6a.*;scratch-gib=7"]),
            "peerpods.io/vcpus": st.sampled_from(["0", "2", "16"]),
            "peerpods.io/memory-mib": st.sampled_from(["0", "1000"]),
            "peerpods.io/tee": st.just("snp"),
            "peerpods.io/gpu-model": st.just("L4"),
            "example.com/unrelated": st.just("x"),
        },
    )


def desired(made: Json) -> tuple[int, int, int]:
    """The size by the pod's owner's words first, its resources after."""
    own = annotations(made)
    asked = oracle.wanted(made, GPUS)
    wish = parse(from_annotations(own, own.get(names.MACHINE_TYPE, "")))
    vcpus = -int(-float(own.get(names.DEFAULT_VCPUS) or 0) // 1) or asked["vcpus"]
    memory = int(own.get(names.DEFAULT_MEMORY) or 0) or asked["memory-mib"]
    gpus = int(own.get(names.DEFAULT_GPUS) or 0) or asked["gpus"]
    if wish.gpu_model or own.get(names.DEFAULT_GPU_MODEL):
        gpus = gpus or 1
    return (
        vcpus if wish.vcpus is None else wish.vcpus,
        memory if wish.memory_mib is None else wish.memory_mib,
        gpus,
    )


@BOTH
@settings(max_examples=60, deadline=None)
@given(made=pods(said()))
def test_the_shim_and_the_adaptor_come_to_the_size_that_the_pod_wants(rules: Rules, made: Json) -> None:
    found = after(made, rules)
    right = desired(made)
    gpus = int(annotations(found).get(names.DEFAULT_GPUS) or 0)
    assert {(v, m) for v, m, _ in vm(found)} == {(right[0] or None, right[1] or None)}
    marked = Size.parse(annotations(found)[names.SIZED])
    assert marked is not None
    assert (marked.vcpus, marked.memory_mib, marked.gpus) == right
    assert gpus == right[2]


@BOTH
@settings(max_examples=60, deadline=None)
@given(made=pods(said()))
def test_nothing_that_the_pods_owner_wrote_is_overwritten(rules: Rules, made: Json) -> None:
    before, now = annotations(made), annotations(after(made, rules))
    for key in set(before) - {names.MACHINE_TYPE}:
        assert now[key] == before[key] or before[key] in ("", "0"), "which say nothing"
    types, _, wishes = before.get(names.MACHINE_TYPE, "").partition(";")
    assert now.get(names.MACHINE_TYPE, "").startswith(f"{types};{wishes}" if wishes else types)


@BOTH
@settings(max_examples=60, deadline=None)
@given(made=pods(said()))
def test_what_the_worker_sees_afterwards(rules: Rules, made: Json) -> None:
    found = after(made, rules)
    spec = found["spec"]
    every = [*spec["containers"], *spec.get("initContainers", [])]
    assert [bool(each["resources"].get("limits", {}).get("kata.peerpods.io/vm")) for each in every].count(True) == 1
    first = spec["containers"][0]["resources"]
    assert first["limits"]["kata.peerpods.io/vm"] == first["requests"]["kata.peerpods.io/vm"] == "1"
    for before, now in zip([*made["spec"]["containers"], *made["spec"].get("initContainers", [])], every, strict=True):
        kept = {key: value for key, value in now["resources"].get("limits", {}).items() if key not in VM}
        requests = {key: value for key, value in now["resources"].get("requests", {}).items() if key not in VM}
        said = before["resources"].get("limits", {})
        assert "claims" not in now["resources"]
        assert requests == (NONE if rules is ZERO else {})
        assert kept == ({key: value for key, value in said.items() if key in NONE} if rules is ZERO else {})
    if rules is STRIP:
        assert "resources" not in spec or not spec["resources"]
    elif "resources" in spec:
        assert spec["resources"]["requests"] == {"cpu": "0", "memory": "0"}
        assert set(spec["resources"]["limits"]) <= {"cpu", "memory"}
    assert oracle.effective(found, "requests").get("cpu", 0) == 0 or rules is STRIP


@BOTH
@settings(max_examples=60, deadline=None)
@given(made=pods(said()))
def test_a_second_call_changes_nothing(rules: Rules, made: Json) -> None:
    once = after(made, rules)
    again = mutate.mutate(read(once), rules)
    assert again.operations == []


@BOTH
@settings(max_examples=60, deadline=None)
@given(made=pods(said()), data=st.data())
def test_defaults_that_arrive_between_two_calls_change_no_vm(rules: Rules, made: Json, data: st.DataObject) -> None:
    once = after(made, rules)
    meddled = copy.deepcopy(once)
    defaults = data.draw(st.sampled_from([{"cpu": "500m", "memory": "256Mi"}, {"memory": "123456789"}, {"cpu": "7"}]))
    if data.draw(st.booleans()):  # another webhook's sidecar, in front
        meddled["spec"]["containers"].insert(0, container("injected"))
    for each in meddled["spec"]["containers"]:
        each["resources"]["limits"] = {**defaults, **each["resources"].get("limits", {})}
        each["resources"]["requests"] = {**defaults, **each["resources"].get("requests", {})}
    twice = after(meddled, rules)
    assert vm(twice) == vm(once)
    assert annotations(twice)[names.SIZED] == annotations(once)[names.SIZED]
    assert after(twice, rules) == twice
    carry = [each["resources"].get("limits", {}).get("kata.peerpods.io/vm") for each in twice["spec"]["containers"]]
    assert carry == ["1", *[None] * (len(carry) - 1)]


def test_zero_keeps_limits_and_says_that_nothing_is_requested() -> None:
    found = after(pod(container(limits={**TWO, "nvidia.com/gpu": "1"}, requests={"cpu": "1"})))
    assert found["spec"]["containers"][0]["resources"] == {"limits": {**TWO, **VM}, "requests": {**NONE, **VM}}
    assert annotations(found) == {names.DEFAULT_GPUS: "1", names.SIZED: "vcpus=2,memory-mib=2048,gpus=1"}
    assert vm(found) == sized(2, 2048, 1)


def test_zero_leaves_to_the_annotations_what_the_limits_do_not_say() -> None:
    found = after(pod(container(limits={"cpu": "1"}, requests={"cpu": "1"}), container("b", requests=TWO)))
    assert annotations(found) == {
        names.DEFAULT_VCPUS: "2",
        names.DEFAULT_MEMORY: "2048",
        names.SIZED: "vcpus=3,memory-mib=2048",
    }
    assert vm(found) == sized(3, 2048)


def test_strip_takes_all_away_and_says_the_whole_size() -> None:
    made = pod(container(limits=TWO), init=(container("i", limits={"cpu": "3"}),), resources={"limits": {"cpu": "4"}})
    found = after(made, STRIP)
    assert found["spec"]["containers"][0]["resources"] == {"limits": VM, "requests": VM}
    assert found["spec"]["initContainers"][0]["resources"] == {}
    assert "resources" not in found["spec"]
    assert annotations(found)[names.DEFAULT_VCPUS] == "4"
    assert vm(found) == sized(4, 2048)


def test_a_size_that_the_owner_wrote_is_the_vms_also_beside_limits() -> None:
    found = after(pod(container(limits=TWO), annotations={names.DEFAULT_VCPUS: "4", names.DEFAULT_MEMORY: "3000"}))
    assert annotations(found)[names.DEFAULT_VCPUS] == "4"
    assert annotations(found)[names.MACHINE_TYPE] == ";vcpus=4;memory-mib=3000"
    assert vm(found) == sized(4, 3000)


def test_an_empty_size_which_the_shim_chokes_on_says_0_or_the_size() -> None:
    empty = {names.DEFAULT_VCPUS: "", names.DEFAULT_MEMORY: "", names.DEFAULT_GPUS: ""}
    found = annotations(after(pod(container(limits={"cpu": "2"}, requests={"memory": "1Gi"}), annotations=empty)))
    assert [found[key] for key in empty] == ["0", "1024", "0"]


def test_a_part_of_a_mebibyte_is_the_same_with_every_kata() -> None:
    found = after(pod(container(limits={"cpu": "1", "memory": "1G"})))
    assert annotations(found)[names.MACHINE_TYPE] == ";memory-mib=954"
    assert vm(found) == sized(1, 954)


def test_a_pods_own_wishes_become_the_machine_type_annotation_once() -> None:
    made = pod(annotations={"peerpods.io/instance-type": "m6a.*", "peerpods.io/tee": "snp"})
    found = after(made)
    assert annotations(found)[names.MACHINE_TYPE] == "m6a.*;tee=snp"
    assert annotations(after(found)) == annotations(found)
    without_marker = copy.deepcopy(found)
    del without_marker["metadata"]["annotations"][names.SIZED]
    assert annotations(after(without_marker)) == annotations(found), "a pod made from another's YAML"


def test_storage_becomes_scratch_unless_the_owner_says_how_much() -> None:
    asks = container(limits={"ephemeral-storage": "20G"})
    assert annotations(after(pod(asks)))[names.MACHINE_TYPE] == ";scratch-gib=19"
    own = {"peerpods.io/scratch-gib": "0"}
    assert annotations(after(pod(asks, annotations=own)))[names.MACHINE_TYPE] == ";scratch-gib=0"


def test_a_runtime_class_whose_overhead_asks_for_the_vm_is_counted_once() -> None:
    found = after(pod(container(limits=TWO), overhead=VM))
    assert found["spec"]["containers"][0]["resources"] == {"limits": TWO, "requests": NONE}


def test_an_own_name_for_the_vm_resource() -> None:
    found = after(pod(), Rules("strip", GPUS, "example.com/vm"))
    assert found["spec"]["containers"][0]["resources"]["limits"] == {"example.com/vm": "1"}


def test_a_forged_marker_is_the_vms_size_and_no_way_around_a_quota() -> None:
    made = pod(
        container(limits={"cpu": "64"}),
        annotations={names.SIZED: "vcpus=1,memory-mib=1024", names.DEFAULT_GPUS: "8", names.DEFAULT_VCPUS: "32"},
    )
    assert vm(after(made)) == sized(1, 1024)


def test_a_marker_that_cannot_be_read_is_written_anew() -> None:
    found = after(pod(container(limits=TWO), annotations={names.SIZED: "huge"}))
    assert annotations(found)[names.SIZED] == "vcpus=2,memory-mib=2048"


def test_quota_holds_a_new_pod_once() -> None:
    rules = Rules("zero", GPUS, quota=True)
    held = after(pod(schedulingGates=[{"name": "other"}]), rules)
    assert held["spec"]["schedulingGates"] == [{"name": "other"}, {"name": names.QUOTA}]
    lifted = copy.deepcopy(held)
    lifted["spec"]["schedulingGates"] = []
    assert after(lifted, rules)["spec"]["schedulingGates"] == []
    assert after(pod(), rules)["spec"]["schedulingGates"] == [{"name": names.QUOTA}]
    assert "schedulingGates" not in after(pod(nodeName="worker"), rules)["spec"], "the API server refuses both"
    assert "schedulingGates" not in after(pod())["spec"]


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (
            pod(annotations={"peerpods.io/te": "snp"}),
            "annotation peerpods.io/te: not a wish known here; did you mean tee?",
        ),
        (pod(annotations={"peerpods.io/tee": "sgx"}), 'tee "sgx" is none of them; allowed: none | sev | snp | tdx'),
        (pod(annotations={names.MACHINE_TYPE: "a;b"}), 'machine_type holds "b": not a wish'),
        (pod(annotations={names.DEFAULT_VCPUS: "two"}), 'default_vcpus is "two": a number of vCPUs is needed'),
        (pod(annotations={names.DEFAULT_MEMORY: "8Gi"}), 'default_memory is "8Gi": a whole number is needed'),
        (pod(annotations={names.DEFAULT_GPUS: "-1"}), 'default_gpus is "-1"'),
        (pod(container(requests={"memory": "lots"})), 'requests of container "main": "lots" is no quantity'),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_name(made: Json, complaint: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        mutate.mutate(read(made), ZERO)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("made", "warning"),
    [
        (pod(), "asks for no CPU, memory or GPU: its VM is of the default instance type"),
        (pod(container(limits={**TWO, "hugepages-2Mi": "4Mi"})), "hugepages-2Mi: taken off"),
        (pod(container(limits={**TWO, "a.com/x": "1"})), "a.com/x: taken off"),
        (
            pod({**container(limits=TWO), "resources": {"limits": TWO, "claims": [{"name": "x"}]}}),
            "resource claims: taken",
        ),
    ],
)
@BOTH
def test_what_is_lost_is_told(made: Json, warning: str, rules: Rules) -> None:
    (told,) = mutate.mutate(read(made), rules).warnings
    assert warning in told
    assert len(told) <= 256


def test_a_pod_that_is_sized_and_loses_nothing_hears_nothing() -> None:
    assert mutate.mutate(read(pod(container(limits={**TWO, "nvidia.com/gpu": "1"}))), ZERO).warnings == []


def test_limits_that_grew_since_are_told() -> None:
    found = after(pod(container(limits=TWO)))
    found["spec"]["containers"].append(container("late", limits=TWO))
    (told,) = mutate.mutate(read(found), ZERO).warnings
    assert told.startswith("the pod's limits have grown since its VM was sized (vcpus=2,memory-mib=2048)")


def test_a_pod_without_containers_is_left_to_the_api_server() -> None:
    made = pod()
    made["spec"]["containers"] = []
    assert mutate.mutate(read(made), ZERO).operations == []
