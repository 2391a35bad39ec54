"""Internal addresses reserved before their machines are made, for `reserve_address = true`.

The address is then known at once, and a create returns without waiting for the machine's hardware. It is not the
default: a pod costs six calls instead of three or four, a zone without room shows only when the guest cannot be
reached, and the address can be freed only when the machine has gone, which nobody waits for: it is tried behind the
delete's back, and what an adaptor that is killed meanwhile leaves, the sweep finds by its labels.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from providers.errors import InvalidSpec, NotFound, ProviderError, Transient
from providers.gcp import marks, requests
from providers.gcp.api import MUTATE, Api
from providers.gcp.config import GcpConfig
from providers.gcp.errors import ALREADY_EXISTS, of_operation
from providers.throttle import Rank

# Seconds before each look whether Google has chosen an address; it takes one or two.
LOOKS: Final = (0.5, 0.5, 1.0, 2.0, 4.0)
# Seconds before each try to free one: a machine takes half a minute to go, at worst some.
TRIES: Final = (15.0, 15.0, 30.0, 60.0, 120.0, 240.0)


class Reservations:
    """The addresses of one node's machines, each named as its machine is."""

    def __init__(self, api: Api, config: GcpConfig) -> None:
        self._api = api
        self._config = config
        self._freeing: set[asyncio.Task[None]] = set()

    async def reserve(self, name: str, token: str, all_tags: Mapping[str, str], doing: str) -> str:
        """The address for the machine of this name; a repeat finds the same. Raises as Provider.create."""
        where = {"project": self._config.project, "region": self._config.region}
        asked = where | {
            "request_id": marks.request_id(f"{token}/address"),
            "address_resource": {
                "name": name,
                "address_type": "INTERNAL",
                "purpose": "GCE_ENDPOINT",
                "subnetwork": requests.subnetwork(self._config),
                "labels": {**marks.of_resource(all_tags), **dict(self._config.labels)},
                "description": marks.description(all_tags),
            },
        }
        operation = None
        try:
            operation = await self._api.ask(doing, "addresses", "insert_unary", asked, takes=MUTATE, rank=Rank.CREATE)
        except InvalidSpec as error:
            if error.code != ALREADY_EXISTS:
                raise
        for pause in (0.0, *LOOKS):
            await asyncio.sleep(pause)
            try:
                found = await self._api.ask(doing, "addresses", "get", where | {"address": name}, rank=Rank.CREATE)
            except NotFound:
                if operation is None or operation.get("status") == "DONE":
                    break
                at = where | {"operation": operation["name"]}
                operation = await self._api.ask(doing, "region_operations", "get", at, rank=Rank.CREATE)
                continue
            if address := found.get("address"):
                return str(address)
        fault = of_operation(operation, doing) if operation else None
        if fault is None and operation is not None and operation.get("status") == "DONE":
            return ""  # it was freed after its machine had gone: Google says the same of that
        raise fault or Transient(f"{doing}: its address has not been reserved yet")

    def free_later(self, name: str, pauses: tuple[float, ...] | None = None) -> None:
        """Have it freed once its machine has gone."""
        task = asyncio.create_task(self._free(name, TRIES if pauses is None else pauses), name="gcp-address")
        self._freeing.add(task)
        task.add_done_callback(self._freeing.discard)

    async def aclose(self) -> None:
        """Stop trying."""
        for task in self._freeing:
            task.cancel()
        await asyncio.gather(*self._freeing, return_exceptions=True)

    async def _free(self, name: str, pauses: tuple[float, ...]) -> None:
        asked = {"project": self._config.project, "region": self._config.region, "address": name}
        doing = f"cannot free the address {name}"
        for pause in pauses:
            await asyncio.sleep(pause)
            try:
                await self._api.ask(doing, "addresses", "delete_unary", asked, takes=MUTATE, rank=Rank.LAST)
            except NotFound:
                return
            except ProviderError:  # held by its machine still, most likely; the sweep has the last word
                continue
            return
