"""Who may have the VM that a start left behind."""

import base64
import dataclasses
from typing import Any

import pytest

from adaptor.sandbox import launch
from adaptor.sandbox.adoption import fits, keepable
from adaptor.sandbox.model import LaunchIntended, Phase, SandboxSpec, SandboxState

CA = b"-----BEGIN CERTIFICATE-----\n"
OLD = SandboxSpec("a", "web", "shop", "/run/netns/a", vcpus=2, initdata="version = '0.1.0'")
NEW = dataclasses.replace(OLD, id="b", netns="/run/netns/b")
TOKEN = b"t" * 32
INTENT = LaunchIntended(
    "t1",
    "podvm-web-a",
    "m6a.large",
    "",
    base64.b64encode(launch.own_user_data(TOKEN, CA, 15150)).decode(),
    base64.b64encode(TOKEN).decode(),
    "a",
)
LEFT = SandboxState(OLD, Phase.KEPT, 1, INTENT, "i-1", adopt_grace=180.0)


def test_the_same_pods_next_sandbox_fits() -> None:
    assert fits(NEW, LEFT, CA, 15150)


def test_a_launch_without_an_answer_fits_as_well() -> None:
    assert fits(NEW, dataclasses.replace(LEFT, instance_id=""), CA, 15150)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(SandboxSpec)])
def test_every_wish_of_the_pod_counts_and_only_its_sandbox_and_namespace_do_not(field: str) -> None:
    value: Any = 7 if "int" in str(SandboxSpec.__annotations__[field]) else "other"
    other = dataclasses.replace(NEW, **{field: value})
    assert fits(other, LEFT, CA, 15150) == (field in {"id", "netns", "pod_uid", "volumes_unknown"})


def test_two_uids_must_be_equal() -> None:
    known = dataclasses.replace(LEFT, spec=dataclasses.replace(OLD, pod_uid="u-1"))
    assert fits(dataclasses.replace(NEW, pod_uid="u-1"), known, CA, 15150)
    assert fits(NEW, known, CA, 15150)
    assert not fits(dataclasses.replace(NEW, pod_uid="u-2"), known, CA, 15150)


@pytest.mark.parametrize("pod", [("", "shop"), ("web", "")])
def test_without_a_whole_name_there_is_no_next_sandbox(pod: tuple[str, str]) -> None:
    state = dataclasses.replace(LEFT, spec=dataclasses.replace(OLD, pod_name=pod[0], pod_namespace=pod[1]))
    assert not keepable(state)
    assert not fits(dataclasses.replace(state.spec, id="b"), state, CA, 15150)


def test_nobody_adopts_from_itself() -> None:
    assert not fits(OLD, LEFT, CA, 15150)


def test_a_vm_of_other_keys_or_another_port_does_not_fit() -> None:
    assert not fits(NEW, LEFT, CA + b"x", 15150)
    assert not fits(NEW, LEFT, CA, 15151)


@pytest.mark.parametrize(
    "state",
    [
        dataclasses.replace(LEFT, launch=None),
        dataclasses.replace(LEFT, address="10.0.0.5:15150"),
        dataclasses.replace(LEFT, adopt_grace=0.0),
        dataclasses.replace(LEFT, launch=dataclasses.replace(INTENT, launch_token="")),
    ],
    ids=["nothing launched", "perhaps bound", "no grace", "upstream guest"],
)
def test_what_cannot_serve_another_sandbox_is_not_kept(state: SandboxState) -> None:
    assert keepable(LEFT)
    assert not keepable(state)
    assert not fits(NEW, state, CA, 15150)
