"""Who may call, how often, and what goes wrong on purpose."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from google.api_core.exceptions import Forbidden, ServiceUnavailable
from google.auth.exceptions import RefreshError
from google.oauth2.credentials import Credentials

from providers.simcloud.gce.errors import Refused
from providers.simcloud.gce.limits import Limits, group_of
from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.gce.owner import PROJECT, ZONE, Owner, owner_of, refused

INSTANCES = f"/compute/v1/projects/{PROJECT}/zones/{ZONE}/instances"


@contextmanager
def with_token(token: str) -> Iterator[Owner]:
    with running_in_thread(cloud="gce") as cloud, owner_of(cloud, credentials=Credentials(token)) as owner:
        yield owner


def test_any_token_is_good() -> None:
    with with_token("ya29.anything") as owner:
        assert owner.launch().status == "RUNNING"


def test_an_expired_token_is_refused_and_says_how_to_authenticate() -> None:
    with with_token("ya29.expired") as owner:
        with pytest.raises(RefreshError):  # the SDK has taken the 401 for a reason to refresh it
            owner.names()
        status, answer, headers = owner.raw("GET", INSTANCES, headers={"Authorization": "Bearer ya29.expired"})
    assert (status, answer["error"]["status"]) == (401, "UNAUTHENTICATED")
    assert headers["WWW-Authenticate"].startswith("Bearer realm=")
    assert answer["error"]["errors"][0]["reason"] == "authError"
    assert answer["error"]["details"][0]["reason"] == "ACCESS_TOKEN_EXPIRED"


@pytest.mark.parametrize("header", ["Basic abc", "Bearer ", "Bearer ya29.simcloud-made-up"])
def test_what_is_no_token_of_this_cloud_is_refused(owner: Owner, header: str) -> None:
    assert owner.raw("GET", INSTANCES, headers={"Authorization": header})[0] == 401


SEARCH = """
import google.auth, google.auth.transport.requests
credentials, project = google.auth.default()
credentials.refresh(google.auth.transport.requests.Request())
print(project, credentials.token)
"""


def test_googles_own_search_for_credentials_ends_here(tmp_path: Path) -> None:
    with running_in_thread(cloud="gce") as cloud:
        # no login of this machine's user
        environment = {"PATH": os.environ["PATH"], "CLOUDSDK_CONFIG": str(tmp_path), **cloud.environment()}
        del environment["GOOGLE_CLOUD_PROJECT"]
        told = subprocess.run(
            [sys.executable, "-c", SEARCH], capture_output=True, text=True, env=environment, check=True, timeout=60
        )
        project, token = told.stdout.split()
        assert project == PROJECT
        with owner_of(cloud, credentials=Credentials(token)) as owner:
            assert owner.names() == []
        assert set(cloud.calls) == {"metadata.get", "instances.list"}


def test_a_denied_permission_is_named_and_missing_from_the_test(owner: Owner) -> None:
    owner.cloud.faults.deny("compute.instances.create")
    owner.cloud.faults.deny("compute.subnetworks.use")
    words = f"Required 'compute.instances.create' permission for 'projects/{PROJECT}/zones/{ZONE}/instances/podvm-1'"
    with refused("forbidden", words, 403):
        owner.insert()
    asked = {"permissions": ["compute.instances.create", "compute.instances.get", "compute.subnetworks.use"]}
    for version in ("v1", "v3"):
        path = f"/{version}/projects/{PROJECT}:testIamPermissions"
        assert owner.raw("POST", path, asked)[1] == {"permissions": ["compute.instances.get"]}
    owner.cloud.faults.clear()
    assert owner.launch().status == "RUNNING"


def test_an_insert_takes_more_than_one_permission(owner: Owner) -> None:
    owner.cloud.faults.deny("compute.subnetworks.use")
    with refused("forbidden", "Required 'compute.subnetworks.use' permission", 403):
        owner.insert()
    owner.cloud.faults.clear()
    owner.cloud.faults.deny("compute.instances.setLabels")
    owner.launch("podvm-1")
    with refused("forbidden", "setLabels", 403):
        owner.insert(name="podvm-2", labels={"a": "b"})


def test_the_minutes_quota_runs_out_and_is_full_again_with_the_next_minute() -> None:
    limits = Limits(0.002, "us-central1")  # three a minute
    for second in (10, 11, 12):
        limits.admit("instances.insert", second)
    with pytest.raises(Refused) as caught:
        limits.admit("instances.delete", 59.9)
    assert (caught.value.reason, caught.value.http) == ("rateLimitExceeded", 403)
    limits.admit("instances.get", 59.9)  # another group
    limits.admit("instances.insert", 60.0)


def test_without_a_factor_there_are_no_quotas() -> None:
    limits = Limits(None, "us-central1")
    for _ in range(3000):
        limits.admit("instances.insert", 0)


@pytest.mark.parametrize(
    ("action", "metric"),
    [
        ("instances.insert", "default_per_region"),
        ("addresses.delete", "default_per_region"),
        ("instances.get", "read_requests_per_region"),
        ("instances.list", "list_requests_per_region"),
        ("instances.aggregatedList", "heavy_weight_read_requests"),
        ("zoneOperations.get", "operation_read_requests_per_region"),
        ("zoneOperations.wait", "heavy_weight_read_requests_per_region"),
        ("instances.getSerialPortOutput", "get_serial_port_output_requests_per_region"),
        ("images.getFromFamily", "read_requests"),
        ("regions.get", "read_requests"),
        ("firewalls.list", "list_requests"),
    ],
)
def test_each_call_counts_against_googles_own_group(action: str, metric: str) -> None:
    assert group_of(action).metric == metric


def test_a_throttled_call_has_googles_form_and_no_retry_after() -> None:
    with running_in_thread(cloud="gce", rate_limits=1 / 1500) as cloud, owner_of(cloud) as owner:
        answers = [owner.raw("GET", INSTANCES) for _ in range(4)]  # the minute may turn between two of them
    status, answer, headers = next(each for each in answers if each[0] != 200)
    error = answer["error"]
    assert (status, error["status"], error["errors"][0]["domain"]) == (403, "PERMISSION_DENIED", "usageLimits")
    assert error["errors"][0]["reason"] == "rateLimitExceeded"
    assert error["message"].startswith("Quota exceeded for quota metric 'List requests'")
    assert error["details"][0]["metadata"]["quota_location"] == "us-central1"
    assert "Retry-After" not in headers


def test_faults_speak_googles_language(owner: Owner) -> None:
    for error, status in (
        ("rateLimitExceeded", 403),
        ("quotaExceeded", 403),
        ("forbidden", 403),
        ("backendError", 503),
    ):
        owner.cloud.faults.next(action="instances.insert", error=error)
        with refused(error, status=status):
            owner.insert()
    owner.cloud.faults.next(action="instances.insert", error="rateLimitExceeded", http_status=429, message="slower")
    with refused("rateLimitExceeded", "slower", 429):
        owner.insert()
    assert owner.cloud.calls == ["instances.insert"] * 5
    assert owner.cloud.instances() == []


def test_a_fault_in_capitals_is_an_operation_that_has_failed(owner: Owner) -> None:
    owner.cloud.faults.next(action="instances.insert", error="ZONE_RESOURCE_POOL_EXHAUSTED", message="nothing left")
    operation = owner.insert(zone="us-central1-f")
    assert [(e.code, e.message) for e in operation.error.errors] == [("ZONE_RESOURCE_POOL_EXHAUSTED", "nothing left")]
    again = owner.ask("ZoneOperations", "get", operation=operation.name, zone="us-central1-f")
    assert again.http_error_status_code == 503


def test_a_lost_answer_has_been_a_deed(owner: Owner) -> None:
    owner.cloud.faults.next(action="instances.insert", lose_reply=True)
    with pytest.raises(requests.ConnectionError):
        owner.insert()
    assert owner.names() == ["podvm-1"]


def test_a_load_balancers_page_is_not_googles(owner: Owner) -> None:
    owner.cloud.faults.next(http_status=503)
    with pytest.raises(ServiceUnavailable) as caught:
        owner.names()
    assert caught.value.errors == []
    owner.cloud.faults.next(error="forbidden")
    with pytest.raises(Forbidden):
        owner.names()
