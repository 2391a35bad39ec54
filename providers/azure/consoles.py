"""What a VM has printed, from Azure's boot diagnostics: ARM gives a link that opens one blob, and storage the blob."""

import re
from collections.abc import Mapping
from typing import Any, Final

from azure.core import AsyncPipelineClient
from azure.core.pipeline import policies
from azure.core.rest import HttpRequest

from providers.azure import requests, resources
from providers.azure.arm import COMPUTE_API, Arm, reading
from providers.azure.config import AzureConfig
from providers.azure.errors import translate
from providers.base import CONSOLE_LIMIT, ResourceKind, console_tail
from providers.errors import NotFound, ProviderError

_TIMEOUT: Final = 10.0  # seconds, for connecting and for each wait for bytes
_ACTION: Final = "/retrieveBootDiagnosticsData"


async def read(arm: Arm, config: AzureConfig, vm: str) -> str:
    """See SupportsConsole.console."""
    doing = f"cannot read the console of {vm}"
    if not requests.is_name(vm):
        raise NotFound(f"{doing}: it is no VM's name")
    found = await arm.post(resources.path(ResourceKind.INSTANCE, config, vm) + _ACTION, COMPUTE_API, doing)
    with reading(doing):
        link = str(found.body["serialConsoleLogBlobUri"])
    return console_tail((await _newest(link, doing)).decode(errors="replace"))


async def _newest(link: str, doing: str) -> bytes:
    """The blob's end. A client of its own without credentials: the link opens the blob, and is a secret for that."""
    client: Any = AsyncPipelineClient(
        link,
        policies=[policies.UserAgentPolicy(base_user_agent="peerpods"), policies.ProxyPolicy()],
        connection_timeout=_TIMEOUT,
        read_timeout=_TIMEOUT,
    )
    try:
        about = await client.send_request(HttpRequest("HEAD", link))
        if about.status_code == 404:  # nothing has been printed yet
            return b""
        about.raise_for_status()
        size = _size(about.headers)
        if not size:
            return b""
        first = max(0, size - CONSOLE_LIMIT)
        # An end to the range, for it may grow by much meanwhile.
        found = await client.send_request(HttpRequest("GET", link, headers={"Range": f"bytes={first}-{size - 1}"}))
        found.raise_for_status()
        content: bytes = found.content
        return content
    except ProviderError:
        raise
    except Exception as error:
        raise translate(error, doing) from error
    finally:
        await client.close()


def _size(headers: Mapping[str, str]) -> int:
    length = headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"\d+", length) else 0
