"""What every change answers with: an operation, that is PENDING, RUNNING and DONE, with or without an error.

A request id makes a call once-only for as long as it is remembered: the same id answers with the same operation, also
with one that has failed. A call that was refused at once has used no id.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from providers.simcloud.gce import listing
from providers.simcloud.gce.asked import Asked, Verb
from providers.simcloud.gce.errors import OPERATION_HTTP, Failed, Refused, invalid, not_found
from providers.simcloud.gce.paths import link
from providers.simcloud.gce.project import ID, Json, Project, timestamp

USER: Final = f"peerpods@{ID}.iam.gserviceaccount.com"
REMEMBERED: Final = 3600.0  # seconds that a request id is good for; Google promises no more than about an hour
_NO_UUID: Final = "Must be a valid UUID; the zero UUID (00000000-0000-0000-0000-000000000000) is not supported."


@dataclass(eq=False)
class Operation:
    """One change. `scope` is "zones/us-central1-a", "regions/us-central1" or "global"."""

    name: str
    id: str
    scope: str
    verb: str
    target: str  # the path of what is changed
    target_id: str
    request_id: str
    inserted: str
    started: str = ""
    ended: str = ""
    status: str = "PENDING"
    failure: Failed | None = None
    anywhere: bool = False  # a fault's, which does not know which zone was meant

    def shown(self) -> Json:
        place = self.scope.partition("/")[0]
        shown: Json = {
            "kind": "compute#operation",
            "id": self.id,
            "name": self.name,
            "operationType": self.verb,
            "targetLink": link(self.target),
            "targetId": self.target_id,
            "status": self.status,
            "user": USER,
            "progress": 100 if self.status == "DONE" else 0,
            "insertTime": self.inserted,
            "selfLink": link(f"projects/{ID}/{self.scope}/operations/{self.name}"),
        }
        if place != "global":
            shown[place.removesuffix("s")] = link(f"projects/{ID}/{self.scope}")
        optional = {"startTime": self.started, "endTime": self.ended, "clientOperationId": self.request_id}
        shown |= {name: value for name, value in optional.items() if value}
        if self.failure is not None:
            status, words = OPERATION_HTTP.get(self.failure.code, (400, "BAD REQUEST"))
            shown |= {"httpErrorStatusCode": status, "httpErrorMessage": words}
            shown["error"] = {"errors": [self.failure.shown()]}
        return shown


@dataclass(slots=True)
class _Used:
    """A request id that has been used."""

    action: str
    target: str
    operation: Operation
    until: float  # monotonic


class Operations:
    """All operations of the project. `soon` runs something after the answer has gone out."""

    def __init__(self, project: Project, soon: Callable[[Callable[[], None]], Any]) -> None:
        self._project = project
        self.soon = soon
        self._by_name: dict[str, Operation] = {}
        self._used: dict[str, _Used] = {}

    def known(self, action: str, target: str, request_id: str) -> Operation | None:
        """What a repeated call is answered with; None for a new one. Raises Refused.

        Google does not say what becomes of an id that comes again with another call; here it is refused.
        """
        if not request_id:
            return None
        _check_id(request_id)
        now = self._project.now()
        self._used = {id: used for id, used in self._used.items() if used.until > now}
        used = self._used.get(request_id.lower())
        if used is None:
            return None
        if (used.action, used.target) != (action, target):
            raise invalid("requestId", request_id, f"It was used for {used.action} of {used.target}.")
        return used.operation

    def begin(self, action: str, scope: str, target: str, target_id: str, request_id: str = "") -> Operation:
        """A new one, of a call that has been accepted: it runs as soon as that has been answered."""
        number = self._project.random.getrandbits(64)
        name = f"operation-{int(self._project.now() * 1000)}-{number:016x}-{len(self._by_name):08x}"
        verb = action.partition(".")[2]
        made = Operation(name, self._project.new_id(), scope, verb, target, target_id, request_id, timestamp())
        self._by_name[name] = made
        if request_id:
            until = self._project.now() + REMEMBERED
            self._used[request_id.lower()] = _Used(action, target, made, until)
        self.soon(lambda: self._run(made))
        return made

    def finish(self, operation: Operation, failure: Failed | None = None) -> None:
        """It is done; once is for good."""
        if operation.status == "DONE":
            return
        operation.status, operation.ended = "DONE", timestamp()
        operation.started = operation.started or operation.ended
        operation.failure = failure

    def at_once(self, action: str, scope: str, target: str, target_id: str, request_id: str = "") -> Json:
        """The answer of a change that takes no time: done when it is next looked at."""
        made = self.begin(action, scope, target, target_id, request_id)
        self.soon(lambda: self.finish(made))
        return made.shown()

    def failed(self, failure: Failed) -> Json:
        """An insert that has failed already, for a fault that says so."""
        zone = self._project.zones[0]
        path = f"projects/{ID}/zones/{zone}/instances/unknown"
        made = self.begin("instances.insert", f"zones/{zone}", path, self._project.new_id())
        made.anywhere = True
        self.finish(made, failure)
        return made.shown()

    def actions(self) -> Mapping[str, Verb]:
        """Actions on operations. `wait` answers at once, as Google's may."""
        made: dict[str, Verb] = {
            "globalOperations.get": lambda asked: self.find("global", asked.names["operation"]).shown()
        }
        for kind, place in (("zoneOperations", "zone"), ("regionOperations", "region")):

            def get(asked: Asked, place: str = place) -> Json:
                return self.find(f"{place}s/{asked.names[place]}", asked.names["operation"]).shown()

            def some(asked: Asked, place: str = place) -> Json:
                scope = f"{place}s/{asked.names[place]}"
                return listing.page(self.all(scope), asked.query, "operation", f"projects/{ID}/{scope}/operations")

            made |= {f"{kind}.get": get, f"{kind}.wait": get, f"{kind}.list": some}
        return made

    def find(self, scope: str, name: str) -> Operation:
        """Raises Refused."""
        made = self._by_name.get(name)
        if made is None or not (made.anywhere or made.scope == scope):
            raise not_found(f"projects/{ID}/{scope}/operations/{name}")
        return made

    def all(self, scope: str) -> list[Json]:
        return [each.shown() for each in self._by_name.values() if each.scope == scope]

    def age(self, name: str, seconds: float) -> None:
        """Have an operation, and its request id, be so much older. Raises KeyError."""
        operation = self._by_name[name]
        for used in self._used.values():
            if used.operation is operation:
                used.until -= seconds

    def _run(self, operation: Operation) -> None:
        if operation.status == "PENDING":
            operation.status, operation.started = "RUNNING", timestamp()


def _check_id(text: str) -> None:
    try:
        wrong = uuid.UUID(text).int == 0 or len(text) != len(str(uuid.UUID(text)))
    except ValueError:
        wrong = True
    if wrong:
        raise Refused("invalid", f"Invalid value for field 'requestId': '{text}'. {_NO_UUID}")
