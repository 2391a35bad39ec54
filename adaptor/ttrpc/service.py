"""A service: its handlers by method name, from request bytes to response bytes."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from adaptor.errors import Code, StatusError
from adaptor.ttrpc.messages import Metadata
from adaptor.ttrpc.unix import Peer

NAME_LIMIT: Final = 200  # characters of a call's name in texts: it is the client's, and may have millions


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
            raise StatusError(Code.UNIMPLEMENTED, f"{self.name} has no method {call.method[:NAME_LIMIT]} here")
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
