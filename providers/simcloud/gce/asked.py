"""A call of the API, taken apart."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from providers.simcloud.gce.project import Json


@dataclass(frozen=True, slots=True)
class Asked:
    """`names` are the URL's: project, zone, instance; `query` what stands behind it; `body` has been checked."""

    action: str
    names: Mapping[str, str]
    query: Mapping[str, str]
    body: Json

    @property
    def zone(self) -> str:
        return self.names.get("zone", "")

    @property
    def request_id(self) -> str:
        return self.query.get("requestId", "")


Verb = Callable[[Asked], Json]
