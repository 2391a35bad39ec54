"""A pod's network in its sandbox's life: numbered before a VM is paid for, open before Bind, joined before the pod runs.

    inspect ─► launch, reach ─► open ─► Bind: the VM's half there, its answer back ─► connect        undo: remove
    journal                     journal                                    journal

What the journal says of a tunnel is always enough to take it away: an intent is written before its deed, a new one only
when what the old one named is gone.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from google.protobuf.message import DecodeError

from adaptor.catalog import wishes
from adaptor.errors import AdaptorError, InvalidRequest, NetworkFailed, StartFailed, Unavailable
from adaptor.podnet import apf as stock
from adaptor.podnet import egress
from adaptor.podnet.plan import Egress, Tunnel, VniTaken
from adaptor.protos import guest_pb2
from adaptor.sandbox.model import NetworkIntended
from adaptor.sandbox.patience import whole
from adaptor.sandbox.work import Work
from adaptor.telemetry.spans import span

# Numbers that another program has are found one by one, a few milliseconds each.
_TRIES: Final = 64
# Seconds until a frame must have come back from a VM whose half stands: a lost packet or a WireGuard handshake takes a
# second or two, and a firewall that drops them all lets nothing through later either.
_CONNECT: Final = 10.0


async def inspect(work: Work) -> None:
    """Look at the pod's network, and number its tunnel: one that no VM could have is refused before any is paid for."""
    _egress(work)
    if work.state.network is None:
        await _intend(work)


async def open_tunnel(work: Work) -> None:
    """Make this node's end of the tunnel, which lets in the VM and nobody else; nothing of the pod's passes yet."""
    with span(work.log, "network.open") as note:
        tunnel = await _opened(work)
        note.note(**fields(tunnel))
    if work.rooms.guest.flavor == "upstream":  # its end stands since it booted
        await connect(work)


async def plan(work: Work) -> bytes:
    """The VM's half, for Bind."""
    assert work.state.network is not None, "it is open"
    outward, imds = _egress(work)
    with span(work.log, "network.plan", imds=imds, **fields(work.state.network)) as note:
        with _told():
            made = await work.rooms.networks.plan(work.state.network, outward, imds=imds)
        note.note(mtu=_mtu_of(made))
    return made


async def apf(work: Work) -> dict[str, Any]:
    """The VM's half, for a stock image's user-data."""
    assert work.state.network is not None, "the pod's network was looked at"
    outward, _ = _egress(work)
    return stock.leaving(await work.rooms.networks.apf(work.state.network), outward)


async def join(work: Work, answer: bytes) -> None:
    """Go on with what the VM has answered to Bind: its half stands. `answer`: a guest.BindResponse. Raises StartFailed."""
    tunnel = work.state.network
    assert tunnel is not None, "it is open"
    try:
        said = guest_pb2.BindResponse.FromString(answer).network
    except DecodeError as error:
        raise StartFailed(f"the VM {work.state.instance_id} answered Bind with what is no BindResponse") from error
    if not said:
        raise NetworkFailed(
            f"the VM {work.state.instance_id} was bound and said nothing of the pod's network: pod VM image, relay and "
            "adaptor are of versions that do not fit"
        )
    with _told():
        told = work.rooms.networks.answered(tunnel, said)
    if told != tunnel:
        await work.record(NetworkIntended(told))
    await connect(work)


async def connect(work: Work) -> None:
    """Let the pod's traffic into the tunnel, and see that it reaches the VM."""
    tunnel = work.state.network
    assert tunnel is not None, "it is open"
    with span(work.log, "network.connect", **fields(tunnel)), _told():
        await work.rooms.networks.connect(tunnel, min(_CONNECT, work.time_left()))


async def remove_tunnel(work: Work) -> None:
    """Take away this node's end of the tunnel, however far it came."""
    if work.state.network is not None:
        await work.rooms.networks.remove(work.state.network)


def check_guest(work: Work, hello: guest_pb2.HelloResponse) -> None:
    """Raises StartFailed for a guest that cannot have the pod's network, before anything is made for it."""
    if not hello.network:
        raise NetworkFailed(
            f"the pod VM image ({hello.version or 'of no version'}) is too old to have the pod's network: it would use "
            "its VM's own. Make a new one from this version, and have the cloud's settings name it"
        )
    if work.state.network is not None and work.state.network.encrypted and not hello.wireguard:
        raise NetworkFailed(
            "network.encryption is required, and the pod VM cannot encrypt: its kernel has no WireGuard and its image "
            f"({hello.version}) no wireguard-go. Use an image that has one of them. Nothing was sent unencrypted"
        )


def fields(tunnel: Tunnel) -> dict[str, Any]:
    """For the log: which tunnel it is."""
    vnis = ",".join(str(cord.vni) for cord in tunnel.cords)
    return {"vni": vnis, "peer": tunnel.peer, "port": tunnel.port, "encrypted": tunnel.encrypted}


def _mtu_of(plan: bytes) -> str:
    """Of each interface in the VM, by a GuestPlan; the VM may lower it by its own path."""
    return ",".join(str(each["mtu"]) for each in json.loads(plan)["interfaces"])


def _egress(work: Work) -> tuple[Egress | None, bool]:
    return egress.egress(work.rooms.network, wishes.parse(f";{work.state.spec.wishes}"))


@contextmanager
def _told() -> Iterator[None]:
    """What is in the way of a pod's network, by one name for whoever reads of it."""
    try:
        yield
    except (InvalidRequest, StartFailed, Unavailable) as error:
        raise NetworkFailed(str(error)) from error


async def _intend(work: Work) -> None:
    await whole(_number(work))  # numbers that are drawn are written down, or given back


async def _number(work: Work) -> None:
    networks = work.rooms.networks
    with _told():
        tunnel = await networks.intend(work.state.spec.netns)
    try:
        await work.record(NetworkIntended(tunnel))
    except AdaptorError:
        await networks.remove(tunnel)
        raise


async def _opened(work: Work) -> Tunnel:
    networks, taken = work.rooms.networks, list[str]()
    for _ in range(_TRIES):
        tunnel = await _reached(work)
        try:
            with _told():
                await networks.open(tunnel)
        except VniTaken as error:
            await networks.remove(tunnel)  # the cords before that one were made
            if work.rooms.guest.flavor == "upstream":
                raise NetworkFailed(f"{error}. The VM was told this number when it was launched: try again") from error
            taken.append(fields(tunnel)["vni"])
            work.log.warning("a tunnel's number is taken by another program; trying others", **fields(tunnel))
            await _intend(work)
        else:
            return tunnel
    raise NetworkFailed(
        f"no number was free for the pod's tunnel: other programs of this node use {', '.join(taken)} on UDP port "
        f"{tunnel.port}. Set network.first_vni to where free numbers begin, or network.vxlan_port to another port"
    )


async def _reached(work: Work) -> Tunnel:
    """With the two ends' addresses, written down."""
    tunnel = work.state.network
    assert tunnel is not None, "the pod's network was looked at before the launch"
    host = work.state.address.rpartition(":")[0].strip("[]")
    with _told():
        placed = await work.rooms.networks.reached(tunnel, host)
    if placed != tunnel:
        await work.record(NetworkIntended(placed))
    return placed
