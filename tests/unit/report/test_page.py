"""Pages and tables as people read them; the sample in the manual is one of them."""

import re
from dataclasses import replace
from pathlib import Path

from adaptor.kube.peerpod import PeerPod
from adaptor.report import text
from adaptor.report.model import Moment, Subject

MANUAL = Path(__file__).parents[3] / "docs/troubleshooting.md"
BEGAN = 1795284000.0  # 2026-11-21T18:00:00Z
VM = "i-0d1c4e8a5b6f70912"
FAILED = Subject(
    PeerPod(
        name="web-3f2a9c01bb",
        namespace="shop",
        cloud="aws",
        instance_id=VM,
        node="worker-1",
        sandbox="3f2a9c01bb" + "7e" * 27,
        pod_name="web",
        phase="failed",
        instance_type="m6a.large",
        zone="eu-west-1b",
        purchase="on-demand",
        price=0.0963,
        reason=f"the VM {VM}: no guest answered at 10.0.3.17, TCP port 15150, within 298 s (662 attempts, the last: "
        "10.0.3.17: no answer). The VM's console ends: Kernel panic - not syncing: VFS",
    ),
    (
        Moment("created", BEGAN),
        Moment("start-requested", BEGAN + 0.212),
        Moment("launch-intended", BEGAN + 0.547, "m6a.large"),
        Moment("launch-accepted", BEGAN + 1.981, VM),
        Moment("failed", BEGAN + 300.43),
        Moment("instance-deleted", BEGAN + 301.02),
    ),
)


def test_the_manuals_sample_is_what_the_command_prints() -> None:
    sample = re.search(r"<!-- sample: trace -->\n```text\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    assert sample is not None
    assert text.trace(FAILED, BEGAN + 400) + "\n" == sample[1]


def test_what_is_paid_for_begins_with_the_launch_and_ends_with_the_deletion() -> None:
    assert text.cost(FAILED, BEGAN + 86_400) == round((301.02 - 1.981) / 3600 * 0.0963, 6)
    running = replace(FAILED, moments=FAILED.moments[:4])
    assert text.cost(running, BEGAN + 1.981 + 3600) == 0.0963
    unknown = replace(FAILED, peerpod=replace(FAILED.peerpod, price=None))
    assert text.cost(unknown, BEGAN + 400) is None
    never = replace(FAILED, peerpod=replace(FAILED.peerpod, instance_id=""))
    assert text.cost(never, BEGAN + 400) is None


def test_nobodys_text_moves_the_terminal_or_breaks_the_table() -> None:
    evil = replace(FAILED.peerpod, reason="\x1b[2Jfirst\nsecond", pod_name="web\x1b]0;x\x07", address="\x9b31m")
    subject = replace(FAILED, peerpod=evil, notes=("\x1b[1m",), pod=(("State", "\x1b[1mPending"),), link="\x1b[1mx")
    shown = [
        text.page(subject, [subject], BEGAN),
        text.trace(subject, BEGAN),
        text.listing([subject], BEGAN, wide=True, sessions=True, namespaces=True),
    ]
    assert not any(re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", each) for each in shown)
    assert len(shown[2].splitlines()) == 2


def test_of_an_object_with_nothing_in_it_a_page_is_shown() -> None:
    page = text.page(Subject(PeerPod(name="x", namespace="shop")), [], BEGAN)
    assert "VM:            none yet" in page
    assert "Phase:         ?, for ?" in page
