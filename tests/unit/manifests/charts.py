"""The chart, rendered by helm itself for sets of values that stand for real clusters."""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

CHART: Final = Path(__file__).parents[3] / "manifests" / "peerpods"
SETS: Final = Path(__file__).parent / "values"
NAMESPACE: Final = "peerpods"
Object = dict[str, Any]


def helm() -> str:
    """HELM names another than the one of the virtual environment."""
    beside = Path(sys.executable).parent / "helm"
    found = os.environ.get("HELM") or (str(beside) if beside.exists() else shutil.which("helm"))
    assert found, "helm is missing: `make setup` installs helm-binary"
    return found


def values(name: str) -> dict[str, Any]:
    """One of the sets in `values/`."""
    found: dict[str, Any] = yaml.safe_load((SETS / f"{name}.yaml").read_text())
    return found


def names() -> list[str]:
    return sorted(path.stem for path in SETS.glob("*.yaml"))


def run(*arguments: str, given: Mapping[str, Any] | None = None) -> "subprocess.CompletedProcess[str]":
    """helm with `given` as values; nothing of this machine's helm is read."""
    text = None if given is None else json.dumps(given)
    more = [] if given is None else ["--values", "-"]
    return subprocess.run(
        [helm(), *arguments, *more],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        timeout=60,
    )


def template(given: Mapping[str, Any], kube_version: str = "1.34.0") -> "subprocess.CompletedProcess[str]":
    options = ("--namespace", NAMESPACE, "--kube-version", kube_version)
    return run("template", "peerpods", str(CHART), *options, given=given)


def render(given: Mapping[str, Any], kube_version: str = "1.34.0") -> list[Object]:
    """Every object."""
    done = template(given, kube_version)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


@functools.cache
def _rendered(name: str) -> str:
    return json.dumps(render(values(name), "1.36.0" if name == "policy" else "1.34.0"))


def rendered(name: str) -> list[Object]:
    """One set's objects; helm runs once for each."""
    found: list[Object] = json.loads(_rendered(name))
    return found
