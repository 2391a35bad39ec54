"""kata's remote hypervisor service: parse, validate, hand over to the registry. No policy here.

What the real shim sends, and what it does with each answer, is recorded in tests/golden/shim; the texts of errors
reach the pod's event word for word.
"""

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import Message

from adaptor import names
from adaptor.catalog import wishes
from adaptor.errors import AdaptorError, Code, InvalidRequest, code_name, code_of
from adaptor.protos import hypervisor_pb2 as pb
from adaptor.sandbox.model import SandboxSpec
from adaptor.sandbox.registry import Registry
from adaptor.sandbox.rooms import Tunnels
from adaptor.telemetry import logs, metrics
from adaptor.ttrpc.aio import Call, Handler, Service
from adaptor.volumes.node import NodeVolumes

# What Version answers; upstream's adaptor says the same, and no shim has been seen to ask.
VERSION: Final = "0.0.0"

log = logs.get("hypervisor")


class Hypervisor:
    """The service's four calls."""

    def __init__(self, registry: Registry, networks: Tunnels, volumes: NodeVolumes) -> None:
        self._registry = registry
        self._volumes = volumes
        self._networks = networks

    def service(self) -> Service:
        """What `ttrpc.aio.Server` serves on the hypervisor socket."""
        handlers: dict[str, Handler] = {
            "CreateVM": self.create_vm,
            "StartVM": self.start_vm,
            "StopVM": self.stop_vm,
            "Version": self.version,
        }
        counted = {method: _counted(method, handler) for method, handler in handlers.items()}
        return Service(pb.DESCRIPTOR.services_by_name["Hypervisor"], counted)

    async def create_vm(self, request: pb.CreateVMRequest, call: Call) -> pb.CreateVMResponse:
        """Make the sandbox known and its agent socket listen; nothing billable."""
        spec = parse(request.id, request.annotations, request.network_namespace_path)
        log.info("CreateVM", sandbox=spec.id, pod=spec.pod, netns=spec.netns)
        self._networks.check(spec.netns)
        found = self._volumes.found(spec.id, spec.pod, request.annotations)
        spec = dataclasses.replace(spec, pod_uid=found.uid, volumes=found.volumes, volumes_unknown=found.unknown)
        return pb.CreateVMResponse(agent_socket_path=await self._registry.create(spec))

    async def start_vm(self, request: pb.StartVMRequest, call: Call) -> pb.StartVMResponse:
        """Answer when the pod's VM is bound; the shim dials the agent socket next."""
        log.info("StartVM", sandbox=request.id)
        await self._registry.start(request.id)
        return pb.StartVMResponse()

    async def stop_vm(self, request: pb.StopVMRequest, call: Call) -> pb.StopVMResponse:
        """Take the sandbox down; one that is not known is down already."""
        log.info("StopVM", sandbox=request.id)
        await self._registry.stop(request.id, "StopVM")
        return pb.StopVMResponse()

    async def version(self, request: pb.VersionRequest, call: Call) -> pb.VersionResponse:
        """For the sake of completeness."""
        return pb.VersionResponse(version=VERSION)


def _counted(method: str, handler: Handler) -> Handler:
    """`handler`, with its outcomes in metrics and its refusals in the log: the shim's own log is rarely read."""

    async def call(request: Any, call: Call) -> Message:
        code = Code.INTERNAL.name
        try:
            answer = await handler(request, call)
            code = Code.OK.name
            return answer
        except AdaptorError as error:
            code = code_name(code_of(error))
            log.warning("call refused", method=method, sandbox=getattr(request, "id", ""), code=code, reason=error)
            raise
        except asyncio.CancelledError:
            code = Code.CANCELLED.name
            raise
        finally:
            metrics.HYPERVISOR_CALLS.labels(method=method, code=code).inc()

    return call


def parse(sandbox_id: str, annotations: Mapping[str, str], netns: str) -> SandboxSpec:
    """CreateVM's wish as a value; the shim sends nine annotations always, "" and "0" meaning unset.

    Raises: InvalidRequest, naming the annotation and what it may hold.
    """
    if not sandbox_id:
        raise InvalidRequest("CreateVM without a sandbox id")
    name, namespace = _pod(annotations)
    if not netns:
        raise InvalidRequest(
            f"pod {namespace}/{name} uses the host's network (hostNetwork: true), which a pod VM cannot: it would give "
            "the VM the worker's own address. Remove hostNetwork, or run the pod with another runtime class"
            if name
            else f"sandbox {sandbox_id} comes without a network namespace: a pod VM needs one"
        )
    machine_type = annotations.get(names.MACHINE_TYPE, "")
    wishes.parse(machine_type)
    types, rest = wishes.split(machine_type)
    return SandboxSpec(
        id=sandbox_id,
        pod_name=name,
        pod_namespace=namespace,
        netns=netns,
        instance_type=types or None,
        image=annotations.get(names.IMAGE) or None,
        vcpus=_count(annotations, names.DEFAULT_VCPUS),
        memory_mib=_count(annotations, names.DEFAULT_MEMORY),
        gpus=_count(annotations, names.DEFAULT_GPUS),
        gpu_model=annotations.get(names.DEFAULT_GPU_MODEL) or None,
        initdata=annotations.get(names.INITDATA) or None,
        wishes=rest,
    )


def _pod(annotations: Mapping[str, str]) -> tuple[str, str]:
    """Pod name and namespace, as containerd and as CRI-O write them."""
    name = annotations.get(names.CRI_SANDBOX_NAME) or annotations.get(names.CRIO_SANDBOX_NAME) or ""
    namespace = annotations.get(names.CRI_SANDBOX_NAMESPACE) or annotations.get(names.CRIO_SANDBOX_NAMESPACE) or ""
    match name.split("_"):  # a pod's own name has no underscore
        case ["k8s", "POD", pod, space, *_] | ["k8s", pod, space, _, _]:  # CRI-O: ..._<uid>_<attempt>
            return pod, space
    return name, namespace


def _count(annotations: Mapping[str, str], key: str) -> int | None:
    text = annotations.get(key, "")
    if text in ("", "0"):
        return None
    if not text.isdecimal() or int(text) > 2**31:
        raise InvalidRequest(f'annotation {key} is "{text[:40]}": a whole number is needed (or "" for the default)')
    return int(text)
