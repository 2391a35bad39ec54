"""The [network] table: how a pod's network reaches its VM."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from adaptor import names
from providers import forms
from providers.settings import Fault, Faults, Form, setting


def _subnet(value: Any) -> str:
    try:
        return str(ipaddress.ip_network(str(value).strip()))
    except ValueError as error:
        raise ValueError(f"{value!r} is not a network: {error}") from None


def external(value: Any) -> str:
    """One of our words for what may be upstream's: a yes or no, whose yes is a second network card."""
    word = str(value).strip().lower()
    return {"true": "nic", "1": "nic", "yes": "nic", "false": "off", "0": "off", "no": "off"}.get(word, word)


_external_choice = forms.choice("off", "vm", "nic")
_external_form = Form(_external_choice.allowed, lambda value: _external_choice.parse(external(value)))
_subnets = forms.each(Form("networks: 10.244.0.0/16, fd00:10::/64", _subnet))


@dataclass(frozen=True, slots=True)
class Network:
    """The tunnel between a pod's network namespace here and its VM."""

    vxlan_port: int = setting(
        forms.port,
        4789,
        "UDP port of the tunnel; Calico drops 4789 from strangers: take 8472 there",
        env=("VXLAN_PORT",),
    )
    first_vni: int = setting(
        forms.integer(1, (1 << 24) - 1), 555_000, "tunnels are numbered from here, one number per interface of a pod"
    )
    host_interface: str | None = setting(
        forms.optional(forms.text),
        None,
        "this node's interface that the tunnels use; empty: the one that leads to the VM",
    )
    encryption: str = setting(
        forms.choice("off", "required"),
        "off",
        "required: WireGuard around every pod's traffic to its VM; a VM or node that cannot do it gets no pod",
    )
    wireguard: str = setting(
        forms.choice("auto", "kernel", "userspace"),
        "auto",
        "auto: the kernel's WireGuard, and wireguard-go where it has none",
    )
    wireguard_port: int = setting(forms.port, names.WIREGUARD_PORT, "UDP port that a VM's WireGuard listens on")
    external_network: str = setting(
        _external_form,
        "off",
        "what leaves the cluster does so from the pod's VM: vm: by its network card; nic: by its second one",
        env=("EXTERNAL_NETWORK_VIA_PODVM",),
    )
    external_network_pods: str = setting(
        forms.choice("all", "asking"),
        "all",
        "with external_network: all: every pod's, but for those that say peerpods.io/external-network: off; asking: only "
        "of those that say on",
    )
    pod_subnets: tuple[str, ...] = setting(
        _subnets,
        (),
        "with external_network: the cluster's pod and service networks, which stay in the tunnel",
        env=("POD_SUBNET_CIDRS",),
    )
    imds: str = setting(
        forms.choice("never", "allowed"),
        "never",
        "allowed: a pod that asks for it (peerpods.io/imds) reaches its VM's metadata service",
    )


_NARROWER: Final = "the networks of the cluster's pods and services: 10.244.0.0/16, fd00:10::/64"


def faults(network: Network, cloud: Any, flavor: str) -> Faults:
    """What settings that are right each by itself are wrong in together. `cloud`: its settings; None where none are."""
    found = list(_of_stock_guests(network)) if flavor == "upstream" else []
    if hasattr(cloud, "vmm") and cloud.network == "user" and network.encryption != "required":
        found.append(
            Fault(
                "network.encryption",
                "'off' cannot pass the VMs' own network (local.network is user): VXLAN does not come back through it",
                "required, or tap as local.network",
            )
        )
    if network.external_network == "off":
        return found
    if not network.pod_subnets:
        found.append(
            Fault(
                "network.pod_subnets",
                f"must be given, for network.external_network is {network.external_network!r}: without it what goes to "
                "the cluster's own pods and services would leave it",
                "every network of the cluster's pods and services: 10.244.0.0/16, 10.96.0.0/12",
            )
        )
    found += [
        Fault("network.pod_subnets", f"{subnet} is everything: nothing would be left to leave from the VM", _NARROWER)
        for subnet in network.pod_subnets
        if ipaddress.ip_network(subnet).prefixlen == 0
    ]
    if network.external_network == "nic" and cloud is not None and not getattr(cloud, "secondary_interface", False):
        has = hasattr(cloud, "secondary_interface")
        found.append(
            Fault(
                "network.external_network",
                "'nic' needs a second network card in each VM, which this cloud's settings "
                + ("do not give it" if has else "cannot give it"),
                ("secondary_interface = true in the cloud's table with it, or " if has else "")
                + "vm: by the card it has",
            )
        )
    return found


def _of_stock_guests(network: Network) -> Iterator[Fault]:
    if network.external_network == "vm":
        yield Fault(
            "network.external_network",
            "'vm' takes a pod VM image of ours: stock images (guest.flavor = upstream) know a second network card only",
            "nic, off, or guest.flavor = own",
        )
    if network.encryption == "required":
        yield Fault(
            "network.encryption",
            "'required' takes a pod VM image of ours: stock images (guest.flavor = upstream) cannot encrypt",
            "off, or guest.flavor = own",
        )
    if network.imds == "allowed":
        yield Fault(
            "network.imds",
            "'allowed' takes a pod VM image of ours: a stock image decides that by itself (setup-nat-for-imds.service)",
            "never, or guest.flavor = own",
        )
