"""The cache of what a lock names: files by their hash, so that two locks share what they have in common.

A file gets its place when it is whole and its hash is right, so whatever stopped a fetch, the next one goes on from there.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Final

from podvm_images.image.faults import BuildFault
from podvm_images.image.lock import Package

AT_ONCE: Final = 4  # fetches; more make no mirror faster
Told = Callable[[int], None]  # bytes that have come since the last call


class Store:
    """Below `directory`, which is made when it is needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, package: Package) -> Path:
        """Where it is, or will be; the name's end stays, which programs go by."""
        return self._directory / package.sha256[:2] / f"{package.sha256}-{package.path.rpartition('/')[2]}"

    def missing(self, packages: Sequence[Package]) -> list[Package]:
        return [each for each in packages if not self.path(each).exists()]

    def fetch(self, packages: Sequence[Package], get: Callable[[Package, Path], None], told: Told) -> None:
        """Have them all: `get` brings one to a path. Raises: BuildFault with every failure, one line each."""
        failures = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = {pool.submit(self._bring, each, get): each for each in self.missing(packages)}
            for job in as_completed(jobs):
                try:
                    job.result()
                    told(jobs[job].size)
                except BuildFault as fault:
                    failures.append(str(fault))
                except OSError as error:
                    failures.append(f"{jobs[job].path} cannot be kept: {error}")
        if failures:
            raise BuildFault("\n".join(sorted(failures)))

    def take(self, package: Package, source: Path) -> None:
        """Keep the file `source` as `package`. Raises: BuildFault when it is another."""
        content = hashlib.sha256()
        with source.open("rb") as file:
            while chunk := file.read(1 << 20):
                content.update(chunk)
        if content.hexdigest() != package.sha256:
            source.unlink()
            raise BuildFault(
                f"{package.path} is not the file that the lock names: its SHA-256 is {content.hexdigest()}, and should be "
                f"{package.sha256}"
            )
        target = self.path(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)

    def _bring(self, package: Package, get: Callable[[Package, Path], None]) -> None:
        target = self.path(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            get(package, part)
            self.take(package, part)
        finally:
            part.unlink(missing_ok=True)
