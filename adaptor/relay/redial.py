"""Reaching a VM again whose link broke, and going on where both ends stood.

dial (the VM's own certificate only) ─► Resume ─► what to send first on the new link
└── nobody there, cut: again, until the grace is over; another VM, or one that refuses: no use in trying again
"""

import asyncio
from hashlib import sha256
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from adaptor.errors import AdaptorError, LinkLost, StatusError
from adaptor.protos.guest_pb2 import ResumeRequest, ResumeResponse
from adaptor.protos.relay_pb2 import DialRequest, DialResponse
from adaptor.relay.carrier import CarrierFault
from adaptor.relay.link import GAP, GREETING, Link, NobodyThere, dial
from adaptor.relay.records import Records
from adaptor.relay.reissue import Reissue
from adaptor.telemetry.logs import Log
from adaptor.ttrpc.connection import ProtocolError

# Seconds that a VM is looked for where the adaptor names none: as its setting `guest.link_grace`.
_GRACE: Final = 120.0


class Resumed(NamedTuple):
    """A link in place of the broken one. `first` goes to the VM before all else, `answers` to the shim."""

    link: Link
    first: bytes = b""
    answers: bytes = b""


def same_vm(request: DialRequest, response: DialResponse, timeout: float) -> DialRequest:
    """A request that reaches only the VM that answered this one."""
    again = DialRequest()
    again.CopyFrom(request)
    again.timeout = timeout
    if again.HasField("own"):
        again.own.pinned_sha256 = sha256(response.certificate).digest()
    return again


async def resume(request: DialRequest, carrier: Records | Reissue, why: str, address: str, log: Log) -> Resumed:
    """Dial and resume until it succeeds, for `request.link_grace` seconds at most; `why` the last link broke.

    Raises LinkLost with what the pod's owner should know. Cancel-safe: no socket is left behind.
    """
    loop = asyncio.get_running_loop()
    grace = request.link_grace or _GRACE
    deadline = loop.time() + grace
    last = ""
    while (left := deadline - loop.time()) > 0:
        request.timeout = left
        try:
            link = await dial(request)
        except NobodyThere as error:
            last = error.last
            break
        except AdaptorError as error:
            raise LinkLost(f"the link to the VM at {address} broke ({why}) and cannot be resumed: {error}") from error
        try:
            return await _take_up(link, request.sandbox_id, carrier)
        except (OSError, ProtocolError) as error:
            last = f"{link.address}: {no_answer(error)}"
            log.info("a VM was reached again, and its link broke before it could be resumed", reason=last)
        except (StatusError, CarrierFault, DecodeError) as error:
            raise LinkLost(
                f"the link to the VM at {address} broke ({why}); the VM was reached again, but its agent's connection"
                f" cannot be resumed: {error}"
            ) from error
        await asyncio.sleep(GAP)
    raise LinkLost(
        f"the VM at {address} could not be reached for {grace:g} s after its link broke ({why}; last attempt: {last})."
        " Check that the VM is alive and its network lets this node in"
    )


async def _take_up(link: Link, sandbox_id: str, carrier: Records | Reissue) -> Resumed:
    try:
        if isinstance(carrier, Reissue):
            return Resumed(link, *carrier.resume())
        ask = ResumeRequest(sandbox_id=sandbox_id, received=carrier.received)
        answer = ResumeResponse.FromString(await link.call("Resume", ask.SerializeToString(), GREETING))
        return Resumed(link, carrier.resume(answer.received))
    except BaseException:
        link.tls.close()
        raise


def no_answer(error: Exception) -> str:
    """What became of a control call that the VM did not answer."""
    return "no answer in time" if isinstance(error, TimeoutError) else str(error)
