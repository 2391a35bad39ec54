"""Whether this node can carry pods' networks at all: tried in a namespace that goes at once, touching no other."""

import threading
from typing import Final

from adaptor.errors import AdaptorError, Unavailable
from adaptor.podnet import namespaces, operations
from adaptor.podnet.operations import AddVxlan
from adaptor.podnet.plan import Cord, Tunnel
from adaptor.podnet.worker import Worker

# Addresses for documentation: nothing is ever sent.
_PEER, _OURS = "192.0.2.1", "192.0.2.2"
_INTERFACE: Final = AddVxlan("eth0", 2, 4790, _PEER, _OURS)  # stands in for a pod's


def attempt(port: int) -> None:
    """Make one tunnel on UDP `port`, and take it away. Blocks, for 10 ms. Raises: Unavailable, saying what this node
    lacks."""
    failed: list[AdaptorError] = []

    def make() -> None:
        try:
            namespaces.leave_for_a_new_one()
            _make(port)
        except OSError as error:
            failed.append(
                Unavailable(f"{error.strerror}. The adaptor needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN")
            )
        except AdaptorError as error:
            failed.append(error)

    thread = threading.Thread(target=make, name="netns")  # it cannot come back from there
    thread.start()
    thread.join()
    if failed:
        raise Unavailable(f"pods can have no network on this node: {failed[0]}") from failed[0]


def _make(port: int) -> None:
    here = f"/proc/self/task/{threading.get_native_id()}/ns/net"
    tunnel = Tunnel(here, port, (Cord("eth0", 1, "vxlan1"),), _PEER, _OURS)
    worker = Worker(None)
    try:
        worker.carry_out(tunnel, [_INTERFACE])
        worker.carry_out(tunnel, [*operations.opening(tunnel, _OURS), *operations.connecting(tunnel, "")])
        worker.undo(tunnel, operations.removing(tunnel, ""))
    finally:
        worker.close()
