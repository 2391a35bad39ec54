"""The choice of a machine."""

from hypothesis import given
from hypothesis import strategies as st

from adaptor.catalog.select import Requirements, select
from providers.base import Offering

SMALL = Offering("small", 2, 4096)
LARGE = Offering("large", 4, 16384)
MEMORY = Offering("memory", 2, 16384)
GPU = Offering("gpu", 4, 16384, gpus=1, gpu_model="NVIDIA T4")
ALL = [LARGE, SMALL, MEMORY, GPU]  # the default first


def names(wanted: Requirements, offerings: list[Offering] = ALL) -> list[str]:
    return [offering.instance_type for offering in select(offerings, wanted).ranked]


def test_a_pod_that_asks_for_nothing_gets_the_default() -> None:
    assert names(Requirements()) == ["large"]


def test_a_named_type_wins_over_sizes() -> None:
    assert names(Requirements(instance_type="small", vcpus=2)) == ["small"]


def test_only_vcpus_or_only_memory_are_honoured() -> None:
    assert names(Requirements(vcpus=3))[0] == "large"
    assert names(Requirements(memory_mib=8192))[0] == "memory"


def test_a_gpu_is_never_wasted_on_a_pod_that_did_not_ask() -> None:
    assert names(Requirements(vcpus=4))[-1] == "gpu"
    assert names(Requirements(gpus=1)) == ["gpu"]
    assert names(Requirements(gpu_model="t4")) == ["gpu"]
    assert names(Requirements(gpu_model="A100")) == []


def test_price_decides_only_where_every_price_is_known() -> None:
    cheap_large = Offering("cheap-large", 8, 65536, price=0.01)
    dear_small = Offering("dear-small", 2, 4096, price=9.0)
    assert names(Requirements(vcpus=2), [dear_small, cheap_large])[0] == "cheap-large"
    assert names(Requirements(vcpus=2), [SMALL, cheap_large])[0] == "small"


def test_a_type_outside_the_allow_list_is_refused_in_upstreams_words() -> None:
    wanted = Requirements(instance_type="huge")
    text = select(ALL, wanted).refusal(wanted)
    assert text.startswith('requested instance type ("huge") is not part of supported instance types list')
    assert "small" in text


def test_a_size_that_nothing_fits_is_refused_in_upstreams_words_and_says_why_of_each() -> None:
    wanted = Requirements(vcpus=3, memory_mib=99999)
    text = select(ALL, wanted).refusal(wanted)
    assert text.startswith("no instance type found for the given vcpus (3) and memory (99999)")
    assert "large: 16384 MiB of 99999" in text
    assert "small: 2 vCPU of 3" in text


offerings = st.builds(
    Offering,
    st.text("abc", min_size=1, max_size=3),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(0, 2),
    price=st.none() | st.floats(0.01, 9),
)
wishes = st.builds(
    Requirements,
    vcpus=st.none() | st.integers(1, 8),
    memory_mib=st.none() | st.integers(1, 8),
    gpus=st.none() | st.integers(1, 2),
)


@given(st.lists(offerings, max_size=8), wishes)
def test_every_offering_is_either_ranked_and_fits_or_rejected_with_a_reason(
    given_offerings: list[Offering], wanted: Requirements
) -> None:
    choice = select(given_offerings, wanted)
    for offering in choice.ranked:
        assert offering.vcpus >= (wanted.vcpus or 0)
        assert offering.memory_mib >= (wanted.memory_mib or 0)
        assert offering.gpus >= (wanted.gpus or 0)
    if wanted.sized:
        assert len(choice.ranked) + len(choice.rejected) == len(given_offerings)
    assert all(rejection.reason for rejection in choice.rejected)
    assert choice == select(given_offerings, wanted)
