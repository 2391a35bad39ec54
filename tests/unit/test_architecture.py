"""ARCHITECTURE.md says what the code says."""

from tests import architecture


def test_the_generated_parts_of_the_page_are_what_the_code_says_now() -> None:
    page = architecture.PAGE.read_text()
    assert architecture.rendered(page) == page, "run `make docs`"


def test_every_part_that_can_be_generated_stands_on_the_page() -> None:
    page = architecture.PAGE.read_text()
    missing = [name for name in architecture.PARTS if f"<!-- generated: {name} -->" not in page]
    assert not missing


def test_a_stale_part_is_noticed() -> None:
    stale = "<!-- generated: sessions -->\n`RED`, `GREEN`\n<!-- end -->"
    assert architecture.rendered(stale) != stale


def test_the_phase_diagram_has_no_way_back_from_stopping() -> None:
    assert not [line for line in architecture.phases().splitlines() if line.strip().startswith("stopping --> s")]
    assert "starting --> running: bound" in architecture.phases()
