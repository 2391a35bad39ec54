"""`peerpods image lock` and `peerpods image build`."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path
from typing import TYPE_CHECKING, Final

from adaptor.cli.verbs import Verbs
from adaptor.errors import AdaptorError, InvalidRequest, Unavailable

if TYPE_CHECKING:  # the image room is loaded by these verbs alone
    from podvm_images.image.apt import Apt
    from podvm_images.image.build import Telling
    from podvm_images.image.recipe import Recipe
    from podvm_images.image.wanted import Slot, Wanted

_PROFILES: Final = ("min", "systemd")
_ARCHITECTURES: Final = ("amd64", "arm64")
_SLOTS: Final = ("kata-agent", "attestation-agent", "confidential-data-hub", "api-server-rest")


def add_parsers(verbs: Verbs) -> None:
    """Declare them."""
    lock = verbs.add_parser(
        "lock",
        help="pin the packages that an image is made of",
        description="Look up what the recipe names in Debian's mirror (the one that this host's apt uses) and Python's index "
        "(the one that pip uses), and write version and hash of each into the lock file. Says what has changed.",
    )
    _add_common(lock)
    lock.set_defaults(run=run_lock)
    build = verbs.add_parser(
        "build",
        help="build an image from its lock",
        description="Needs no root, no loop device and no container: a Debian or Ubuntu host with apt, and a minute. Everything "
        "that is fetched is checked against the lock and kept in the cache; the result replaces --out when it is whole.",
    )
    _add_common(build)
    build.add_argument("--out", type=Path, metavar="DIR", help="default: PROFILE-ARCHITECTURE in the cache")
    build.add_argument("--work", type=Path, metavar="DIR", help="needs a GiB for a while (default: work in the cache)")
    kind = build.add_mutually_exclusive_group()
    kind.add_argument("--release", action="store_true", help="no shell and no login; needs a real kata-agent")
    kind.add_argument("--debug", action="store_true", help="with busybox and its shell (the default)")
    for name in _SLOTS:
        build.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"the {name} to put into the image")
        build.add_argument(f"--{name}-sha256", metavar="HASH", help="that FILE must have")
        build.add_argument(f"--{name}-version", metavar="TEXT", help="of FILE, for image.json")
    build.set_defaults(run=run_build)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile",
        choices=_PROFILES,
        default="min",
        help="min: our own init; systemd: Debian's (default: %(default)s)",
    )
    parser.add_argument("--architecture", choices=_ARCHITECTURES, default=_native(), help="default: this machine's")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="default: the one that comes with this program")
    parser.add_argument(
        "--mirror",
        action="append",
        default=[],
        metavar="'URL [SUITE]'",
        help="instead of the host's own mirrors, a dated one for example; may be repeated",
    )
    parser.add_argument(
        "--keyring", default="", metavar="FILE", help="whose keys --mirror is signed with (default: Debian's)"
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", default=_cache(), help="default: %(default)s")


def run_lock(arguments: argparse.Namespace) -> int:
    """Write the lock anew, and say what it brings."""
    from podvm_images.image import lock, packages
    from podvm_images.image.store import Store

    path = _lock_path(arguments)
    with _faults():
        before = lock.parse(path.read_text("utf-8"), str(path)) if path.exists() else None
        recipe = _recipe(arguments)
        resolved = packages.resolve(recipe, _apt(arguments, recipe.suite), Store(arguments.cache / "files"), before)
        path.write_text(lock.render(resolved.lock), "utf-8")
    for line in lock.changes(before, resolved.lock) if before else []:
        print(line)
    count = f"{len(resolved.lock.packages)} packages and {len(resolved.lock.wheels)} wheels"
    print(f"{path}: {count}{', nothing has changed' if before == resolved.lock else ''}")
    if resolved.added:
        print(f"their dependencies would add, and the image goes without: {', '.join(resolved.added)}")
    return 0


def run_build(arguments: argparse.Namespace) -> int:
    """Build, and say what it has become."""
    with _faults():
        from podvm_images.image import build, lock
        from podvm_images.image.store import Store
        from podvm_images.image.wanted import Wanted

    path, out = _lock_path(arguments), _out(arguments)
    with _faults():
        recipe = _recipe(arguments)
        if not path.exists():
            raise InvalidRequest(f"there is no lock {path}: peerpods image lock makes one")
        wanted = Wanted(
            recipe=recipe,
            lock=lock.parse(path.read_text("utf-8"), str(path)),
            profile=arguments.profile,
            release=arguments.release,
            slots=tuple(_slots(arguments)),
        )
        wanted.check()
        _warn(wanted)
        work = arguments.work or arguments.cache / "work"
        with _telling() as telling:
            apt = _apt(arguments, recipe.suite)
            made = build.build(wanted, apt, Store(arguments.cache / "files"), out.absolute(), work.absolute(), telling)
    print(f"{out}: {made.profile}, {'release' if made.release else 'debug'}, kernel {made.kernel_version}")
    print(f"root hash {made.root_hash}")
    disk = out / made.disk
    print(f"disk      {dict(made.hashes)[made.disk]}  ({disk.stat().st_size / 1e6:.1f} MB, {disk})")
    return 0


def _warn(wanted: "Wanted") -> None:
    if wanted.development_agent:
        print(
            "peerpods: WARNING: this image carries the DEVELOPMENT AGENT: it attests nothing, and pods with secrets must "
            "never run in it. A real one is given with --kata-agent",
            file=sys.stderr,
        )
    if not wanted.release:
        print("peerpods: WARNING: this is a debug image: it has a shell. --release leaves it out", file=sys.stderr)


def _slots(arguments: argparse.Namespace) -> Iterator["Slot"]:
    from podvm_images.image.wanted import Slot

    for name in _SLOTS:
        key = name.replace("-", "_")
        path, digest, version = (getattr(arguments, f"{key}{suffix}") for suffix in ("", "_sha256", "_version"))
        if path is None and digest is None and version is None:
            continue
        if path is None or not digest or not version:
            raise InvalidRequest(f"--{name} needs all three: the file, --{name}-sha256 and --{name}-version")
        yield Slot(name, path, digest, version)


@contextmanager
def _telling() -> Iterator["Telling"]:
    """A bar for the fetching and a line for each stage; on a terminal they move."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    from podvm_images.image.build import Telling

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: list[TaskID] = []

        def stage(text: str) -> None:
            for task in tasks[-1:]:
                progress.update(task, total=1, completed=1)
            tasks.append(progress.add_task(text, total=None))
            if not console.is_terminal:
                console.print(text, highlight=False)

        yield Telling(stage, lambda done, whole: progress.update(tasks[-1], completed=done, total=whole or 1))


@contextmanager
def _faults() -> Iterator[None]:
    """Whatever is wrong with lock, packages, disk or network, as this program's own error."""
    try:
        from podvm_images.image.faults import BuildFault
        from podvm_images.image.lock import LockFault

        yield
    except ImportError as error:
        raise Unavailable(f"building an image needs {error.name}: pip install 'peerpods[image]'") from error
    except (BuildFault, LockFault) as error:
        raise AdaptorError(str(error)) from error
    except OSError as error:
        hint = ": free some space, or name other places with --cache, --work and --out" if error.errno == ENOSPC else ""
        raise AdaptorError(f"{error.filename or 'a file'}: {error.strerror}{hint}") from error


def _recipe(arguments: argparse.Namespace) -> "Recipe":
    from podvm_images.image import recipe

    return recipe.load(arguments.profile, arguments.architecture)


def _apt(arguments: argparse.Namespace, suite: str) -> "Apt":
    from podvm_images.image.apt import Apt

    where = arguments.cache / "apt" / arguments.architecture
    return Apt.make(where.absolute(), suite, arguments.architecture, arguments.mirror, arguments.keyring)


def _lock_path(arguments: argparse.Namespace) -> Path:
    suffix = "" if arguments.architecture == "amd64" else f"-{arguments.architecture}"
    return Path(arguments.lock or _room() / f"{arguments.profile}{suffix}.lock")


def _out(arguments: argparse.Namespace) -> Path:
    return Path(arguments.out or arguments.cache / f"{arguments.profile}-{arguments.architecture}")


def _room() -> Path:
    import podvm_images.image

    return Path(podvm_images.image.__file__).parent


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peerpods" / "image"


def _native() -> str:
    return "arm64" if os.uname().machine == "aarch64" else "amd64"
