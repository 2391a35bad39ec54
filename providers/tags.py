"""Tags (labels) that mark a cloud resource as ours. `peerpods gc` and recovery find resources by them only."""

from typing import Final

from providers.base import Ownership, Resource
from providers.errors import InvalidSpec

CLUSTER: Final = "peerpods-cluster"
NODE: Final = "peerpods-node"
SANDBOX: Final = "peerpods-sandbox"
TOKEN: Final = "peerpods-token"  # noqa: S105 - a tag's name; the create's idempotency token: resolves a lost reply
POD_NAMESPACE: Final = "peerpods-pod-namespace"
POD_NAME: Final = "peerpods-pod-name"
IMAGE: Final = "peerpods-image"  # SHA-256 of the disk that an image, and what it is made of, came from


def ownership(owner: Ownership) -> dict[str, str]:
    """The tags every resource of this node carries; of the whole cluster, where no node is named."""
    return {CLUSTER: owner.cluster, NODE: owner.node} if owner.node else {CLUSTER: owner.cluster}


def of_new(owner: Ownership) -> dict[str, str]:
    """The tags that something new gets. Raises InvalidSpec without a node: nobody would look after it."""
    if not owner.node:
        raise InvalidSpec(f"cannot launch anything for cluster {owner.cluster} as a whole: a node must own it")
    return ownership(owner)


def check_removal(resource: Resource, owner: Ownership) -> None:
    """Raises InvalidSpec for what is not this node's (or cluster's), or is held by something."""
    doing = f"cannot delete the {resource.kind} {resource.id}"
    for key, value in ownership(owner).items():
        if resource.tags.get(key) != value:
            raise InvalidSpec(f"{doing}: its tag {key} is {resource.tags.get(key)!r}, which is not {value!r}")
    if resource.attached_to:
        raise InvalidSpec(f"{doing}: {resource.attached_to} holds it")
