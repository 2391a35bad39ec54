"""What the worker changes in agent calls, and for which sandboxes."""

from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from adaptor import names
from adaptor.protos.agent_pb2 import CreateContainerRequest, HealthCheckResponse
from adaptor.protos.relay_pb2 import Rewrites
from adaptor.relay.splice import Answer, Rule, Rules, Verdict, Watch

_SERVING: Final = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()


def rules(rewrites: Rewrites) -> Rules:
    """The splice's rules for one sandbox. A call that it does not change has none, so it is never held or decoded."""
    return {call: rule for call, (rule, needed) in TABLE.items() if needed(rewrites)}


def check_answers(away: Callable[[], bool]) -> Rules:
    """The rule that keeps a shim from giving its pod up while its VM is `away`, that is, while its link is resumed.

    The shim asks every 5 s whether the agent serves, and ends the pod when no answer comes in 30 s.
    """
    return {(names.HEALTH_SERVICE, "Check"): lambda _: Answer(_SERVING) if away() else Watch(_SERVING)}


def name_every_gpu(message: bytes) -> Verdict:
    """Put every GPU of the VM into the annotation that the guest takes CDI devices from."""
    try:
        request = CreateContainerRequest.FromString(message)
    except DecodeError:
        return None  # the agent's own error says more than ours could
    request.oci.annotations[names.CDI_PEER_PODS] = names.CDI_ALL_GPUS
    return request.SerializeToString()


TABLE: Final[dict[tuple[str, str], tuple[Rule, Callable[[Rewrites], bool]]]] = {
    (names.AGENT_SERVICE, "CreateContainer"): (name_every_gpu, lambda rewrites: rewrites.all_gpus),
}
