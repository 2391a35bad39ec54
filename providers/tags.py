"""Tags (labels) that mark a cloud resource as ours. `peerpods gc` and recovery find resources by them only."""

from typing import Final

from providers.base import Ownership

CLUSTER: Final = "peerpods-cluster"
NODE: Final = "peerpods-node"
SANDBOX: Final = "peerpods-sandbox"
TOKEN: Final = "peerpods-token"  # noqa: S105 - a tag's name; the create's idempotency token: resolves a lost reply
POD_NAMESPACE: Final = "peerpods-pod-namespace"
POD_NAME: Final = "peerpods-pod-name"


def ownership(owner: Ownership) -> dict[str, str]:
    """The tags every resource of this node carries."""
    return {CLUSTER: owner.cluster, NODE: owner.node}
