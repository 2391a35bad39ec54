"""The [network] table: how a pod's network reaches its VM."""

import ipaddress
from dataclasses import dataclass
from typing import Any

from adaptor import names
from providers import forms
from providers.settings import Form, setting


def _subnet(value: Any) -> str:
    try:
        return str(ipaddress.ip_network(str(value).strip()))
    except ValueError as error:
        raise ValueError(f"{value!r} is not a network: {error}") from None


def _external(value: Any) -> str:
    """Upstream's setting is a yes or no; its yes is a second network card."""
    word = str(value).strip().lower()
    return {"true": "nic", "1": "nic", "yes": "nic", "false": "off", "0": "off", "no": "off"}.get(word, word)


_external_choice = forms.choice("off", "vm", "nic")
_external_form = Form(_external_choice.allowed, lambda value: _external_choice.parse(_external(value)))
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
