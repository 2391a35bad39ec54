"""Whether a pod's outside traffic leaves from its VM, and whether it may ask that VM's metadata service; pure.

The node's settings say what is on offer and for whom by default, the pod's wishes what it takes of that. The worker asks
before it launches (a second network card is part of the machine) and before it binds; the webhook asks when the pod is
created.
"""

from typing import Final, Protocol

from adaptor import names
from adaptor.config_network import Network
from adaptor.errors import InvalidRequest
from adaptor.podnet.plan import Egress

EXTERNAL_NETWORK: Final = "external-network"  # keys of machine_type, and with names.WISH_PREFIX annotations
IMDS: Final = "imds"


class Wishes(Protocol):
    """As much of `catalog.wishes.Wishes` as matters here."""

    @property
    def external_network(self) -> bool | None: ...  # None: as the node does it

    @property
    def imds(self) -> bool: ...


def egress(settings: Network, wishes: Wishes) -> tuple[Egress | None, bool]:
    """How this pod's outside traffic leaves from its VM (None: through the worker), and whether it may ask its VM's
    metadata service. Raises: InvalidRequest when the pod wishes for what the node does not allow."""
    if wishes.imds and settings.imds != "allowed":
        raise InvalidRequest(
            f"the pod asks for its VM's metadata service ({names.WISH_PREFIX}{IMDS}: on), which this cluster does not "
            'allow: leave the annotation out, or have the operator set [network] imds = "allowed"'
        )
    if settings.external_network == "off":
        if wishes.external_network:
            raise InvalidRequest(
                f"the pod wants its outside traffic to leave from its VM ({names.WISH_PREFIX}{EXTERNAL_NETWORK}: on), "
                "which this cluster does not allow: leave the annotation out, or have the operator set [network] "
                'external_network = "vm" (or "nic") and pod_subnets'
            )
        return None, wishes.imds
    by_default = settings.external_network_pods == "all"
    if not (by_default if wishes.external_network is None else wishes.external_network):
        return None, wishes.imds
    return Egress(settings.pod_subnets, nic=settings.external_network == "nic"), wishes.imds
