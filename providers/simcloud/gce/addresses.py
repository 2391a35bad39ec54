"""Addresses of the region, reserved for later."""

from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Final

from providers.simcloud.gce import listing
from providers.simcloud.gce.asked import Asked, Verb
from providers.simcloud.gce.checks import check_labels
from providers.simcloud.gce.disks import relabel
from providers.simcloud.gce.errors import Failed, exists, in_use, invalid, not_found, required
from providers.simcloud.gce.networks import Networks
from providers.simcloud.gce.operations import Operations
from providers.simcloud.gce.paths import check_name, link, reference
from providers.simcloud.gce.project import ID, NUMBER, SUBNETWORK, Json, Project, fingerprint, timestamp

_INTERNAL: Final = "INTERNAL"
_EXTERNAL: Final = "EXTERNAL"
_SHOWN: Final = "198.51.100."  # a range for documentation: external addresses are shown, not reachable


class Addresses:
    """Actions on addresses."""

    def __init__(self, project: Project, operations: Operations, networks: Networks) -> None:
        self._project = project
        self._operations = operations
        self._networks = networks
        self._scope = f"regions/{project.region}"

    def actions(self) -> Mapping[str, Verb]:
        path = f"projects/{ID}/{self._scope}/addresses"
        scopes = ["global", self._scope]
        return {
            "addresses.get": lambda asked: self._find(asked.names["address"]),
            "addresses.list": lambda asked: listing.page(self._all(), asked.query, "address", path),
            "addresses.aggregatedList": lambda asked: listing.aggregated(
                [(self._scope, each) for each in self._all()], scopes, asked.query, "address", "addresses"
            ),
            "addresses.insert": self.insert,
            "addresses.delete": self.delete,
            "addresses.setLabels": self.set_labels,
        }

    def insert(self, asked: Asked) -> Json:
        body = asked.body
        name = body.get("name") or ""
        if not name:
            raise required("resource.name")
        check_name(name)
        path = self._path(name)
        if known := self._operations.known(asked.action, path, asked.request_id):
            return known.shown()
        check_labels(body.get("labels") or {}, "resource.labels")
        internal = self._is_internal(body)
        if name in self._project.addresses:
            raise exists(path)
        wanted = self._wish(body, internal=internal)
        number = self._project.new_id()
        operation = self._operations.begin(asked.action, self._scope, path, number, asked.request_id)
        taken = self._project.take_address(wanted) if internal else IPv4Address(f"{_SHOWN}{self._next()}")
        if taken is None:
            words = f"IP space of '{self._networks.subnetwork_path}' is exhausted."
            failure = Failed("IP_SPACE_EXHAUSTED", words)
            if wanted is not None:
                words = f"Specified IP address is in-use and would result in a conflict: {wanted}."
                failure = Failed("IP_IN_USE_BY_ANOTHER_RESOURCE", words)
            self._operations.soon(lambda: self._operations.finish(operation, failure))
            return operation.shown()
        self._project.addresses[name] = self._shown(body, name, number, taken, internal=internal)
        self._operations.soon(lambda: self._operations.finish(operation))
        return operation.shown()

    def delete(self, asked: Asked) -> Json:
        address = self._find(asked.names["address"])
        path = self._path(address["name"])
        if known := self._operations.known(asked.action, path, asked.request_id):
            return known.shown()
        if address.get("users"):
            raise in_use("address", path, address["users"][0].partition("/v1/")[2])
        del self._project.addresses[address["name"]]
        if address["addressType"] == _INTERNAL:
            self._project.free_address(IPv4Address(address["address"]))
        return self._operations.at_once(asked.action, self._scope, path, address["id"], asked.request_id)

    def set_labels(self, asked: Asked) -> Json:
        address = self._find(asked.names["resource"])
        relabel(address, asked.body)
        path = self._path(address["name"])
        return self._operations.at_once(asked.action, self._scope, path, address["id"], asked.request_id)

    def _is_internal(self, body: Json) -> bool:
        kind = body.get("addressType") or _EXTERNAL
        if kind not in (_INTERNAL, _EXTERNAL):
            raise invalid("resource.addressType", kind, "Must be INTERNAL or EXTERNAL.")
        purpose, subnet = body.get("purpose"), body.get("subnetwork")
        if kind == _EXTERNAL and (purpose or subnet):
            field, value = ("purpose", purpose) if purpose else ("subnetwork", subnet)
            raise invalid(f"resource.{field}", value, "It cannot be given for an external address.")
        if purpose not in (None, "", "GCE_ENDPOINT", "SHARED_LOADBALANCER_VIP"):
            raise invalid("resource.purpose", purpose, "simcloud plays GCE_ENDPOINT and SHARED_LOADBALANCER_VIP.")
        if subnet:
            wanted = reference(subnet, "subnetworks", ID, "resource.subnetwork")
            here = wanted.place == self._project.region and wanted.name == SUBNETWORK
            if not here or wanted.project not in (ID, NUMBER):
                raise invalid("resource.subnetwork", subnet, "The referenced subnetwork resource cannot be found.")
        return bool(kind == _INTERNAL)

    def _wish(self, body: Json, *, internal: bool) -> IPv4Address | None:
        text = body.get("address")
        if not text:
            return None
        try:
            wanted = IPv4Address(text)
        except ValueError:
            raise invalid("resource.address", text, "Must be a valid IPv4 address.") from None
        if not internal or not self._project.usable(wanted):
            raise invalid("resource.address", text, "Requested IP address is not within the subnetwork's range.")
        return wanted

    def _shown(self, body: Json, name: str, number: str, taken: IPv4Address, *, internal: bool) -> Json:
        labels = dict(body.get("labels") or {})
        made: Json = {
            "kind": "compute#address",
            "id": number,
            "creationTimestamp": timestamp(),
            "name": name,
            "description": body.get("description") or "",
            "address": str(taken),
            "status": "RESERVED",
            "region": self._project.region_link(),
            "selfLink": link(self._path(name)),
            "networkTier": "PREMIUM",
            "labelFingerprint": fingerprint(labels),
            "addressType": _INTERNAL if internal else _EXTERNAL,
        }
        if labels:
            made["labels"] = labels
        if internal:
            made |= {"purpose": body.get("purpose") or "GCE_ENDPOINT"}
            made |= {"subnetwork": link(self._networks.subnetwork_path)}
        return made

    def _next(self) -> int:
        return len(self._project.addresses) % 254 + 1

    def _all(self) -> list[Json]:
        return list(self._project.addresses.values())

    def _find(self, name: str) -> Json:
        for each in self._all():
            if name in (each["name"], each["id"]):
                return each
        raise not_found(self._path(name))

    def _path(self, name: str) -> str:
        return f"projects/{ID}/{self._scope}/addresses/{name}"
