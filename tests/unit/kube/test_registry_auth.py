"""Pull secrets become one auth.json."""

import base64
import json
from typing import Any

import pytest

from adaptor.kube.registry_auth import DOCKER_CONFIG, DOCKER_CONFIG_JSON, PullSecret, merge


def b64(text: str | bytes) -> str:
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def secret(name: str, auths: Any, kind: str = DOCKER_CONFIG_JSON) -> PullSecret:
    if kind == DOCKER_CONFIG_JSON:
        return PullSecret(name, kind, {".dockerconfigjson": b64(json.dumps({"auths": auths}))})
    return PullSecret(name, kind, {".dockercfg": b64(json.dumps(auths))})


def pair(user: str, password: str) -> dict[str, str]:
    return {"auth": b64(f"{user}:{password}")}


def auths(document: bytes) -> dict[str, str]:
    return {name: base64.b64decode(entry["auth"]).decode() for name, entry in json.loads(document)["auths"].items()}


def test_both_types_of_secrets_are_merged() -> None:
    document, notes = merge(
        [secret("a", {"quay.io": pair("u", "p")}), secret("b", {"ghcr.io": pair("v", "q")}, DOCKER_CONFIG)]
    )
    assert auths(document) == {"quay.io": "u:p", "ghcr.io": "v:q"}
    assert notes == []


def test_the_first_of_two_secrets_for_a_registry_counts_and_the_other_is_told() -> None:
    document, notes = merge(
        [secret("a", {"quay.io": pair("u", "p")}), secret("b", {"https://quay.io": pair("v", "q")})]
    )
    assert auths(document) == {"quay.io": "u:p"}
    assert notes == ["the image pull secret b: another one is used for quay.io, which comes first"]
    assert merge([secret("a", {"quay.io": pair("u", "p")})] * 2)[1] == []


@pytest.mark.parametrize(
    ("registry", "name"),
    [
        ("quay.io", "quay.io"),
        ("https://index.docker.io/v1/", "index.docker.io"),
        ("https://index.docker.io/v1", "index.docker.io"),
        ("http://10.0.0.1:5000/v2/", "10.0.0.1:5000"),
        ("quay.io/team/app", "quay.io/team/app"),
        ("https://quay.io/v2/team/", "quay.io/team"),
        ("registry/v1beta", "registry/v1beta"),
    ],
)
def test_a_registry_goes_by_the_name_that_kubelet_reads(registry: str, name: str) -> None:
    assert list(auths(merge([secret("a", {registry: pair("u", "p")})])[0])) == [name]


@pytest.mark.parametrize(
    "entry",
    [
        {"username": "ü", "password": "p:w"},
        {"auth": b64("ü:p:w").rstrip("=")},
        {"auth": b64("ü:p:w") + "\n", "username": "other", "password": "other"},
        {"username": "ü", "password": "p:w", "auth": "", "email": "x@y"},
    ],
)
def test_every_form_of_an_entry_that_kubelet_takes_becomes_the_pullers(entry: dict[str, str]) -> None:
    document, notes = merge([secret("a", {"r": entry})])
    assert json.loads(document) == {"auths": {"r": {"auth": b64("ü:p:w")}}}
    assert notes == []


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (
            PullSecret("x", "Opaque", {".dockerconfigjson": b64("{}")}),
            "its type is 'Opaque', and must be kubernetes.io",
        ),
        (PullSecret("x", DOCKER_CONFIG_JSON, {}), "it has no .dockerconfigjson"),
        (PullSecret("x", DOCKER_CONFIG_JSON, {".dockerconfigjson": "%%"}), "its .dockerconfigjson is not JSON"),
        (PullSecret("x", DOCKER_CONFIG_JSON, {".dockerconfigjson": b64(b"\xff")}), "is not JSON"),
        (PullSecret("x", DOCKER_CONFIG_JSON, {".dockerconfigjson": b64("[" * 9000)}), "is not JSON"),
        (PullSecret("x", DOCKER_CONFIG_JSON, {".dockerconfigjson": b64("[]")}), "has no table of registries"),
        (PullSecret("x", DOCKER_CONFIG_JSON, {".dockerconfigjson": b64('{"auths": 3}')}), "has no table of registries"),
        (secret("x", {"r": "hunter2"}), "its entry for r is no table"),
        (secret("x", {"r": {"username": "hunter2"}}), "has neither auth nor username and password"),
        (secret("x", {"r": {"auth": "hunter2!"}}), "has an auth that is not base64"),
        (secret("x", {"r": {"auth": b64("hunter2")}}), "has an auth that is not user:password"),
        (secret("x", {"r": {"auth": ["hunter2"]}}), "has an auth that is no text"),
        (secret("x", {"r": {"auth": b64(b"\xff:")}}), "has an auth that is not base64"),
    ],
)
def test_a_secret_that_cannot_be_used_is_a_note_without_its_content_and_the_others_count(
    broken: PullSecret, said: str
) -> None:
    document, notes = merge([broken, secret("good", {"quay.io": pair("u", "p")})])
    assert auths(document) == {"quay.io": "u:p"}
    assert len(notes) == 1
    assert "image pull secret x" in notes[0]
    assert said in notes[0]
    assert "hunter2" not in notes[0]


def test_a_pattern_is_told_to_be_none_of_the_pod_vms_names() -> None:
    assert "*.azurecr.io is a pattern" in merge([secret("a", {"*.azurecr.io": pair("u", "p")})])[1][0]


def test_nothing_gives_no_document_at_all() -> None:
    assert merge([]) == (b"", [])
    assert merge([secret("a", {})]) == (b"", [])


def test_a_document_may_be_far_larger_than_upstreams_12_kib() -> None:
    document, notes = merge(secret(f"s{n}", {f"r{n}.example": pair("u", "p" * 60_000)}) for n in range(20))
    assert len(auths(document)) == 20
    assert len(document) > 1_200_000
    assert notes == []


def test_a_secret_never_shows_when_it_is_printed() -> None:
    assert "hunter2" not in repr(PullSecret("a", DOCKER_CONFIG, {".dockercfg": "hunter2"}))
