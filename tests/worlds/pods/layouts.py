"""What CNI plugins make of a pod and of the host around it, as data. `{n}` is the pod's number on its host, `{mac}` the
MAC of the veth's host end; each layout names where its facts are from."""

from dataclasses import dataclass

LINK, HOST = 253, 254  # rtnetlink's scopes
STATIC_V4, STATIC_V6 = "169.254.1.1", "fe80::1"


@dataclass(frozen=True, slots=True)
class Via:
    """A route in the pod; an empty destination is the default of the gateway's family."""

    destination: str
    gateway: str = ""
    source: str = ""
    scope: int = 0
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Host:
    """The host's end of the pods' interfaces."""

    bridge: str = ""  # pods are its ports; empty: each pod is routed to
    addresses: tuple[str, ...] = ()  # on the bridge, or on every pod's veth
    mac: str = ""  # of the veth's host end; empty: the kernel's choice
    proxy: bool = False  # it answers ARP for every address
    main_rule: bool = False  # rules send what is for a pod to the main table, what is from it to another
    redirect_peer: bool = (
        False  # eBPF hands packets for the pod right to the far end of its veth, and enforces policies
    )
    router: str = ""  # an address of the host that is on no interface of the pods
    services: bool = True  # False: eBPF translates services, for the host's netfilter never sees what is for a pod


@dataclass(frozen=True, slots=True)
class Wire:
    """One interface of every pod."""

    addresses: tuple[str, ...]
    routes: tuple[Via, ...]
    host: Host
    name: str = "eth0"
    mac: str = ""  # empty: the kernel's choice
    mtu: int = 1500
    connected: bool = True  # False: the plugin has deleted the route that the kernel makes for the address
    neighbours: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """A pod network; the first address of the first interface is the one that pods are known by."""

    name: str
    source: str
    wires: tuple[Wire, ...]
    underlay_mtu: int = 1500
    far: tuple[str, ...] = ("10.77.0.9",)  # the pod on the other host, of each family that pods have


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "bridge",
        "containernetworking/plugins, plugins/main/bridge with isGateway and host-local IPAM: a Linux bridge that has "
        "the subnet's first address, pods are ports of it",
        (
            Wire(
                ("10.244.1.{n}/24",),
                (Via("", "10.244.1.1"),),
                Host(bridge="cni0", addresses=("10.244.1.1/24",)),
            ),
        ),
    ),
    Layout(
        "ptp",
        "containernetworking/plugins, plugins/main/ptp: the pod's address has the subnet's prefix, its connected route "
        "is deleted and leads by way of the gateway instead; the host's end has the gateway's address, and a host route",
        (
            Wire(
                ("10.10.0.{n}/24",),
                (
                    Via("10.10.0.1/32", source="10.10.0.{n}", scope=LINK),
                    Via("10.10.0.0/24", "10.10.0.1", source="10.10.0.{n}"),
                    Via("", "10.10.0.1"),
                ),
                Host(addresses=("10.10.0.1/32",)),
                connected=False,
            ),
        ),
    ),
    Layout(
        "flannel",
        "flannel-io/cni-plugin delegates to bridge with isDefaultGateway and a route to the cluster's network; the MTU "
        "is the VXLAN backend's (subnet.env's FLANNEL_MTU)",
        (
            Wire(
                ("10.244.2.{n}/24",),
                (Via("", "10.244.2.1"), Via("10.244.0.0/16", "10.244.2.1")),
                Host(bridge="cni0", addresses=("10.244.2.1/24",)),
                mtu=1450,
            ),
        ),
    ),
    Layout(
        "calico",
        "projectcalico/calico, cni-plugin/pkg/dataplane/linux: /32, a link route to 169.254.1.1 and the default by it; "
        "the host's end is ee:ee:ee:ee:ee:ee and answers ARP for everybody (proxy_arp), so there is no static neighbour",
        (
            Wire(
                ("192.168.7.{n}/32",),
                (Via(f"{STATIC_V4}/32", scope=LINK), Via("", STATIC_V4)),
                Host(mac="ee:ee:ee:ee:ee:ee", proxy=True),
                mtu=1440,
            ),
        ),
        far=("192.168.77.9",),
    ),
    Layout(
        "calico-dual",
        "the same source with IPv6: /128, and the default by the link-local address of the veth's host end",
        (
            Wire(
                ("192.168.7.{n}/32", "fd00:7::{n}/128"),
                (Via(f"{STATIC_V4}/32", scope=LINK), Via("", STATIC_V4), Via("", "fe80::ecee:eeff:feee:eeee")),
                Host(mac="ee:ee:ee:ee:ee:ee", proxy=True),
            ),
        ),
        far=("192.168.77.9", "fd00:77::9"),
    ),
    Layout(
        "cilium",
        "docs.cilium.io, Networking Concepts (routing, eBPF datapath) and bpf/bpf_host.c: /32, the default with an MTU "
        "of its own by the host's router address; what comes from other hosts and pods is handed by bpf_redirect_peer "
        "to the pod's end of the veth, so the host's end never sends it; policies are eBPF at the host's end, too",
        (
            Wire(
                ("10.0.1.{n}/32",),
                (Via("10.0.1.100/32", scope=LINK), Via("", "10.0.1.100", mtu=1450)),
                Host(redirect_peer=True, router="10.0.1.100/32", services=False),
            ),
        ),
    ),
    Layout(
        "ovn-kubernetes",
        "ovn-org/ovn-kubernetes, go-controller/pkg/util/pod_annotation.go and types: MAC 0a:58 and the IPv4 address, "
        "routes to the cluster's, the services' and the join network by the subnet's first address; MTU 1400 for Geneve; "
        "the switch is Open vSwitch there and a bridge here",
        (
            Wire(
                ("10.128.1.{n}/23",),
                (
                    Via("", "10.128.0.1"),
                    Via("10.128.0.0/14", "10.128.0.1"),
                    Via("10.96.0.0/16", "10.128.0.1"),
                    Via("100.64.0.0/16", "10.128.0.1"),
                ),
                Host(bridge="br-int", addresses=("10.128.0.1/23",)),
                mac="0a:58:0a:80:01:{n:02x}",
                mtu=1400,
            ),
        ),
    ),
    Layout(
        "aws-vpc",
        "aws/amazon-vpc-cni-k8s, cmd/routed-eni-cni-plugin/driver: /32, a link route to 169.254.1.1, the default by it "
        "and a permanent neighbour with the MAC of the host's end; on the host a /32 route, a rule at 512 for what is "
        "for the pod and one at 1536 for what is from it (secondary ENI); MTU 9001",
        (
            Wire(
                ("10.20.5.{n}/32",),
                (Via(f"{STATIC_V4}/32", scope=LINK), Via("", STATIC_V4)),
                Host(main_rule=True),
                mtu=9001,
                neighbours=((STATIC_V4, "{mac}"),),
            ),
        ),
        underlay_mtu=9001,
    ),
    Layout(
        "aws-vpc-ipv6",
        "the same source with IPv6: a link route and a permanent neighbour for fe80::1, which no interface has",
        (
            Wire(
                ("fd20:5::{n}/128",),
                (Via(f"{STATIC_V6}/128"), Via("", STATIC_V6)),
                Host(),
                mtu=9001,
                neighbours=((STATIC_V6, "{mac}"),),
            ),
        ),
        underlay_mtu=9001,
        far=("fd20:77::9",),
    ),
    Layout(
        "gke",
        "kubernetes/kubernetes, cluster/gce: the template of containerd's CNI configuration has ptp with MTU 1460 and "
        "host-local; so nothing on the node's subnet is reached but by way of its first address",
        (
            Wire(
                ("10.4.1.{n}/24",),
                (
                    Via("10.4.1.1/32", source="10.4.1.{n}", scope=LINK),
                    Via("10.4.1.0/24", "10.4.1.1", source="10.4.1.{n}"),
                    Via("", "10.4.1.1"),
                ),
                Host(addresses=("10.4.1.1/32",)),
                mtu=1460,
                connected=False,
            ),
        ),
        underlay_mtu=1460,
    ),
    Layout(
        "azure-transparent",
        "Azure/azure-container-networking, network/transparent_endpointclient_linux.go: the address has the subnet's "
        "prefix and its connected route is deleted; 169.254.1.1 by a link route, with a permanent neighbour; on the "
        "host a /32 route and proxy_arp",
        (
            Wire(
                ("10.240.0.{n}/16",),
                (Via(f"{STATIC_V4}/32", scope=LINK), Via("", STATIC_V4)),
                Host(proxy=True),
                connected=False,
                neighbours=((STATIC_V4, "{mac}"),),
            ),
        ),
    ),
    Layout(
        "ipv6-only",
        "containernetworking/plugins bridge with an IPv6 range: the same as with IPv4, and a link-local address that the "
        "kernel makes",
        (
            Wire(
                ("fd00:10:244:1::{n}/64",),
                (Via("", "fd00:10:244:1::1"),),
                Host(bridge="cni0", addresses=("fd00:10:244:1::1/64",)),
            ),
        ),
        far=("fd00:10:77::9",),
    ),
    Layout(
        "dual-stack",
        "containernetworking/plugins bridge with a range of each family, as flannel delegates to it with EnableIPv6",
        (
            Wire(
                ("10.244.3.{n}/24", "fd00:10:244:3::{n}/64"),
                (Via("", "10.244.3.1"), Via("", "fd00:10:244:3::1")),
                Host(bridge="cni0", addresses=("10.244.3.1/24", "fd00:10:244:3::1/64")),
            ),
        ),
        far=("10.77.0.9", "fd00:10:77::9"),
    ),
    Layout(
        "kindnet",
        "kubernetes-sigs/kind, images/kindnetd: its CNI configuration is ptp with a range of each family",
        (
            Wire(
                ("10.244.5.{n}/24", "fd00:10:244:5::{n}/64"),
                (
                    Via("10.244.5.1/32", source="10.244.5.{n}", scope=LINK),
                    Via("10.244.5.0/24", "10.244.5.1", source="10.244.5.{n}"),
                    Via("", "10.244.5.1"),
                    Via("fd00:10:244:5::1/128", source="fd00:10:244:5::{n}"),
                    Via("fd00:10:244:5::/64", "fd00:10:244:5::1", source="fd00:10:244:5::{n}"),
                    Via("", "fd00:10:244:5::1"),
                ),
                Host(addresses=("10.244.5.1/32", "fd00:10:244:5::1/128")),
                connected=False,
            ),
        ),
        far=("10.77.0.9", "fd00:10:77::9"),
    ),
    Layout(
        "multus",
        "k8snetworkplumbingwg/multus-cni, quick start: eth0 by the cluster's plugin, net1 by another one (bridge, "
        "without a gateway) with a subnet that only it leads to",
        (
            Wire(
                ("10.244.4.{n}/24",),
                (Via("", "10.244.4.1"),),
                Host(bridge="cni0", addresses=("10.244.4.1/24",)),
            ),
            Wire(
                ("172.20.0.{n}/24", "172.20.9.{n}/32"),
                (Via("172.20.9.0/24", source="172.20.9.{n}", scope=LINK),),
                Host(bridge="br1", addresses=("172.20.0.1/24", "172.20.9.1/24")),
                name="net1",
                mtu=9000,
            ),
        ),
    ),
)
