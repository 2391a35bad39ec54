"""What the image's root holds: Debian's libraries, our guest, kernel modules, and the agents that were given."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from podvm_images.image import initrd, ours, packages, tree, wheels
from podvm_images.image.faults import BuildFault
from podvm_images.image.recipe import Recipe
from podvm_images.image.store import Store
from podvm_images.image.tools import Tools, call
from podvm_images.image.wanted import Wanted

PYTHON: Final = "python3.13"
_OURS: Final = "usr/lib/podvm"
_PROGRAMS: Final = "usr/local/bin"
_WARNING: Final = "DEVELOPMENT AGENT: nothing in this image attests anything. Never run a pod with secrets in it."
_ETC: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\ntty:x:5:\ndisk:x:6:\nnogroup:x:65534:\n",
    "etc/shadow": "root:!*:::::::\nnobody:!*:::::::\n",
    "etc/hostname": "podvm\n",
    "etc/hosts": "127.0.0.1 localhost podvm\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    "etc/machine-id": "",
}


def build(
    wanted: Wanted,
    version: str,
    root: Path,
    kernel: Path,
    tools: Tools,
    store: Store,
    say: Callable[[str], None],
) -> None:
    """Raises: BuildFault when a library or a module is missing."""
    recipe = wanted.recipe
    say("unpack the root")
    rooms = ["root", *["development"] * wanted.development_agent, *["debug"] * (not wanted.release)]
    archives = [(each.name, store.path(each)) for each in packages.room(recipe, wanted.lock, *rooms)]
    tree.unpack(archives, root, recipe.only)
    tree.trust(root)
    tree.trim(root, recipe.trim)
    _our_files(root, wanted)
    if not wanted.release:
        _shell(root)
    for slot in wanted.slots:
        tree.put(root, f"{_PROGRAMS}/{slot.name}", slot.path.read_bytes(), executable=True)
    for wheel in wanted.lock.wheels:
        wheels.unpack(store.path(wheel), root / _OURS)
    tree.trim(root, recipe.trim)
    for library in sorted((root / _OURS).rglob("*.so*")):  # wheels come with debugging symbols
        tools.run(f"{recipe.triplet}-strip", "--strip-unneeded", str(library))
    _modules(root, kernel, version, recipe.root_modules, tools)
    lacking = tree.lacking(root, recipe.triplet)
    if lacking:
        raise BuildFault(
            f"libraries are missing in the image, whose packages the recipe must name: {'; '.join(lacking)}"
        )
    say("compile the image's Python")
    compile_all(root, recipe)
    try_imports(root, recipe)
    tree.settle(root)


def try_imports(root: Path, recipe: Recipe) -> None:
    """Have the image's own Python import each of our modules in it: nothing that they need has been trimmed.

    Raises: BuildFault naming what is missing.
    """
    found = sorted(
        path.relative_to(root / _OURS) for name in ours.ROOMS for path in (root / _OURS / name).rglob("*.py")
    )
    names = [ours.module(str(path)) for path in found]
    code = f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)"
    environment = {"PYTHONHOME": str(root / "usr"), "PYTHONPATH": str(root / _OURS), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        Tools(root, recipe).run(PYTHON, "-S", "-c", code, environment=environment)
    except BuildFault as fault:
        raise BuildFault(f"a module of the image cannot be imported there: {fault}") from None


def compile_all(root: Path, recipe: Recipe) -> None:
    """Bytecode beside the sources, by the image's own Python; it holds no time and no path of this machine."""
    words = ["-S", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash", "-s", str(root), "-p", "/"]
    environment = {"PYTHONHOME": str(root / "usr"), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    program = Tools(root, recipe)
    for folder in (f"usr/lib/{PYTHON}", _OURS):
        program.run(PYTHON, *words, str(root / folder), environment=environment)


def os_release(base: str, wanted: Wanted) -> str:
    """Debian's, with what this image is."""
    lines = {
        "IMAGE_ID": "podvm",
        "IMAGE_VERSION": str(wanted.lock.epoch),
        "VARIANT_ID": f"{wanted.profile}-{'release' if wanted.release else 'debug'}",
    }
    if wanted.development_agent:
        lines["PODVM_WARNING"] = f'"{_WARNING}"'
    return base.rstrip("\n") + "\n" + "".join(f"{name}={value}\n" for name, value in lines.items())


def _our_files(root: Path, wanted: Wanted) -> None:
    base = (root / "usr/lib/os-release").read_text("utf-8")
    tree.put(root, "usr/lib/os-release", os_release(base, wanted).encode())
    tree.put(root, "etc/os-release", os_release(base, wanted).encode())
    for name, text in _ETC.items():
        tree.put(root, name, text.encode())
    tree.link(root, "etc/resolv.conf", "../run/resolv.conf")
    tree.link(root, "etc/mtab", "../proc/self/mounts")
    for name, target in wanted.recipe.links.items():
        tree.link(root, name, target)
    for folder in ("common", wanted.profile, *["debug"] * (not wanted.release)):
        if (initrd.FILES / folder).is_dir():
            tree.overlay(initrd.FILES / folder, root)
    for name, path in ours.guest(development=wanted.development_agent).items():
        tree.put(root, f"{_OURS}/{name}", path.read_bytes())
    tree.link(root, "usr/bin/python3", PYTHON)


def _shell(root: Path) -> None:
    """Busybox under the names of everything that it can do, where there is no such program already."""
    for name in call([str(root / "usr/bin/busybox"), "--list"]).split():
        if not any((root / each / name).exists() for each in ("usr/bin", "usr/sbin")):
            tree.link(root, f"usr/bin/{name}", "busybox")


def _modules(root: Path, kernel: Path, version: str, wanted: Sequence[str], tools: Tools) -> None:
    base = f"usr/lib/modules/{version}"
    for _, path, content in initrd.kernel_modules(kernel, version, wanted):
        tree.put(root, f"{base}/{path}", content)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copyfile(initrd.folder(kernel, version) / name, root / base / name)
    tools.run("kmod", "-b", str(root / "usr"), version, argv0="depmod")
