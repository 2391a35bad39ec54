"""The dashboard and the alerts ask for metrics that there are, by labels that they have."""

import json
import re
from collections.abc import Iterator

import pytest
import yaml
from prometheus_client import REGISTRY

import adaptor.telemetry.metrics  # noqa: F401 - declares them
from tests.unit.manifests import charts

FILES = charts.CHART / "files"
_SELECTOR = re.compile(r"(peerpods_\w+)(?:\{([^}]*)\})?")
_BY_SCRAPING = {"node", "le"}


def known() -> dict[str, set[str]]:
    """Series name -> labels."""
    found: dict[str, set[str]] = {}
    for collector in set(REGISTRY._collector_to_names):
        for name in REGISTRY._collector_to_names[collector]:
            found[name] = set(getattr(collector, "_labelnames", ()))
    return found


def expressions() -> Iterator[tuple[str, str]]:
    dashboard = json.loads((FILES / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"]
    for group in yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_metric_and_label_exists(where: str, expression: str) -> None:
    series = known()
    asked = _SELECTOR.findall(expression)
    assert asked, where
    labels = set()
    for name, matchers in asked:
        assert name in series, f"{where} asks for {name}"
        labels |= series[name]
        for label in re.findall(r"(\w+)\s*[=!]~?\"", matchers):
            assert label in series[name] | _BY_SCRAPING, f"{where}: {name} has no label {label}"
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        assert {each.strip() for each in grouped.split(",")} <= labels | _BY_SCRAPING, where


def test_values_of_labels_are_ones_that_are_told() -> None:
    """A phase or an outcome that nobody counts would be an empty panel for ever."""
    from adaptor.sandbox.model import Phase

    text = " ".join(expression for _, expression in expressions())
    assert set(re.findall(r'state="(\w+)"', text)) <= {phase.value for phase in Phase}
    assert set(re.findall(r'outcome!?="(\w+)"', text)) <= {"complete", "failed", "cancelled", "ok", "error"}
    assert set(re.findall(r'phase="([\w.]+)"', text)) == {"sandbox.start"}


def test_every_alert_is_explained_on_the_page() -> None:
    page = (charts.CHART.parents[1] / "docs" / "kubernetes.md").read_text()
    alerts = {where.removeprefix("alert ") for where, _ in expressions() if where.startswith("alert ")}
    assert alerts == set(re.findall(r"^\| (Peerpods\w+) \|", page, re.MULTILINE))


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    panels = json.loads((FILES / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        own = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not own & cells
        assert place["x"] + place["w"] <= 24
        cells |= own


def test_the_chart_carries_both_as_they_are() -> None:
    objects = {(each["kind"], each["metadata"]["name"]): each for each in charts.rendered("everything")}
    dashboard = objects["ConfigMap", "peerpods-dashboard"]["data"]["peerpods.json"]
    assert json.loads(dashboard) == json.loads((FILES / "dashboard.json").read_text())
    rules = objects["PrometheusRule", "peerpods-alerts"]["spec"]
    assert rules == yaml.safe_load((FILES / "alerts.yaml").read_text())
    assert objects["ConfigMap", "peerpods-dashboard"]["metadata"]["labels"]["grafana_dashboard"] == "1"
