"""Which of our own modules an image needs: what runs in it and all that it imports, found by reading, never by a list.

Late imports count as well: whatever a module says anywhere in it that it imports.
"""

import ast
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from podvm_images.image.faults import BuildFault

PROJECT: Final = Path(__file__).resolve().parents[2]
_STAND_IN: Final = "podvm_images.guest.development_agent"
_HERE: Final = Path(__file__).parent.name
ROOMS: Final = ("adaptor", "podvm_images")


def guest(project: Path = PROJECT, *, development: bool) -> Mapping[str, Path]:
    """Path below the project -> the file: all of podvm_images but this room, and what it imports of ours."""
    folders = [each for each in sorted((project / "podvm_images").iterdir()) if each.is_dir() and each.name != _HERE]
    names = [_name(path, project) for folder in folders for path in sorted(folder.rglob("*.py"))]
    return reached([name for name in names if development or not name.startswith(_STAND_IN)], project)


def module(path: str) -> str:
    """The name of the module in this file of the project."""
    return _name(Path(path), Path())


def reached(names: Collection[str], project: Path) -> Mapping[str, Path]:
    """`names`, the packages that they are in, and what they import of ours. Raises: BuildFault for one that is missing."""
    found: dict[str, Path] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        path = _file(name, project)
        if path is None:
            raise BuildFault(f"the guest imports {name}, and there is no such module below {project}")
        key = str(path.relative_to(project))
        if key in found:
            continue
        found[key] = path
        parent = name.rpartition(".")[0]
        waiting += [parent] * bool(parent)
        waiting += list(_imports(path, name, project))
    return dict(sorted(found.items()))


def _imports(path: Path, name: str, project: Path) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if _is_ours(each.name))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])]
                )
            if _is_ours(base):
                yield base
                # `from package import name`: a module, or something that the package's own file defines.
                yield from (inner for each in node.names if _file(inner := f"{base}.{each.name}", project))


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in ROOMS


def _file(name: str, project: Path) -> Path | None:
    base = project.joinpath(*name.split("."))
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


def _name(path: Path, project: Path) -> str:
    parts = path.relative_to(project).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
