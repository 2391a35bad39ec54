"""What lies between the splice and a link, so that a link may break without the shim or the agent losing a byte.

    unix ──► splice ──► wrap ────► link       records.Records   our own guest: every byte exactly once
    unix ◄── splice ◄── unwrap ◄── link       reissue.Reissue   a stock guest: requests that bear it are repeated

Sans-io. A carrier outlives its links: it remembers what may have been lost with the last one.
"""

from collections.abc import Sequence
from typing import Protocol

from adaptor.errors import AdaptorError
from adaptor.relay.splice import Piece


class CarrierFault(AdaptorError):
    """The other end does what no sound one would: the link is of no use, nor is resuming it."""


class Carrier(Protocol):
    """One connection's bytes over any number of links, one after the other."""

    @property
    def full(self) -> bool:
        """So much has not been confirmed by the other end that nothing more should be taken from the unix peer."""
        ...

    @property
    def owes(self) -> bool:
        """`acknowledge` should be sent: the other end waits, and no data has gone its way that could tell it."""
        ...

    def wrap(self, pieces: Sequence[Piece]) -> bytes:
        """The bytes for the link that bring `pieces` to the other end; remembered as long as they may be lost."""
        ...

    def unwrap(self, data: memoryview) -> Sequence[memoryview]:
        """What came for the unix peer with these bytes of the link. Raises CarrierFault."""
        ...

    def acknowledge(self) -> bytes:
        """The bytes for the link that tell the other end what has arrived."""
        ...
