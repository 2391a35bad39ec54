"""What is wrong with a build is said before anything is fetched; and our own recipes fit their locks."""

import dataclasses
import hashlib
import os
import sys
from pathlib import Path

import pytest

from podvm_images.image import lock, packages, recipe, wanted
from podvm_images.image.faults import BuildFault
from podvm_images.image.lock import Package
from podvm_images.image.recipe import Recipe
from podvm_images.image.wanted import Slot, Wanted

ROOM = Path(wanted.__file__).parent
HERE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
PROGRAM = Path(sys.executable).resolve()
HASH = hashlib.sha256(PROGRAM.read_bytes()).hexdigest()


def own(profile: str, architecture: str = "amd64") -> Recipe:
    return recipe.load(profile, architecture)


def small(**changes: object) -> Wanted:
    rooms = {**dict.fromkeys(recipe.ROOMS, ()), "root": ("libc6",)}
    mine = dataclasses.replace(own("min", HERE), packages=rooms)
    entries = tuple(
        Package(name, "1", f"pool/{name}.deb", 1, "0" * 64)
        for name in ("libc6", "linux-image-6.12.1+deb13-cloud-amd64")
    )
    whole = Wanted(mine, lock.Lock("trixie", HERE, 1, entries), "min", release=False)
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]


PROFILES = sorted(path.stem for path in ROOM.glob("*.lock"))


@pytest.mark.parametrize("profile", PROFILES)
def test_our_locks_have_all_that_our_recipes_name(profile: str) -> None:
    mine = own(profile)
    locked = lock.parse((ROOM / f"{profile}.lock").read_text(), profile)
    assert packages.locked_kernel(locked).path.startswith("pool/")
    names = {each.name for each in packages.room(mine, locked, *recipe.ROOMS)} | {packages.locked_kernel(locked).name}
    assert names == {each.name for each in locked.packages}, "the lock has what the recipe does not name"
    assert {each.name for each in locked.wheels} == {text.split(">")[0].split("=")[0] for text in mine.wheels}


def test_links_come_before_what_goes_below_them() -> None:
    mine = own("min")
    locked = lock.parse((ROOM / "min.lock").read_text(), "min")
    assert packages.room(mine, locked, "root", "debug")[0].name == "base-files"


def test_a_good_wish_is_none_to_complain_of() -> None:
    small().check()
    small(release=True, slots=(Slot("kata-agent", PROGRAM, HASH, "1"),)).check()


def test_the_development_agent_is_never_released() -> None:
    with pytest.raises(BuildFault, match="never a release"):
        small(release=True).check()
    with pytest.raises(BuildFault, match="never a release"):
        small(release=True, slots=(Slot("attestation-agent", PROGRAM, HASH, "1"),)).check()


def test_a_program_that_is_another_than_was_said_is_refused() -> None:
    with pytest.raises(BuildFault, match=f"has the SHA-256 {HASH}"):
        small(slots=(Slot("kata-agent", PROGRAM, "0" * 64, "1"),)).check()


def test_a_program_for_another_machine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "agent").write_bytes(b"#!/bin/sh\n")
    digest = hashlib.sha256(b"#!/bin/sh\n").hexdigest()
    with pytest.raises(BuildFault, match=f"is no program for {HERE}"):
        small(slots=(Slot("kata-agent", tmp_path / "agent", digest, "1"),)).check()


def test_a_lock_without_what_the_recipe_names_is_told_to_be_taken_anew() -> None:
    good = small()
    without = dataclasses.replace(good.lock, packages=good.lock.packages[1:])
    with pytest.raises(BuildFault, match=r"does not have libc6.*peerpods image lock"):
        dataclasses.replace(good, lock=without).check()
    with pytest.raises(BuildFault, match="names 0 kernels"):
        dataclasses.replace(good, lock=dataclasses.replace(good.lock, packages=good.lock.packages[:1])).check()


def test_a_lock_of_another_suite_or_machine_is_refused() -> None:
    good = small()
    for change in ({"suite": "forky"}, {"architecture": "riscv64"}):
        with pytest.raises(BuildFault, match="the lock is for"):
            dataclasses.replace(good, lock=dataclasses.replace(good.lock, **change)).check()  # type: ignore[arg-type]


def test_another_machines_image_is_not_built_here() -> None:
    other = {"amd64": "arm64", "arm64": "amd64"}[HERE]
    with pytest.raises(BuildFault, match="on a machine of that kind"):
        wanted.check_host(own("min", other))


def test_all_missing_programs_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(BuildFault, match="lacks apt, dpkg"):
        wanted.check_host(own("min", HERE))


def test_a_recipe_says_what_it_lacks() -> None:
    with pytest.raises(BuildFault, match=r"x\.toml has no 'kernel'"):
        recipe.parse('suite = "trixie"\n', "amd64", "x.toml")
    with pytest.raises(BuildFault, match=r"x\.toml is not TOML"):
        recipe.parse("suite =\n", "amd64", "x.toml")


def test_the_kernel_is_what_its_package_depends_on() -> None:
    depends = "linux-image-6.12.117+deb13-cloud-amd64 (= 6.12.117-1)"
    assert packages.kernel_of(depends, "linux-image-cloud-amd64") == "linux-image-6.12.117+deb13-cloud-amd64"
    with pytest.raises(BuildFault, match="depends on no kernel"):
        packages.kernel_of("", "linux-image-cloud-amd64")
