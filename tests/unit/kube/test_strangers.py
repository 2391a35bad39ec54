"""What the cloud must say until a PeerPod of an unknown sandbox is let go; and whose pod a sandbox is."""

from datetime import UTC, datetime
from typing import Any

import pytest
from lightkube.resources.core_v1 import Pod

from adaptor.kube.peerpod import PeerPod
from adaptor.kube.pods import UNKNOWN, facts
from adaptor.kube.strangers import Standing, judge
from adaptor.sandbox.model import SandboxSpec
from adaptor.sandbox.watch import UNSEEN
from providers import tags
from providers.base import Instance, InstanceState

MINE = PeerPod("web-5", "shop", cloud="aws", instance_id="i-1", sandbox="555", token="t-1")
BARE = PeerPod("web-5", "shop", cloud="aws", sandbox="555")
LIVES, DEAD = Instance("i-1", InstanceState.RUNNING), Instance("i-1", InstanceState.GONE)
MADE = Instance("i-2", InstanceState.PENDING, tags={tags.TOKEN: "t-1", tags.SANDBOX: "0"})
OURS = Instance("i-3", InstanceState.STOPPED, tags={tags.SANDBOX: "555"})
OTHER = Instance("i-4", InstanceState.RUNNING, tags={tags.SANDBOX: "556", tags.TOKEN: ""})


@pytest.mark.parametrize(
    ("stranger", "described", "listed", "seen_for", "standing"),
    [
        (MINE, [LIVES], [LIVES], 999, Standing.LIVING),
        (MINE, [LIVES], [], 999, Standing.LIVING),
        (MINE, [DEAD], [], 0, Standing.GONE),
        (MINE, [], [], UNSEEN - 1, Standing.UNSURE),
        (MINE, [], [], UNSEEN, Standing.GONE),
        (MINE, [DEAD], [MADE], 999, Standing.LIVING),
        (BARE, [], [OURS], 999, Standing.LIVING),
        (BARE, [], [OTHER], 999, Standing.GONE),
        (BARE, [], [OTHER], 0, Standing.UNSURE),
        (PeerPod("web", "shop", cloud="gcp", instance_id="i-1"), [], [], 999, Standing.FOREIGN),
    ],
)
def test_only_a_vm_that_is_surely_gone_lets_its_peerpod_go(
    stranger: PeerPod, described: list[Instance], listed: list[Instance], seen_for: float, standing: Standing
) -> None:
    assert judge(stranger, "aws", {each.id: each for each in described}, listed, seen_for) is standing


NOW = datetime(2026, 11, 1, tzinfo=UTC).timestamp()


def pod(node: str = "worker-1", born: float = NOW - 5, **metadata: Any) -> Pod:
    stamp = datetime.fromtimestamp(born, UTC).isoformat()
    made: Any = Pod.from_dict(
        {
            "metadata": {"uid": "u-1", "creationTimestamp": stamp, "labels": {"a": "b"}, **metadata},
            "spec": {"nodeName": node, "containers": []},
        }
    )
    found: Pod = made
    return found


@pytest.mark.parametrize(
    ("found", "uid", "same"),
    [
        (pod(), "", True),
        (pod(), "u-1", True),
        (pod(), "u-2", False),
        (pod(node="worker-2"), "", False),
        (pod(node="worker-2"), "u-1", True),  # kubelet knows better than a name that somebody gave the node
        (pod(born=NOW + 300), "", False),  # a StatefulSet's next one
        (pod(annotations={"kubernetes.io/config.mirror": "u-static"}), "u-static", True),
        (pod(uid=""), "", False),
    ],
)
def test_a_pod_is_a_sandboxs_when_everything_fits(found: Pod, uid: str, same: bool) -> None:
    spec = SandboxSpec("5" * 64, "web", "shop", "/x", pod_uid=uid)
    known = facts(found, spec, "worker-1", NOW)
    assert (known is not UNKNOWN) is same
    if same:
        assert (known.uid, known.labels) == ("u-1", {"a": "b"})
