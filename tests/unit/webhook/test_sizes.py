"""How large a VM a pod asks for, against the rules as the oracle has them and case by case."""

from typing import Any

import pytest
from hypothesis import given, settings

from adaptor.catalog.quantities import nano
from adaptor.errors import InvalidRequest
from tests.unit.webhook import oracle
from tests.unit.webhook.pods import GPUS, pods
from tests.worlds.admission import container, pod
from webhook import sizes
from webhook.pods import read
from webhook.sizes import Size

ONE = {"cpu": "1", "memory": "1Gi"}
TWO = {"cpu": "2", "memory": "2Gi"}
SIDECAR = container("s", limits=ONE, sidecar=True)
FIVE = {"cpu": "5", "memory": "5Gi"}


def size(made: dict[str, Any]) -> Size:
    return sizes.wanted(sizes.asked(read(made), GPUS), GPUS)


@settings(max_examples=80, deadline=None)
@given(pods())
def test_every_pod_gets_what_kubernetes_rules_say(made: dict[str, Any]) -> None:
    found, right = size(made), oracle.wanted(made, GPUS)
    assert (found.vcpus, found.memory_mib, found.gpus, found.scratch_gib) == tuple(right.values())


@pytest.mark.parametrize(
    ("made", "vcpus", "memory"),
    [
        (pod(), 0, 0),
        (pod(container(limits=ONE)), 1, 1024),
        (pod(container(limits=ONE), container("b", limits=TWO)), 3, 3072),
        (pod(container(limits=TWO, requests=ONE)), 2, 2048),
        (pod(container(requests=TWO)), 2, 2048),
        (pod(container(limits=ONE), init=(container("i", limits=FIVE),)), 5, 5120),
        (pod(container(limits=TWO), init=(container("i", limits=ONE),)), 2, 2048),
        (pod(container(limits=TWO), init=(SIDECAR,)), 3, 3072),
        (pod(container(limits=ONE), init=(SIDECAR, container("i", limits=FIVE))), 6, 6144),
        (pod(container(limits=ONE), init=(container("i", limits=FIVE), SIDECAR)), 5, 5120),
        (pod(container(limits=ONE), resources={"limits": FIVE}), 5, 5120),
        (pod(container(limits=ONE), resources={"limits": {"cpu": "2"}}), 2, 1024),
        (pod(container(limits=ONE), overhead=FIVE), 1, 1024),
        (pod(container(limits={"cpu": "1m", "memory": "1"})), 1, 1),
    ],
    ids=[
        *("nothing", "one", "the sum", "limits before requests", "requests alone", "a large init", "a small init"),
        *("a sidecar", "an init beside a sidecar", "an init before the sidecar", "the whole pod", "half of the whole"),
        *("no overhead", "rounded up"),
    ],
)
def test_containers_add_up_as_kubernetes_has_it(made: dict[str, Any], vcpus: int, memory: int) -> None:
    found = size(made)
    assert (found.vcpus, found.memory_mib) == (vcpus, memory)


def test_gpus_of_all_vendors_are_added_and_storage_is_whole_gib() -> None:
    made = pod(container(limits={"nvidia.com/gpu": "2", "amd.com/gpu": "1", "ephemeral-storage": "1500Mi"}))
    assert size(made) == Size(gpus=3, scratch_gib=2)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        *(("1", 10**9), ("100m", 10**8), ("1u", 1000), ("1n", 1), ("0.1n", 1), ("1k", 10**12), ("1Ki", 1024 * 10**9)),
        *(
            ("1E", 10**27),
            ("1e3", 10**12),
            ("1E3", 10**12),
            ("1.5e-3", 1_500_000),
            (".5", 5 * 10**8),
            ("5.", 5 * 10**9),
        ),
        *(("+2", 2 * 10**9), ("0", 0), ("7Ei", 7 * 2**60 * 10**9)),
        *(("9Ei", (2**63 - 1) * 10**9), ("1e60", (2**63 - 1) * 10**9)),
    ],
)
def test_quantities_are_exact(text: str, right: int) -> None:
    assert nano(text) == right


@pytest.mark.parametrize("wrong", ["", "one", "1 Gi", "1gi", "-1", "0x1", "1e1000", "1_000", None, True, [], "9" * 99])
def test_what_is_no_quantity_is_refused_with_its_container(wrong: Any) -> None:
    with pytest.raises(InvalidRequest, match=r'limits of container "main": ".*" is (no quantity|below 0); write it as'):
        size(pod(container(limits={"cpu": wrong})))


def test_a_number_in_json_is_a_quantity_too() -> None:
    assert size(pod(container(limits={"cpu": 2, "memory": 1.5e9}))) == Size(vcpus=2, memory_mib=1431)


def test_more_than_any_machine_has_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="vcpus = 1000000: no machine has more than 100000"):
        size(pod(container(limits={"cpu": "1M"})))


@pytest.mark.parametrize("found", [Size(), Size(4, 4096), Size(1, 2, 3, 4), Size(gpus=1), Size(scratch_gib=9)])
def test_a_marker_says_the_size_again(found: Size) -> None:
    assert Size.parse(found.marker()) == found


@pytest.mark.parametrize(
    "text", ["", "vcpus", "vcpus=", "vcpus=x", "vcpus=-1", "vcpus=1,vcpus=2", "cores=4", "vcpus=99999999", "vcpus=٤"]
)
def test_a_marker_that_nobody_here_wrote_is_none(text: str) -> None:
    assert Size.parse(text) is None
