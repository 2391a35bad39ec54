"""Names and labels fit Google's rules, and what does not fit into them comes back exactly all the same."""

import re
import uuid
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from providers import tags
from providers.base import LaunchSpec, Ownership, Tee, Volume
from providers.gcp import marks
from providers.gcp.config import LABEL_KEY, LABEL_VALUE

NAMES = st.from_regex(r"[a-z0-9-]{1,63}", fullmatch=True)
TOKENS = st.from_regex(r"[!-~]{1,64}", fullmatch=True)
SPEC = LaunchSpec("podvm-nginx", "n2d-standard-2", b"data")


@given(NAMES, TOKENS)
def test_every_name_and_token_make_a_name_that_google_takes(name: str, token: str) -> None:
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", marks.resource_name(name, token))


@given(NAMES, TOKENS, TOKENS)
def test_another_token_is_another_name_and_another_request(name: str, one: str, two: str) -> None:
    assert (marks.resource_name(name, one) == marks.resource_name(name, two)) == (one == two)
    assert (marks.request_id(one) == marks.request_id(two)) == (one == two)


@given(TOKENS)
def test_a_request_id_is_a_uuid_of_its_token_and_attempt(token: str) -> None:
    ids = [marks.request_id(token, attempt) for attempt in range(4)]
    assert len(set(ids)) == 4
    assert ids == [str(uuid.UUID(marks.request_id(token, attempt))) for attempt in range(4)]


@given(st.dictionaries(st.text(max_size=140), st.text(max_size=300), max_size=8))
def test_labels_fit_whatever_the_tags_are_and_the_tags_come_back(all_tags: dict[str, str]) -> None:
    for key, value in marks.labels(all_tags).items():
        assert LABEL_KEY.fullmatch(key), key
        assert LABEL_VALUE.fullmatch(value), value
    assert marks.noted(marks.note(all_tags, image="i"))["tags"] == all_tags


@given(st.text(max_size=90), st.text(max_size=90))
def test_different_values_have_different_labels(one: str, two: str) -> None:
    assert (marks.label_value(one) == marks.label_value(two)) == (one == two)


@given(st.text(max_size=90), st.text(max_size=90))
def test_different_keys_have_different_labels(one: str, two: str) -> None:
    assert (marks.label_key(one) == marks.label_key(two)) == (one == two)


def test_what_fits_stays_readable() -> None:
    assert marks.of_owner(Ownership("prod", "node-1")) == {"peerpods-cluster": "prod", "peerpods-node": "node-1"}
    value = marks.label_value("nginx.default.Example.com")
    assert value.startswith("nginx-default-example-com-")


def test_a_value_in_the_form_of_a_shortened_one_does_not_pass_for_it() -> None:
    shortened = marks.label_value("nginx.default")
    assert marks.label_value(shortened) != shortened


def test_a_disks_description_holds_what_the_sweep_needs_and_no_more() -> None:
    all_tags = {tags.CLUSTER: "c", tags.NODE: "n", tags.TOKEN: "t", "team": "x" * 5000}
    text = marks.description(all_tags)
    assert len(text) < marks.DESCRIPTION_LIMIT
    assert marks.described(text) == {tags.CLUSTER: "c", tags.NODE: "n", tags.TOKEN: "t"}


def test_what_others_wrote_is_nothing_of_ours() -> None:
    for text in ("", "a disk", "[]", "{", '{"peerpods": 1}', '{"tags": {"a": 1}}', '{"peerpods": {"a": 1}}'):
        assert marks.noted(text) == {}
        assert marks.described(text) == {}


def test_every_part_of_a_wish_tells_it_from_others() -> None:
    others = [
        replace(SPEC, name="other"),
        replace(SPEC, instance_type="n2d-standard-4"),
        replace(SPEC, user_data=b"other"),
        replace(SPEC, image="other"),
        replace(SPEC, tags={"a": "b"}),
        replace(SPEC, tee=Tee.SEV),
        replace(SPEC, zone="us-central1-a"),
        replace(SPEC, root_volume_gib=20),
        replace(SPEC, scratch_gib=1),
        replace(SPEC, volumes=(Volume("zones/us-central1-a/disks/d"),)),
    ]
    assert len({marks.digest(spec) for spec in (SPEC, *others)}) == 1 + len(others)
    assert marks.digest(replace(SPEC, tags={"a": "1", "b": "2"})) == marks.digest(
        replace(SPEC, tags={"b": "2", "a": "1"})
    )
