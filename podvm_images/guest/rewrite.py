"""What the VM changes in agent calls, and when. The worker's table is `adaptor.relay.rewrite`."""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError, Message

from adaptor import names
from adaptor.protos.agent_pb2 import CreateContainerRequest, CreateSandboxRequest
from adaptor.relay.splice import Rule, Rules, Verdict


class Change(NamedTuple):
    """`apply` changes the request in place."""

    apply: Callable[[Any], None]
    only_with_network: bool  # of the pod's own, in this VM


def join_the_pods_network(request: CreateContainerRequest) -> None:
    """Where the pod has a network of its own, name its namespace as the container's: kata's shim takes the entry
    out."""
    namespaces = request.oci.linux.namespaces
    found = [namespace for namespace in namespaces if namespace.type == "network"]
    for namespace in found or [namespaces.add(type="network")]:
        namespace.path = names.POD_NETNS


def keep_the_vms_resolver(request: CreateSandboxRequest) -> None:
    """Take the name servers out: the agent would make them the VM's own, where images are pulled and attestation
    happens, outside the pod's network. Containers have their resolv.conf by CopyFile."""
    del request.dns[:]


_TYPES: Final[dict[str, type[Message]]] = {
    "CreateContainer": CreateContainerRequest,
    "CreateSandbox": CreateSandboxRequest,
}
TABLE: Final[dict[tuple[str, str], tuple[Change, ...]]] = {
    (names.AGENT_SERVICE, "CreateContainer"): (Change(join_the_pods_network, only_with_network=True),),
    (names.AGENT_SERVICE, "CreateSandbox"): (Change(keep_the_vms_resolver, only_with_network=False),),
}


def rules(*, has_network: bool) -> Rules:
    """The splice's rules for one pod. A call that is not changed has none, so it is never held or decoded."""
    wanted = {
        call: [change.apply for change in changes if has_network or not change.only_with_network]
        for call, changes in TABLE.items()
    }
    return {call: _rule(_TYPES[call[1]], changes) for call, changes in wanted.items() if changes}


def _rule(kind: type[Message], changes: Sequence[Callable[[Any], None]]) -> Rule:
    def rule(message: bytes) -> Verdict:
        try:
            request = kind.FromString(message)
        except DecodeError:
            return None  # the agent's own error says more than ours could
        for change in changes:
            change(request)
        return request.SerializeToString()

    return rule
