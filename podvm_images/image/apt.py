"""An apt of our own: its sources, lists and cache in a directory of the build, nothing of the host's changed.

It needs no privileges, and of the host's own configuration it takes where the mirror is and how to get there.
"""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from podvm_images.image import sources
from podvm_images.image.faults import BuildFault
from podvm_images.image.lock import Package
from podvm_images.image.sources import Source

_HELPER: Final = "/usr/lib/apt/apt-helper"
_ETC: Final = Path("/etc/apt")


class Apt:
    """`Apt.make(...)`."""

    def __init__(self, directory: Path, found: Sequence[Source]) -> None:
        self._directory = directory
        self.sources = found

    @classmethod
    def make(
        cls, directory: Path, suite: str, architecture: str, mirrors: Sequence[str] = (), keyring: str = ""
    ) -> Self:
        """Its directory, filled in. Raises: BuildFault where no mirror is known."""
        found = sources.of_mirrors(mirrors, suite, keyring or sources.KEYRING) if mirrors else _of_host(suite)
        for each in ("lists/partial", "cache/archives/partial"):
            (directory / each).mkdir(parents=True, exist_ok=True)
        (directory / "status").write_text("")
        (directory / "debian.sources").write_text(sources.render(found))
        settings = {
            "Dir::Etc::SourceList": directory / "debian.sources",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Parts": "/dev/null",
            "Dir::Etc::Main": "/dev/null",
            "Dir::State::Lists": directory / "lists",
            "Dir::State::status": directory / "status",
            "Dir::Cache": directory / "cache",
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
        }
        text = sources.transport(_run(["apt-config", "dump"]))
        text += "".join(f'{name} "{value}";\n' for name, value in settings.items())
        (directory / "apt.conf").write_text(text)
        return cls(directory, found)

    def update(self) -> None:
        """Fetch the mirror's lists; apt checks their signatures. Raises: BuildFault."""
        self._apt("apt-get", "--error-on=any", "update", "-q")

    def candidates(self, names: Sequence[str]) -> dict[str, tuple[Package, str]]:
        """Name -> (the version that would be installed, its Depends). Raises: BuildFault naming those unknown."""
        found = {}
        text = self._apt("apt-cache", "show", "--no-all-versions", *names, may_fail=True)
        for stanza in text.split("\n\n"):
            fields = dict(re.findall(r"(?m)^([A-Za-z0-9-]+): (.*)$", stanza))
            if "Filename" in fields:
                package = Package(
                    fields["Package"], fields["Version"], fields["Filename"], int(fields["Size"]), fields["SHA256"]
                )
                found[package.name] = (package, fields.get("Depends", ""))
        unknown = [name for name in names if name not in found]
        if unknown:
            asked = ", ".join(f"{each.uri} {each.suite}" for each in self.sources)
            raise BuildFault(
                f"there is no package {', '.join(unknown)} (asked: {asked}): is the recipe for this suite?"
            )
        return found

    def installing(self, names: Sequence[str]) -> list[str]:
        """What `apt-get install` would install for these, by name: they and what they depend on."""
        said = self._apt("apt-get", "-s", "install", "-q", *names, may_fail=True)
        return sorted({line.split()[1] for line in said.splitlines() if line.startswith("Inst ")})

    def fetch(self, package: Package, target: Path) -> None:
        """One .deb to `target`, checked against its hash. Raises: BuildFault saying which kind of failure it was."""
        failures = []
        for base in dict.fromkeys(each.uri.rstrip("/") for each in self._likely(package)):
            url = f"{base}/{package.path}"
            words = [_HELPER, "download-file", url, str(target), f"SHA256:{package.sha256}"]
            done = subprocess.run(words, env=self._environment(), capture_output=True, text=True, check=False)
            if done.returncode == 0 and target.exists():
                return
            target.unlink(missing_ok=True)
            failures.append((base, f"{done.stdout}\n{done.stderr}"))
        raise BuildFault(_why(package, failures))

    def _likely(self, package: Package) -> list[Source]:
        """Those that have it come first; security's own archive says so in its paths."""
        security = package.path.startswith("pool/updates/")
        return sorted(self.sources, key=lambda each: each.suite.endswith("-security") != security)

    def _apt(self, *words: str, may_fail: bool = False) -> str:
        return _run(words, self._environment(), may_fail=may_fail)

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, "APT_CONFIG": str(self._directory / "apt.conf"), "LC_ALL": "C.UTF-8"}


def _of_host(suite: str) -> list[Source]:
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text("utf-8").splitlines() if "=" in line
    )
    paths = [_ETC / "sources.list", *sorted((_ETC / "sources.list.d").glob("*"))]
    files = {
        str(path): path.read_text("utf-8") for path in paths if path.suffix in (".list", ".sources") and path.is_file()
    }
    codename = release.get("VERSION_CODENAME", "").strip('"') if release.get("ID") == "debian" else ""
    return sources.of_host(files, codename, suite)


def _why(package: Package, failures: Sequence[tuple[str, str]]) -> str:
    said = " ".join(text for _, text in failures)
    bases = ", ".join(base for base, _ in failures)
    if "No space left" in said:
        return f"no space left while {package.path} was fetched: free some, or put the cache elsewhere (--cache DIR)"
    if "Hash Sum mismatch" in said or "unexpected size" in said:
        return (
            f"{package.path} at {bases} is not the file that the lock names (its hash or size is another). A mirror must "
            "not change a file: fetch from another one (--mirror), and take the lock anew only when you know why"
        )
    if "404" in said:
        return (
            f"{package.path} is gone from {bases}: mirrors keep only what is current. Take the lock anew (peerpods image "
            "lock), or name a mirror of that date (--mirror URL)"
        )
    last = " ".join(line for line in said.splitlines() if line.startswith(("E:", "Err:")))[-400:]
    return f"{package.path} cannot be fetched from {bases}: {last or ' '.join(said.split())[-400:]}"


def _run(words: Sequence[str], environment: Mapping[str, str] | None = None, *, may_fail: bool = False) -> str:
    try:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BuildFault(
            f"{words[0]} is missing: an image is built on Debian or one of its kin (package apt)"
        ) from None
    if done.returncode and not may_fail:
        last = " ".join(line for line in done.stderr.splitlines() if line.startswith(("E:", "W:", "Err:")))
        raise BuildFault(f"{' '.join(words[:3])} failed: {last or done.stderr.strip()[-400:]}")
    return done.stdout
