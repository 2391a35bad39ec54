"""grpc.AgentService and grpc.Health: from each call to the part that does it, and errors to statuses kata knows.

NOT_FOUND for an unknown process, INVALID_ARGUMENT for an unknown container, INTERNAL for the rest, as kata-agent has
it; what this agent does not do at all is UNIMPLEMENTED. Calls that change something run to their end even if the
caller goes away: half a container helps nobody, and DestroySandbox takes away whole ones.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from google.protobuf.message import Message

from adaptor.errors import Code, StatusError
from adaptor.protos import agent_pb2
from adaptor.telemetry import logs
from adaptor.ttrpc.aio import Call, Handler, Service
from podvm_images.guest.development_agent import stats, storages
from podvm_images.guest.development_agent.containers import Container
from podvm_images.guest.development_agent.files import Tree
from podvm_images.guest.development_agent.processes import Process
from podvm_images.guest.development_agent.sandbox import Sandbox

log = logs.get(__name__)

VERSION: Final = "0-development"  # of kata-agent, where anybody asks: this is none
EMPTY: Final = agent_pb2.Empty()
_BLOCK_SIZE: Final = "/sys/devices/system/memory/block_size_bytes"  # hexadecimal
