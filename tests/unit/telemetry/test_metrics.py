"""The metrics as a page of documentation: names, help, labels."""

import re

from prometheus_client import REGISTRY, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from adaptor import __version__
from adaptor.telemetry import metrics

DECLARED = {name: value for name, value in vars(metrics).items() if isinstance(value, MetricWrapperBase)}


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_every_metric_is_named_after_the_program_and_says_what_it_counts() -> None:
    assert len(DECLARED) >= 10
    for metric in DECLARED.values():
        family = next(iter(metric.collect()))
        assert re.fullmatch(r"peerpods_[a-z_]+", family.name)
        assert family.documentation.endswith(".")


def test_no_label_can_hold_an_id() -> None:
    labels = {label for metric in DECLARED.values() for label in metric._labelnames}
    known = {
        "version",
        "python",
        "state",
        "phase",
        "outcome",
        "method",
        "code",
        "cloud",
        "verb",
        "kind",
        "duty",
        "cause",
    }
    assert labels <= known


def test_the_page_says_which_version_runs() -> None:
    assert 'peerpods_build_info{python="3.' in generate_latest().decode()
    assert f'version="{__version__}"' in generate_latest().decode()


def test_a_sandbox_is_counted_in_one_state_at_a_time() -> None:
    before = value("peerpods_sandboxes", state="starting"), value("peerpods_sandboxes", state="running")
    metrics.sandbox_moved(None, "starting")
    metrics.sandbox_moved("starting", "running")
    assert value("peerpods_sandboxes", state="starting") == before[0]
    assert value("peerpods_sandboxes", state="running") == before[1] + 1
    metrics.sandbox_moved("running", None)
    assert value("peerpods_sandboxes", state="running") == before[1]
