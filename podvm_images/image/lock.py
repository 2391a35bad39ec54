"""The lock file: every package and every wheel that an image is made of, by version and hash; pure.

suite = "trixie"
architecture = "amd64"
epoch = 1760000000              # seconds since 1970: the time that everything in the image carries

[[package]]
name = "libc6"
version = "2.41-12+deb13u4"
path = "pool/main/g/glibc/libc6_2.41-12+deb13u4_amd64.deb"      # below any mirror of the suite
size = 2846580                  # bytes
sha256 = "..."

[[wheel]]
name = "protobuf"
version = "7.36.2"
path = "protobuf-7.36.2-cp310-abi3-manylinux2014_x86_64.whl"    # the file's name in any index
size = 324512
sha256 = "..."
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

ARCHITECTURES: Final = ("amd64", "arm64")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+")  # Debian policy 5.6.7
_VERSION: Final = re.compile(r"[A-Za-z0-9.+:~-]+")
_PATH: Final = re.compile(r"pool/[A-Za-z0-9+._~%/-]+\.deb")
_WHEEL: Final = re.compile(r"[A-Za-z0-9._+-]+\.whl")
_WHEEL_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]*")  # as indexes normalize it
_FIELDS: Final = {"name": str, "version": str, "path": str, "size": int, "sha256": str}
_TOP: Final = {"suite": str, "architecture": str, "epoch": int, "package": list}
_OPTIONAL: Final = {"wheel": list}


class LockFault(ValueError):
    """A lock file that cannot be used: everything that is wrong with it, one line each."""


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """One .deb, or one wheel; `path` is below a mirror's root, or a file's name in an index."""

    name: str
    version: str
    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Lock:
    """The whole file; packages and wheels sorted by name."""

    suite: str
    architecture: str
    epoch: int
    packages: tuple[Package, ...]
    wheels: tuple[Package, ...] = ()


def parse(text: str, where: str) -> Lock:
    """Raises: LockFault, whose lines begin with `where`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LockFault(f"{where} is not TOML: {error}") from None
    faults = [f"{where}: {fault}" for fault in _faults(document)]
    if faults:
        raise LockFault("\n".join(faults))
    packages, wheels = (
        tuple(sorted(Package(**entry) for entry in document.get(kind, ()))) for kind in ("package", "wheel")
    )
    return Lock(document["suite"], document["architecture"], document["epoch"], packages, wheels)


def render(lock: Lock) -> str:
    """The file's text: the same for the same lock, one change a line, so that a diff shows what is new."""
    head = f'suite = "{lock.suite}"\narchitecture = "{lock.architecture}"\nepoch = {lock.epoch}\n'
    return head + "".join(
        f'\n[[{kind}]]\nname = "{each.name}"\nversion = "{each.version}"\npath = "{each.path}"\n'
        f'size = {each.size}\nsha256 = "{each.sha256}"\n'
        for kind, entries in (("package", lock.packages), ("wheel", lock.wheels))
        for each in sorted(entries)
    )


def changes(before: Lock, after: Lock) -> list[str]:
    """What a new lock brings, for people: one line per package or wheel."""
    old, new = (
        {each.path.endswith(".whl") * "wheel " + each.name: each for each in (*lock.packages, *lock.wheels)}
        for lock in (before, after)
    )
    return [_change(name, old.get(name), new.get(name)) for name in sorted(old | new) if old.get(name) != new.get(name)]


def _change(name: str, old: Package | None, new: Package | None) -> str:
    if old is None or new is None:
        return f"{name}: {'gone' if new is None else f'new, {new.version}'}"
    if old.version == new.version:
        return f"{name}: {new.version} is another file than before. A mirror must not do that: find out why"
    return f"{name}: {old.version} to {new.version}"


def _faults(document: Mapping[str, Any]) -> Iterable[str]:
    wrong = list(_typed(document, _TOP, _OPTIONAL))
    yield from wrong
    if wrong:
        return
    if document["architecture"] not in ARCHITECTURES:
        yield f"architecture {document['architecture']!r} is none that images are made for ({', '.join(ARCHITECTURES)})"
    if not _NAME.fullmatch(document["suite"]):
        yield f"suite {document['suite']!r} is no name of a Debian suite"
    if document["epoch"] < 0:
        yield f"epoch {document['epoch']} is before 1970"
    if not document["package"]:
        yield "it names no package"
    for kind, name, path in (("package", _NAME, _PATH), ("wheel", _WHEEL_NAME, _WHEEL)):
        seen: set[str] = set()
        for number, entry in enumerate(document.get(kind, ()), start=1):
            yield from (f"{kind} {number}{fault}" for fault in _entry_faults(entry, seen, name, path))


def _entry_faults(entry: Any, seen: set[str], names: re.Pattern[str], paths: re.Pattern[str]) -> Iterable[str]:
    if not isinstance(entry, dict):
        yield " is no table"
        return
    wrong = [f": {fault}" for fault in _typed(entry, _FIELDS)]
    yield from wrong
    if wrong:
        return
    name = entry["name"]
    for key, form in (("name", names), ("version", _VERSION), ("path", paths), ("sha256", _SHA256)):
        if not form.fullmatch(entry[key]) or ".." in entry[key]:
            yield f" ({name!r}): {key} {entry[key]!r} cannot be one"
    if entry["size"] <= 0:
        yield f" ({name!r}): size {entry['size']} cannot be one"
    if name in seen:
        yield f" ({name!r}) is there twice"
    seen.add(name)


def _typed(
    table: Mapping[str, Any], fields: Mapping[str, type], optional: Mapping[str, type] = MappingProxyType({})
) -> Iterable[str]:
    for key, kind in {**fields, **optional}.items():
        if key not in table:
            if key in fields:
                yield f"{key} is missing"
        elif type(table[key]) is not kind:
            yield f"{key} is {table[key]!r}; it must be {'a list of tables' if kind is list else kind.__name__}"
    yield from (
        f"{key} is not known here (known: {', '.join(fields)})"
        for key in table
        if key not in fields and key not in optional
    )
