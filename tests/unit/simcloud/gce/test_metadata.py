"""The metadata server in Google's form, and instances that boot and find themselves in it."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from providers.simcloud.exchange import Answer
from providers.simcloud.gce import metadata
from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.ec2_client import eventually
from tests.unit.simcloud.gce.owner import Owner, owner_of
from tests.unit.simcloud.networks import in_own_network, links

FLAVOR = {"Metadata-Flavor": "Google"}
ROOT = "/computeMetadata/v1"
TREE: Mapping[str, Any] = {
    "instance": {
        "attributes": {"user-data": "aGVsbG8=", "enable-oslogin": "false"},
        "cpu-platform": "AMD Milan",
        "network-interfaces": {"0": {"ip": "172.31.0.2", "access-configs": {"0": {"external-ip": "203.0.113.1"}}}},
        "service-accounts": {"default": {"aliases": "default", "email": "a@b", "scopes": "x\ny", "token": "{}"}},
        "tags": '["podvm"]',
    },
    "project": {"project-id": "peerpods-simcloud"},
}


def ask(path: str, headers: Mapping[str, str] = FLAVOR, method: str = "GET") -> Answer:
    return metadata.serve(method, path, headers, TREE)


def test_an_attribute_is_its_value_and_nothing_else() -> None:
    answer = ask(f"{ROOT}/instance/attributes/user-data")
    assert (answer.status, answer.body, answer.content_type) == (200, b"aGVsbG8=", "application/text")
    assert answer.headers["Metadata-Flavor"] == "Google"


@pytest.mark.parametrize("headers", [{}, {"Metadata-Flavor": "google"}, {"X-Google-Metadata-Request": "True"}])
def test_without_the_header_nothing_is_told(headers: Mapping[str, str]) -> None:
    assert ask(f"{ROOT}/instance/attributes/user-data", headers).status == 403


def test_a_request_that_was_forwarded_is_refused() -> None:
    assert ask(f"{ROOT}/instance/tags", {**FLAVOR, "X-Forwarded-For": "10.0.0.1"}).status == 403


@pytest.mark.parametrize(
    "path", [f"{ROOT}/instance/attributes/none", f"{ROOT}/instance/tags/x", "/latest/meta-data", "/metadata/instance"]
)
def test_what_is_not_there_is_not_found(path: str) -> None:
    assert ask(path).status == 404


def test_nothing_is_written_from_inside() -> None:
    assert ask(f"{ROOT}/instance/tags", method="PUT").status == 405


def test_a_folder_is_listed_and_named_with_its_slash() -> None:
    assert ask(f"{ROOT}/instance/attributes/").body == b"enable-oslogin\nuser-data\n"
    assert ask(f"{ROOT}/").body == b"instance/\nproject/\n"
    moved = ask(f"{ROOT}/instance/attributes")
    assert (moved.status, moved.headers["Location"]) == (301, f"{ROOT}/instance/attributes/")


def test_a_whole_folder_comes_as_json_in_camel_case_or_as_text() -> None:
    found = json.loads(ask(f"{ROOT}/instance/?recursive=true").body)
    assert found["cpuPlatform"] == "AMD Milan"
    assert found["attributes"] == TREE["instance"]["attributes"]
    assert found["networkInterfaces"] == [{"ip": "172.31.0.2", "accessConfigs": [{"externalIp": "203.0.113.1"}]}]
    assert found["tags"] == ["podvm"]
    assert found["serviceAccounts"] == {"default": {"aliases": ["default"], "email": "a@b", "scopes": ["x", "y"]}}
    assert json.loads(ask(f"{ROOT}/instance/cpu-platform?alt=json").body) == "AMD Milan"
    assert b"attributes/user-data aGVsbG8=\n" in ask(f"{ROOT}/instance/?recursive=true&alt=text").body


def test_the_server_says_whose_it_is_without_being_asked_properly() -> None:
    assert ask("/", {}).headers["Metadata-Flavor"] == "Google"


PROGRAM = Path(__file__).with_name("instance.py")


def said(owner: Owner, word: str, name: str = "podvm-1") -> str:
    """What the instance's program printed after that word."""

    def look() -> str:
        text = owner.ask("Instances", "get_serial_port_output", instance=name).contents
        return next((line.partition(" ")[2] for line in text.splitlines() if line.startswith(word)), "")

    return str(eventually(look))


@pytest.mark.netns
@in_own_network
def test_an_instance_boots_and_finds_itself_in_its_metadata() -> None:
    with (
        running_in_thread("namespace", cloud="gce", program=[sys.executable, str(PROGRAM)]) as cloud,
        owner_of(cloud) as owner,
    ):
        account = {"email": "default", "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}
        shown = owner.launch(service_accounts=[account])
        assert json.loads(said(owner, "FACTS")) == {
            "user_data": "aGVsbG8=",
            "guest": "aGVsbG8=",
            "without": 403,
            "zone": "projects/123456789012/zones/us-central1-a",
            "name": "podvm-1",
            "hostname": "podvm-1.us-central1-a.c.peerpods-simcloud.internal",
            "ip": shown.network_interfaces[0].network_i_p,
            "project": "peerpods-simcloud",
            "token": True,
        }
        owner.done(owner.ask("Instances", "delete_unary", instance="podvm-1"))
    assert links() == []


@pytest.mark.netns
@in_own_network
def test_a_guest_that_shuts_itself_down_leaves_a_terminated_instance() -> None:
    with (
        running_in_thread("namespace", cloud="gce", program=[sys.executable, "-S", "-c", "print('bye')"]) as cloud,
        owner_of(cloud) as owner,
    ):
        owner.launch()
        owner.becomes("TERMINATED")
        assert cloud.instances()[0].reason == "the instance has shut itself down"
        assert owner.ask("Instances", "get_serial_port_output", instance="podvm-1").contents.endswith("bye\n")
