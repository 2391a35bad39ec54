"""The image's recipe, read: no engine that could build it runs here. Its steps are those of any virtual environment."""

import re
import shlex
import tomllib
from pathlib import Path

from tests.unit.manifests import charts

REPOSITORY = Path(__file__).parents[3]
RECIPE = REPOSITORY / "manifests" / "images" / "Containerfile"


def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, the rest), continuation lines joined."""
    text = re.sub(r"\\\n\s*", "", RECIPE.read_text())
    return [
        (word, rest)
        for word, _, rest in (line.partition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    ]


def last(instruction: str) -> str:
    return [rest for word, rest in instructions() if word == instruction][-1]


def test_everything_that_is_copied_is_there() -> None:
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            for source in shlex.split(rest)[:-1]:
                assert (REPOSITORY / source).exists(), source


def test_the_packages_are_those_of_the_wheel_and_the_extras_exist() -> None:
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    copied = {rest.split()[0] for word, rest in instructions() if word == "COPY" and len(set(rest.split())) == 1}
    assert copied == set(pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    extras = re.search(r'^ARG EXTRAS="([^"]+)"', RECIPE.read_text(), re.MULTILINE)
    assert extras
    assert set(extras[1].split()) == set(pyproject["project"]["optional-dependencies"]) - {"sim", "image"}


def test_what_is_installed_is_locked_by_hash() -> None:
    run = " ".join(rest for word, rest in instructions() if word == "RUN")
    assert "--constraint requirements.lock" in run
    assert "sync --quiet --require-hashes" in run
    assert not re.search(r"pip install (?!--quiet \"uv==)", run), "nothing but uv itself is installed otherwise"


def test_it_runs_as_nobody_unless_the_chart_says_otherwise() -> None:
    user, _, group = last("USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert last("USER") == "65532:65532"
    spec = next(
        each
        for each in charts.rendered("aws")
        if each["metadata"]["name"] == "peerpods-webhook" and each["kind"] == "Deployment"
    )
    assert spec["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == int(user)


def test_no_base_is_whatever_is_newest_and_the_programs_arguments_are_the_charts() -> None:
    bases = [rest for word, rest in instructions() if word == "FROM"]
    assert all(each.startswith("${BASE}") for each in bases)
    default = re.search(r"^ARG BASE=(\S+)$", RECIPE.read_text(), re.MULTILINE)
    assert default
    assert ":" in default[1]
    assert "latest" not in default[1]
    assert last("ENTRYPOINT") == '["peerpods"]'
