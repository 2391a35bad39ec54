"""Google's metadata server for one instance, and for a worker that pretends to live in this cloud."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web

from providers.simcloud.exchange import Answer
from providers.simcloud.gce.iam import TTL
from providers.simcloud.gce.project import ID, NETWORK, NUMBER, SERVICE_ACCOUNT, Json, Project, Vm

FLAVOR: Final = "Metadata-Flavor"
_GOOGLE: Final = "Google"
_ROOT: Final = "/computeMetadata/v1"
_TEXT: Final = "application/text"
_ERROR_PAGE: Final = "<!DOCTYPE html><html lang=en><title>Error {status}</title><p>{words}</html>\n"

Tree = Mapping[str, Any]  # a leaf is a text, number or boolean, a folder another tree


class Metadata:
    """What one instance learns about itself. What the API changes holds from the next request on."""

    def __init__(self, project: Project, vm: Vm) -> None:
        self._project = project
        self._vm = vm

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """`machines.base.Metadata`."""
        answered = serve(request.method, request.path_qs, request.headers, self._tree())
        headers = {"Content-Type": answered.content_type, **answered.headers}
        return web.Response(status=answered.status, body=answered.body, headers=headers)

    def _tree(self) -> Tree:
        return {"instance": self._instance(), "project": project_tree()}

    def _instance(self) -> Tree:
        vm, body = self._vm, self._vm.body
        scheduling = body["scheduling"]
        return {
            "attributes": {item["key"]: item.get("value", "") for item in body["metadata"].get("items", [])},
            "cpu-platform": body["cpuPlatform"],
            "description": body.get("description", ""),
            "disks": {str(n): _disk(disk) for n, disk in enumerate(body["disks"])},
            "hostname": body.get("hostname") or f"{vm.name}.{vm.zone}.c.{ID}.internal",
            "id": int(vm.id),
            "image": "",
            "machine-type": f"projects/{NUMBER}/machineTypes/{vm.machine_type.name}",
            "maintenance-event": "NONE",
            "name": vm.name,
            "network-interfaces": {str(n): self._interface(nic) for n, nic in enumerate(body["networkInterfaces"])},
            "preempted": "FALSE",
            "remaining-cpu-time": -1,
            "scheduling": {
                "automaticRestart": "TRUE" if scheduling["automaticRestart"] else "FALSE",
                "onHostMaintenance": scheduling["onHostMaintenance"],
                "preemptible": "TRUE" if scheduling["preemptible"] else "FALSE",
            },
            "service-accounts": self._accounts(),
            "tags": json.dumps(body["tags"].get("items", [])),
            "zone": f"projects/{NUMBER}/zones/{vm.zone}",
        }

    def _interface(self, nic: Json) -> Tree:
        subnet = self._project.subnet
        configs = nic.get("accessConfigs", [])
        return {
            "access-configs": {
                str(n): {"external-ip": config["natIP"], "type": config["type"]} for n, config in enumerate(configs)
            },
            "dns-servers": "169.254.169.254",
            "gateway": str(subnet[1]),
            "ip": nic["networkIP"],
            "mac": self._vm.machine.mac if self._vm.machine is not None else "",
            "mtu": 1460,
            "network": f"projects/{NUMBER}/networks/{NETWORK}",
            "subnetmask": str(subnet.netmask),
        }

    def _accounts(self) -> Tree:
        accounts = self._vm.body.get("serviceAccounts", [])
        return {
            name: _account(account["email"], account["scopes"])
            for account in accounts
            for name in ("default", account["email"])
        }


def for_worker(method: str, target: str, headers: Mapping[str, str], token: str) -> Answer:
    """What a worker in this project is told: the project, and the default account with a token that works here."""
    account = {**_account(SERVICE_ACCOUNT, ["https://www.googleapis.com/auth/cloud-platform"])}
    account["token"] = json.dumps({"access_token": token, "expires_in": TTL, "token_type": "Bearer"})
    accounts = {"default": account, SERVICE_ACCOUNT: account}
    return serve(method, target, headers, {"instance": {"service-accounts": accounts}, "project": project_tree()})


def project_tree() -> Tree:
    return {"attributes": {}, "numeric-project-id": int(NUMBER), "project-id": ID}


def serve(method: str, target: str, headers: Mapping[str, str], tree: Tree) -> Answer:
    """One request to the server, whoever it is for."""
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if method not in ("GET", "HEAD"):
        return _refused(405, "Method Not Allowed")
    if "X-Forwarded-For" in headers:  # a proxy that somebody outside talks through
        return _refused(403, "Your client does not have permission to get this URL: it was forwarded.")
    if parts.path == "/":
        return _answer(200, "computeMetadata/\n", _TEXT)
    if parts.path.rstrip("/") == "/computeMetadata":
        return _answer(200, "v1/\n", _TEXT)
    if headers.get(FLAVOR, "") != _GOOGLE:
        return _refused(403, f"Missing required header: {FLAVOR}")
    if not (parts.path + "/").startswith(_ROOT + "/"):
        return _refused(404, "Not Found")
    return _read(parts.path[len(_ROOT) :], query, tree)


def _read(path: str, query: Mapping[str, str], tree: Tree) -> Answer:
    node: Any = tree
    for part in filter(None, path.split("/")):
        if not isinstance(node, Mapping) or part not in node:
            return _refused(404, "The requested URL was not found on this server.")
        node = node[part]
    if not isinstance(node, Mapping):
        if query.get("alt") == "json":
            return _answer(200, json.dumps(node), "application/json")
        return _answer(200, str(node), "application/json" if path.endswith("/token") else _TEXT)
    if query.get("recursive", "").lower() == "true":
        if query.get("alt") == "text":
            return _answer(200, "".join(_lines(node)), _TEXT)
        return _answer(200, json.dumps(_camel(node)), "application/json")
    if path and not path.endswith("/"):  # a folder is named with its slash; others are sent there
        return Answer(301, b"", "text/html", {FLAVOR: _GOOGLE, "Location": f"{_ROOT}{path}/"})
    names = (name + ("/" if isinstance(value, Mapping) else "") for name, value in sorted(node.items()))
    return _answer(200, "".join(f"{name}\n" for name in names), _TEXT)


def _camel(node: Any, name: str = "") -> Any:
    """As JSON Google spells names in camel case, attributes' own excepted, and numbered folders are lists."""
    if not isinstance(node, Mapping):
        return json.loads(node) if name == "tags" else node
    if name in ("disks", "network-interfaces", "access-configs"):
        return [_camel(value) for value in node.values()]
    if "scopes" in node:  # an account: Google hands no token out by the way
        scopes = str(node["scopes"]).splitlines()
        return {"aliases": [node["aliases"]], "email": node["email"], "scopes": scopes}
    keep = name in ("attributes", "service-accounts")
    return {(key if keep else _camel_name(key)): _camel(value, key) for key, value in node.items()}


def _camel_name(name: str) -> str:
    first, *rest = name.split("-")
    return first + "".join(word.capitalize() for word in rest)


def _lines(node: Tree, before: str = "") -> list[str]:
    made: list[str] = []
    for name, value in sorted(node.items()):
        at = f"{before}{name}"
        made += _lines(value, f"{at}/") if isinstance(value, Mapping) else [f"{at} {value}\n"]
    return made


def _disk(disk: Json) -> Tree:
    return {
        "device-name": disk["deviceName"],
        "index": disk["index"],
        "interface": disk["interface"],
        "mode": disk["mode"],
        "type": "LOCAL-SSD" if disk["type"] == "SCRATCH" else "PERSISTENT",
    }


def _account(email: str, scopes: list[str]) -> dict[str, Any]:
    token = {"access_token": f"ya29.{hashlib.sha256(email.encode()).hexdigest()}", "expires_in": TTL}
    return {
        "aliases": "default",
        "email": email,
        "scopes": "\n".join(scopes),
        "token": json.dumps({**token, "token_type": "Bearer"}),
    }


def _answer(status: int, text: str, content_type: str) -> Answer:
    etag = hashlib.sha256(text.encode()).hexdigest()[:16]
    headers = {FLAVOR: _GOOGLE, "Server": "Metadata Server for VM", "ETag": etag, "X-XSS-Protection": "0"}
    return Answer(status, text.encode(), content_type, headers)


def _refused(status: int, words: str) -> Answer:
    page = _ERROR_PAGE.format(status=status, words=words)
    return Answer(status, page.encode(), "text/html; charset=UTF-8", {FLAVOR: _GOOGLE}, str(status))
