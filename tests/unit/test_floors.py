"""Who imports whom: the rules of pyproject.toml hold, and each of them is shown to bite."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import house

REPOSITORY = Path(__file__).parents[2]
RULES = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
ROOMS = [room for room in house.CODE if (REPOSITORY / room / "__init__.py").exists()]


def lint(root: Path) -> str:
    """What import-linter says about the tree at `root`; contracts' names on one line each."""
    program = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    answer = subprocess.run(
        [sys.executable, "-c", program, "--no-cache", "--no-logo", "--config", "pyproject.toml"],
        cwd=root,
        env={"COLUMNS": "300", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return answer.stdout + answer.stderr


def broken(said: str) -> set[str]:
    return set(re.findall(r"^(.*) BROKEN$", said, re.MULTILINE))


def name_of(contract: str) -> str:
    return next(str(rule["name"]) for rule in RULES["contracts"] if rule["id"] == contract)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the code and its rules."""
    ignore = shutil.ignore_patterns("__pycache__")
    for room in (*ROOMS, "tests"):
        shutil.copytree(REPOSITORY / room, tmp_path / room, ignore=ignore)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_rules_hold() -> None:
    said = lint(REPOSITORY)
    assert broken(said) == set()
    assert re.search(r"Contracts: \d+ kept, 0 broken\.", said), said


def test_every_package_there_is_is_under_the_rules() -> None:
    assert RULES["root_packages"] == ROOMS


@pytest.mark.parametrize(
    ("contract", "module", "line"),
    [
        ("floors", "adaptor/names.py", "import adaptor.errors"),
        ("floors", "adaptor/ttrpc/frames.py", "def late():\n    import adaptor.hypervisor"),
        ("floors", "adaptor/catalog/select.py", "import adaptor.pki"),
        ("floors", "adaptor/attic.py", ""),
        ("pure", "adaptor/ttrpc/frames.py", "import time"),
        ("pure", "adaptor/sandbox/lifecycle.py", "def late():\n    from socket import socket"),
        ("pure", "adaptor/errors.py", "import asyncio"),
        ("pure", "providers/base.py", "import subprocess"),
        ("pure", "adaptor/newroom/plan.py", "import ssl"),
        ("clouds", "providers/aws/errors.py", "import providers.simcloud"),
        ("clouds", "providers/tags.py", "import providers.aws.config"),
        ("clouds", "providers/helpers.py", ""),
        ("providers", "providers/base.py", "import adaptor.names"),
        ("sdks", "adaptor/daemon.py", "import boto3"),
        ("sdks", "providers/registry.py", "from botocore import config"),
        ("sdk-azure", "adaptor/daemon.py", "from azure.core import exceptions"),
        ("sdk-azure", "providers/aws/errors.py", "import azure.mgmt.compute"),
        ("simcloud", "adaptor/daemon.py", "import providers.simcloud"),
        ("settings-without-sdk", "providers/aws/config.py", "import botocore"),
        ("relay", "adaptor/relay/process.py", "import cryptography"),
        ("relay", "adaptor/relay/session.py", "def late():\n    import sqlite3"),
        ("relay", "adaptor/errors.py", "import prometheus_client"),
        ("relay-door", "adaptor/sandbox/steps.py", "import adaptor.relay.session"),
        ("guest", "podvm_images/guest/bind.py", "import adaptor.relay.client"),
        ("guest", "podvm_images/guest/bind.py", "def late():\n    import adaptor.newroom"),
        ("guest-alone", "podvm_images/guest/bind.py", "import providers.base"),
        ("webhook", "webhook/__init__.py", "import adaptor.sandbox.model"),
    ],
)
def test_a_rule_that_is_broken_is_reported(tree: Path, contract: str, module: str, line: str) -> None:
    if "newroom" in module + line:
        (tree / "adaptor" / "newroom").mkdir()
        (tree / "adaptor" / "newroom" / "__init__.py").touch()
    with (tree / module).open("a") as source:
        source.write(f"\n{line}\n")
    said = lint(tree)
    assert name_of(contract) in broken(said), said


def test_no_contract_is_without_a_test_that_it_bites() -> None:
    marks = test_a_rule_that_is_broken_is_reported.pytestmark  # type: ignore[attr-defined]
    assert {row[0] for row in marks[0].args[1]} == {rule["id"] for rule in RULES["contracts"]}


def test_the_relay_loads_nothing_heavy_when_it_really_runs() -> None:
    """What the rules see is what is written; this is what is loaded."""
    program = "import sys, adaptor.relay.process; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    heavy = {"cryptography", "prometheus_client", "boto3", "aiohttp", "pyroute2", "sqlite3", "rich", "adaptor.config"}
    loaded = set(answer.stdout.split())
    assert not loaded & heavy
    assert not [module for module in loaded if module.startswith(("providers", "adaptor.sandbox", "adaptor.catalog"))]
