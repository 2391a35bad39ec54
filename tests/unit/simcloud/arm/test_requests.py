"""Who may ask, what a request must look like, and what every answer carries."""

import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from azure.identity import ManagedIdentityCredential

from providers.simcloud.arm import routes
from tests.unit.simcloud.arm.arm_client import GROUP, Account, arm, refused

VM = "/providers/Microsoft.Compute/virtualMachines/vm?api-version=2024-07-01"


def send(account: Account, path: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, Any, Any]:
    """Status, body and headers of a call as curl would make it."""
    if account.bearer.token:
        headers.setdefault("Authorization", f"Bearer {account.bearer.token}")
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(account.cloud.endpoint_url + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            text, status, got = answer.read(), answer.status, answer.headers
    except urllib.error.HTTPError as error:
        with error:
            text, status, got = error.read(), error.code, error.headers
    return status, json.loads(text) if text else None, got


def group(account: Account) -> str:
    return f"/subscriptions/{account.cloud.facts['subscription']}/resourceGroups/{GROUP}"


def code(answer: tuple[int, Any, Any]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["code"]


# -- who asks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", "AuthenticationFailed"),
        ("Basic abc", "AuthenticationFailedInvalidHeader"),
        ("Bearer abc", "InvalidAuthenticationToken"),
        ("Bearer a.b.c", "InvalidAuthenticationToken"),
    ],
)
def test_without_a_good_token_nothing_is_answered(lasting: Account, header: str, expected: str) -> None:
    answer = send(lasting, group(lasting) + VM, Authorization=header)
    assert code(answer) == (401, expected)
    assert answer[2]["WWW-Authenticate"].startswith("Bearer ")


def test_an_expired_token_and_one_for_another_audience_are_refused(account: Account) -> None:
    issuer = arm(account.cloud).issuer
    account.bearer.token = issuer.token("https://management.azure.com", lifetime=-1)
    with refused("ExpiredAuthenticationToken", "is earlier than current UTC time", status=401):
        account.show()
    account.bearer.token = issuer.token("https://vault.azure.net")
    with refused("InvalidAuthenticationTokenAudience", "vault.azure.net", status=401):
        account.show()


def test_a_token_of_another_simcloud_is_foreign(account: Account) -> None:
    from providers.simcloud.arm.identity import Issuer

    account.bearer.token = Issuer().token("https://management.azure.com")
    with refused("InvalidAuthenticationToken", status=401):
        account.show()


def test_azure_identity_gets_a_token_without_the_internet(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in account.cloud.environment().items():
        monkeypatch.setenv(name, value)
    with ManagedIdentityCredential() as credential:
        account.bearer.token = credential.get_token("https://management.azure.com/.default").token
    assert account.names() == []


@pytest.mark.parametrize(
    ("headers", "query"),
    [({}, "resource=x"), ({"Metadata": "true"}, ""), ({"Metadata": "true", "X-Forwarded-For": "1"}, "resource=x")],
)
def test_the_token_endpoint_wants_its_header_a_resource_and_no_proxy(
    lasting: Account, headers: Any, query: str
) -> None:
    status, body, _ = send(lasting, f"/metadata/identity/oauth2/token?{query}", **headers)
    assert (status, body["error"]) == (400, "invalid_request")


# -- where ----------------------------------------------------------------------------------------


def test_subscription_group_and_resource_must_exist(lasting: Account) -> None:
    other = "/subscriptions/00000000-0000-0000-0000-000000000009/resourceGroups/peerpods"
    assert code(send(lasting, other + VM)) == (404, "SubscriptionNotFound")
    assert code(send(lasting, "/subscriptions/mine/resourceGroups/peerpods" + VM)) == (400, "InvalidSubscriptionId")
    assert code(send(lasting, group(lasting) + "x" + VM)) == (404, "ResourceGroupNotFound")
    assert code(send(lasting, group(lasting) + VM)) == (404, "ResourceNotFound")
    assert code(send(lasting, "/nowhere?api-version=2024-07-01")) == (404, "NotFound")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "MissingApiVersionParameter"),
        ("?api-version=latest", "InvalidApiVersionParameter"),
        ("?api-version=2009-01-01", "InvalidApiVersionParameter"),
        ("?api-version=2031-01-01", "InvalidApiVersionParameter"),
    ],
)
def test_the_api_version_must_be_one(lasting: Account, query: str, expected: str) -> None:
    assert code(send(lasting, group(lasting) + VM.partition("?")[0] + query)) == (400, expected)


def test_paths_and_ids_do_not_mind_case(account: Account) -> None:
    account.launch()
    status, body, _ = send(account, (group(account) + VM.partition("?")[0]).upper() + "?api-version=2024-07-01")
    assert (status, body["name"]) == (200, "vm")


def test_every_path_that_is_known_is_answered(lasting: Account) -> None:
    assert set(arm(lasting.cloud)._handlers) == routes.ACTIONS - {
        "Identity.Token",
        "Prices.List",
        "Pages.Put",
        "Pages.List",
    }


def test_what_is_not_played_says_so(lasting: Account) -> None:
    other = f"{group(lasting)}/providers/Microsoft.Storage/storageAccounts/x?api-version=2024-07-01"
    assert code(send(lasting, other)) == (404, "InvalidResourceType")
    assert code(send(lasting, group(lasting) + VM, "POST")) == (405, "MethodNotAllowed")


def test_every_answer_has_its_ids_and_etag(account: Account) -> None:
    account.launch()
    status, body, headers = send(account, group(account) + VM)
    assert (status, headers["ETag"]) == (200, body["etag"])
    assert len(headers["x-ms-request-id"]) == len(headers["x-ms-correlation-request-id"]) == 36


# -- what: the SDK's models as the schema -----------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected", "words"),
    [
        ({"colour": "red"}, "InvalidRequestContent", "Could not find member 'colour' on object of type 'VirtualMachine'"),
        ({"properties": {"colour": 1}}, "BadRequest", "Could not find member 'colour' on object of type 'VirtualMachineProp"),
        ({"properties": {"storageProfile": {"osDisk": {"size": 1, "createOption": "FromImage"}}}}, "BadRequest", "'size'"),
        ({"zones": "1"}, "BadRequest", "Error converting value"),
        ({"tags": ["a"]}, "BadRequest", "Dictionary"),
        ({"properties": {"userData": 5}}, "BadRequest", "System.String"),
        ({"properties": {"storageProfile": {"osDisk": {"createOption": "FromImage", "diskSizeGB": "8"}}}}, "BadRequest", "Int32"),
        ({"properties": {"securityProfile": {"uefiSettings": {"vTpmEnabled": "true"}}}}, "BadRequest", "System.Boolean"),
        ({"properties": {"priority": "Cheap"}}, "InvalidParameter", "Allowed values are: Regular,Low,Spot"),
        ({"properties": {"storageProfile": {"dataDisks": [{"createOption": "Empty"}]}}}, "InvalidParameter", "lun' is missing"),
        ({"properties": "none"}, "BadRequest", "VirtualMachineProperties"),
        ({"location": None}, "InvalidParameter", "'location' is missing"),
    ],
)  # fmt: skip
def test_a_body_that_does_not_fit_azures_schema_is_refused(
    lasting: Account, change: dict[str, Any], expected: str, words: str
) -> None:
    status, body, _ = send(lasting, group(lasting) + VM, "PUT", {"location": "eastus", **change})
    assert (status, body["error"]["code"]) == (400, expected), body
    assert words in body["error"]["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff"])
def test_a_body_that_is_no_json_object_is_refused(lasting: Account, body: bytes) -> None:
    assert code(send(lasting, group(lasting) + VM, "PUT", body)) == (400, "InvalidRequestContent")


def test_the_networks_own_form_of_a_schema_error(lasting: Account) -> None:
    path = f"{group(lasting)}/providers/Microsoft.Network/networkInterfaces/x?api-version=2024-05-01"
    _, body, _ = send(lasting, path, "PUT", {"location": "eastus", "properties": {"colour": 1}})
    assert (body["error"]["code"], body["error"]["details"][0]["code"]) == ("InvalidRequestFormat", "InvalidJson")


def test_what_is_read_only_may_be_sent_back_and_is_ignored(account: Account) -> None:
    nic = account.nic()
    account.put("vm", account.request(nic))
    _, body, _ = send(account, group(account) + VM)
    body["properties"]["provisioningState"] = "Failed"
    body["tags"] = {"a": "b"}
    status, body, _ = send(account, group(account) + VM, "PUT", body)
    assert (status, body["tags"], body["properties"]["provisioningState"]) == (200, {"a": "b"}, "Succeeded")


# -- permissions ----------------------------------------------------------------------------------


def test_what_the_caller_may_not_do_is_refused_by_name_and_shown(account: Account) -> None:
    account.cloud.faults.deny("Microsoft.Compute/virtualMachines/write")
    nic = account.nic()
    with refused("AuthorizationFailed", "perform action 'Microsoft.Compute/virtualMachines/write'", status=403):
        account.put("vm", account.request(nic))
    with refused("ResourceNotFound", status=404):
        account.show()
    path = f"{group(account)}/providers/Microsoft.Authorization/permissions?api-version=2022-04-01"
    (role,) = send(account, path)[1]["value"]
    assert (role["actions"], role["notActions"]) == (["*"], ["Microsoft.Compute/virtualMachines/write"])
    account.cloud.faults.clear()
    account.put("vm", account.request(nic))


@pytest.mark.parametrize(
    "permission", ["Microsoft.Network/virtualNetworks/subnets/join/action", "Microsoft.Network/*/join/action"]
)
def test_what_the_caller_may_not_use_is_refused_by_name(account: Account, permission: str) -> None:
    account.cloud.faults.deny(permission)
    with refused("LinkedAuthorizationFailed", "subnets/join/action' on the linked scope", status=403):
        account.nic()


def test_every_action_needs_a_permission_of_its_resource_type() -> None:
    from providers.simcloud.arm.permissions import operation
    from providers.simcloud.arm.routes import TYPES

    assert operation("VirtualMachines.CreateOrUpdate", "PUT") == "Microsoft.Compute/virtualMachines/write"
    assert operation("VirtualMachines.PowerOff", "POST") == "Microsoft.Compute/virtualMachines/powerOff/action"
    assert operation("Subnets.Get", "GET") == "Microsoft.Network/virtualNetworks/subnets/read"
    assert operation("ResourceGroups.Get", "GET") == "Microsoft.Resources/subscriptions/resourceGroups/read"
    assert TYPES["VirtualMachines.InstanceView"].startswith("Microsoft.Compute/virtualMachines")
