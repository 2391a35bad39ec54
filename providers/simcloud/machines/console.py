"""An instance's console."""

from typing import Final

LIMIT: Final = 64 * 1024  # bytes; what EC2 keeps
LONG: Final = 1024 * 1024  # what Compute Engine keeps; Azure keeps more


class Console:
    """The last `limit` bytes an instance has printed, over all its boots."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._kept = bytearray()

    def write(self, data: bytes) -> None:
        self._kept += data
        del self._kept[: -self._limit]

    def read(self) -> bytes:
        return bytes(self._kept)

    def text(self) -> str:
        """For people: what is not UTF-8 is shown as replacement characters."""
        return self._kept.decode(errors="replace")
