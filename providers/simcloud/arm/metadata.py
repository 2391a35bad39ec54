"""Azure's instance metadata service, for one virtual machine."""

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.identity import Issuer
from providers.simcloud.arm.state import NIC, SUBSCRIPTION, World
from providers.simcloud.arm.vm_view import Vm

VERSIONS: Final = (
    "2017-03-01", "2017-04-02", "2017-08-01", "2017-10-01", "2017-12-01", "2018-02-01", "2018-04-02", "2018-10-01",
    "2019-02-01", "2019-03-11", "2019-04-30", "2019-06-01", "2019-06-04", "2019-08-01", "2019-08-15", "2019-11-01",
    "2020-06-01", "2020-07-15", "2020-09-01", "2020-10-01", "2020-12-01", "2021-01-01", "2021-02-01", "2021-03-01",
    "2021-05-01", "2021-10-01", "2021-11-01", "2021-11-15", "2021-12-13", "2023-07-01", "2023-11-15",
)  # fmt: skip
_USER_DATA_SINCE: Final = "2021-01-01"
_SERVER: Final = {"Server": "IMDS/150.870.65.1475"}


class Metadata:
    """What one VM learns about itself; changes by the API hold from the next request on."""

    def __init__(self, world: World, issuer: Issuer, vm: Vm) -> None:
        self._world = world
        self._issuer = issuer
        self._vm = vm

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """`machines.base.Metadata`."""
        if request.headers.get("Metadata", "").lower() != "true":
            return _wrong("Bad request. Required metadata header not specified")
        if "X-Forwarded-For" in request.headers:  # a proxy that somebody outside talks through
            return _wrong("Bad request. Requests with an X-Forwarded-For header are refused")
        if request.method != "GET":
            return _wrong("Method not allowed", HTTPStatus.METHOD_NOT_ALLOWED)
        path = [part for part in request.path.split("/") if part]
        if path[:1] != ["metadata"]:
            return _wrong("Not found", HTTPStatus.NOT_FOUND)
        if path[1:] == ["versions"]:
            return web.json_response({"apiVersions": list(VERSIONS)}, headers=_SERVER)
        if path[1:] == ["identity", "oauth2", "token"]:
            return self._token(request)
        if path[1:2] == ["instance"]:
            return self._instance(path[2:], request.query)
        return _wrong("Not found", HTTPStatus.NOT_FOUND)

    def _instance(self, path: list[str], query: Mapping[str, str]) -> web.StreamResponse:
        version = query.get("api-version", "")
        if version not in VERSIONS:
            what = "api-version is invalid or was not specified in the request"
            body = {
                "error": f"Bad request. {what}. For more information refer to aka.ms/azureimds",
                "newest-versions": list(VERSIONS[:-4:-1]),
            }
            return web.json_response(body, status=HTTPStatus.BAD_REQUEST, headers=_SERVER)
        node: Any = self._tree(version)
        for part in path:
            node = _step(node, part)
            if node is None:
                return _wrong("Not found", HTTPStatus.NOT_FOUND)
        plain = query.get("format", "json").lower() == "text"
        if isinstance(node, (Mapping, list)):
            if plain:
                names = node if isinstance(node, Mapping) else map(str, range(len(node)))
                return web.Response(text="\n".join(names), headers=_SERVER)
            return web.json_response(node, headers=_SERVER)
        if not plain:  # a leaf has no JSON form
            return _wrong("Bad request. format=text is required for this path")
        return web.Response(text=str(node), headers=_SERVER)

    def _token(self, request: web.BaseRequest) -> web.StreamResponse:
        identity = self._vm.resource.body.get("identity") or {}
        if identity.get("type", "None") == "None":
            return _oauth("invalid_request", "Identity not found")
        known = [each["clientId"] for each in (identity.get("userAssignedIdentities") or {}).values()]
        asked = request.query.get("client_id")
        if asked and asked not in known:
            return _oauth("invalid_request", "Identity not found")
        if not asked and "SystemAssigned" not in identity["type"] and len(known) > 1:
            return _oauth(
                "invalid_request", "Multiple user assigned identities exist, please specify the clientId / resourceId"
            )
        try:
            return web.json_response(self._issuer.answer(request.query, request.headers), headers=_SERVER)
        except Refused as refused:
            return _oauth(refused.code, refused.message)

    def _tree(self, version: str) -> dict[str, Any]:
        return {"compute": self._compute(version), "network": {"interface": self._interfaces()}}

    def _compute(self, version: str) -> dict[str, Any]:
        it, properties = self._vm.resource, self._vm.resource.properties
        reference = properties["storageProfile"].get("imageReference") or {}
        security = properties.get("securityProfile") or {}
        firmware = security.get("uefiSettings") or {}
        profile = properties.get("osProfile") or {}
        made: dict[str, Any] = {
            "azEnvironment": "AzurePublicCloud",
            "evictionPolicy": properties.get("evictionPolicy", ""),
            "licenseType": properties.get("licenseType", ""),
            "location": it.body["location"],
            "name": it.name,
            "offer": reference.get("offer", ""),
            "osProfile": {
                "adminUsername": profile.get("adminUsername", ""),
                "computerName": profile.get("computerName", ""),
                "disablePasswordAuthentication": str(
                    (profile.get("linuxConfiguration") or {}).get("disablePasswordAuthentication", False)
                ).lower(),
            },
            "osType": "Linux",
            "platformFaultDomain": "0",
            "platformUpdateDomain": "0",
            "priority": properties.get("priority", ""),
            "provider": "Microsoft.Compute",
            "publisher": reference.get("publisher", ""),
            "resourceGroupName": it.group,
            "resourceId": it.id,
            "securityProfile": {
                "secureBootEnabled": str(bool(firmware.get("secureBootEnabled"))).lower(),
                "virtualTpmEnabled": str(bool(firmware.get("vTpmEnabled"))).lower(),
                "securityType": security.get("securityType", ""),
            },
            "sku": reference.get("sku", ""),
            "storageProfile": {
                "imageReference": {
                    key: reference.get(key, "") for key in ("id", "offer", "publisher", "sku", "version")
                }
            },
            "subscriptionId": SUBSCRIPTION,
            "tags": ";".join(f"{name}:{value}" for name, value in it.tags.items()),
            "tagsList": [{"name": name, "value": value} for name, value in it.tags.items()],
            "vmId": self._vm.id,
            "vmScaleSetName": "",
            "vmSize": self._vm.size.name,
            "zone": self._vm.zone,
        }
        if version >= _USER_DATA_SINCE:
            made["userData"] = self._vm.user_data
        return made

    def _interfaces(self) -> list[dict[str, Any]]:
        made = []
        for each in self._vm.resource.properties["networkProfile"]["networkInterfaces"]:
            nic = self._world.find(each["id"], NIC)
            if nic is None:
                continue
            addresses, subnets = [], []
            for configuration in nic.properties["ipConfigurations"]:
                properties = configuration["properties"]
                subnet = self._world.find(properties["subnet"]["id"])
                assert subnet is not None
                network, _, prefix = subnet.properties["addressPrefix"].partition("/")
                addresses.append({"privateIpAddress": properties["privateIPAddress"], "publicIpAddress": ""})
                subnets.append({"address": network, "prefix": prefix})
            made.append(
                {
                    "ipv4": {"ipAddress": addresses, "subnet": subnets},
                    "ipv6": {"ipAddress": []},
                    "macAddress": nic.properties["macAddress"].replace("-", ""),
                }
            )
        return made


def maker(world: World, issuer: Issuer) -> Callable[[Vm], Any]:
    """For each VM its own service."""
    return lambda vm: Metadata(world, issuer, vm).answer


def _step(node: Any, part: str) -> Any:
    """One part of a path further; None when there is no such thing."""
    if isinstance(node, list):
        return node[int(part)] if part.isdecimal() and int(part) < len(node) else None
    if isinstance(node, Mapping):
        return next((value for key, value in node.items() if key.lower() == part.lower()), None)
    return None


def _wrong(message: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> web.Response:
    return web.Response(
        text=json.dumps({"error": message}), status=status, content_type="application/json", headers=_SERVER
    )


def _oauth(code: str, message: str) -> web.Response:
    body = {"error": code, "error_description": message}
    return web.json_response(body, status=HTTPStatus.BAD_REQUEST, headers=_SERVER)
