"""What counts as leaked: never anything that is owned, held, young, another's or untagged."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptor.sandbox import sweep
from adaptor.sandbox.model import LaunchIntended, Phase, SandboxSpec, SandboxState
from adaptor.sandbox.sweep import Known, Standing, Verdict
from providers import tags
from providers.base import Ownership, Resource, ResourceKind
from tests.worlds.leaks import OWNER

NOW, GRACE = 1_000_000.0, 900.0
LAUNCH = LaunchIntended("token-1", "podvm-web", "m6a.large", "", "", "")
SPEC = SandboxSpec("a" * 64, "web", "shop", "/run/netns/x")
RUNNING = SandboxState(SPEC, Phase.RUNNING, launches=1, launch=LAUNCH, instance_id="i-1")
UNANSWERED = SandboxState(SPEC, Phase.STARTING, launches=1, launch=LAUNCH)


def known(*states: SandboxState, sessions: dict[str, str] | None = None) -> Known:
    return Known(OWNER, {state.spec.id: state for state in states}, sessions or {})


def instance(**changes: object) -> Resource:
    old = Resource(ResourceKind.INSTANCE, "i-9", tags=tags.ownership(OWNER), created_at=0.0)
    return replace(old, **changes)  # type: ignore[arg-type]


def tagged(**more: str) -> dict[str, str]:
    return {**tags.ownership(OWNER), **{f"peerpods-{key.replace('_', '-')}": value for key, value in more.items()}}


def verdict(resource: Resource, what: Known, first_seen: dict[str, float] | None = None) -> Verdict:
    (one,) = sweep.judge([resource], what, now=NOW, grace=GRACE, first_seen=first_seen or {})
    return one


def test_an_old_instance_that_nobody_knows_has_leaked() -> None:
    found = verdict(instance(), known(RUNNING))
    assert (found.standing, found.age) == (Standing.LEAKED, NOW)
    assert found.reason == "no sandbox of this node has it"


def test_the_reason_names_the_pod_it_was_made_for() -> None:
    made_for = tagged(sandbox="b" * 64, pod_namespace="shop", pod_name="db")
    assert verdict(instance(tags=made_for), known()).reason == "sandbox bbbbbbbbbbbb (shop/db) is gone"
    another = tagged(sandbox=SPEC.id)
    assert verdict(instance(tags=another), known(RUNNING)).reason == "sandbox aaaaaaaaaaaa has another VM"


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.RUNNING, Phase.STOPPING])
def test_a_sandboxs_instance_is_owned_in_every_phase(phase: Phase) -> None:
    found = verdict(instance(id="i-1"), known(replace(RUNNING, phase=phase)))
    assert found.standing is Standing.OWNED
    assert found.reason == f"sandbox aaaaaaaaaaaa (shop/web), {phase}"


@pytest.mark.parametrize("kind", list(ResourceKind))
@pytest.mark.parametrize("state", [UNANSWERED, replace(UNANSWERED, phase=Phase.STOPPING), RUNNING])
def test_what_carries_the_token_of_a_launch_in_the_journal_is_owned(kind: ResourceKind, state: SandboxState) -> None:
    found = verdict(instance(kind=kind, tags=tagged(token="token-1")), known(state))
    assert found.standing is Standing.OWNED
    assert ("not answered yet" in found.reason) is state.launch_unresolved


def test_a_token_that_no_journal_row_has_protects_nothing() -> None:
    refused = replace(UNANSWERED, launch=None)
    for token in ("token-1", ""):
        assert verdict(instance(tags=tagged(token=token)), known(refused)).standing is Standing.LEAKED
    tokenless = replace(UNANSWERED, launch=replace(LAUNCH, token=""))
    assert verdict(instance(), known(tokenless)).standing is Standing.LEAKED


@pytest.mark.parametrize(("host", "address"), [("10.0.0.7", "10.0.0.7:15150"), ("fd00::7", "[fd00::7]:15150")])
def test_a_lost_journal_does_not_cost_a_pod_whose_session_lives(host: str, address: str) -> None:
    by_address = instance(addresses=("192.0.2.1", host))
    assert verdict(by_address, known(sessions={"b": address})).standing is Standing.OWNED
    by_tag = instance(tags=tagged(sandbox="b"))
    assert verdict(by_tag, known(sessions={"b": ""})).standing is Standing.OWNED
    assert verdict(by_tag, known(sessions={"c": address})).standing is Standing.LEAKED


def test_a_session_of_a_sandbox_that_the_journal_knows_protects_only_the_vm_it_reached() -> None:
    second = instance(tags=tagged(sandbox=SPEC.id), addresses=("10.0.0.9",))
    sessions = {SPEC.id: "10.0.0.7:15150"}
    assert verdict(second, known(RUNNING, sessions=sessions)).standing is Standing.LEAKED


def test_a_session_that_reached_nobody_protects_nobody_without_addresses() -> None:
    assert verdict(instance(addresses=("",)), known(sessions={"b": ""})).standing is Standing.LEAKED


@pytest.mark.parametrize(
    ("whose", "said"),
    [
        (tags.ownership(Ownership("cluster-a", "node-2")), "left to node node-2"),
        (tags.ownership(Ownership("cluster-b", "node-1")), "its tag peerpods-cluster is not cluster-a"),
        ({tags.CLUSTER: "cluster-a"}, "it has no tag peerpods-node: nobody can tell whose it is"),
        ({}, "its tag peerpods-cluster is not cluster-a"),
    ],
)
def test_what_is_not_tagged_as_this_nodes_is_left(whose: dict[str, str], said: str) -> None:
    found = verdict(instance(tags=whose), known())
    assert (found.standing, found.reason) == (Standing.FOREIGN, said)


def test_what_is_attached_is_left_whatever_holds_it() -> None:
    found = verdict(instance(kind=ResourceKind.DISK, attached_to="i-9"), known())
    assert found.standing is Standing.HELD
    assert "i-9" in found.reason


@pytest.mark.parametrize(
    ("age", "standing"), [(899.0, Standing.YOUNG), (900.0, Standing.LEAKED), (-50.0, Standing.YOUNG)]
)
def test_the_grace_is_counted_from_the_creation(age: float, standing: Standing) -> None:
    assert verdict(instance(created_at=NOW - age), known()).standing is standing
    seen_long_ago = {"i-9": 0.0}
    assert verdict(instance(created_at=NOW - age), known(), seen_long_ago).standing is standing


@pytest.mark.parametrize(
    ("first_seen", "standing", "said"),
    [
        ({}, Standing.YOUNG, "first seen just now; counts from 900 s on"),
        ({"i-9": NOW - 300}, Standing.YOUNG, "first seen 300 s ago; counts from 900 s on"),
        ({"i-9": NOW - 900}, Standing.LEAKED, "no sandbox of this node has it"),
        ({"eni-1": 0.0}, Standing.YOUNG, "first seen just now; counts from 900 s on"),
    ],
)
def test_without_a_creation_time_the_first_sight_counts(
    first_seen: dict[str, float], standing: Standing, said: str
) -> None:
    found = verdict(instance(created_at=None), known(), first_seen)
    assert (found.standing, found.reason) == (standing, said)


def test_sightings_are_kept_while_the_resource_is_there_and_never_lie_in_the_future() -> None:
    one, two = (Resource(ResourceKind.ADDRESS, each) for each in ("eip-1", "eip-2"))
    dated = Resource(ResourceKind.DISK, "vol-1", created_at=1.0)
    assert sweep.sighted([one, two, dated], 10.0, {"eip-1": 3.0, "gone": 1.0}) == {"eip-1": 3.0, "eip-2": 10.0}
    assert sweep.sighted([one], 2.0, {"eip-1": 3.0}) == {"eip-1": 2.0}  # the clock was put back


def test_instances_are_removed_before_what_they_may_hold() -> None:
    kinds = (ResourceKind.DISK, ResourceKind.INTERFACE, ResourceKind.ADDRESS, ResourceKind.INSTANCE)
    found = [verdict(instance(id=kind.value, kind=kind), known()) for kind in kinds]
    order = [each.resource.kind for each in sweep.leaked(found)]
    assert order == [ResourceKind.INSTANCE, ResourceKind.ADDRESS, ResourceKind.INTERFACE, ResourceKind.DISK]


# -- whatever comes -------------------------------------------------------------------------------

_few = st.sampled_from
_TAGS = st.fixed_dictionaries(
    {},
    optional={
        tags.CLUSTER: _few(["cluster-a", "cluster-b", ""]),
        tags.NODE: _few(["node-1", "node-2", ""]),
        tags.TOKEN: _few(["token-0", "token-1", ""]),
        tags.SANDBOX: _few(["s0", "s1", "s2"]),
    },
)
RESOURCES = st.lists(
    st.builds(
        Resource,
        kind=_few(list(ResourceKind)),
        id=_few([f"r-{n}" for n in range(8)]),
        tags=_TAGS,
        created_at=st.none() | st.floats(NOW - 2 * GRACE, NOW + 60),
        attached_to=_few(["", "", "r-1", "i-elsewhere"]),
        addresses=_few([(), ("10.0.0.1",), ("10.0.0.2", "10.0.0.1")]),
    ),
    unique_by=lambda each: each.id,
)


@st.composite
def states(draw: st.DrawFn) -> dict[str, SandboxState]:
    made = {}
    for sandbox in draw(st.sets(_few(["s0", "s1"]))):
        token = draw(_few(["token-0", "token-1", ""]))
        launch = draw(st.none() | st.just(replace(LAUNCH, token=token)))
        owned = draw(_few(["", "r-0", "r-1"])) if launch else ""
        made[sandbox] = SandboxState(replace(SPEC, id=sandbox), draw(_few(list(Phase))), 1, launch, owned)
    return made


@given(
    RESOURCES,
    states(),
    st.dictionaries(_few(["s0", "s1", "s2"]), _few(["", "10.0.0.1:15150"])),
    st.dictionaries(_few([f"r-{n}" for n in range(8)]), st.floats(NOW - 2 * GRACE, NOW)),
)
def test_nothing_owned_held_young_foreign_or_untagged_is_ever_leaked(
    resources: list[Resource],
    by_id: dict[str, SandboxState],
    sessions: dict[str, str],
    first_seen: dict[str, float],
) -> None:
    verdicts = sweep.judge(resources, Known(OWNER, by_id, sessions), now=NOW, grace=GRACE, first_seen=first_seen)
    assert [each.resource for each in verdicts] == resources
    tokens = {state.launch.token for state in by_id.values() if state.launch} - {""}
    for each in sweep.leaked(verdicts):
        resource = each.resource
        assert resource.tags[tags.CLUSTER] == OWNER.cluster
        assert resource.tags[tags.NODE] == OWNER.node
        assert not resource.attached_to
        assert resource.id not in {state.instance_id for state in by_id.values()}
        assert resource.tags.get(tags.TOKEN) not in tokens
        assert not (sessions.keys() - by_id.keys()) & {resource.tags.get(tags.SANDBOX)}
        assert not ("10.0.0.1:15150" in sessions.values() and "10.0.0.1" in resource.addresses)
        since = resource.created_at if resource.created_at is not None else first_seen[resource.id]
        assert NOW - since >= GRACE
    for each in verdicts:  # and what is none of these has leaked: nothing is forgotten either
        assert each.reason
        assert each.standing in Standing
