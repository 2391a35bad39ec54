"""Azure's public price list: no credentials, a page of a hundred prices at a time, an OData filter."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from azure.core import AsyncPipelineClient
from azure.core.pipeline import policies
from azure.core.rest import HttpRequest

from providers.azure.catalog import Prices
from providers.azure.config import AzureConfig
from providers.azure.errors import translate
from providers.base import Purchase

API: Final = "2023-01-01-preview"
SIZES_PER_CALL: Final = 10  # a filter is part of the URL: 2 KB of it pass every proxy
_TIMEOUT: Final = 10.0  # seconds; prices are welcome, and nothing waits for them longer


async def ask(config: AzureConfig) -> Prices:
    """What the allowed sizes cost in the region, Linux, in USD. Raises: Throttled, Denied, InvalidSpec, Transient."""
    doing = f"cannot read the prices of {config.region}"
    found: dict[tuple[str, Purchase], float] = {}
    client: Any = AsyncPipelineClient(
        config.prices_url,
        policies=[policies.UserAgentPolicy(base_user_agent="peerpods"), policies.ProxyPolicy()],
        connection_timeout=_TIMEOUT,
        read_timeout=_TIMEOUT,
    )
    try:
        for chunk in _chunks(config.allowed_types):
            query = {"api-version": API, "$filter": asked(config, chunk)}
            next: HttpRequest | None = HttpRequest("GET", config.prices_url, params=query)
            while next is not None:
                response = await client.send_request(next)
                response.raise_for_status()
                page = json.loads(response.text())
                found |= dict(read(page["Items"], chunk))
                next = HttpRequest("GET", page["NextPageLink"]) if page.get("NextPageLink") else None
    except Exception as error:
        raise translate(error, doing) from error
    finally:
        await client.close()
    return found


def asked(config: AzureConfig, sizes: Sequence[str]) -> str:
    """The filter for these sizes' prices by the hour."""
    names = " or ".join(f"armSkuName eq '{size}'" for size in sizes)
    return (
        f"serviceName eq 'Virtual Machines' and priceType eq 'Consumption' and armRegionName eq '{config.region}'"
        f" and ({names})"
    )


def read(items: Sequence[Mapping[str, Any]], sizes: Sequence[str]) -> Iterator[tuple[tuple[str, Purchase], float]]:
    """The prices that are ours: not Windows, not the old low-priority kind."""
    spelt = {size.lower(): size for size in sizes}
    for item in items:
        size = spelt.get(str(item.get("armSkuName", "")).lower())
        meter = str(item.get("skuName") or item.get("meterName") or "")
        if not size or "Windows" in str(item.get("productName", "")) or "Low Priority" in meter:
            continue
        if item.get("unitOfMeasure", "1 Hour") == "1 Hour":
            yield (size, Purchase.SPOT if "Spot" in meter else Purchase.ON_DEMAND), float(item["retailPrice"])


def _chunks(sizes: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(sizes), SIZES_PER_CALL):
        yield sizes[start : start + SIZES_PER_CALL]
