"""[local]: what cannot be meant is told before anything is started."""

from typing import Any

import pytest

from providers.base import LaunchSpec, Tee
from providers.errors import InvalidSpec, NotFound
from providers.local import requests
from providers.local.config import LocalConfig, parse, size
from providers.settings import Fault

PLAIN = {"image": "/img"}


def faults(**table: Any) -> list[str]:
    found: list[Fault] = []
    parse({**PLAIN, **table}, {}, found)
    return [each.key for each in found]


def test_an_image_is_all_that_must_be_given() -> None:
    assert faults() == []
    found: list[Fault] = []
    parse({}, {}, found)
    assert [each.key for each in found] == ["local.image"]


@pytest.mark.parametrize(
    ("key", "table"),
    [
        ("tee", {"tee": "snp", "accel": "tcg"}),
        ("tee", {"tee": "tdx", "vmm": "namespace"}),
        ("network", {"network": "user", "vmm": "namespace"}),
        ("state_dir", {"state_dir": "/" + "x" * 80}),
        ("instance_type", {"instance_type": "local.tiny"}),
        ("subnet", {"subnet": "10.123.0.0/30"}),
        ("subnet", {"subnet": "10.123.0.1/24"}),
        ("bridge", {"bridge": "a-name-too-long-for-a-link"}),
        ("tee", {"tee": "sgx"}),
    ],
)
def test_what_cannot_be_is_a_fault_by_name(key: str, table: dict[str, Any]) -> None:
    assert faults(**table) == [f"local.{key}"]


def test_namespaces_need_no_image_and_are_never_taken_by_themselves() -> None:
    found: list[Fault] = []
    assert not parse({"vmm": "namespace"}, {}, found).isolated
    assert found == []
    assert LocalConfig(vmm="auto").isolated


def test_a_size_is_a_name_or_written_out() -> None:
    assert size("local.medium") == (2, 2048)
    assert size("local.4x6144") == (4, 6144)
    assert [size(each) for each in ("local.0x512", "local.4x", "m6a.large", "local.4x99")] == [None] * 4


def test_a_pod_may_name_no_directory_of_the_nodes() -> None:
    config = LocalConfig(image="/img", images=("/other",))
    spec = LaunchSpec("podvm", "local.small", b"")
    requests.check(spec, "token", config)
    requests.check(LaunchSpec("podvm", "local.small", b"", image="/other"), "token", config)
    for image in ("/etc", "/img/../etc", "/img/"):
        with pytest.raises(NotFound, match=image):
            requests.check(LaunchSpec("podvm", "local.small", b"", image=image), "token", config)


def test_a_tee_that_the_host_was_not_said_to_have_is_refused() -> None:
    config = LocalConfig(image="/img", tee=Tee.SNP)
    requests.check(LaunchSpec("podvm", "local.small", b"", tee=Tee.SNP), "token", config)
    with pytest.raises(InvalidSpec, match="none"):
        requests.check(LaunchSpec("podvm", "local.small", b"", tee=Tee.NONE), "token", config)


def test_an_id_says_whose_and_for_which_call_and_is_a_safe_name() -> None:
    from providers.base import Ownership

    one, two = Ownership("a", "b"), Ownership("a", "c")
    ids = {requests.instance_id(owner, token) for owner in (one, two) for token in ("t", "u")}
    assert len(ids) == 4
    assert all(requests.is_id(id) for id in ids)
    assert not any(
        requests.is_id(each) for each in ("", "..", "vm-../../etc", "vm-0123456789abcdeg", "vm-0123456789abcdef\n")
    )
    assert all(len(requests.link_of(id)) <= 15 for id in ids)


def test_addresses_are_given_out_once_and_then_there_are_none() -> None:
    config = LocalConfig(image="/img", subnet="10.9.0.0/28")
    used: set[str] = set()
    while (address := requests.free_address(config, "tap", used)) is not None:
        assert address not in used
        used.add(address)
    assert len(used) == 13  # of 16: the network, this host, the broadcast
    assert "10.9.0.1" not in used
    assert str(requests.free_address(config, "user", ())).startswith("127.77.")


def test_a_network_of_qemus_own_takes_encryption_for_pods_to_have_one() -> None:
    from adaptor.config_network import Network
    from adaptor.config_network import faults as of_network

    user = LocalConfig(image="/img", network="user")
    assert [each.key for each in of_network(Network(), user, "own")] == ["network.encryption"]
    assert of_network(Network(encryption="required"), user, "own") == []
    assert of_network(Network(), LocalConfig(image="/img"), "own") == []
