"""ARCHITECTURE.md and docs/links.md say what the code says."""

from pathlib import Path

import pytest

from tests import architecture


@pytest.mark.parametrize("page", architecture.PAGES, ids=lambda page: page.name)
def test_the_generated_parts_of_a_page_are_what_the_code_says_now(page: Path) -> None:
    assert architecture.rendered(page.read_text()) == page.read_text(), "run `make docs`"


def test_every_part_that_can_be_generated_stands_on_a_page() -> None:
    pages = "".join(page.read_text() for page in architecture.PAGES)
    missing = [name for name in architecture.PARTS if f"<!-- generated: {name} -->" not in pages]
    assert not missing


def test_a_stale_part_is_noticed() -> None:
    stale = "<!-- generated: sessions -->\n`RED`, `GREEN`\n<!-- end -->"
    assert architecture.rendered(stale) != stale


def test_the_phase_diagram_has_no_way_back_from_stopping() -> None:
    assert not [line for line in architecture.phases().splitlines() if line.strip().startswith("stopping --> s")]
    assert "starting --> running: bound" in architecture.phases()
