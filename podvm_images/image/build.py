"""From a lock to an image, stage by stage; everything happens in a work directory, and nothing needs root.

packages ─► tree ─► root.erofs ─► root.verity ─┐
                └─► initrd ────────────────────┴► podvm.efi ─► podvm.raw, image.json
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from podvm_images.image import gpt, initrd, manifest, pack, packages, rootfs, tree, wheels
from podvm_images.image.apt import Apt
from podvm_images.image.faults import BuildFault
from podvm_images.image.lock import Package
from podvm_images.image.manifest import Manifest
from podvm_images.image.store import Store
from podvm_images.image.tools import Tools
from podvm_images.image.wanted import Wanted

_STUBS: Final = {"amd64": "linuxx64.efi.stub", "arm64": "linuxaa64.efi.stub"}


@dataclass(frozen=True, slots=True)
class Telling:
    """How a build says what it does: the stage that begins, and bytes that were fetched, of so many."""

    stage: Callable[[str], None] = lambda _text: None
    bytes: Callable[[int, int], None] = lambda _done, _all: None


@dataclass(slots=True)
class _Work:
    """The directories of one build."""

    base: Path
    store: Store
    telling: Telling = field(default_factory=Telling)

    def at(self, name: str) -> Path:
        return self.base / name


def build(wanted: Wanted, apt: Apt, store: Store, out: Path, work: Path, telling: Telling) -> Manifest:
    """Build into `out`, which is replaced when all of it is there. Raises: BuildFault, OSError."""
    wanted.check()
    fetch(wanted, apt, store, telling)
    work.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="image-", dir=work) as base:
        result = _built(wanted, _Work(Path(base), store, telling))
        _replace(Path(base) / "out", out)
    return result


def fetch(wanted: Wanted, apt: Apt, store: Store, telling: Telling) -> None:
    """Everything that the lock names into the store. Raises: BuildFault."""
    telling.stage("fetch packages and wheels")
    wheels_missing = store.missing(wanted.lock.wheels)
    whole = sum(each.size for each in (*store.missing(wanted.lock.packages), *wheels_missing))
    done = 0

    def told(size: int) -> None:
        nonlocal done
        done += size
        telling.bytes(done, whole)

    told(0)
    store.fetch(wanted.lock.packages, apt.fetch, told)
    if wheels_missing:
        with tempfile.TemporaryDirectory() as directory:
            for wheel, path in wheels.fetch(wheels_missing, wanted.recipe.machine, Path(directory)):
                store.take(wheel, path)
                told(wheel.size)


def _built(wanted: Wanted, work: _Work) -> Manifest:
    recipe, say = wanted.recipe, work.telling.stage
    out = work.at("out")
    out.mkdir()
    say("unpack the tools and the kernel")
    kernel = packages.locked_kernel(wanted.lock)
    version = kernel.name.removeprefix("linux-image-")
    for name, wanted_packages in (
        ("tools", packages.room(recipe, wanted.lock, "tools")),
        ("initrd", packages.room(recipe, wanted.lock, "initrd")),
        ("kernel", [kernel, *packages.room(recipe, wanted.lock, "stub")]),
    ):
        tree.unpack(_archives(wanted_packages, work.store), work.at(name), {})
    tools = Tools(work.at("tools"), recipe)
    rootfs.build(wanted, version, work.at("root"), work.at("kernel"), tools, work.store, say)
    say("pack the root and its hashes")
    pack.root(work.at("root"), out / "root.erofs", tools, wanted.lock.epoch)
    found = pack.hashes(out / "root.erofs", out / "root.verity", wanted.lock.epoch)
    say("pack initrd, kernel and disk")
    _initrd(wanted, version, work, out / "initrd", tools)
    shutil.copyfile(work.at("kernel") / "boot" / f"vmlinuz-{version}", out / "vmlinuz")
    line = pack.command_line(recipe, found)
    texts = {".osrel": (work.at("root") / "etc/os-release").read_text("utf-8"), ".cmdline": line, ".uname": version}
    stub = work.at("kernel") / "usr/lib/systemd/boot/efi" / _STUBS[recipe.architecture]
    united = pack.unified(stub.read_bytes(), (out / "vmlinuz").read_bytes(), (out / "initrd").read_bytes(), texts)
    (out / "podvm.efi").write_bytes(united)
    pack.boot_partition(out / "podvm.efi", work.at("esp"), recipe, tools, wanted.lock.epoch)
    parts = [
        ("esp", gpt.ESP, work.at("esp")),
        ("podvm-root", gpt.ROOT[recipe.architecture], out / "root.erofs"),
        ("podvm-verity", gpt.VERITY[recipe.architecture], out / "root.verity"),
    ]
    pack.disk(parts, out / "podvm.raw")
    return _manifest(wanted, version, line, found.root_hash, out)


def _initrd(wanted: Wanted, version: str, work: _Work, target: Path, tools: Tools) -> None:
    loaded = initrd.kernel_modules(work.at("kernel"), version, wanted.recipe.initrd_modules)
    init = (initrd.FILES / "initrd" / "init").read_bytes()
    archive = work.at("initrd.cpio")
    archive.write_bytes(initrd.build(work.at("initrd"), wanted.recipe.triplet, loaded, init))
    tools.run("zstd", "--quiet", "--force", "--single-thread", "-19", str(archive), "-o", str(target))


def _manifest(wanted: Wanted, version: str, line: str, root_hash: str, out: Path) -> Manifest:
    made = Manifest(
        architecture=wanted.recipe.architecture,
        profile=wanted.profile,
        release=wanted.release,
        development_agent=wanted.development_agent,
        kernel_version=version,
        command_line=line,
        root_hash=root_hash,
        programs=tuple(sorted((slot.name, f"{slot.version} sha256:{slot.sha256.lower()}") for slot in wanted.slots)),
        hashes=tuple(sorted((path.name, pack.sha256(path)) for path in out.iterdir())),
    )
    (out / manifest.FILE).write_text(manifest.to_json(made), "utf-8")
    return made


def _archives(found: Sequence[Package], store: Store) -> list[tuple[str, Path]]:
    return [(each.name, store.path(each)) for each in found]


def _replace(new: Path, out: Path) -> None:
    """`out` is the old image or the new one, whatever happens in between. Raises: BuildFault for a stranger's directory."""
    if out.exists() and any(out.iterdir()) and not (out / manifest.FILE).exists():
        raise BuildFault(f"{out} holds something that is no image: it is not replaced; name another --out")
    fresh, old = out.with_name(f".{out.name}.new"), out.with_name(f".{out.name}.old")
    for each in (fresh, old):
        shutil.rmtree(each, ignore_errors=True)
    shutil.move(new, fresh)
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)
