"""The default network, its subnetwork in this region, and its firewall rules: read only."""

from collections.abc import Callable, Mapping
from typing import Final

from providers.simcloud.gce import listing
from providers.simcloud.gce.asked import Asked, Verb
from providers.simcloud.gce.errors import not_found
from providers.simcloud.gce.paths import link
from providers.simcloud.gce.project import ID, NETWORK, SUBNETWORK, Json, Project

NETWORK_PATH: Final = f"projects/{ID}/global/networks/{NETWORK}"
_SINCE: Final = "2026-11-02T08:00:00.000-08:00"

Items = Callable[[], list[Json]]


class Networks:
    """Actions on networks, subnetworks and firewalls."""

    def __init__(self, project: Project, whole: str) -> None:
        """`whole` is the network's range: what is allowed inside it."""
        self._project = project
        self._whole = whole

    @property
    def subnetwork_path(self) -> str:
        return f"projects/{ID}/regions/{self._project.region}/subnetworks/{SUBNETWORK}"

    def actions(self) -> Mapping[str, Verb]:
        region = f"regions/{self._project.region}"
        made: dict[str, Verb] = {
            "subnetworks.aggregatedList": lambda asked: listing.aggregated(
                [(region, self.subnetwork())], [region], asked.query, "subnetwork", "subnetworks"
            )
        }
        for kind, one, where, items in (
            ("networks", "network", "global", lambda: [self.network()]),
            ("firewalls", "firewall", "global", self.firewalls),
            ("subnetworks", "subnetwork", region, lambda: [self.subnetwork()]),
        ):
            path = f"projects/{ID}/{where}/{kind}"

            def get(asked: Asked, one: str = one, items: Items = items, path: str = path) -> Json:
                for each in items():
                    if asked.names[one] in (each["name"], each["id"]):
                        return dict(each)
                raise not_found(f"{path}/{asked.names[one]}")

            def some(asked: Asked, one: str = one, items: Items = items, path: str = path) -> Json:
                return listing.page(items(), asked.query, one, path)

            made |= {f"{kind}.get": get, f"{kind}.list": some}
        return made

    def network(self) -> Json:
        return {
            "kind": "compute#network",
            "id": "5100000000000000001",
            "creationTimestamp": _SINCE,
            "name": NETWORK,
            "autoCreateSubnetworks": True,
            "mtu": 1460,
            "routingConfig": {"routingMode": "REGIONAL"},
            "subnetworks": [link(self.subnetwork_path)],
            "selfLink": link(NETWORK_PATH),
        }

    def subnetwork(self) -> Json:
        return {
            "kind": "compute#subnetwork",
            "id": "5200000000000000001",
            "creationTimestamp": _SINCE,
            "name": SUBNETWORK,
            "network": link(NETWORK_PATH),
            "ipCidrRange": str(self._project.subnet),
            "gatewayAddress": str(self._project.subnet[1]),
            "region": self._project.region_link(),
            "privateIpGoogleAccess": True,
            "purpose": "PRIVATE",
            "stackType": "IPV4_ONLY",
            "fingerprint": "4Zm0CGDEb7w=",
            "selfLink": link(self.subnetwork_path),
        }

    def firewalls(self) -> list[Json]:
        everything = [{"IPProtocol": "tcp", "ports": ["0-65535"]}, {"IPProtocol": "udp", "ports": ["0-65535"]}]
        rules = (
            ("default-allow-internal", self._whole, [*everything, {"IPProtocol": "icmp"}]),
            ("default-allow-ssh", "0.0.0.0/0", [{"IPProtocol": "tcp", "ports": ["22"]}]),
            ("default-allow-icmp", "0.0.0.0/0", [{"IPProtocol": "icmp"}]),
        )
        return [
            {
                "kind": "compute#firewall",
                "id": str(5300000000000000001 + index),
                "creationTimestamp": _SINCE,
                "name": name,
                "network": link(NETWORK_PATH),
                "priority": 65534,
                "direction": "INGRESS",
                "sourceRanges": [source],
                "allowed": allowed,
                "disabled": False,
                "selfLink": link(f"projects/{ID}/global/firewalls/{name}"),
            }
            for index, (name, source, allowed) in enumerate(rules)
        ]
