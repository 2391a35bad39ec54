"""The repository is held to its own rules, and each rule is shown to bite."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests import house

REPOSITORY = Path(__file__).parents[2]
Tree = Mapping[str, str]
Plant = Callable[[Tree], Path]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Makes a tree of files and returns its root."""

    def make(files: Tree) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def lines(count: int) -> str:
    return "x = 1\n" * count


def function(count: int) -> str:
    return "def f():\n" + "    x = 1\n" * (count - 1)


# -- this repository ------------------------------------------------------------------------------


def test_no_module_and_no_function_is_over_the_cap() -> None:
    rooms = (*house.CODE, *house.TESTS)
    assert house.over_cap(house.modules(REPOSITORY, rooms), house.MODULE_CAP) == []
    assert house.over_cap(house.functions(REPOSITORY, rooms), house.FUNCTION_CAP) == []


def test_the_code_as_a_whole_is_within_its_budget() -> None:
    modules, functions = house.modules(REPOSITORY, house.CODE), house.functions(REPOSITORY, house.CODE)
    assert house.over_budget(modules, house.MODULE_P90, house.MODULE_MEDIAN) == []
    assert house.over_budget(functions, house.FUNCTION_P90) == []


def test_the_tests_as_a_whole_are_within_the_same_budget_for_functions() -> None:
    assert house.over_budget(house.functions(REPOSITORY, house.TESTS), house.FUNCTION_P90) == []


def test_every_package_opens_with_a_docstring_and_nothing_else() -> None:
    assert house.bad_front_doors(REPOSITORY) == []


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    assert house.forbidden_strings(REPOSITORY) == []


def test_the_lock_follows_the_requirements_and_names_no_place() -> None:
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert house.lock_problems(pyproject, (REPOSITORY / "requirements.lock").read_text()) == []


def test_the_generated_protos_are_what_protoc_makes_of_the_sources(tmp_path: Path) -> None:
    """When this fails: `make protos`."""
    room = tmp_path / "adaptor" / "protos"
    shutil.copytree(REPOSITORY / "adaptor" / "protos", room)
    committed = {path.name: path.read_text() for path in sorted(room.glob("*_pb2.py*"))}
    for name in committed:
        (room / name).unlink()
    subprocess.run([sys.executable, room / "generate.py"], check=True, cwd=tmp_path)
    assert {path.name: path.read_text() for path in sorted(room.glob("*_pb2.py*"))} == committed


def test_what_ci_runs_can_be_run() -> None:
    scripts = sorted((REPOSITORY / ".ci").iterdir())
    assert scripts
    for script in scripts:
        assert os.access(script, os.X_OK), script
        subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize(
    ("says", "ends", "last"),
    [
        ("== 5 passed in 1.20s ==", 0, "== 5 passed in 1.20s =="),
        (
            "== 1 failed, 5 passed, 2 skipped in 61.20s (0:01:01) ==\nmake: *** [test] Error 1",
            2,
            "== 1 failed, 5 passed,",
        ),
        ("== no tests ran in 0.01s ==\nmake: *** [test] Error 5", 2, "== no tests ran"),
        ("E501 too long\nmake: *** [lint] Error 1", 2, "no test was run: make test ended with status 2"),
    ],
)
def test_what_ci_runs_ends_with_pytests_own_summary_and_makes_status(
    plant: Plant, says: str, ends: int, last: str
) -> None:
    tools = plant({"make": f"#!/bin/sh\nprintf '%s\\n' \"{says}\" '{{}}'\nexit {ends}\n"})
    (tools / "make").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    answer = subprocess.run(
        [REPOSITORY / ".ci" / "run"], env={"PATH": path}, capture_output=True, text=True, check=False
    )
    assert answer.returncode == ends
    assert answer.stdout.splitlines()[-1].startswith(last)


# -- the rules bite -------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ["adaptor", "tests"])
def test_a_module_one_line_over_the_cap_is_found(plant: Plant, room: str) -> None:
    root = plant({f"{room}/long.py": lines(501), f"{room}/ok.py": lines(500), f"{room}/big_pb2.py": lines(9000)})
    found = house.over_cap(house.modules(root, [room]), house.MODULE_CAP)
    assert found == [f"{room}/long.py has 501 lines; the cap is 500"]


def test_a_function_one_line_over_the_cap_is_found_wherever_it_hides(plant: Plant) -> None:
    method = "class A:\n    async def g(self):\n" + "        x = 1\n" * 60
    root = plant({"adaptor/long.py": function(61), "adaptor/ok.py": function(60), "adaptor/inner.py": method})
    found = house.over_cap(house.functions(root, ["adaptor"]), house.FUNCTION_CAP)
    assert found == [
        "adaptor/inner.py:2 g has 61 lines; the cap is 60",
        "adaptor/long.py:1 f has 61 lines; the cap is 60",
    ]


def test_a_tree_of_middling_modules_is_over_its_median(plant: Plant) -> None:
    root = plant({f"adaptor/m{n}.py": lines(151) for n in range(20)})
    (found,) = house.over_budget(house.modules(root, ["adaptor"]), house.MODULE_P90, house.MODULE_MEDIAN)
    assert found.startswith("the median is 151")


def test_a_tree_with_many_long_modules_or_functions_is_over_its_ninth_tenth(plant: Plant) -> None:
    root = plant({f"adaptor/m{n}.py": function(450 if n < 3 else 10) for n in range(20)})
    (modules,) = house.over_budget(house.modules(root, ["adaptor"]), house.MODULE_P90, house.MODULE_MEDIAN)
    (functions,) = house.over_budget(house.functions(root, ["adaptor"]), house.FUNCTION_P90)
    assert "adaptor/m0.py (450)" in modules
    assert functions.startswith("a tenth has more than 450 lines and may have 30")


def test_a_tree_within_its_budget_is_left_alone(plant: Plant) -> None:
    root = plant({f"adaptor/m{n}.py": function(450 if n == 0 else 30) for n in range(20)})
    assert house.over_budget(house.modules(root, ["adaptor"]), house.MODULE_P90, house.MODULE_MEDIAN) == []
    assert house.over_budget(house.functions(root, ["adaptor"]), house.FUNCTION_P90) == []


@pytest.mark.parametrize(
    ("door", "found"),
    [
        (None, "is missing"),
        ("", "says nothing"),
        ("import os\n", "says nothing"),
        ('"""Room."""\n\nimport os\n', "holds code (line 3)"),
        ('"""Room."""\n__version__ = "1"\n', "holds code (line 2)"),
        ('"""Room.\n' + "x\n" * 24 + '"""\n', "has 26 lines"),
    ],
)
def test_a_front_door_that_is_not_one_is_found(plant: Plant, door: str | None, found: str) -> None:
    files = {"providers/a.py": ""} | ({} if door is None else {"providers/__init__.py": door})
    (line,) = house.bad_front_doors(plant(files))
    assert line.startswith(f"providers/__init__.py {found}")


def test_only_the_adaptors_front_door_may_bear_the_version(plant: Plant) -> None:
    assert house.bad_front_doors(plant({"adaptor/__init__.py": '"""Room."""\n__version__ = "1"\n'})) == []


@pytest.mark.parametrize(
    "text",
    [
        "index = https://" + "pypi" + ".org/simple",
        "https://files." + "pythonhosted" + ".org/x.whl",
        "see /work" + "/main/README.md",
        "prefix=/root" + "/.pyenv/bin",
        "/home" + "/someone/x",
        "--find-links /opt" + "/wheels",
    ],
)
@pytest.mark.parametrize("name", ["docs/a.md", ".ci/run", "Makefile", "requirements.lock"])
def test_a_file_that_names_what_is_not_everybodys_is_found(plant: Plant, name: str, text: str) -> None:
    (line,) = house.forbidden_strings(plant({name: f"fine\n{text}\n"}))
    assert line.startswith(f"{name}:2 names a ")


def test_what_git_ignores_and_paths_of_the_program_are_not_looked_at(plant: Plant) -> None:
    bad = "pypi" + ".org"
    files = {
        ".venv/pip.conf": bad,
        "a/__pycache__/x.pyc": bad,
        "docs/a.md": "/run/peerpod /var/lib/peerpods net/work/er",
    }
    assert house.forbidden_strings(plant(files)) == []


PYPROJECT: dict[str, object] = {
    "project": {"dependencies": ["A_b>=1"], "optional-dependencies": {"x": ["moto[ec2]>=5"]}},
    "dependency-groups": {"dev": ["ruff"]},
}
LOCK = "a-b==1.0 \\\n    --hash=sha256:00\n    # via peerpods (pyproject.toml)\nmoto==5 \\\n    --hash=sha256:00\nruff==1 \\\n    --hash=sha256:00\n"


@pytest.mark.parametrize(
    ("lock", "found"),
    [
        (LOCK, []),
        (LOCK.replace("ruff==1", "ruffian==1"), ["ruff is required and not locked: run `make lock`"]),
        (LOCK.replace("moto==5", "moto>=5"), ["moto>=5 \\ is not pinned with =="]),
        (LOCK + "extra==1\n", ["extra==1 has no hash"]),
        (LOCK + "    # https://host.example/simple\n", ["the lock names a place: https://"]),
        (LOCK + "    # via -r /srv/requirements.txt\n", ["the lock names a place: /srv"]),
    ],
)
def test_a_lock_that_does_not_fit_is_found(lock: str, found: list[str]) -> None:
    assert house.lock_problems(PYPROJECT, lock) == found
