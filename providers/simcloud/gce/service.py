"""Compute Engine's front desk: a request in, an answer out; and the fleet's news to its instances."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from providers.simcloud.exchange import Answer, Call, InstanceView
from providers.simcloud.faults import Faults
from providers.simcloud.fleet import Fleet, Life, State
from providers.simcloud.gce import errors, iam, image_insert, limits, metadata, paths, schema
from providers.simcloud.gce.addresses import Addresses
from providers.simcloud.gce.asked import Asked, Verb
from providers.simcloud.gce.billing import Billing
from providers.simcloud.gce.disks import Disks
from providers.simcloud.gce.errors import Failed, Refused
from providers.simcloud.gce.iam import TAG_KEY, TAG_VALUE, Iam
from providers.simcloud.gce.images import ARM_IMAGE, IMAGE, Images
from providers.simcloud.gce.instances import Instances
from providers.simcloud.gce.launch import Launcher
from providers.simcloud.gce.limits import Limits
from providers.simcloud.gce.networks import Networks
from providers.simcloud.gce.operations import Operations
from providers.simcloud.gce.places import Places
from providers.simcloud.gce.project import ID, NETWORK, SUBNETWORK, Json, Project, Vm, older
from providers.simcloud.gce.quotas import Quotas
from providers.simcloud.gce.storage import BUCKET, Storage
from providers.simcloud.machines.base import Host
from providers.simcloud.options import Options

_REGION: Final = "us-central1"  # when none is asked for
_OPERATION_CODE: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789")


class Gce:
    """`exchange.Cloud` for Compute Engine: one project in one region."""

    def __init__(self, options: Options, host: Host, faults: Faults) -> None:
        region = options.region or _REGION
        self.title = f"Compute Engine's {region}"
        self._loop = asyncio.get_running_loop()
        self._options = options
        self.project = project = Project(region, host.network, options.seed, time.monotonic)
        if host.worker_address:
            project.hold(host.worker_address)
        self.operations = Operations(project, self._loop.call_soon)
        self.images = Images()
        self.storage = Storage()
        networks, quotas = Networks(project, host.network), Quotas(project, faults)
        disks = Disks(project, self.operations, self.images)
        self.fleet = Fleet(host, faults, options, self._note_change)
        self._name_for_faults(faults)
        launcher = Launcher(
            project, self.fleet, faults, self.operations, disks, networks, quotas, self._loop.call_later
        )
        self._instances = Instances(project, self.fleet, self.operations, launcher, self.images, options)
        self.iam = Iam(project, faults)
        self._limits = Limits(options.rate_limits, region)
        rooms = (
            self._instances, disks, Addresses(project, self.operations, networks), self.images, networks,
            Places(project, quotas), self.iam, Billing(region),
        )  # fmt: skip
        self._verbs: dict[str, Verb] = {name: verb for room in rooms for name, verb in room.actions().items()}
        self._verbs |= self.operations.actions()
        self._verbs |= {"images.insert": self._insert_image, "images.delete": self._delete_image}

    def facts(self) -> dict[str, str]:
        """See Cloud.facts."""
        region = self.project.region
        return {
            "region": region,
            "zones": ",".join(self.project.zones),
            "project": ID,
            "vpc_network": f"global/networks/{NETWORK}",
            "subnetwork": f"regions/{region}/subnetworks/{SUBNETWORK}",
            "image": f"projects/{ID}/global/images/{IMAGE}",
            "bucket": BUCKET,
            "arm_image": f"projects/{ID}/global/images/{ARM_IMAGE}",
            "resource_tag": f"{TAG_KEY}={TAG_VALUE}",
        }

    def environment(self, endpoint_url: str) -> dict[str, str]:
        """See Cloud.environment. Google's libraries take the metadata server from it, and credentials from there."""
        address = endpoint_url.partition("://")[2]
        return {
            "GCE_METADATA_HOST": address,
            "GCE_METADATA_ROOT": address,
            "GCE_METADATA_IP": address,
            "GOOGLE_CLOUD_PROJECT": ID,
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
            "CLOUDSDK_CORE_PROJECT": ID,
            "CLOUDSDK_COMPUTE_REGION": self.project.region,
            "CLOUDSDK_COMPUTE_ZONE": self.project.zones[0],
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{endpoint_url}/compute/v1/",
        }

    def settings(self, endpoint_url: str) -> tuple[str, dict[str, Any]]:
        """See Cloud.settings."""
        return "gcp", {
            "endpoint_url": endpoint_url,
            "project": ID,
            "zones": list(self.project.zones),
            "network": NETWORK,
            "subnetwork": SUBNETWORK,
            "image": self.facts()["image"],
        }

    def read(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Call:
        """See Cloud.read."""
        parts = urlsplit(target)
        route = paths.route(method, parts.path)
        form = {**dict(parse_qsl(parts.query, keep_blank_values=True)), **route.names}
        return Call(route.action, form, method, target, headers, body)

    def refusal(self, code: str, message: str, status: int) -> Answer:
        """See Cloud.refusal. A code in capitals is an operation's: the call is accepted, and has failed."""
        if code and set(code) <= _OPERATION_CODE:
            words = message or f"The operation failed with {code}."
            failed = self.operations.failed(Failed(code, words))
            return Answer(status or 200, errors.body(failed), errors.JSON, code=code)
        details: Sequence[Mapping[str, Any]] = ()
        if code == "rateLimitExceeded":
            usual = limits.usual(self.project.region)
            message, details = message or usual.message, usual.details
        elif code == "authError":
            details = iam.bad_token("ACCESS_TOKEN_EXPIRED").details
        return Refused(code, message, http=status, details=details).answer()

    def perform(self, call: Call) -> Answer:
        """See Cloud.perform."""
        if call.action == "metadata.get":
            token = str(self.iam.issue()["access_token"])
            return metadata.for_worker(call.method, call.target, call.headers, token)
        try:
            if call.action.startswith("storage."):
                return self._store(call)
            return Answer(200, errors.body(self._do(call)), errors.JSON)
        except Refused as refused:
            return refused.answer()

    def instances(self) -> list[InstanceView]:
        """See Cloud.instances."""
        return [self._view(vm) for vm in self.project.all_instances.values()]

    def age(self, resource_id: str, seconds: float) -> None:
        """Have an instance, disk, address or operation be made so much earlier; an operation's request id ages with it.

        By name, zone/name, or number. Raises KeyError for an unknown one.
        """
        for kind in (self.project.disks.values(), self.project.addresses.values()):
            for each in kind:
                if resource_id in (each["name"], each["id"], each["selfLink"]):
                    each["creationTimestamp"] = older(each["creationTimestamp"], seconds)
                    return
        if resource_id.startswith("operation-"):
            self.operations.age(resource_id, seconds)
            return
        body = self._find(resource_id).body
        body["creationTimestamp"] = older(body["creationTimestamp"], seconds)

    def _do(self, call: Call) -> Json:
        parts = urlsplit(call.target)
        route = paths.route(call.method, parts.path)
        if not route.action:
            raise paths.missing_page(call.method, parts.path)
        names = {name: unquote(value) for name, value in route.names.items()}
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.iam.authenticate(call.headers)
        if schema.knows(route.action):
            self._limits.admit(route.action, time.time())
            body = schema.read(route.action, query, names, call.body)
        else:
            body = schema.plain(call.body)
        asked = Asked(route.action, names, query, body)
        if "project" in names and not route.action.startswith("images."):
            self.project.check_place(names["project"], names.get("zone", ""), names.get("region", ""))
        self.iam.authorize(asked)
        return self._verbs[route.action](asked)

    def _store(self, call: Call) -> Answer:
        self.iam.authenticate(call.headers)
        self.iam.authorize(Asked(call.action, {}, {}, {}))
        return self.storage.perform(call)

    def _insert_image(self, asked: Asked) -> Json:
        return image_insert.insert(asked, self.project, self.images, self.storage, self.operations)

    def _delete_image(self, asked: Asked) -> Json:
        path = self.images.remove(asked)
        return self.operations.at_once(asked.action, "global", path, self.project.new_id(), asked.request_id)

    def _note_change(self, life: Life) -> None:
        self._instances.note_change(life)

    def _name_for_faults(self, faults: Faults) -> None:
        """People name an instance as they know it; the fleet knows its number."""
        kill, cut = self.fleet.kill, self.fleet.cut
        faults.kill_instance = lambda name, reason: kill(self._find(name).id, reason)
        faults.cut_instance = lambda name, seconds: cut(self._find(name).id, seconds)

    def _find(self, name: str) -> Vm:
        """The newest instance of this name, zone/name, path or number. Raises KeyError."""
        for vm in reversed(self.project.all_instances.values()):
            if name in (vm.id, vm.name, f"{vm.zone}/{vm.name}", vm.path, vm.body["selfLink"]):
                return vm
        raise KeyError(name)

    def _view(self, vm: Vm) -> InstanceView:
        state = State.TERMINATED if vm.gone else vm.life.state if vm.life else State.PENDING
        return InstanceView(
            id=f"{vm.zone}/{vm.name}",
            state=state.value,
            instance_type=vm.machine_type.name,
            zone=vm.zone,
            address=str(vm.address),
            tags=dict(vm.body.get("labels", {})),
            reason=vm.reason,
            console=vm.machine.console.text() if vm.machine is not None else "",
        )
