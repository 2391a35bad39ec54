"""ARM's front desk: a request in, an answer out; and the fleet's news into what is known."""

import json
import logging
import re
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from providers.simcloud.arm import account, diagnostics, images, metadata, nics, permissions, prices, routes, skus
from providers.simcloud.arm.account import Account
from providers.simcloud.arm.desk import Asked, Desk, Reply
from providers.simcloud.arm.diagnostics import Diagnostics
from providers.simcloud.arm.disks import Disks
from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.galleries import Galleries
from providers.simcloud.arm.identity import Issuer
from providers.simcloud.arm.images import Images
from providers.simcloud.arm.limits import Limits
from providers.simcloud.arm.nics import Network
from providers.simcloud.arm.operations import Operations
from providers.simcloud.arm.state import DISK, GROUP, NIC, SUBSCRIPTION, VM, World, id_of
from providers.simcloud.arm.uploads import PAGES, Uploads
from providers.simcloud.arm.vm_belongings import Belongings
from providers.simcloud.arm.vm_launch import Launcher, seeded
from providers.simcloud.arm.vm_view import Vm
from providers.simcloud.arm.vms import Machines
from providers.simcloud.exchange import Answer, Call, InstanceView
from providers.simcloud.faults import Faults
from providers.simcloud.fleet import Cause, Fleet
from providers.simcloud.machines.base import Host
from providers.simcloud.options import Options, SimcloudError

LOG: Final = logging.getLogger("providers.simcloud")

_REGION: Final = "eastus"  # when none is asked for
_VERSION: Final = re.compile(r"20\d\d-\d\d-\d\d(-preview)?")
_OLDEST, _NEWEST = "2015-06-15", "2026-12-31"  # what this cloud understands; it plays the newest for all
_OPEN: Final = ("Identity.Token", "Prices.List", diagnostics.BLOB)  # asked without a token
_JSON: Final = "application/json; charset=utf-8"


class Arm:
    """`exchange.Cloud` for Azure: one subscription in one region."""

    def __init__(self, options: Options, host: Host, faults: Faults) -> None:
        self._region = options.region or _REGION
        if self._region not in skus.REGIONS:
            raise SimcloudError(f"Azure has no region {self._region!r}; it has {', '.join(skus.REGIONS)}")
        self.title = f"Azure's {self._region}"
        self.world = World(self._region)
        self.issuer = Issuer()
        account.stock(self.world)
        images.stock(self.world)
        nics.stock(self.world, host.network)
        desk = Desk(self.world, Operations(self._region), faults, options, seeded(options.seed))
        self._desk = desk
        self.network = Network(desk, host.worker_address)
        disks = Disks(desk)
        launcher = Launcher(desk, self.network, metadata.maker(self.world, self.issuer))
        self.machines = Machines(desk, Belongings(self.world, self.network, disks), launcher)
        self.fleet = self.machines.fleet = Fleet(host, faults, options, self.machines.note_change)
        self._name_instances_freely(faults)
        self._limits = Limits(options.rate_limits)
        whole = Account(desk, lambda: [load for vm in self.machines.known.values() if (load := vm.load)])
        self._diagnostics = Diagnostics(self.machines)
        self.uploads = Uploads(desk)
        images_ = (Images(desk), Galleries(desk), self.uploads)
        rooms = (self.machines, self.network, disks, *images_, whole, self._diagnostics)
        self._handlers = {action: handler for room in rooms for action, handler in room.handlers().items()}

    def facts(self) -> dict[str, str]:
        """See Cloud.facts."""
        about = {"region": self._region, "subscription": SUBSCRIPTION, "resource_group": GROUP}
        return {**about, **images.facts(), **nics.facts()}

    def environment(self, endpoint_url: str) -> dict[str, str]:
        """See Cloud.environment."""
        return {"AZURE_POD_IDENTITY_AUTHORITY_HOST": endpoint_url, "AZURE_SUBSCRIPTION_ID": SUBSCRIPTION}

    def settings(self, endpoint_url: str) -> tuple[str, dict[str, Any]]:
        """See Cloud.settings."""
        facts = self.facts()
        return "azure", {
            "endpoint_url": endpoint_url,
            "subscription_id": SUBSCRIPTION,
            "resource_group": GROUP,
            "region": self._region,
            "subnet_id": facts["subnet"],
            "security_group_id": facts["nsg"],
            "image": facts["image"],
            "allocation_check": 0,  # whether there is room is known here at once
            "prices": True,
            "prices_url": f"{endpoint_url}{prices.PATH}",
        }

    def read(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Call:
        """See Cloud.read."""
        parts = urlsplit(target)
        form = {key.lower(): value for key, value in parse_qsl(parts.query, keep_blank_values=True)}
        return Call(routes.match(method, parts.path).action, form, method, target, headers, body)

    def refusal(self, code: str, message: str, status: int) -> Answer:
        """See Cloud.refusal."""
        return _refused(Refused(code, message, status=status), {})

    def perform(self, call: Call) -> Answer:
        """See Cloud.perform."""
        left: dict[str, str] = {}
        try:
            asked = self._asked(call)
            if call.action in PAGES:
                return self.uploads.perform(call, asked)
            if call.action not in _OPEN:
                left = self._admit(call, asked)
            reply = self._open(asked) if call.action in _OPEN else self._handlers[call.action](asked)
        except Refused as refused:
            if call.action == "Identity.Token":
                return _oauth(refused)
            return _refused(refused, left)
        return _answered(reply, left)

    def instances(self) -> list[InstanceView]:
        """See Cloud.instances."""
        return [self._view(vm) for vm in self.machines.all.values()]

    def age(self, resource_id: str, seconds: float) -> None:
        """Have a VM (by id or name), disk or interface be made so much earlier; a reservation of an interface ends
        so much sooner. Raises KeyError for another or unknown one.
        """
        found = self.world.find(resource_id) or self.world.find(id_of(VM, GROUP, resource_id))
        if found is None:
            raise KeyError(resource_id)
        found.created -= timedelta(seconds=seconds)
        if found.type in (VM, DISK):
            found.properties["timeCreated"] = found.created.isoformat()
        if found.type == NIC:
            self.network.end_reservation(found, seconds)

    # -- who asks, and what -----------------------------------------------------------------------

    def _asked(self, call: Call) -> Asked:
        parts = urlsplit(call.target)
        names = routes.match(call.method, parts.path).names
        base = f"http://{call.headers.get('Host', '')}"
        return Asked(
            call.action, names, call.form, call.headers, _body(call), base, parts.path, call.form.get("api-version", "")
        )

    def _admit(self, call: Call, asked: Asked) -> dict[str, str]:
        """The headers that say what is left of the caller's limits. Raises Refused."""
        self.issuer.check(call.headers.get("Authorization", ""))
        subscription = asked.names.get("subscription", "")
        if subscription.lower() != SUBSCRIPTION:
            if not subscription:
                raise Refused("NotFound", f"There is nothing at {asked.path}.", status=404)
            if not re.fullmatch(r"[0-9a-fA-F-]{36}", subscription):
                raise Refused(
                    "InvalidSubscriptionId",
                    f"The provided subscription identifier '{subscription}' is malformed or invalid.",
                )
            raise Refused("SubscriptionNotFound", f"The subscription '{subscription}' could not be found.")
        _check_version(asked)
        about = self._desk.operations.about(asked.names.get("operation", "")) or asked.path
        left = self._limits.admit(call.action, call.method, about, self._desk.now())
        if asked.group:
            self.world.group(asked.group)
        if call.action not in self._handlers:
            raise _unknown(call.method, asked.path)
        path = asked.path.rstrip("/")
        permissions.check(call.action, call.method, path, asked.body, self._desk.faults.denied)
        return left

    def _open(self, asked: Asked) -> Reply:
        if asked.action == "Identity.Token":
            return Reply(body=self.issuer.answer(asked.query, asked.headers))
        if asked.action == diagnostics.BLOB:
            return self._diagnostics.blob(asked)
        return Reply(body=prices.answer(self._region, asked.query, asked.base, asked.path))

    def _name_instances_freely(self, faults: Faults) -> None:
        """Faults name a VM by its resource id or name; the fleet knows its vmId."""
        kill, cut = faults.kill_instance, faults.cut_instance
        assert kill is not None and cut is not None, "the fleet has just set them"  # noqa: PT018
        faults.kill_instance = lambda instance, reason: kill(self.machines.machine_id(instance), reason)
        faults.cut_instance = lambda instance, seconds: cut(self.machines.machine_id(instance), seconds)

    def _view(self, vm: Vm) -> InstanceView:
        nic = self.world.find(vm.resource.properties["networkProfile"]["networkInterfaces"][0]["id"], NIC)
        address = str(vm.life.machine.address.ip) if vm.life else ""
        if not address and nic is not None:
            address = nic.properties["ipConfigurations"][0]["properties"]["privateIPAddress"]
        reason = vm.failed.message if vm.failed else ""
        if vm.life is not None and vm.life.cause is not Cause.NONE:
            reason = vm.life.reason or reason
        return InstanceView(
            id=vm.resource.id,
            state="terminated" if vm.gone else vm.life.state.value if vm.life else "failed",
            instance_type=vm.size.name,
            zone=vm.zone,
            address=address,
            tags=dict(vm.resource.tags),
            reason=reason,
            console=vm.life.machine.console.text() if vm.life else "",
        )


def _body(call: Call) -> dict[str, Any]:
    if not call.body or call.method not in ("PUT", "PATCH", "POST") or call.action in PAGES:
        return {}
    try:
        body = json.loads(call.body)
        if isinstance(body, dict):
            return body
        problem = "an object was expected"
    except ValueError as error:
        problem = str(error)
    raise Refused(
        "InvalidRequestContent", f"The request content was invalid and could not be deserialized: '{problem}'."
    )


def _check_version(asked: Asked) -> None:
    if not asked.version:
        raise Refused(
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        )
    if not _VERSION.fullmatch(asked.version) or not _OLDEST <= asked.version[:10] <= _NEWEST:
        raise Refused(
            "InvalidApiVersionParameter",
            f"The api-version '{asked.version}' is invalid. The supported versions are from '{_OLDEST}' to '{_NEWEST}'.",
        )


def _unknown(method: str, path: str) -> Refused:
    kind = path.rpartition("/providers/")[2]
    if any(routes.match(other, path).action for other in ("GET", "PUT", "POST", "DELETE", "PATCH")):
        return Refused("MethodNotAllowed", f"The HTTP method {method} is not supported at {path}.")
    return Refused("InvalidResourceType", f"simcloud does not simulate {method} {kind}.")


def _answered(reply: Reply, left: Mapping[str, str]) -> Answer:
    if isinstance(reply.body, bytes):  # a blob
        return Answer(reply.status, reply.body, "application/octet-stream", {**_named(), **reply.headers})
    body = b"" if reply.body is None else json.dumps(reply.body).encode()
    headers = {**_named(), **left, **reply.headers}
    if isinstance(reply.body, dict) and (etag := reply.body.get("etag")):
        headers["ETag"] = etag
    return Answer(reply.status, body, _JSON, headers)


def _refused(refused: Refused, left: Mapping[str, str]) -> Answer:
    headers = {**_named(), **left, "x-ms-failure-cause": "service", **refused.headers}
    return Answer(refused.status, refused.body(), _JSON, headers, refused.code)


def _oauth(refused: Refused) -> Answer:
    body = json.dumps({"error": refused.code, "error_description": refused.message}).encode()
    return Answer(400, body, _JSON, _named(), refused.code)


def _named() -> dict[str, str]:
    request, correlation = str(uuid.uuid4()), str(uuid.uuid4())
    return {"x-ms-request-id": request, "x-ms-correlation-request-id": correlation}
