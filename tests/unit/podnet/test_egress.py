"""Whose outside traffic leaves from the VM, and who may ask its metadata service."""

import pytest

from adaptor.catalog.wishes import parse
from adaptor.config import ConfigError, load
from adaptor.config_network import Network, faults
from adaptor.errors import InvalidRequest
from adaptor.podnet.egress import egress
from adaptor.podnet.plan import Egress
from providers.aws.config import AwsConfig

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
    found = faults(Network(external_network="nic", pod_subnets=()), object(), "own")
    assert [fault.key for fault in found] == ["network.pod_subnets", "network.external_network"]
    assert "would leave it" in str(found[0])
    assert "cannot give it" in str(found[1])
    everything = Network(external_network="vm", pod_subnets=("10.0.0.0/8", "::/0"))
    assert [fault.problem.split()[0] for fault in faults(everything, object(), "own")] == ["::/0"]
    stock = Network(external_network="vm", pod_subnets=INSIDE, imds="allowed")
    assert [fault.key for fault in faults(stock, object(), "upstream")] == ["network.external_network", "network.imds"]


@pytest.mark.parametrize("flavor", ["own", "upstream"])
def test_a_second_card_takes_a_cloud_that_is_told_to_give_one(flavor: str) -> None:
    one, two = (AwsConfig(image="ami-0123456789abcdef0", secondary_interface=card) for card in (False, True))
    assert "secondary_interface = true" in str(faults(network("nic"), one, flavor)[0])
    for cloud in (two, None):
        assert not faults(network("nic"), cloud, flavor)
    assert not faults(network("vm"), one, "own")
    assert not faults(network("off"), one, flavor)


@pytest.mark.parametrize("yes", ["true", "nic", "yes"])
def test_upstreams_yes_is_a_second_card_of_the_cloud_and_of_the_network(yes: str) -> None:
    env = {
        "CLOUD_PROVIDER": "aws",
        "PODVM_AMI_ID": "ami-0123456789abcdef0",
        "NODE_NAME": "n",
        "EXTERNAL_NETWORK_VIA_PODVM": yes,
        "POD_SUBNET_CIDRS": "10.244.0.0/16,10.96.0.0/12",
    }
    loaded = load(None, env)
    assert (loaded.network.external_network, loaded.network.pod_subnets) == ("nic", INSIDE)
    assert loaded.settings.secondary_interface
    azure = {**env, "CLOUD_PROVIDER": "gcp", "PODVM_IMAGE_NAME": "x", "GCP_PROJECT_ID": "my-project"}
    with pytest.raises(ConfigError, match="cannot give it"):
        load(None, {**azure, "GCP_ZONE": "europe-west4-a"})
    with pytest.raises(ConfigError, match=r"network\.pod_subnets: must be given"):
        load(None, {**env, "POD_SUBNET_CIDRS": ""})
    assert not load(None, {**env, "EXTERNAL_NETWORK_VIA_PODVM": "vm"}).settings.secondary_interface
