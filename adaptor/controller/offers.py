"""Tells the webhook what the cloud sells, in a ConfigMap: it refuses by that what could never start."""

from adaptor import names
from adaptor.catalog import published
from adaptor.catalog.chooser import priced
from adaptor.clock import Clock
from adaptor.config_prices import Prices
from adaptor.controller.api import CONFIG_MAP, Api
from adaptor.kube.errors import Absent, Outdated, Taken
from adaptor.telemetry import logs
from providers.base import Provider

KEY = "offerings.json"

# Seconds between looks. What is sold changes over months, and the provider remembers it; spot prices over hours.
_LOOK = 300.0

log = logs.get("controller.offerings")


class Offers:
    """One per leader. All that the cloud's settings allow is told: the webhook has `[selection]` itself, and says of
    what is sold but not allowed that it is not allowed."""

    def __init__(self, api: Api, provider: Provider, prices: Prices, namespace: str, clock: Clock) -> None:
        self._api = api
        self._provider = provider
        self._prices = prices
        self._namespace = namespace
        self._clock = clock

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.look()
            await self._clock.sleep(_LOOK)

    async def look(self) -> bool:
        """Write it if it is not so already; whether it was written. Raises: ProviderError, KubernetesError,
        InvalidRequest when it is too much for a ConfigMap."""
        offerings = priced(await self._provider.offerings(), self._prices)
        wanted = {KEY: published.to_json(self._provider.name, offerings)}
        try:
            found = await self._api.get(CONFIG_MAP, names.OFFERINGS, self._namespace)
            if found.get("data") == wanted:
                return False
            await self._api.replace(CONFIG_MAP, {**found, "data": wanted})
        except Absent:
            await self._create(wanted)
        except Outdated:
            return False  # another wrote it: the next look compares
        log.info("told the webhook what the cloud sells", offerings=len(offerings))
        return True

    async def _create(self, wanted: dict[str, str]) -> None:
        metadata = {"name": names.OFFERINGS, "namespace": self._namespace}
        try:
            await self._api.create(
                CONFIG_MAP, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": wanted}
            )
        except Taken:
            return  # the next look compares
