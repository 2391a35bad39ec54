"""What Kubernetes' objects say to a person."""

from typing import Any

from adaptor.kube import seen

POD: dict[str, Any] = {
    "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "annotations": {"b": "2", "a": "1"}},
    "spec": {"nodeName": "worker-1", "runtimeClassName": "kata-remote"},
    "status": {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]},
}


def event(name: str, **fields: Any) -> dict[str, Any]:
    about = {"kind": "Pod", "name": "web", "uid": "u1"}
    return {"metadata": {"name": name}, "involvedObject": about, "reason": name, "type": "Normal", **fields}


def test_a_pods_state_names_what_it_waits_for() -> None:
    assert seen.pod(POD).state == "Pending: ContainerCreating"
    assert (
        seen.pod({**POD, "metadata": {"deletionTimestamp": "x"}}).state == "Pending: ContainerCreating, being deleted"
    )
    assert seen.pod({"status": {"phase": "Failed", "reason": "Evicted"}}).state == "Failed: Evicted"
    assert seen.pod({}).state == "?"


def test_a_pod_that_found_no_node_says_why() -> None:
    condition = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
    waiting = {"spec": {"schedulingGates": [{"name": "g"}]}, "status": {"conditions": [condition]}}
    assert (seen.pod(waiting).unscheduled, seen.pod(waiting).gates) == ("0/3 nodes are available", ("g",))
    assert seen.pod({"status": {"conditions": [{**condition, "status": "True"}]}}).unscheduled == ""


def test_events_are_this_pods_with_the_newest_of_their_times_oldest_first() -> None:
    found = seen.happenings(
        [
            event("late", lastTimestamp="2026-11-21T18:00:02Z", count=7, firstTimestamp="2026-11-21T17:00:00Z"),
            event("series", series={"count": 3, "lastObservedTime": "2026-11-21T18:00:01.5Z"}, type="Warning"),
            event("early", eventTime="2026-11-21T18:00:00Z"),
            event("other", involvedObject={"kind": "Pod", "name": "web", "uid": "u2"}),
            event("node", involvedObject={"kind": "Node", "name": "web", "uid": "u1"}),
        ],
        "web",
        "u1",
    )
    assert [(each.reason, each.count, each.warning) for each in found] == [
        ("early", 1, False),
        ("series", 3, True),
        ("late", 7, False),
    ]


def test_events_of_the_same_second_are_in_the_order_they_were_written() -> None:
    when = "2026-11-21T18:00:00Z"
    written = {"b": "1009", "c": "1010", "a": "1011"}
    shapes = [
        {**event(name, lastTimestamp=when), "metadata": {"name": name, "resourceVersion": version}}
        for name, version in sorted(written.items())
    ]
    assert [each.reason for each in seen.happenings(shapes, "web")] == ["b", "c", "a"]


def test_what_is_no_time_is_none() -> None:
    assert seen.seconds("2026-11-21T18:00:00Z") == 1795284000.0
    for text in ("", None, "yesterday", "2026-11-21T18:00:00"):
        assert seen.seconds(text) is None
