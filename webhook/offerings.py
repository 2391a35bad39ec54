"""The file with what the cloud sells, read again when it changes; the controller writes it (`catalog.published`)."""

from pathlib import Path

from adaptor.catalog import published
from adaptor.catalog.chooser import Chooser
from adaptor.errors import InvalidRequest
from adaptor.telemetry import logs, metrics
from webhook.refuse import Market

log = logs.get("webhook.offerings")


class Offerings:
    """`market` is as of the last `refresh`. A file that cannot be read changes nothing: the last one counts."""

    def __init__(self, path: str | None, chooser: Chooser) -> None:
        self._path = None if path is None else Path(path)
        self._chooser = chooser
        self._seen: tuple[int, ...] | None = None
        self.market = Market(chooser)
        metrics.WEBHOOK_OFFERINGS.set(0)
        if path is None:
            log.info("what the cloud sells is not checked: [webhook].offerings names no file")

    def refresh(self) -> None:
        """Read it if it has changed."""
        if self._path is None:
            return
        seen = self._stamp()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            offerings = published.from_json(self._path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, InvalidRequest) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            left = len(self.market.offerings)
            log.warning("offerings not read", file=str(self._path), reason=reason, checked_against=left)
            return
        self.market = Market(self._chooser, offerings)
        metrics.WEBHOOK_OFFERINGS.set(len(offerings))
        log.info("offerings read", file=str(self._path), offerings=len(offerings))

    def _stamp(self) -> tuple[int, ...]:
        assert self._path is not None
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
