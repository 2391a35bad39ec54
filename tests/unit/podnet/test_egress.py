"""Whose outside traffic leaves from the VM, and who may ask its metadata service."""

import pytest

from adaptor.catalog.wishes import parse
from adaptor.config_network import Network, faults
from adaptor.errors import InvalidRequest
from adaptor.podnet.egress import egress
from adaptor.podnet.plan import Egress

INSIDE = ("10.244.0.0/16", "10.96.0.0/12")
BY_VM = Egress(INSIDE)
BY_CARD = Egress(INSIDE, nic=True)


def network(external: str = "off", pods: str = "all", imds: str = "never") -> Network:
    return Network(external_network=external, external_network_pods=pods, pod_subnets=INSIDE, imds=imds)


@pytest.mark.parametrize(
    ("settings", "said", "out"),
    [
        (network(), "", None),
        (network(), ";external-network=off", None),
        (network("vm"), "", BY_VM),
        (network("vm"), ";external-network=on", BY_VM),
        (network("vm"), ";external-network=off", None),
        (network("nic"), "", BY_CARD),
        (network("nic"), ";external-network=off", None),
        (network("vm", "asking"), "", None),
        (network("vm", "asking"), ";external-network=on", BY_VM),
        (network("nic", "asking"), ";external-network=on", BY_CARD),
        (network("nic", "asking"), ";external-network=off", None),
    ],
)
def test_the_node_offers_and_the_pod_takes(settings: Network, said: str, out: Egress | None) -> None:
    assert egress(settings, parse(said)) == (out, False)


@pytest.mark.parametrize("external", ["off", "vm", "nic"])
def test_the_metadata_service_is_for_pods_that_ask_where_it_is_allowed(external: str) -> None:
    settings = network(external, imds="allowed")
    assert egress(settings, parse(""))[1] is False
    assert egress(settings, parse(";imds=off"))[1] is False
    assert egress(settings, parse(";imds=on"))[1] is True


def test_a_pod_that_wants_out_where_nobody_may_is_told_whom_to_ask() -> None:
    with pytest.raises(
        InvalidRequest, match=r"peerpods\.io/external-network: on.*operator set \[network\] external_net"
    ):
        egress(network(), parse(";external-network=on"))


@pytest.mark.parametrize("external", ["off", "vm"])
def test_a_pod_that_asks_for_metadata_where_nobody_may_is_told_whom_to_ask(external: str) -> None:
    with pytest.raises(InvalidRequest, match=r'peerpods\.io/imds: on.*operator set \[network\] imds = "allowed"'):
        egress(network(external), parse(";imds=on"))


def test_settings_that_do_not_go_together_are_all_told_at_once() -> None:
    found = faults(Network(external_network="nic", pod_subnets=()), "azure")
    assert [fault.key for fault in found] == ["network.pod_subnets", "network.external_network"]
    assert "would leave it" in str(found[0])
    assert "azure" in str(found[1])
    assert not faults(network("nic"), "aws")
    assert not faults(network("vm"), "azure")
    assert not faults(Network(), "gcp")
    everything = Network(external_network="vm", pod_subnets=("10.0.0.0/8", "::/0"))
    assert [fault.problem.split()[0] for fault in faults(everything, "gcp")] == ["::/0"]
