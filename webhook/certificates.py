"""The webhook's certificate, taken up while connections go on: no restart, no refused pod.

A Secret's files are swapped behind a symlink, two links at different moments: key and certificate are read once, tried
together in a context of their own, and only then put into the one that serves.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography import x509

from adaptor.telemetry import logs, metrics

CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"

log = logs.get("webhook.certificates")


class Certificates:
    """`context` serves the pair in `directory` as of the last `refresh`; `problem` says what is wrong with it."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._seen: tuple[tuple[int, ...], ...] | None = None
        self._used = b""
        self.context = _context()
        self.problem = f"no certificate yet in {directory}"

    @property
    def usable(self) -> bool:
        """Whether there is a certificate to serve with, the newest or not."""
        return bool(self._used)

    def refresh(self) -> None:
        """Take up what has changed. What cannot be used is told, and the last usable pair stays."""
        seen = self._stamp()
        if seen == self._seen and not self.problem:
            return
        try:
            pair = self._read()
            if pair != self._used:
                self._take(pair)
            self.problem = ""
        except (OSError, ValueError) as error:
            problem = f"the certificate in {self._directory} cannot be used: {_told(error)}"
            if problem != self.problem or seen != self._seen:
                log.warning("certificate not taken up", directory=str(self._directory), reason=_told(error))
            self.problem = problem
        self._seen = seen

    def _take(self, pair: bytes) -> None:
        certificate = x509.load_pem_x509_certificate(pair)
        with _as_file(pair) as path:
            _context().load_cert_chain(path)  # raises where key and certificate do not belong together
            self.context.load_cert_chain(path)
        self._used = pair
        ends = certificate.not_valid_after_utc
        metrics.WEBHOOK_CERTIFICATE_END.set(ends.timestamp())
        log.info("certificate taken up", serial=f"{certificate.serial_number:x}", ends=ends.isoformat())

    def _read(self) -> bytes:
        certificate = (self._directory / CERTIFICATE).read_bytes()
        return certificate.rstrip() + b"\n" + (self._directory / KEY).read_bytes()

    def _stamp(self) -> tuple[tuple[int, ...], ...]:
        return tuple(_stamp(self._directory / name) for name in (CERTIFICATE, KEY))


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


@contextmanager
def _as_file(pair: bytes) -> Iterator[str]:
    """`pair` under a path, which is all that `load_cert_chain` takes; in memory, for nobody else."""
    descriptor = os.memfd_create("webhook-tls", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pair)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _told(error: Exception) -> str:
    """Never the key's own text."""
    if isinstance(error, ssl.SSLError):
        return "its key is another's" if "MISMATCH" in str(error) else "not a PEM certificate with its key"
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else "not a PEM certificate"
