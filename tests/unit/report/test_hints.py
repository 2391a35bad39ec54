"""What to do next, by how far a pod came."""

import pytest

from adaptor.kube.peerpod import PeerPod
from adaptor.report import hints
from adaptor.report.model import Moment, Subject


def subject(phase: str, *kinds: str, reason: str = "") -> Subject:
    told = PeerPod(name="x", namespace="shop", pod_name="web", phase=phase, reason=reason)
    return Subject(told, tuple(Moment(kind, float(at)) for at, kind in enumerate(kinds)))


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (subject("created", "created"), "kata's shim has not called StartVM"),
        (subject("starting", "created", "start-requested"), "it waits for a machine"),
        (subject("starting", "created", "launch-intended"), "has not answered the create call"),
        (subject("starting", "created", "launch-intended", "launch-accepted"), "its VM boots"),
        (subject("kept", "created", "launch-accepted", "kept"), "goes on with this VM"),
        (subject("failed", "created", "launch-intended", reason="no room"), "no VM was made"),
        (subject("stopping", "created", "launch-accepted", reason="no guest"), "its guest never answered"),
        (subject("failed", "created", "launch-accepted", "reached", reason="x"), "could not be made the pod's"),
        (subject("stopping", "launch-accepted", "reached", "bound", reason="died"), "the VM ended"),
    ],
)
def test_advice_fits_how_far_it_came(seen: Subject, said: str) -> None:
    assert said in hints.next_steps(seen)[0]


def test_a_running_pod_needs_no_advice() -> None:
    assert hints.next_steps(subject("running", "created", "bound")) == []
    assert hints.next_steps(subject("gone")) == []
