"""The pages of a disk that is being uploaded: plain calls to blob storage by a link that opens this disk alone."""

import base64
import hashlib
import io
import re
from collections.abc import Iterator
from typing import Any, Final
from xml.etree import ElementTree as ET

from azure.core import AsyncPipelineClient
from azure.core.pipeline import policies
from azure.core.rest import HttpRequest

from providers.azure.errors import translate
from providers.errors import ProviderError

PIECE: Final = 4 << 20  # bytes; the most that one Put Page takes
_TIMEOUT: Final = 60.0  # seconds, for connecting and for each wait for bytes
_VERSION: Final = "2021-12-02"  # of blob storage's API


class Pages:
    """One disk's, by its link: which is a secret, and in no message. A client of its own, without credentials."""

    def __init__(self, link: str) -> None:
        self._link = link
        self._client: Any = AsyncPipelineClient(
            link.partition("?")[0],
            policies=[policies.UserAgentPolicy(base_user_agent="peerpods"), policies.ProxyPolicy()],
            connection_timeout=_TIMEOUT,
            read_timeout=_TIMEOUT,
        )

    async def put(self, first: int, data: bytes, doing: str) -> None:
        """Write whole pages of 512 bytes from byte `first` on; a repeat writes the same. Raises: ProviderError."""
        headers = {
            "x-ms-page-write": "update",
            "Range": f"bytes={first}-{first + len(data) - 1}",
            "Content-Length": str(len(data)),
            "Content-MD5": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode(),
        }
        await self._send("PUT", "page", headers, data, doing)

    async def written(self, doing: str) -> list[tuple[int, int]]:
        """The ranges that have been written: first byte, byte behind the last. Raises: ProviderError."""
        text = await self._send("GET", "pagelist", {}, None, doing)
        try:
            return list(_ranges(text))
        except (ET.ParseError, ValueError, TypeError) as error:
            raise translate(error if isinstance(error, ValueError) else ValueError(str(error)), doing) from error

    async def aclose(self) -> None:
        """Let go of connections."""
        await self._client.close()

    async def _send(self, method: str, part: str, headers: dict[str, str], data: bytes | None, doing: str) -> str:
        url = f"{self._link}&comp={part}"
        content = None if data is None else io.BytesIO(data)  # as bytes, aiohttp warns, it would hold up the loop
        request = HttpRequest(method, url, headers={"x-ms-version": _VERSION, **headers}, content=content)
        try:
            response = await self._client.send_request(request)
            response.raise_for_status()
            return str(response.text())
        except ProviderError:
            raise
        except Exception as error:
            made = translate(error, doing)
            made.message = made.message.replace(self._link, "the disk's link")
            raise made from None


def _ranges(text: str) -> Iterator[tuple[int, int]]:
    # The service's own XML, over TLS; entities are refused by their mark.
    if re.search(r"<!(DOCTYPE|ENTITY)", text):
        raise ValueError("XML with a document type")
    for each in ET.fromstring(text.lstrip("\ufeff")).iter("PageRange"):  # noqa: S314
        yield int(each.findtext("Start") or ""), int(each.findtext("End") or "") + 1
