"""What the worker changes in agent calls."""

from adaptor import names
from adaptor.protos.agent_pb2 import CreateContainerRequest
from adaptor.protos.relay_pb2 import Rewrites
from adaptor.protos.ttrpc_pb2 import Request
from adaptor.relay import rewrite
from adaptor.relay.splice import Splice
from adaptor.ttrpc.frames import HEADER
from tests.worlds.tunnel import call

WITH_GPUS = Rewrites(all_gpus=True)
UNKNOWN = b"\xfa\x3f\x05later"  # field 1023, a string: of a kata that this program was not written for


def rewritten(message: bytes) -> CreateContainerRequest:
    out = b"".join(Splice(rewrite.rules(WITH_GPUS)).requests(memoryview(call(1, "CreateContainer", message))))
    return CreateContainerRequest.FromString(Request.FromString(out[HEADER.size :]).payload)


def test_a_sandbox_without_gpus_has_no_rules_at_all() -> None:
    assert not rewrite.rules(Rewrites())


def test_every_gpu_is_named_beside_the_annotations_that_are_there() -> None:
    request = CreateContainerRequest(container_id="c1")
    request.oci.annotations["io.kubernetes.cri.container-type"] = "container"
    request.oci.process.args.append("sh")
    expected = CreateContainerRequest()
    expected.CopyFrom(request)
    expected.oci.annotations[names.CDI_PEER_PODS] = names.CDI_ALL_GPUS
    assert rewritten(request.SerializeToString()) == expected


def test_fields_of_a_newer_kata_survive_at_every_depth() -> None:
    request = CreateContainerRequest(container_id="c1")
    request.oci.MergeFromString(UNKNOWN)
    request.oci.linux.MergeFromString(UNKNOWN)
    request.MergeFromString(UNKNOWN)
    out = rewritten(request.SerializeToString())
    assert out.oci.annotations[names.CDI_PEER_PODS] == names.CDI_ALL_GPUS
    assert out.SerializeToString().count(UNKNOWN) == 3


def test_other_calls_of_a_sandbox_with_gpus_pass_untouched() -> None:
    data = memoryview(call(1, "StartContainer", b"") + call(3, "CreateContainer", b"", service="grpc.Health"))
    (piece,) = Splice(rewrite.rules(WITH_GPUS)).requests(data)
    assert piece is data


def test_a_request_that_cannot_be_decoded_passes_for_the_agent_to_judge() -> None:
    broken = call(1, "CreateContainer", b"\xff\xff\xff")
    assert b"".join(Splice(rewrite.rules(WITH_GPUS)).requests(memoryview(broken))) == broken
