"""The house's own checks: each takes a tree and returns what is wrong with it, one line per finding."""

import ast
import re
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CODE: Final = ("adaptor", "providers", "podvm_images", "webhook")
TESTS: Final = ("tests",)

# Lines. Where the codebases we admire stand, a little tighter: longer than this nobody holds a module in their head.
MODULE_MEDIAN, MODULE_P90, MODULE_CAP = 150, 400, 500
FUNCTION_P90, FUNCTION_CAP = 30, 60
FRONT_DOOR: Final = 25

# What no file of the repository may name. Written in pieces, so that this file does not name it either.
_FORBIDDEN: Final = {
    "a package registry": (
        "pypi" + r"\.org",
        "pythonhosted" + r"\.org",
        "npmjs" + r"\.(org|com)",
        "proxy" + r"\.golang",
    ),
    "a path of the machine it was written on": (
        r"(?<![\w.-])/work" + "/",
        "/opt" + "/wheels",
        r"(?<![\w.-])/root" + r"/\.",
        r"(?<![\w.-])/home" + r"/\w+/",
        "/tmp" + "/brief",
    ),
}
_SKIPPED: Final = frozenset({"__pycache__", "dist", "build", "node_modules"})
_HIDDEN_BUT_OURS: Final = frozenset({".ci", ".github"})


@dataclass(frozen=True, slots=True)
class Size:
    """A module or function: where it is, and its lines."""

    where: str
    lines: int


def modules(root: Path, rooms: Iterable[str]) -> list[Size]:
    """Every hand-written module; front doors aside, which have their own rule."""
    return [Size(_name(root, path), len(path.read_text().splitlines())) for path in _sources(root, rooms)]


def functions(root: Path, rooms: Iterable[str]) -> list[Size]:
    """Every function and method, from `def` to its last line."""
    return [
        Size(f"{_name(root, path)}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for path in _sources(root, rooms)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def over_cap(sizes: Iterable[Size], cap: int) -> list[str]:
    """Those longer than `cap`."""
    return [f"{size.where} has {size.lines} lines; the cap is {cap}" for size in sizes if size.lines > cap]


def over_budget(sizes: Iterable[Size], p90: int, median: int | None = None) -> list[str]:
    """What the whole tree has too much of, with its longest parts named."""
    lines = sorted(size.lines for size in sizes)
    if len(lines) < 2:
        return []
    longest = ", ".join(f"{size.where} ({size.lines})" for size in sorted(sizes, key=lambda size: -size.lines)[:5])
    found = []
    if median is not None and statistics.median(lines) > median:
        found.append(f"the median is {statistics.median(lines)} lines and may be {median}; longest: {longest}")
    if (high := statistics.quantiles(lines, n=10)[-1]) > p90:
        found.append(f"a tenth has more than {high:.0f} lines and may have {p90}; longest: {longest}")
    return found


def bad_front_doors(root: Path) -> list[str]:
    """Packages whose __init__ is missing, long, silent, or more than a docstring."""
    found = []
    for directory in sorted({path.parent for room in CODE for path in (root / room).rglob("*.py")}):
        door = directory / "__init__.py"
        name = _name(root, door)
        if not door.exists():
            found.append(f"{name} is missing")
            continue
        text = door.read_text()
        body = ast.parse(text).body
        extra = body[1:]
        if name == "adaptor/__init__.py":
            extra = [node for node in extra if not ast.unparse(node).startswith("__version__ = ")]
        if not body or ast.get_docstring(ast.parse(text)) is None:
            found.append(f"{name} says nothing")
        elif extra:
            found.append(f"{name} holds code (line {extra[0].lineno}); a front door is a docstring only")
        if len(text.splitlines()) > FRONT_DOOR:
            found.append(f"{name} has {len(text.splitlines())} lines; the cap is {FRONT_DOOR}")
    return found


def forbidden_strings(root: Path) -> list[str]:
    """Files that name what would not be there, or not be the same, on anybody else's machine."""
    return [
        f"{path.relative_to(root)}:{number} names {what}: {match.group()}"
        for path in _files(root)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        for what, patterns in _FORBIDDEN.items()
        for pattern in patterns
        if (match := re.search(pattern, line))
    ]


def lock_problems(pyproject: dict[str, object], lock: str) -> list[str]:
    """Where the lock does not follow pyproject.toml, or could not be used elsewhere."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", lock.strip())
    locked = {_canonical(re.split(r"[=<>~!\[ ;@]", entry)[0]) for entry in entries}
    found = [f"{name} is required and not locked: run `make lock`" for name in sorted(_required(pyproject) - locked)]
    found += [
        f"{entry.splitlines()[0]} is not pinned with ==" for entry in entries if not re.match(r"[\w.\[\]-]+==", entry)
    ]
    found += [f"{entry.splitlines()[0]} has no hash" for entry in entries if "--hash=sha256:" not in entry]
    if match := re.search(r"\w+://|^-(i|f|-index|-find|-extra)|file:|\s/\w+", lock, re.MULTILINE):
        found.append(f"the lock names a place: {match.group().strip()}")
    return found


def _required(pyproject: dict[str, object]) -> set[str]:
    project: dict[str, object] = pyproject["project"]  # type: ignore[assignment]
    extras: dict[str, list[str]] = project.get("optional-dependencies", {})  # type: ignore[assignment]
    groups: dict[str, list[str]] = pyproject.get("dependency-groups", {})  # type: ignore[assignment]
    lists: list[list[str]] = [project["dependencies"], *extras.values(), *groups.values()]  # type: ignore[list-item]
    return {_canonical(re.split(r"[\[<>=!~; ]", requirement)[0]) for names in lists for requirement in names}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _sources(root: Path, rooms: Iterable[str]) -> Iterator[Path]:
    for room in rooms:
        for path in sorted((root / room).rglob("*.py")):
            if path.name != "__init__.py" and not path.name.endswith("_pb2.py"):
                yield path


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        ignored = path.name in _SKIPPED or path.name == ".git" or path.name.endswith(".egg-info")
        if (
            path.is_symlink()
            or ignored
            or (path.is_dir() and path.name[0] == "." and path.name not in _HIDDEN_BUT_OURS)
        ):
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.is_file():
            yield path


def _name(root: Path, path: Path) -> str:
    return str(path.relative_to(root))
