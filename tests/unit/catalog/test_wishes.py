"""The machine_type annotation: what it always was, and what may stand behind it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptor.catalog import wishes
from adaptor.catalog.select import Pin, Requirements, Spot
from adaptor.catalog.wishes import KEYS, Wishes, from_annotations, parse
from adaptor.errors import InvalidRequest
from providers.base import Tee

P = "peerpods.io/"


@pytest.mark.parametrize("text", ["", ";", " ; ;"])
def test_nothing_is_no_wish(text: str) -> None:
    assert parse(text) == Wishes()


@pytest.mark.parametrize("text", ["m6a.large", "Standard_DC2as_v5", "n2d-standard-2", "u-12tb1.112xlarge"])
def test_a_plain_type_is_what_it_always_was(text: str) -> None:
    assert parse(text) == Wishes(types=(text,))
    assert wishes.split(text) == (text, "")


def test_all_keys_are_read() -> None:
    text = (
        "m6a.large, c6a.*;tee=SNP; spot = preferred;zone=us-east-1a,us-east-1b;max-price=0.25;gpu-model=nvidia-l4;"
        "family=m6a;arch=amd64;root-gib=40;scratch-gib=100;"
    )
    assert parse(text) == Wishes(
        types=("m6a.large", "c6a.*"),
        tee=Tee.SNP,
        spot=Spot.PREFERRED,
        zones=("us-east-1a", "us-east-1b"),
        max_price=0.25,
        gpu_model="nvidia-l4",
        families=("m6a",),
        architecture="x86_64",
        root_gib=40,
        scratch_gib=100,
    )
    assert wishes.split(text)[0] == "m6a.large, c6a.*"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("m6a large", r'machine_type "m6a large" does not have that form; allowed: names separated by commas'),
        ("m6a.large;tee", r'holds "tee": not a wish known here; did you mean tee\?'),
        (";te=snp", r'holds "te=snp": not a wish known here; did you mean tee\?.*Known, each as key=value: tee, spot'),
        (";tee=sgx", r'tee "sgx" is none of them; allowed: none \| sev \| snp \| tdx'),
        (";tee=", r'tee "" is none of them'),
        (";tee=snp;tee=tdx", "says tee= twice"),
        (";spot=yes", r'spot "yes" is none of them; allowed: never \| allowed \| preferred \| only'),
        (";zone=", r'zone "" is empty'),
        (";zone=a b", r'zone "a b" does not have that form'),
        (";max-price=cheap", r'max-price "cheap" is not a number; allowed: USD'),
        (";max-price=-1", r'max-price "-1" is no price'),
        (";max-price=0", "is no price"),
        (";max-price=nan", "is no price"),
        (";max-price=inf", "is no price"),
        (";max-price=", "is not a number"),
        (";gpu-model=", "allowed: a GPU's name"),
        (";arch=riscv", r"allowed: x86_64 \| amd64 \| arm64 \| aarch64"),
        (";root-gib=-5", 'root-gib "-5" is out of range; allowed: a whole number from 1 to 65536'),
        (";root-gib=0", "is out of range"),
        (";root-gib=99999999", "is out of range"),
        (";root-gib=ten", "is not a whole number"),
        (";scratch-gib=-1", "is out of range"),
        (";scratch-gib=1.5", "is not a whole number"),
        (",".join(["a"] * 21), "has more than 20 names"),
        ("a" * 3000, "has 3000 characters; at most 2048"),
    ],
)
def test_a_wrong_wish_is_refused_by_its_key_with_what_is_allowed(text: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint) as caught:
        parse(text)
    assert len(str(caught.value)) < 400


def test_a_pods_own_annotations_become_the_one_text() -> None:
    annotations = {P + "instance-type": "m6a.*,c6a.*", P + "tee": "snp", P + "max-price": "0.4", "other.io/tee": "x"}
    text = from_annotations(annotations)
    assert text == "m6a.*,c6a.*;max-price=0.4;tee=snp"
    assert parse(text) == Wishes(types=("m6a.*", "c6a.*"), tee=Tee.SNP, max_price=0.4)


def test_they_add_to_what_the_machine_type_annotation_says() -> None:
    assert from_annotations({}, "m6a.large") == "m6a.large"
    assert from_annotations({P + "tee": "snp"}, "m6a.large;zone=a") == "m6a.large;zone=a;tee=snp"
    assert from_annotations({P + "tee": "snp"}) == ";tee=snp"


@pytest.mark.parametrize(
    ("annotations", "machine_type", "complaint"),
    [
        ({P + "te": "snp"}, "", "annotation peerpods.io/te: not a wish known here; did you mean tee?"),
        ({P + "tee": "sgx"}, "", 'tee "sgx" is none of them'),
        ({P + "tee": "snp"}, ";tee=tdx", "says tee= twice"),
        ({P + "instance-type": "a"}, "b", "both machine_type and peerpods.io/instance-type"),
        ({P + "zone": "a;tee=none"}, "", 'must not hold a ";"'),
        ({P + "instance-type": "a;tee=none"}, "", 'must not hold a ";"'),
    ],
)
def test_annotations_cannot_say_what_the_text_could_not(
    annotations: dict[str, str], machine_type: str, complaint: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        from_annotations(annotations, machine_type)
    assert complaint in str(caught.value)


def test_wishes_sizes_and_pins_are_one_requirement() -> None:
    pin = Pin("us-east-1a", "volume vol-1")
    assert parse("m6a.*;gpu-model=L4;spot=only").requirements(2, 4096, 1, "nvidia", (pin,)) == Requirements(
        types=("m6a.*",), vcpus=2, memory_mib=4096, gpus=1, gpu_models=("nvidia", "L4"), spot=Spot.ONLY, pins=(pin,)
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", (3, 4000)),
        (";vcpus=8", (8, 4000)),
        (";memory-mib=512;vcpus=1", (1, 512)),
        (";vcpus=0;memory-mib=0", (None, None)),
    ],
)
def test_a_size_that_is_wished_for_counts_before_what_kata_adds_up(
    text: str, size: tuple[int | None, int | None]
) -> None:
    found = parse(text).requirements(3, 4000)
    assert (found.vcpus, found.memory_mib) == size


def test_the_outcome_can_be_merged_once_more() -> None:
    said = {P + "instance-type": "m6a.*", P + "tee": "snp", P + "vcpus": "8"}
    once = from_annotations(said, ";zone=a")
    assert from_annotations(said, once) == once == "m6a.*;zone=a;tee=snp;vcpus=8"


@given(st.text(alphabet=st.sampled_from("m6a.*,;= \n=tezonspricfamly-0123456789") | st.characters(), max_size=80))
def test_no_text_does_worse_than_a_refusal(text: str) -> None:
    try:
        found = parse(text)
    except InvalidRequest:
        return
    types, rest = wishes.split(text)
    assert parse(f"{types};{rest}") == found


@given(st.dictionaries(st.sampled_from(sorted(KEYS)), st.text("abc123,.;*=", max_size=9)))
def test_no_value_of_an_annotation_adds_another_wish(said: dict[str, str]) -> None:
    try:
        text = from_annotations({P + key: value for key, value in said.items()})
    except InvalidRequest:
        return
    assert [part.partition("=")[0] for part in text.split(";")[1:]] == sorted(said)
