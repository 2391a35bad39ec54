"""The EC2 actions that moto is too lenient in. Every action that is not here is moto's own.

One object per request, as moto wants it. `self.params` are the call's parameters, typed and nested by the
service model; a returned ActionResult is serialised by the same model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final

from moto.core.responses import ActionResult, EmptyResult
from moto.core.types import Base64EncodedString
from moto.core.utils import utcnow
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS
from moto.ec2.responses import EC2Response

from providers.simcloud.ec2 import catalog, checks, describe, prices, registering, tags
from providers.simcloud.ec2.account import Account, Note, Reservation
from providers.simcloud.ec2.belongings import Belongings
from providers.simcloud.ec2.errors import Refused
from providers.simcloud.ec2.launch import Launcher
from providers.simcloud.fleet import Fleet

# moto shows every new instance as pending; here its state is true, also in the answer to a repeated call.
_TRANSFORMED: Final = {
    path: change
    for path, change in EC2Response.RESPONSE_KEY_PATH_TO_TRANSFORMER.items()
    if path != "RunInstances.Reservation.Instances.Instance.State"
}


@dataclass(frozen=True, slots=True)
class Desk:
    """What every request needs, kept for the account's life."""

    account: Account
    fleet: Fleet
    launcher: Launcher
    now: float  # monotonic seconds, of this request
    terminated_visible: float


class Api(Belongings):
    """One request to EC2."""

    RESPONSE_KEY_PATH_TO_TRANSFORMER = _TRANSFORMED

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    @property
    def ec2_backend(self) -> Account:
        return self._desk.account

    # -- instances --------------------------------------------------------------------------------

    def run_instances(self) -> ActionResult:
        made = self._desk.launcher.run(self.params)
        return ActionResult(describe.reservation([self._desk.account.notes[each.id] for each in made.instances]))

    def describe_instances(self) -> ActionResult:
        ids = self.params.get("InstanceIds") or []
        if ids and self.params.get("MaxResults"):
            raise Refused(
                "InvalidParameterCombination",
                "The parameter instancesSet cannot be used with the parameter maxResults",
            )
        shown = describe.by_reservation(self._filtered(self._known(ids) if ids else self._visible()))
        reservations, token = describe.page(shown, self.params, least=5, most=1000)
        return ActionResult({"Reservations": reservations, "NextToken": token})

    def describe_instance_status(self) -> ActionResult:
        ids = self.params.get("InstanceIds") or []
        notes = self._filtered(self._known(ids) if ids else self._visible())
        if not self.params.get("IncludeAllInstances"):
            notes = [note for note in notes if note.instance.state == "running"]
        page, token = describe.page([note.instance for note in notes], self.params, least=5, most=1000)
        return ActionResult({"InstanceStatuses": page, "NextToken": token})

    def terminate_instances(self) -> ActionResult:
        notes = self._addressed()
        protected = [note for note in notes if note.instance.state != "terminated"]
        _refuse_protected(protected, "disable_api_termination", "disableApiTermination", "terminated")
        return ActionResult({"TerminatingInstances": self._each(notes, self._desk.fleet.terminate)})

    def stop_instances(self) -> ActionResult:
        notes = self._addressed()
        _refuse_states(notes, {"pending", "shutting-down", "terminated"}, "stopped")
        _refuse_protected(notes, "disable_api_stop", "disableApiStop", "stopped")
        return ActionResult({"StoppingInstances": self._each(notes, self._desk.fleet.stop)})

    def start_instances(self) -> ActionResult:
        notes = self._addressed()
        _refuse_states(notes, {"stopping", "shutting-down", "terminated"}, "started")
        return ActionResult({"StartingInstances": self._each(notes, self._desk.fleet.start)})

    def reboot_instances(self) -> ActionResult:
        notes = self._addressed()
        _refuse_states(notes, {"shutting-down", "terminated"}, "rebooted")
        for note in notes:
            self._desk.fleet.reboot(note.instance.id)
        return EmptyResult()

    def get_console_output(self) -> ActionResult:
        (note,) = self._known([self.params.get("InstanceId") or ""])
        console = self._desk.fleet.lives[note.instance.id].machine.console
        output = Base64EncodedString.from_raw_string(console.text())
        return ActionResult({"InstanceId": note.instance.id, "Timestamp": utcnow(), "Output": output})

    def modify_instance_metadata_options(self) -> ActionResult:
        (note,) = self._known([self.params.get("InstanceId") or ""])
        checks.check_metadata_options(self.params)
        self.error_on_dryrun()
        options = note.instance.metadata_options
        for name, attribute in (
            ("HttpTokens", "http_tokens"),
            ("HttpPutResponseHopLimit", "http_put_response_hop_limit"),
            ("HttpEndpoint", "http_endpoint"),
            ("InstanceMetadataTags", "instance_metadata_tags"),
        ):
            if self.params.get(name) is not None:
                setattr(options, attribute, self.params[name])
        return ActionResult({"InstanceId": note.instance.id, "InstanceMetadataOptions": options})

    def describe_instance_attribute(self) -> ActionResult:
        self._known([self.params.get("InstanceId") or ""])
        return super().describe_instance_attribute()

    # -- types ------------------------------------------------------------------------------------

    def describe_instance_types(self) -> ActionResult:
        named = self.params.get("InstanceTypes") or []
        sold = catalog.zones_of(self._desk.account.region_name)
        if unknown := [name for name in named if name not in sold]:
            raise Refused(
                "InvalidInstanceType",
                f"The following supplied instance types do not exist: [{', '.join(unknown)}]",
            )
        if named and self.params.get("MaxResults"):
            raise Refused(
                "InvalidParameterCombination",
                "The parameter InstanceTypes cannot be used with the parameter MaxResults",
            )
        filters = {each["Name"]: each.get("Values") or [] for each in self.params.get("Filters") or []}
        wanted = filters.pop("processor-info.supported-features", None)
        kinds = [
            kind
            for kind in self._desk.account.describe_instance_types(named or None, filters)
            if kind.name in sold
            and (wanted is None or any(describe.matches(f, wanted) for f in catalog.features(kind)))
        ]
        params = {"MaxResults": 100, **self.params} if not named else self.params
        page, token = describe.page(kinds, params, least=5, most=100)
        return ActionResult({"InstanceTypes": page, "NextToken": token})

    def describe_instance_type_offerings(self) -> ActionResult:
        kind = self.params.get("LocationType") or "region"
        offers = INSTANCE_TYPE_OFFERINGS[kind].get(self._desk.account.region_name, [])
        for each in self.params.get("Filters") or []:
            field = {"instance-type": "InstanceType", "location": "Location"}.get(each["Name"])
            if field is None:
                raise Refused("InvalidParameterValue", f"The filter '{each['Name']}' is invalid")
            offers = [offer for offer in offers if describe.matches(offer[field], each.get("Values") or [])]
        page, token = describe.page(offers, {"MaxResults": 1000, **self.params}, least=5, most=1000)
        return ActionResult({"InstanceTypeOfferings": page, "NextToken": token})

    def describe_spot_price_history(self) -> ActionResult:
        """Moto's prices are all the same. Only the latest are kept here, so StartTime is not looked at."""
        region, params = self._desk.account.region_name, self.params
        filters = {each["Name"]: each.get("Values") or [] for each in params.get("Filters") or []}
        if unknown := filters.keys() - {"availability-zone", "instance-type"}:
            raise Refused("InvalidParameterValue", f"The filter '{min(unknown)}' is invalid")
        wanted = params.get("InstanceTypes") or []
        found = [
            {
                "InstanceType": name,
                "AvailabilityZone": zone,
                "ProductDescription": "Linux/UNIX",
                "SpotPrice": f"{prices.spot(name, region, zone):.6f}",
                "Timestamp": utcnow(),
            }
            for name, zones in sorted(catalog.zones_of(region).items())
            for zone in sorted(zones)
            if (not wanted or name in wanted)
            and describe.matches(name, filters.get("instance-type", ["*"]))
            and describe.matches(zone, filters.get("availability-zone", ["*"]))
            and "spot" in catalog.shape(name, region).get("SupportedUsageClasses", [])
        ]
        page, token = describe.page(found, {"MaxResults": 1000, **params}, least=1, most=1000)
        return ActionResult({"SpotPriceHistory": page, "NextToken": token})

    # -- what launches may be put into or on ---

    def create_placement_group(self) -> ActionResult:
        """Moto has none."""
        groups, name = self._desk.account.bought.groups, self.params.get("GroupName") or ""
        if name in groups:
            raise Refused("InvalidPlacementGroup.Duplicate", f"The Placement Group '{name}' already exists.")
        self.error_on_dryrun()
        groups[name] = f"pg-{token_hex(8)}f"
        group = {"GroupName": name, "GroupId": groups[name], "State": "available", "Strategy": "cluster"}
        return ActionResult({"PlacementGroup": group})

    def create_capacity_reservation(self) -> ActionResult:
        """Moto has none."""
        params = self.params
        catalog.shape(params["InstanceType"], self._desk.account.region_name)
        self.error_on_dryrun()
        made = Reservation(
            f"cr-{token_hex(8)}f",
            params["InstanceType"],
            params.get("AvailabilityZone") or "",
            int(params["InstanceCount"]),
        )
        self._desk.account.bought.reservations[made.id] = made
        return ActionResult({"CapacityReservation": {"CapacityReservationId": made.id, "State": "active"}})

    # -- images -----------------------------------------------------------------------------------

    def register_image(self) -> ActionResult:
        """Moto keeps nothing but the name."""
        volumes = registering.check(self._desk.account, self.params)
        self.error_on_dryrun()
        return ActionResult({"ImageId": registering.register(self._desk.account, self.params, volumes).id})

    # -- tags and interfaces ----------------------------------------------------------------------

    def create_tags(self) -> ActionResult:
        tags.check(self.params.get("Tags") or [])
        self._known([each for each in self.params.get("Resources") or [] if each.startswith("i-")])
        return super().create_tags()

    def attach_network_interface(self) -> ActionResult:
        interface = self._desk.account.get_network_interface(self.params["NetworkInterfaceId"])
        (note,) = self._known([self.params["InstanceId"]])
        if interface.instance is not None:
            raise Refused("InvalidNetworkInterface.InUse", f"Interface: [{interface.id}] in use.")
        if int(self.params["DeviceIndex"]) in note.instance.nics:
            raise Refused(
                "InvalidParameterValue",
                f"Instance '{note.instance.id}' already has an interface attached at device index"
                f" '{self.params['DeviceIndex']}'.",
            )
        return super().attach_network_interface()

    # -- helpers ----------------------------------------------------------------------------------

    def _visible(self) -> list[Note]:
        desk = self._desk
        return [n for n in desk.account.notes.values() if n.visible(desk.now, desk.terminated_visible)]

    def _known(self, ids: Sequence[str]) -> list[Note]:
        """The instances of these ids. Raises Refused for one that is malformed, unknown, or not visible yet."""
        describe.well_formed_ids(ids)
        visible = {note.instance.id: note for note in self._visible()}
        if unknown := [each for each in ids if each not in visible]:
            raise describe.not_found(unknown)
        return [visible[each] for each in dict.fromkeys(ids)]

    def _filtered(self, notes: Sequence[Note]) -> list[Note]:
        filters: list[Mapping[str, Any]] = self.params.get("Filters") or []
        describe.check_filters(filters)
        return [note for note in notes if describe.passes(note, filters)]

    def _addressed(self) -> list[Note]:
        ids = self.params.get("InstanceIds") or []
        if not ids:
            raise Refused("MissingParameter", "The request must contain the parameter InstanceId")
        notes = self._known(ids)
        self.error_on_dryrun()
        return notes

    def _each(self, notes: Sequence[Note], act: Any) -> list[dict[str, Any]]:
        changes = []
        for note in notes:
            before = {"Code": note.instance.state_code, "Name": note.instance.state}
            act(note.instance.id)
            after = {"Code": note.instance.state_code, "Name": note.instance.state}
            changes.append({"InstanceId": note.instance.id, "PreviousState": before, "CurrentState": after})
        return changes


def _refuse_protected(notes: Sequence[Note], attribute: str, name: str, participle: str) -> None:
    for note in notes:
        if getattr(note.instance, attribute):
            raise Refused(
                "OperationNotPermitted",
                f"The instance '{note.instance.id}' may not be {participle}. Modify its '{name}' instance attribute and"
                " try again.",
            )


def _refuse_states(notes: Sequence[Note], states: set[str], participle: str) -> None:
    for note in notes:
        if note.instance.state in states:
            raise Refused(
                "IncorrectInstanceState",
                f"The instance '{note.instance.id}' is not in a state from which it can be {participle}.",
            )
