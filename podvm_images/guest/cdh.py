"""The confidential data hub, as far as volumes need it: it opens a LUKS2 disk with a key that attestation releases."""

import asyncio
from typing import Final

from adaptor import names
from adaptor.errors import Code, StatusError
from adaptor.protos.cdh_pb2 import SecureMountRequest, SecureMountResponse
from adaptor.ttrpc.aio import Client

_LOOK: Final = 0.2  # seconds between two tries to reach it: it starts on Bind, beside the agent


async def secure_mount(socket: str, options: dict[str, str], mount_point: str, timeout: float) -> None:
    """Have it mount a block device at `mount_point`. Raises StatusError with its reason, or after `timeout` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    client = await _reach(socket, deadline)
    request = SecureMountRequest(volume_type="block-device", options=options, mount_point=mount_point)
    try:
        left = max(0.1, deadline - loop.time())
        await client.call(names.SECURE_MOUNT_SERVICE, "SecureMount", request, SecureMountResponse, left)
    except StatusError as error:
        raise StatusError(
            error.code, f"the confidential data hub cannot open it with the key {options['key']}: {error.message}"
        ) from error
    finally:
        await client.aclose()


async def _reach(socket: str, deadline: float) -> Client:
    loop = asyncio.get_running_loop()
    while True:
        try:
            return await Client.connect_unix(socket)
        except StatusError as error:
            if loop.time() + _LOOK > deadline:
                raise StatusError(
                    Code.UNAVAILABLE, f"the confidential data hub does not answer at {socket}: {error.message}"
                ) from error
        await asyncio.sleep(_LOOK)
