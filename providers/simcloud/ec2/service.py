"""EC2's front desk: a request in, an answer out; and the fleet's news into moto's records."""

import logging
import re
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import uuid4

from moto.core.exceptions import ServiceException
from moto.core.request import Request
from moto.core.responses import ActionResult
from moto.core.utils import camelcase_to_underscores, get_service_model, utcnow
from moto.ec2.models.instances import StateReason

from providers.simcloud.ec2 import blocks, errors, neighbours
from providers.simcloud.ec2.account import AMI, ARM_AMI, SECURITY_GROUP, Account, Note
from providers.simcloud.ec2.api import Api, Desk
from providers.simcloud.ec2.belongings import let_go
from providers.simcloud.ec2.errors import Refused
from providers.simcloud.ec2.launch import Launcher
from providers.simcloud.ec2.limits import Limits
from providers.simcloud.exchange import Answer, Call, InstanceView
from providers.simcloud.faults import Faults
from providers.simcloud.fleet import Cause, Fleet, Life, State
from providers.simcloud.machines.base import Host
from providers.simcloud.options import Options

LOG: Final = logging.getLogger("providers.simcloud")

_REGION: Final = "us-east-1"  # when none is asked for
_VERSION: Final = "2016-11-15"
_FORM: Final = "application/x-www-form-urlencoded; charset=utf-8"
_ENDPOINT: Final = "http://127.0.0.1/"  # which moto would read a region from, were there one in it
_COMMON: Final = frozenset({"Action", "Version"})
_CREDENTIAL: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=[^/]+/\d{8}/(?P<region>[^/]+)/(?P<service>ec2|ebs|sts|pricing|servicequotas)/aws4_request,"
    r"\s*SignedHeaders=[^,]+,\s*Signature=[0-9a-f]{64}"
)
_CODES: Final = {
    State.PENDING: 0,
    State.RUNNING: 16,
    State.SHUTTING_DOWN: 32,
    State.TERMINATED: 48,
    State.STOPPING: 64,
    State.STOPPED: 80,
}
_REASONS: Final = {
    Cause.ASKED: "Client.UserInitiatedShutdown: User initiated shutdown",
    Cause.ITSELF: "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
    Cause.HOST: "Server.InternalError: Internal error on launch",
}


class Ec2:
    """`exchange.Cloud` for EC2: one account in one region."""

    def __init__(self, options: Options, host: Host, faults: Faults) -> None:
        self._region = options.region or _REGION
        self._options = options
        self._faults = faults
        self.title = f"EC2's {self._region}"
        self.account = Account(self._region, host.network)
        if host.worker_address:
            self.account.subnet_of(self.account.subnet).request_ip(host.worker_address, None)
        self.fleet = Fleet(host, faults, options, self._note_change)
        self._launcher = Launcher(self.account, self.fleet, faults, options, host.network, time.monotonic)
        self._limits = Limits(options.rate_limits)

    def facts(self) -> dict[str, str]:
        """See Cloud.facts."""
        return {
            "region": self._region,
            "ami": AMI,
            "arm_ami": ARM_AMI,
            "subnet": self.account.subnet,
            "security_group": SECURITY_GROUP,
        }

    def environment(self, endpoint_url: str) -> dict[str, str]:
        """See Cloud.environment."""
        return {
            "AWS_ENDPOINT_URL": endpoint_url,
            "AWS_REGION": self._region,
            "AWS_DEFAULT_REGION": self._region,
            "AWS_ACCESS_KEY_ID": "AKIASIMCLOUD00000000",
            "AWS_SECRET_ACCESS_KEY": "simcloud-takes-any-secret",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def settings(self, endpoint_url: str) -> tuple[str, dict[str, Any]]:
        """See Cloud.settings."""
        return "aws", {
            "endpoint_url": endpoint_url,
            "region": self._region,
            "endpoint_urls": ",".join(f"{name}={endpoint_url}" for name in ("ebs", "sts", "pricing", "service-quotas")),
            "subnet_ids": [self.account.subnet],
            "security_group_ids": [SECURITY_GROUP],
            "image": AMI,
        }

    def read(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Call:
        """See Cloud.read."""
        sources = (urlsplit(target).query, body.decode("utf-8", "replace"))
        form = {key: value for text in sources for key, value in parse_qsl(text, keep_blank_values=True)}
        action = form.get("Action", "") or neighbours.target(headers) or blocks.action(method, target)
        return Call(action, form, method, target, headers, body)

    def refusal(self, code: str, message: str, status: int) -> Answer:
        """See Cloud.refusal."""
        return _refused(Refused(code, message), status)

    def perform(self, call: Call) -> Answer:
        """See Cloud.perform."""
        service = self._service(call)
        try:
            if service == "ebs":
                return blocks.perform(call, self.account)
            if service != "ec2":
                return neighbours.perform(service, call, self.account, self._faults)
            self._admit(call)
            return self._do(call)
        except ServiceException as error:
            if service in ("pricing", "servicequotas"):
                return neighbours.refusal(error.code, str(error.message))
            return _refused(error)
        except NotImplementedError as error:  # moto's way to say that it has never heard of a filter or attribute
            LOG.warning("%s: moto: %s", call.action, error)
            return _refused(Refused("InvalidParameterValue", f"simcloud does not simulate this: {error}"))

    def instances(self) -> list[InstanceView]:
        """See Cloud.instances."""
        return [self._view(note) for note in self.account.notes.values()]

    def age(self, resource_id: str, seconds: float) -> None:
        """Have an instance or volume be made, a snapshot have been written to so much earlier. Raises KeyError for another or unknown one."""
        if resource_id in self.account.notes:
            self.account.notes[resource_id].instance.launch_time -= timedelta(seconds=seconds)
        elif isinstance(snapshot := self.account.snapshots.get(resource_id), blocks.Written):
            snapshot.touched_at -= seconds
        else:
            self.account.volumes[resource_id].create_time -= timedelta(seconds=seconds)

    @staticmethod
    def _service(call: Call) -> str:
        """Which service the call is signed for; EC2, which refuses it, for one that is not signed well."""
        signed = _CREDENTIAL.fullmatch(call.headers.get("Authorization", ""))
        return signed["service"] if signed else "ec2"

    def _admit(self, call: Call) -> None:
        """Who asks, what, and how often. Raises Refused."""
        signed = _CREDENTIAL.fullmatch(call.headers.get("Authorization", ""))
        if signed is None or not call.headers.get("X-Amz-Date"):
            raise Refused("AuthFailure")
        if signed["region"] != self._region:
            raise Refused(
                "AuthFailure",
                f"Credential should be scoped to a valid region: this simcloud is {self._region}, the request"
                f" is signed for {signed['region']}",
            )
        if call.form.get("Version") != _VERSION:
            raise Refused("NoSuchVersion", f"The requested version is not supported, only {_VERSION} is")
        parameters = _parameters(call.action)
        if parameters is None:
            raise Refused("InvalidAction", f"The action {call.action} is not valid for this web service.")
        for key in call.form:
            if (name := key.partition(".")[0]) not in parameters:
                raise Refused("UnknownParameter", f"The parameter {name} is not recognized")
        if not self._limits.admits(call.action, call.form, time.monotonic()):
            raise Refused("RequestLimitExceeded")

    def _do(self, call: Call) -> Answer:
        desk = Desk(self.account, self.fleet, self._launcher, time.monotonic(), self._options.terminated_visible)
        api = Api(desk)
        headers = {"Authorization": call.headers["Authorization"], "Content-Type": _FORM}
        api.setup_class(Request.from_primitives("POST", _ENDPOINT, headers, urlencode(call.form).encode()))
        method = getattr(api, camelcase_to_underscores(call.action), None)
        if method is None:
            raise NotImplementedError(f"the action {call.action}")
        result = method()
        if call.form.get("DryRun") == "true" and call.action.startswith("Describe"):
            raise Refused("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
        assert isinstance(result, ActionResult), f"moto's EC2 answers with results, {call.action} did not"
        status, answered, body = api.serialized(result)
        request_id = str(uuid4())
        text = str(body).replace("<requestId>request-id</requestId>", f"<requestId>{request_id}</requestId>")
        return Answer(int(status), text.encode(), answered.get("Content-Type", "text/xml"), _named(request_id))

    def _note_change(self, life: Life) -> None:
        """The fleet's news, as EC2 words them."""
        note = self.account.notes[life.machine.id]
        instance = note.instance
        if life.state is State.TERMINATED:
            _take_apart(instance)
            note.terminated_at = time.monotonic()
        elif life.state is State.STOPPED or instance.state == State.STOPPED:
            for interface in instance.nics.values():  # a public address is lost, and another one comes
                interface.stop() if life.state is State.STOPPED else interface.start()
        instance._state.name, instance._state.code = life.state.value, _CODES[life.state]  # noqa: SLF001 - no setter
        code, message = _reason(life)
        instance.state_reason = StateReason(message, code)
        when = utcnow().strftime("%Y-%m-%d %H:%M:%S GMT")
        transition = f"User initiated ({when})" if life.cause is Cause.ASKED else code
        instance._reason = "" if life.state is State.PENDING else transition  # noqa: SLF001

    def _view(self, note: Note) -> InstanceView:
        life, instance = self.fleet.lives[note.instance.id], note.instance
        return InstanceView(
            id=instance.id,
            state=life.state.value,
            instance_type=instance.instance_type,
            zone=instance.availability_zone,
            address=str(life.machine.address.ip),
            tags={tag["key"]: tag["value"] for tag in instance.get_tags()},
            reason=instance.state_reason.message,
            console=life.machine.console.text(),
        )


def _take_apart(instance: Any) -> None:
    """What goes with an instance goes (moto does that); what was only attached is left, detached."""
    guests = [interface for interface in instance.nics.values() if not interface.delete_on_termination]
    for address in [each for each in instance.ec2_backend.addresses if each.instance is instance]:
        let_go(instance.ec2_backend, address)
    instance.terminate()
    for interface in guests:
        instance.detach_eni(interface)


def _reason(life: Life) -> tuple[str, str]:
    """EC2's code and sentence for why an instance is off; empty while it runs."""
    if life.state is State.PENDING:
        return "pending", "pending"
    message = life.reason or _REASONS.get(life.cause, "")
    if message and not re.match(r"(Client|Server)\.[\w.]+:", message):
        message = f"Server.InternalError: {message}"
    return message.partition(":")[0], message


def _refused(error: ServiceException, status: int = 0) -> Answer:
    request_id = str(uuid4())
    body = errors.xml(error.code, str(error.message), request_id)
    # The headers are for services that speak JSON: a fault that is injected looks the same for all of them.
    headers = {**_named(request_id), "x-amzn-query-error": f"{error.code};Sender", "x-amzn-ErrorType": error.code}
    return Answer(status or errors.status(error.code), body, "text/xml;charset=UTF-8", headers, error.code)


def _named(request_id: str) -> dict[str, str]:
    return {"x-amzn-requestid": request_id}


@cache
def _parameters(action: str) -> frozenset[str] | None:
    """The first words of an action's parameters' names on the wire; None: EC2 has no such action."""
    model = get_service_model("ec2")
    if action not in model.operation_names:
        return None
    shape = model.operation_model(action).input_shape
    members = shape.members.items() if shape is not None else ()
    return _COMMON.union(_wire_name(member.serialization, name) for name, member in members)


def _wire_name(serialization: Mapping[str, str], default: str) -> str:
    named = serialization.get("queryName") or serialization.get("name") or default
    return named[0].upper() + named[1:]
