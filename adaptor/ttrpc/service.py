"""Services: from a request's bytes through the right handler to the bytes, or the status, of its answer."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from adaptor.errors import AdaptorError, Code, StatusError, code_of
from adaptor.telemetry import logs
from adaptor.ttrpc.connection import RequestReceived
from adaptor.ttrpc.messages import Metadata
from adaptor.ttrpc.unix import Peer

log = logs.get("ttrpc")

_NAME_LIMIT: Final = 200  # characters of a call's name in texts: it is the client's, and may have millions


@dataclass(frozen=True, slots=True)
class Call:
    """What came with a request besides its message; `timeout` is seconds left on arrival, None = no deadline."""

    service: str
    method: str
    metadata: Metadata
    timeout: float | None
    peer: Peer | None


Handler = Callable[[Any, Call], Awaitable[Message]]


class _Method(NamedTuple):
    handler: Handler
    request: type[Message]
    response: str


class Service:
    """A service's handlers by method name. Declared methods without a handler answer UNIMPLEMENTED.

    A handler's AdaptorError becomes its status (`errors.code_of`); any other exception is logged and becomes
    INTERNAL. It is cancelled when its deadline passes and when its client goes away.
    """

    def __init__(self, descriptor: ServiceDescriptor, handlers: Mapping[str, Handler]) -> None:
        if unknown := handlers.keys() - descriptor.methods_by_name.keys():
            raise ValueError(f"{descriptor.full_name} has no method {', '.join(sorted(unknown))}")
        self.name = descriptor.full_name
        self._methods = {
            name: _Method(handler, GetMessageClass(method.input_type), method.output_type.full_name)
            for name, handler in handlers.items()
            for method in [descriptor.methods_by_name[name]]
        }

    async def answer(self, payload: bytes, call: Call) -> bytes:
        """Run the handler of `call`; raises what it raises, StatusError where there is none or `payload` is bad."""
        method = self._methods.get(call.method)
        if method is None:
            raise StatusError(Code.UNIMPLEMENTED, f"{self.name} has no method {call.method[:_NAME_LIMIT]} here")
        name = f"{self.name}/{call.method}"
        try:
            request = method.request.FromString(payload)
        except DecodeError as error:
            wanted = method.request.DESCRIPTOR.full_name
            raise StatusError(Code.INVALID_ARGUMENT, f"{name}: the payload is no {wanted}") from error
        response = await method.handler(request, call)
        if response.DESCRIPTOR.full_name != method.response:
            raise TypeError(f"{name} must answer with {method.response}, not {response.DESCRIPTOR.full_name}")
        return response.SerializeToString()


class Services:
    """Services by name; raises ValueError where two have the same."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._services: dict[str, Service] = {}
        for service in services:
            if service.name in self._services:
                raise ValueError(f"{service.name} is given twice")
            self._services[service.name] = service

    async def answer(self, request: RequestReceived, peer: Peer | None) -> bytes | StatusError:
        """Run one call to its end; every failure is returned as the status it travels as, only cancellation raises."""
        call = Call(request.service, request.method, request.metadata, request.timeout, peer)
        try:
            service = self._services.get(request.service)
            if service is None:
                raise StatusError(Code.UNIMPLEMENTED, f"{request.service[:_NAME_LIMIT]} is not served here")
            return await service.answer(request.payload, call)
        except StatusError as error:
            return error
        except AdaptorError as error:
            return StatusError(code_of(error), str(error))
        except Exception as error:  # a bug of ours must reach its caller as a status and a person as a trace
            name = name_of(request)
            log.exception("a handler failed unexpectedly", call=name)
            reason = f"{name} failed on an error nobody foresaw ({type(error).__name__}); this process's log has it"
            return StatusError(Code.INTERNAL, reason)


def name_of(request: RequestReceived) -> str:
    """`service/method` for texts, cut to a length that is one."""
    return f"{request.service}/{request.method}"[:_NAME_LIMIT]
