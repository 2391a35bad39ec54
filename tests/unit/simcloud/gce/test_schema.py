"""Requests against Google's own types: what the SDK would not even let out."""

import pytest

from providers.simcloud.gce import paths, schema
from tests.unit.simcloud.gce.owner import PROJECT, ZONE, Owner

INSTANCES = f"/compute/v1/projects/{PROJECT}/zones/{ZONE}/instances"

FAULTS = [
    ({"nmae": "a"}, "resource", 'Invalid JSON payload received. Unknown name "nmae" at \'resource\': Cannot find field.'),
    ({"disks": [{"boot": True, "size": 1}]}, "resource.disks[0]", 'Unknown name "size" at \'resource.disks[0]\''),
    ({"name": 7}, "resource.name", "Invalid value at 'resource.name' (TYPE_STRING), 7"),
    ({"canIpForward": "true"}, "resource.can_ip_forward", '(TYPE_BOOL), "true"'),
    ({"disks": {}}, "resource.disks", "(List), {}"),
    ({"labels": []}, "resource.labels", "(Map), []"),
    ({"labels": {"a": 1}}, "resource.labels[a]", "(TYPE_STRING), 1"),
    ({"scheduling": "spot"}, "resource.scheduling", '(type.googleapis.com/compute.v1.Scheduling), "spot"'),
    ({"scheduling": {"provisioningModel": "CHEAP"}}, "resource.scheduling.provisioning_model", "Scheduling.ProvisioningModel"),
    ({"scheduling": {"provisioningModel": "UNDEFINED_PROVISIONING_MODEL"}}, "resource.scheduling.provisioning_model", "UNDEF"),
    ({"disks": [{"initializeParams": {"diskSizeGb": "ten"}}]}, "resource.disks[0].initialize_params.disk_size_gb", "(TYPE_INT64)"),
    ({"guestAccelerators": [{"acceleratorCount": 2**31}]}, "resource.guest_accelerators[0].accelerator_count", "(TYPE_INT32)"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "field", "words"), FAULTS, ids=[field for _, field, _ in FAULTS])
def test_refused_with_googles_words(owner: Owner, body: object, field: str, words: str) -> None:
    error = owner.post(body)
    assert words in error["message"]
    assert (error["status"], error["errors"][0]["reason"]) == ("INVALID_ARGUMENT", "badRequest")
    (details,) = error["details"]
    assert details["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert details["fieldViolations"][0]["field"] == field


def test_all_faults_are_told_at_once(owner: Owner) -> None:
    error = owner.post({"a": 1, "b": 2})
    assert [each["description"].split('"')[1] for each in error["details"][0]["fieldViolations"]] == ["a", "b"]


@pytest.mark.parametrize("text", ["{", "[]", "7"])
def test_a_body_that_is_no_object_cannot_be_parsed(owner: Owner, text: str) -> None:
    assert owner.post(text)["errors"][0]["reason"] == "parseError"


@pytest.mark.parametrize("query", ["request_Id=1", "maxResults=9", "clientToken=a"])
def test_a_parameter_that_the_method_has_not_is_refused(owner: Owner, query: str) -> None:
    status, answer, _ = owner.raw("POST", f"{INSTANCES}?{query}", {})
    assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert "Cannot bind query parameter" in answer["error"]["message"]


@pytest.mark.parametrize("query", ["maxResults=many", "maxResults=-1.5"])
def test_a_parameter_of_the_wrong_kind_is_refused(owner: Owner, query: str) -> None:
    status, answer, _ = owner.raw("GET", f"{INSTANCES}?{query}")
    assert status == 400
    assert "Invalid value at" in answer["error"]["message"]


def test_parameters_of_every_google_api_are_let_through(owner: Owner) -> None:
    assert owner.raw("GET", f"{INSTANCES}?alt=json&prettyPrint=false&key=k")[0] == 200


def test_numbers_of_64_bits_come_as_texts_or_numbers_and_null_is_nothing() -> None:
    for size in ("10", 10, None):
        body = b'{"sizeGb": %s}' % {"10": b'"10"', 10: b"10", None: b"null"}[size]
        assert schema.read("disks.insert", {}, {}, body) == {"sizeGb": size}


def test_a_method_without_a_body_takes_none(owner: Owner) -> None:
    status, answer, _ = owner.raw("POST", f"{INSTANCES}/podvm-1/stop", {"force": True})
    assert (status, answer["error"]["errors"][0]["reason"]) == (400, "badRequest")


def test_what_google_does_not_know_is_not_found(owner: Owner) -> None:
    for method, path in (("GET", "/compute/v2/projects"), ("PUT", INSTANCES), ("POST", f"{INSTANCES}/podvm-1/dance")):
        assert owner.raw(method, path)[0] == 404


def test_every_action_of_compute_is_known_to_the_sdk() -> None:
    elsewhere = ("cloudresourcemanager", "cloudbilling", "oauth2", "storage")
    unknown = [a for a in paths.ROUTES.values() if not schema.knows(a) and a.partition(".")[0] not in elsewhere]
    assert unknown == []
