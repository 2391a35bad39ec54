"""What the worker changes in agent calls: one function per call, and only those that this sandbox needs."""

from collections.abc import Callable
from functools import partial
from typing import Final

from google.protobuf.message import DecodeError

from adaptor import names
from adaptor.protos.agent_pb2 import CreateContainerRequest
from adaptor.protos.relay_pb2 import Rewrites
from adaptor.relay.splice import Rules, Verdict

Rewrite = Callable[[bytes, Rewrites], Verdict]


def create_container(message: bytes, rewrites: Rewrites) -> Verdict:
    """With `all_gpus`, name every GPU of the VM in the annotation that the guest reads CDI devices from."""
    try:
        request = CreateContainerRequest.FromString(message)
    except DecodeError:
        return None  # the agent's own error says more than ours could
    if rewrites.all_gpus:
        request.oci.annotations[names.CDI_PEER_PODS] = names.CDI_ALL_GPUS
    return request.SerializeToString()


# Each call that is changed, by whom, and whether this sandbox needs it: one that does not is never held nor decoded.
TABLE: Final[dict[tuple[str, str], tuple[Rewrite, Callable[[Rewrites], bool]]]] = {
    (names.AGENT_SERVICE, "CreateContainer"): (create_container, lambda rewrites: rewrites.all_gpus),
}


def rules(rewrites: Rewrites) -> Rules:
    """The splice's rules for one sandbox."""
    return {call: partial(rewrite, rewrites=rewrites) for call, (rewrite, needed) in TABLE.items() if needed(rewrites)}
