"""Google's own SDK, pointed at a simulated Compute Engine."""

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials
from google.cloud import compute_v1

from providers.simcloud.cloud import Simcloud
from tests.unit.simcloud.ec2_client import PATIENCE, eventually

PROJECT, REGION, ZONE = "peerpods-simcloud", "us-central1", "us-central1-a"
IMAGES = f"projects/{PROJECT}/global/images"
DONE = compute_v1.Operation.Status.DONE


class Owner:
    """A user of one simulated project."""

    def __init__(self, cloud: Simcloud, closing: ExitStack, credentials: Any = None) -> None:
        self.cloud = cloud
        self._closing = closing
        self._clients: dict[str, Any] = {}
        self._options = {
            "credentials": credentials or AnonymousCredentials(),
            "client_options": ClientOptions(api_endpoint=cloud.endpoint_url),
            "transport": "rest",
        }

    def ask(self, service: str, method: str, **request: Any) -> Any:
        """One call: ask("Instances", "get", instance=...), in the usual project and zone, without retries."""
        if service not in self._clients:
            made = self._clients[service] = getattr(compute_v1, f"{service}Client")(**self._options)
            self._closing.callback(made.transport.close)
        client = self._clients[service]
        kind = getattr(compute_v1, _request_type(service, method))
        usual = {"project": PROJECT, "zone": ZONE, "region": REGION}
        known = {name: value for name, value in usual.items() if name in kind.meta.fields}
        return getattr(client, method)(request={**known, **request}, retry=None, timeout=PATIENCE)

    def body(self, **changes: Any) -> dict[str, Any]:
        """An instance that is right, with changes; None takes a field away."""
        right = {
            "name": "podvm-1",
            "machine_type": f"zones/{ZONE}/machineTypes/n2d-standard-2",
            "disks": [boot_disk()],
            "network_interfaces": [{"subnetwork": f"regions/{REGION}/subnetworks/default"}],
            "metadata": {"items": [{"key": "user-data", "value": "aGVsbG8="}]},
        }
        return {key: value for key, value in {**right, **changes}.items() if value is not None}

    def insert(self, request_id: str = "", zone: str = ZONE, **changes: Any) -> Any:
        """The operation, as it is answered."""
        return self.ask(
            "Instances",
            "insert_unary",
            zone=zone,
            request_id=request_id or None,
            instance_resource=self.body(**changes),
        )

    def done(self, operation: Any) -> Any:
        """The operation when it is done, with or without an error."""
        place = operation.zone.rpartition("/")[2] or operation.region.rpartition("/")[2]
        service, where = ("ZoneOperations", "zone") if operation.zone else ("RegionOperations", "region")
        look = partial(self.ask, service, "get", operation=operation.name, **{where: place})
        return eventually(lambda: (found := look()).status == DONE and found)

    def launch(self, name: str = "podvm-1", **changes: Any) -> Any:
        """A running instance."""
        finished = self.done(self.insert(name=name, **changes))
        assert not finished.error.errors, finished.error
        return self.show(name)

    def fails(self, **changes: Any) -> Any:
        """The error of an insert that is accepted, and fails."""
        finished = self.done(self.insert(**changes))
        (error,) = finished.error.errors
        return error

    def show(self, name: str = "podvm-1", zone: str = ZONE) -> Any:
        return self.ask("Instances", "get", instance=name, zone=zone)

    def becomes(self, status: str, name: str = "podvm-1") -> Any:
        return eventually(lambda: (found := self.show(name)).status == status and found)

    def names(self, filter: str = "", **asked: Any) -> list[str]:
        return [each.name for each in self.ask("Instances", "list", filter=filter, **asked)]

    def disk(self, name: str, **changes: Any) -> None:
        """Make a disk by itself."""
        self.done(self.ask("Disks", "insert_unary", disk_resource={"name": name, "size_gb": 10, **changes}))

    def disks(self) -> list[str]:
        return [each.name for each in self.ask("Disks", "list")]

    def raw(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """A call without the SDK, which would not let it out: status, JSON, headers."""
        connection = http.client.HTTPConnection(self.cloud.endpoint_url.partition("://")[2], timeout=PATIENCE)
        try:
            sent = body if isinstance(body, str | None) else json.dumps(body)
            connection.request(method, path, sent, dict(headers or {}))
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text.startswith(b"{") else {}, dict(answer.headers)
        finally:
            connection.close()

    def post(self, body: Any) -> dict[str, Any]:
        """An insert as JSON: the error that it is refused with."""
        status, answer, _ = self.raw("POST", f"/compute/v1/projects/{PROJECT}/zones/{ZONE}/instances", body)
        assert status == 400, answer
        return dict(answer["error"])


def boot_disk(image: str = f"{IMAGES}/peerpods-podvm-x86-64", **changes: Any) -> dict[str, Any]:
    """The first disk of an instance; changes are of initialize_params."""
    return {"boot": True, "auto_delete": True, "initialize_params": {"source_image": image, **changes}}


@contextmanager
def owner_of(cloud: Simcloud, **options: Any) -> Iterator[Owner]:
    with ExitStack() as closing:
        yield Owner(cloud, closing, **options)


@contextmanager
def refused(reason: str, words: str = "", status: int = 400) -> Iterator[None]:
    """Inside, Google says no: for this reason, with these words in its message, and this HTTP status."""
    with pytest.raises(GoogleAPICallError) as caught:
        yield
    (entry,) = caught.value.errors
    assert (entry["reason"], caught.value.code) == (reason, status), caught.value
    assert words in entry["message"]


def _request_type(service: str, method: str) -> str:
    verb = "".join(word.capitalize() for word in method.removesuffix("_unary").split("_"))
    one = {"Addresses": "Address"}.get(service, service.removesuffix("s"))
    for name in (f"{verb}{one}Request", f"{verb}{service}Request"):
        if hasattr(compute_v1, name):
            return name
    raise AssertionError(f"the SDK has no request for {service}.{method}")
