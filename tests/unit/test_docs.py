"""What the pages tell a reader to type or to write works."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptor.cli import parser
from adaptor.config import load
from providers import registry

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """(page and line, text) of every code block of `language`."""
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            yield f"{page.relative_to(REPOSITORY)}:{text.count(chr(10), 0, match.start()) + 1}", match[1]


def commands(program: str) -> set[tuple[str, str]]:
    """(page and line, first argument) of every call of `program` in a shell block."""
    call = re.compile(rf"(?:^|&& |\$ )(?:sudo )?(?:\S+=\S+ )*{program} ([a-z-]+)", re.MULTILINE)
    return {(where, word) for where, text in blocks("sh") for word in call.findall(text)}


def test_every_make_target_on_a_page_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert commands("make")
    assert [place for place in commands("make") if place[1] not in targets] == []


def test_every_command_on_a_page_exists() -> None:
    text = parser.build().format_help()
    verbs = set(re.findall(r"^    ([a-z]+) ", text, re.MULTILINE))
    assert commands("peerpods")
    assert [place for place in commands("peerpods") if place[1] not in verbs] == []


@pytest.mark.parametrize(("where", "text"), list(blocks("toml")), ids=lambda value: value if len(value) < 60 else "")
def test_every_configuration_on_a_page_is_accepted(where: str, text: str, tmp_path: Path) -> None:
    tables = tomllib.loads(text)
    if "cloud" not in tables:
        text = f'{text}\n[cloud]\nprovider = "aws"\n'
    path = tmp_path / "peerpods.toml"
    for cloud in set(registry.BUILT_IN) & tables.keys() or {"aws"}:
        path.write_text(re.sub(r"^provider = .*$", f'provider = "{cloud}"', text, flags=re.MULTILINE))
        assert load(str(path), {"PODVM_AMI_ID": "ami-0123456789abcdef0"}).cloud.provider == cloud


def test_every_link_on_a_page_leads_somewhere() -> None:
    dead = [
        f"{page.relative_to(REPOSITORY)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert dead == []
