"""The real SDK, pointed at a simulated Azure."""

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.core.pipeline import PipelineRequest
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient

from providers.simcloud.arm.service import Arm
from providers.simcloud.cloud import Simcloud

PATIENCE = 20.0  # seconds; the machine is shared
GROUP = "peerpods"
USER = "operator"
KEY = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(32))).decode()


class Bearer(SansIOHTTPPolicy[Any, Any]):  # type: ignore[misc]
    """The SDK's own policy sends no token where there is no TLS."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self.token = token

    def on_request(self, request: PipelineRequest[Any]) -> None:
        if self.token:
            request.http_request.headers["Authorization"] = f"Bearer {self.token}"


class NoCredential:
    def get_token(self, *scopes: str, **kwargs: Any) -> AccessToken:
        raise AssertionError("the policy has the token")


def arm(cloud: Simcloud) -> Arm:
    assert isinstance(cloud._cloud, Arm)
    return cloud._cloud


class Account:
    """A user of one simulated subscription."""

    def __init__(self, cloud: Simcloud, compute: Any, network: Any, bearer: Bearer) -> None:
        self.cloud = cloud
        self.compute = compute
        self.network = network
        self.bearer = bearer

    def nic(self, name: str = "nic", **changes: Any) -> str:
        """Make one; its id."""
        body = {**self.nic_body(), **changes}
        return str(self.network.network_interfaces.begin_create_or_update(GROUP, name, body).result().id)

    def nic_body(self, **changes: Any) -> dict[str, Any]:
        """An interface that is right; changes are of its only IP configuration."""
        inner = {"subnet": {"id": self.cloud.facts["subnet"]}, **changes}
        return {"location": "eastus", "properties": {"ipConfigurations": [{"name": "one", "properties": inner}]}}

    def request(self, nic: str = "", **changes: Any) -> dict[str, Any]:
        """A VM that is right. Changes are merged into its properties; `root` into the VM itself."""
        right: dict[str, Any] = {
            "hardwareProfile": {"vmSize": "Standard_DC2as_v5"},
            "storageProfile": {
                "imageReference": {"id": self.cloud.facts["image"]},
                "osDisk": {
                    "createOption": "FromImage",
                    "deleteOption": "Delete",
                    "managedDisk": {
                        "storageAccountType": "Premium_LRS",
                        "securityProfile": {"securityEncryptionType": "VMGuestStateOnly"},
                    },
                },
            },
            "osProfile": {
                "adminUsername": USER,
                "linuxConfiguration": {
                    "disablePasswordAuthentication": True,
                    "provisionVMAgent": False,
                    "ssh": {"publicKeys": [{"path": f"/home/{USER}/.ssh/authorized_keys", "keyData": KEY}]},
                },
            },
            "securityProfile": {
                "securityType": "ConfidentialVM",
                "uefiSettings": {"vTpmEnabled": True, "secureBootEnabled": True},
            },
            "networkProfile": {"networkInterfaces": [{"id": nic, "properties": {"deleteOption": "Delete"}}]},
        }
        root = changes.pop("root", {})
        return {"location": "eastus", "properties": merged(right, changes), **root}

    def plain(self, nic: str = "", **changes: Any) -> dict[str, Any]:
        """One without a TEE."""
        right = self.request(nic, hardwareProfile={"vmSize": "Standard_D2s_v5"}, securityProfile=None)
        del right["properties"]["storageProfile"]["osDisk"]["managedDisk"]["securityProfile"]
        root = changes.pop("root", {})
        return {**right, "properties": merged(right["properties"], changes), **root}

    def put(self, name: str, body: dict[str, Any], **options: Any) -> Any:
        """The poller of a new VM; nothing is waited for."""
        return self.compute.virtual_machines.begin_create_or_update(GROUP, name, body, polling=False, **options)

    def launch(self, name: str = "vm", **changes: Any) -> Any:
        """A VM with an interface of its own, running."""
        body = self.request(self.nic(f"{name}-nic"), **changes)
        return self.compute.virtual_machines.begin_create_or_update(GROUP, name, body, polling_interval=0.05).result()

    def show(self, name: str = "vm") -> Any:
        return self.compute.virtual_machines.get(GROUP, name)

    def power(self, name: str = "vm") -> str:
        view = self.compute.virtual_machines.instance_view(GROUP, name)
        return next((str(s.code) for s in view.statuses if s.code.startswith("PowerState/")), "")

    def delete(self, name: str = "vm") -> None:
        self.compute.virtual_machines.begin_delete(GROUP, name, polling=False)

    def names(self) -> list[str]:
        return [str(each.name) for each in self.compute.virtual_machines.list(GROUP)]

    def nics(self) -> list[str]:
        return [str(each.name) for each in self.network.network_interfaces.list(GROUP)]

    def disks(self) -> list[str]:
        return [str(each.name) for each in self.compute.disks.list_by_resource_group(GROUP)]


def merged(right: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Changes laid over what is right; None takes something away."""
    made = dict(right)
    for key, value in changes.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, dict) and isinstance(made.get(key), dict):
            made[key] = merged(made[key], value)
        else:
            made[key] = value
    return made


@contextmanager
def clients(cloud: Simcloud) -> Iterator[Account]:
    """Sync clients that do not retry by themselves."""
    bearer = Bearer(arm(cloud).issuer.token("https://management.azure.com"))
    common: dict[str, Any] = {
        "subscription_id": cloud.facts["subscription"],
        "base_url": cloud.endpoint_url,
        "authentication_policy": bearer,
        "retry_total": 0,
        "polling_interval": 0.02,
    }
    with (
        ComputeManagementClient(NoCredential(), **common) as compute,
        NetworkManagementClient(NoCredential(), **common) as network,
    ):
        yield Account(cloud, compute, network, bearer)


def eventually(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """The first true value of `condition`; fails when none comes."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.01)
    return value


@contextmanager
def refused(code: str, words: str = "", status: int = 400, target: str | None = None) -> Iterator[Any]:
    """Inside, Azure says no: with this code, these words in its message, this HTTP status, and a request id."""
    with pytest.raises(HttpResponseError) as caught:
        yield caught
    error = caught.value
    assert error.error is not None, error
    assert error.error.code == code, error
    assert words in str(error.error.message), error
    assert error.status_code == status
    if target is not None:
        assert error.error.target == target
    assert len(error.response.headers["x-ms-request-id"]) == 36
