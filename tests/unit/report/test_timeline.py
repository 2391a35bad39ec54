"""How a start is drawn and what is called slow."""

from adaptor.report import timeline
from adaptor.report.model import Moment

KINDS = ("created", "start-requested", "launch-intended", "launch-accepted", "reached", "bound")


def moments(*times: float, kinds: tuple[str, ...] = KINDS) -> list[Moment]:
    return [Moment(kind, 1000.0 + at) for kind, at in zip(kinds, times, strict=False)]


def test_each_step_has_its_offset_and_what_led_to_it() -> None:
    found = timeline.steps(moments(0, 0.5, 1, 3, 23, 24)[::-1])
    assert [(each.moment.kind, each.offset, each.took) for each in found] == [
        ("created", 0, 0),
        ("start-requested", 0.5, 0.5),
        ("launch-intended", 1, 0.5),
        ("launch-accepted", 3, 2),
        ("reached", 23, 20),
        ("bound", 24, 1),
    ]


def test_bars_lie_where_their_time_was_and_are_never_empty() -> None:
    lines = timeline.chart(timeline.steps(moments(0, 0, 0, 10, 30, 40)))
    bars = [line[line.index("s  ") :] for line in lines[1:]]
    assert [bar.count("#") for bar in bars] == [1, 1, 1, 10, 20, 10]
    columns = [line.index("#") for line in lines[4:]]
    assert columns[1] - columns[0] == 10
    assert columns[2] - columns[1] == 20


def test_what_goes_on_is_drawn_up_to_now_and_named() -> None:
    found = timeline.steps(moments(0, 0.5, 1, 3))
    assert timeline.chart(found, 1063.0)[-1].endswith("now: the VM's boot")
    assert timeline.verdict(found, 1063.0).startswith("Slowest: the VM's boot, 60.0 s (95%). Look at ")
    assert timeline.patience(found, 1063.0).endswith(": 177 s are left")
    assert timeline.patience(found, 1300.0).endswith(": over since 60 s")


def test_the_slow_step_is_named_and_advice_is_for_slow_starts_only() -> None:
    assert timeline.verdict(timeline.steps(moments(0, 0.5, 1, 3, 23, 24))) == "Slowest: the VM's boot, 20.0 s (83%)"
    slow = timeline.verdict(timeline.steps(moments(0, 0.5, 100, 101, 120, 121)))
    assert slow.startswith("Slowest: waiting for a turn, asking what the cloud offers, 99.5 s")
    assert slow.endswith("Look at limits.creates_at_once, the log")


def test_a_start_that_failed_says_for_what_it_waited_in_vain() -> None:
    for end in ("failed", "stop-decided"):
        found = timeline.steps(moments(0, 0.5, 1, 3, 300, kinds=(*KINDS[:4], end)))
        assert timeline.verdict(found).startswith("Slowest: the VM's boot, in vain, 297.0 s")
        assert timeline.patience(found, 2000.0).endswith("the start ended after 300.0 s")


def test_the_end_of_a_running_pod_is_no_part_of_its_start() -> None:
    found = timeline.steps(moments(0, 0.5, 1, 3, 23, 24, 7200, kinds=(*KINDS, "stop-decided")))
    assert timeline.verdict(found) == "Slowest: the VM's boot, 20.0 s (83%)"
    lines = timeline.chart(found)
    assert "#" in lines[-2]
    assert "#" not in lines[-1]


def test_an_event_of_a_later_version_is_shown_by_its_name() -> None:
    found = timeline.steps(moments(0, 1, kinds=("created", "warmed-up")))
    assert timeline.chart(found, 1002.0)[2].endswith("warmed-up")


def test_nothing_is_no_error() -> None:
    assert timeline.chart([]) == ["nothing has happened yet"]
    assert (timeline.verdict([]), timeline.patience([], 1.0)) == ("", "")
    assert timeline.verdict(timeline.steps(moments(0))) == ""


def test_a_clock_that_was_set_back_is_drawn_all_the_same() -> None:
    assert timeline.chart(timeline.steps(moments(0, 5)), 990.0)
