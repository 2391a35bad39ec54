"""From a recipe to a lock: which packages and wheels there are now, and what their dependencies would add."""

import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from podvm_images.image import wheels
from podvm_images.image.apt import Apt
from podvm_images.image.faults import BuildFault
from podvm_images.image.lock import Lock, Package
from podvm_images.image.recipe import Recipe
from podvm_images.image.store import Store

_KERNEL = re.compile(r"linux-image-\d[a-z0-9.+~-]*")


@dataclass(frozen=True, slots=True)
class Resolved:
    """`added`: what apt would install besides, and the image goes without."""

    lock: Lock
    added: tuple[str, ...]


def resolve(recipe: Recipe, apt: Apt, store: Store, before: Lock | None) -> Resolved:
    """The lock of today; it keeps the epoch of `before` where nothing else has changed. Raises: BuildFault."""
    apt.update()
    names = sorted({name for room in recipe.packages.values() for name in room})
    chosen = apt.candidates([*names, recipe.kernel])
    kernel = kernel_of(chosen.pop(recipe.kernel)[1], recipe.kernel)
    packages = [each for each, _ in (chosen | apt.candidates([kernel])).values()]
    found = _wheels(recipe, store)
    lock = Lock(recipe.suite, recipe.architecture, int(time.time()), tuple(sorted(packages)), tuple(sorted(found)))
    if before is not None and before.packages == lock.packages and before.wheels == lock.wheels:
        lock = before
    added = set(apt.installing(sorted({*recipe.packages["root"], *recipe.packages["development"]}))) - set(names)
    return Resolved(lock, tuple(sorted(added)))


def kernel_of(depends: str, meta: str) -> str:
    """The kernel that the package `meta` stands for. Raises: BuildFault."""
    found = _KERNEL.search(depends)
    if found is None:
        raise BuildFault(
            f"the package {meta} depends on no kernel ({depends or 'on nothing'}): the recipe must name another"
        )
    return found[0]


def locked_kernel(lock: Lock) -> Package:
    """Raises: BuildFault where the lock has none, or several."""
    found = [each for each in lock.packages if _KERNEL.fullmatch(each.name)]
    if len(found) != 1:
        raise BuildFault(f"the lock names {len(found)} kernels, and must name one: take it anew (peerpods image lock)")
    return found[0]


def room(recipe: Recipe, lock: Lock, *rooms: str) -> list[Package]:
    """The packages of these rooms, base-files first: its links (/bin, /lib) must be there before what goes below them.

    Raises: BuildFault where the lock does not have them all.
    """
    known = {each.name: each for each in lock.packages}
    names = {name for each in rooms for name in recipe.packages[each]}
    missing = sorted(names - known.keys())
    if missing:
        raise BuildFault(
            f"the lock does not have {', '.join(missing)}, which the recipe names: take it anew (peerpods image lock)"
        )
    return sorted((known[name] for name in names), key=lambda each: (each.name != "base-files", each.name))


def _wheels(recipe: Recipe, store: Store) -> Sequence[Package]:
    with tempfile.TemporaryDirectory() as directory:
        found = wheels.resolve(recipe.wheels, recipe.machine, Path(directory))
        for wheel, path in found:
            if store.missing([wheel]):
                store.take(wheel, path)
        return [wheel for wheel, _ in found]
