"""Wheels for the image's Python: chosen, fetched and unpacked by pip's rules, from the index that pip knows."""

import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from podvm_images.image.faults import BuildFault
from podvm_images.image.lock import Package

PYTHON: Final = "3.13"
_OLDEST_GLIBC, _GLIBC = 17, 41  # minor versions of glibc 2: what a wheel may ask for; Debian 13 has 2.41


def resolve(requirements: Sequence[str], machine: str, directory: Path) -> list[tuple[Package, Path]]:
    """The newest that fit the image, with the files. Raises: BuildFault with pip's words."""
    _pip([*_target(machine), "--no-deps", "--dest", str(directory), *requirements])
    return [(_described(path), path) for path in sorted(directory.glob("*.whl"))]


def fetch(wheels: Sequence[Package], machine: str, directory: Path) -> list[tuple[Package, Path]]:
    """Those that the lock names. Raises: BuildFault with pip's words."""
    wanted = directory / "wanted.txt"
    wanted.write_text("".join(f"{each.name}=={each.version} --hash=sha256:{each.sha256}\n" for each in wheels))
    _pip([*_target(machine), "--no-deps", "--require-hashes", "--dest", str(directory), "-r", str(wanted)])
    return [(each, directory / each.path) for each in wheels]


def unpack(wheel: Path, target: Path) -> None:
    """Its modules and its metadata, but no scripts. Raises: BuildFault when it wants to lie elsewhere."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            parts = Path(member.filename).parts
            if ".." in parts or member.filename.startswith("/"):
                raise BuildFault(f"the wheel {wheel.name} holds {member.filename!r}, which lies outside of it")
            if parts and not parts[0].endswith(".data") and not member.is_dir():
                archive.extract(member, target)


def _described(path: Path) -> Package:
    name, version = path.name.split("-")[:2]
    content = path.read_bytes()
    normal = re.sub(r"[-_.]+", "-", name).lower()
    return Package(normal, version, path.name, len(content), hashlib.sha256(content).hexdigest())


def _target(machine: str) -> list[str]:
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(_GLIBC, _OLDEST_GLIBC - 1, -1)]
    words = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
    for abi in (f"cp{PYTHON.replace('.', '')}", "abi3", "none"):
        words += ["--abi", abi]
    for platform in (*platforms, f"manylinux2014_{machine}"):
        words += ["--platform", platform]
    return words


def _pip(words: Sequence[str]) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    said = done.stderr.strip()
    if "No module named pip" in said:
        raise BuildFault(f"{sys.executable} has no pip, which fetches the image's wheels: python -m ensurepip")
    if "DO NOT MATCH THE HASHES" in said:
        raise BuildFault(f"a wheel is not the file that the lock names; an index must not change a file: {_last(said)}")
    raise BuildFault(f"pip could not fetch the image's wheels: {_last(said)}")


def _last(said: str) -> str:
    return " ".join(" ".join(line for line in said.splitlines() if "ERROR" in line or "error" in line).split())[-600:]
