"""Moves bytes between a unix socket and a TLS link: the hot path of relay and guest.

    unix ──recv_into──► shared buffer ──► splice.requests ──► carrier.wrap ────► link      at the guest requests and
    unix ◄─────── splice.responses ◄── carrier.unwrap ◄── shared buffer ◄─recv── link      responses go the other way

Readiness callbacks on non-blocking sockets: no task, no transport, and no copy while the unix peer takes what comes.
What a side does not take is kept (one buffer at most, and a held frame), and nothing is read for it until that has gone.

Ends. The unix peer closes: what it sent goes on, then close_notify; answers under way are still delivered for a while,
or dropped where nobody is left. The link ends in order: what came of it reaches the unix peer, then its socket is
closed. The link breaks: the unix peer hears nothing of it, and another link takes its place (`attach`).
"""

import asyncio
import enum
import select
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from adaptor.protos.handover_pb2 import HandedPump
from adaptor.relay import tls
from adaptor.relay.carrier import Carrier, CarrierFault
from adaptor.relay.readiness import READ, WRITE, readiness
from adaptor.relay.splice import Piece, Splice

# One for the process: callbacks run one after the other, and what must outlive a callback is copied. The size is more
# than a unix socket holds and 16 TLS records: however busy a tunnel is, it moves no more than this in one go.
_BUFFER: Final = memoryview(bytearray(256 << 10))
# What one record holds, and so one read of the link brings, at most. With this much room a read never leaves part of a
# record behind in OpenSSL, where no readiness event would tell of it.
_RECORD: Final = 16 << 10
_LAST_READ: Final = len(_BUFFER) - _RECORD
# Seconds that a link gets to end after its unix peer has: for the last answers, and for the VM to close its side.
_LINGER: Final = 5.0
# Either may come of sending and of receiving. OpenSSL has no need to cross them (it answers a change of keys with its
# next bytes), and if it had, both directions are tried again soon enough.
_NOT_NOW: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Side(enum.Enum):
    UNIX = "unix"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class End:
    """Which side ended first, and why, for people."""

    side: Side
    reason: str


class Pump:
    """Owns a connected, non-blocking unix socket, and one link at a time. Needs a running loop.

    `ended` is called once, when everything that the ended side had sent is on its way, or given up on; the pump closes
    both sockets by itself. `broke` is called whenever a link has broken: it is closed by then, and until the next one
    is attached the unix peer is read only as far as the carrier keeps what comes.
    """

    def __init__(
        self,
        unix: socket.socket,
        carrier: Carrier,
        splice: Splice,
        ended: Callable[[End], None],
        broke: Callable[[End], None],
        requests_from: Side = Side.UNIX,
    ) -> None:
        self.bytes_to_link = 0  # of the unix peer's, however often they had to be sent
        self.bytes_from_link = 0
        self._unix = unix
        self._link: ssl.SSLSocket | None = None
        self._carrier = carrier
        self._splice = splice
        self._requests_from = requests_from
        feeds = splice.requests, splice.responses
        self._from_unix, self._from_link = feeds if requests_from is Side.UNIX else feeds[::-1]
        self._ended: Callable[[End], None] | None = ended
        self._broke = broke
        self._unix_out = bytearray()  # what the unix peer did not take yet
        self._link_out = bytearray()
        self._unix_end: End | None = None
        self._link_end: End | None = None
        self._unix_deaf = False  # takes nothing any more; its end is found by reading, after what it sent before
        self._link_deaf = False
        self._goodbye = False  # close_notify has been sent
        self._closed = False
        self._frozen = False
        self._readiness = readiness()
        self._unix_watched = 0
        self._link_watched = 0

    def attach(self, link: ssl.SSLSocket, first: bytes = b"", answers: bytes = b"") -> None:
        """Take this link, in place of any other; it is at the start of what the carrier's other end sends.

        `first` goes out before all else. `answers`: whole frames for who asks, of requests that got lost.
        """
        self._drop_link()
        if self._closed:
            link.close()
            return
        self._link = link
        self._to_link(first)
        self._splice.answers += answers
        self._answer()
        self._settle()
        self._link_readable()  # a handshake may have left bytes in OpenSSL

    def detach(self) -> None:
        """Drop the link at once, as if it had broken, but without a word to anybody."""
        self._drop_link()
        self._settle()

    def give_up(self, reason: str) -> None:
        """No other link will come: what came of the last still reaches the unix peer, then it is closed and told."""
        self._link_end = End(Side.LINK, reason)
        self._drop_link()
        self._settle()

    def answer_watched(self) -> None:
        """Answer from here what the splice watches, as the link cannot bring the answers now."""
        self._splice.answer_watched()
        self._answer()

    def freeze(self) -> None:
        """Touch neither side until `thaw`, so that another process may go on with what `export` tells."""
        self._frozen = True
        self._settle()

    def thaw(self) -> None:
        """As if nothing had been."""
        self._frozen = False
        self._settle()

    def export(self) -> HandedPump:
        """Both directions as they stand; the carrier's part is the caller's to add."""
        return HandedPump(
            splice=self._splice.export(),
            to_shim=bytes(self._unix_out),
            bytes_to_link=self.bytes_to_link,
            bytes_from_link=self.bytes_from_link,
        )

    def restore(self, state: HandedPump) -> None:
        """Go on where another process's pump stood; before anything is attached."""
        self._splice.restore(state.splice)
        self._unix_out += state.to_shim
        self.bytes_to_link, self.bytes_from_link = state.bytes_to_link, state.bytes_from_link

    def start(self) -> None:
        """Serve the unix peer, with a link or without."""
        self._settle()

    def close(self) -> None:
        """Close both sides at once, nothing is called any more. May be repeated."""
        self._ended = None
        if self._link and not (self._closed or self._goodbye):
            with suppress(OSError):
                self._link.unwrap()
        self._finish()

    def _unix_readable(self) -> None:
        try:
            size = self._unix.recv_into(_BUFFER)
        except BlockingIOError:
            return
        except OSError as error:
            self._unix_ended(error.strerror or str(error))
            return
        if not size:
            self._unix_ended("closed by its peer")
            return
        self.bytes_to_link += size
        self._carry(self._from_unix(_BUFFER[:size]))
        self._answer()
        if not self._link_watched & READ:
            self._settle()

    def _link_readable(self) -> None:
        link = self._link
        if link is None or self._unix_out or self._link_end or self._frozen:
            return
        size = 0
        broken: OSError | None = None
        try:
            while size <= _LAST_READ:
                got = link.recv_into(_BUFFER[size:])
                if not got:
                    self._link_end = link_end(None)
                size += got
                if got < _RECORD:
                    break
        except _NOT_NOW:
            pass
        except ssl.SSLZeroReturnError:
            self._link_end = link_end(None)
        except OSError as error:
            broken = error
        if size:
            self._bring(_BUFFER[:size])
        if broken is not None:
            self._break(link_end(broken))
        elif self._link_end or not self._unix_watched & READ:
            self._settle()

    def _bring(self, data: memoryview) -> None:
        """What the link brought."""
        try:
            for part in self._carrier.unwrap(data):
                self.bytes_from_link += len(part)
                for piece in self._from_link(part):
                    self._to_unix(piece)
        except CarrierFault as error:
            self._link_end = End(Side.LINK, str(error))
            return
        self._answer()
        if self._carrier.owes:
            self._to_link(self._carrier.acknowledge())

    def _carry(self, pieces: Sequence[Piece]) -> None:
        """What the other end of the link must get."""
        if not pieces:
            return
        self._to_link(self._carrier.wrap(pieces))
        if self._carrier.full:
            self._settle()

    def _to_link(self, data: Piece) -> None:
        link = self._link
        if link is None or self._link_deaf or not data:
            return
        if not self._link_out:
            try:
                while (sent := link.send(data)) < len(data):
                    data = memoryview(data)[sent:]
                return
            except _NOT_NOW:
                pass
            except OSError:
                self._link_deaf = True
                self._settle()
                return
        self._link_out += data
        self._settle()

    def _link_writable(self) -> None:
        link, out = self._link, self._link_out
        try:
            while link and out:
                del out[: link.send(out)]
        except _NOT_NOW:
            return
        except OSError:
            self._link_deaf = True
            out.clear()
        self._settle()

    def _to_unix(self, data: Piece) -> None:
        if self._unix_deaf or not data:
            return
        if not self._unix_out:
            try:
                sent = self._unix.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._unix_deaf = True
                return
            if sent == len(data):
                return
            data = data[sent:]
        self._unix_out += data
        self._settle()

    def _unix_writable(self) -> None:
        out = self._unix_out
        try:
            while out:
                del out[: self._unix.send(out)]
        except BlockingIOError:
            return
        except OSError:
            self._unix_deaf = True
            out.clear()
        self._settle()

    def _both_of_unix(self) -> None:
        self._unix_writable()
        if not self._closed:
            self._unix_readable()

    def _both_of_link(self) -> None:
        self._link_writable()
        self._link_readable()

    def _answer(self) -> None:
        if self._splice.answers:
            answers = self._splice.take_answers()
            if self._requests_from is Side.UNIX:
                self._to_unix(answers)
            elif answers:
                self._carry((answers,))
            self._settle()

    def _unix_ended(self, reason: str) -> None:
        self._unix_end = End(Side.UNIX, reason)
        asyncio.get_running_loop().call_later(_LINGER, self._finish)
        self._settle()

    def _break(self, end: End) -> None:
        """The link is of no use any more; what it may have lost is the carrier's to know."""
        self._drop_link()
        if self._unix_end:
            self._finish()
        elif not self._closed:
            self._settle()
            self._broke(end)

    def _drop_link(self) -> None:
        if self._link is not None:
            self._readiness.watch(self._link.fileno(), 0, self._finish)
            self._link.close()
        self._link = None
        self._link_watched = 0
        self._link_deaf = False
        self._link_out.clear()

    def _settle(self) -> None:
        """Do what has become due by what just happened, then wait for exactly what can go on.

        Runs only when something is in the way or has ended.
        """
        if self._unix_end and not self._frozen:
            if self._link is None:
                self._finish()
            elif not (self._goodbye or self._link_out or self._closed or _is_readable(self._link)):
                self._say_goodbye(self._link)
        if self._link_end and not self._unix_out:
            self._finish()
        if not self._closed:
            self._watch_unix()
            self._watch_link()

    def _say_goodbye(self, link: ssl.SSLSocket) -> None:
        """End our direction of the link, and stay to hear the rest of the other.

        Only while nothing can be read from it: unwrap reads too, and takes an answer for a breach of protocol.
        """
        self._goodbye = True
        try:
            link.unwrap()
            self._link_end = self._link_end or link_end(None)
        except OSError:
            pass  # want-read: said, and not answered yet; anything else shows in the next read
        self._report()

    def _watch_unix(self) -> None:
        reads = not (
            self._unix_end
            or self._link_out
            or self._link_deaf
            or self._carrier.full
            or self._owes_answers(Side.UNIX)
            or self._frozen
        )
        writes = bool(self._unix_out) and not self._frozen
        wanted = reads * READ | writes * WRITE
        if wanted != self._unix_watched:
            self._unix_watched = wanted
            either = self._unix_writable if writes else self._unix_readable
            self._readiness.watch(self._unix.fileno(), wanted, self._both_of_unix if reads and writes else either)

    def _watch_link(self) -> None:
        if self._link is None:
            return
        reads = not (self._link_end or self._unix_out or self._owes_answers(Side.LINK) or self._frozen)
        writes = bool(self._link_out) and not self._frozen
        wanted = reads * READ | writes * WRITE
        if wanted != self._link_watched:
            self._link_watched = wanted
            either = self._link_writable if writes else self._link_readable
            self._readiness.watch(self._link.fileno(), wanted, self._both_of_link if reads and writes else either)

    def _owes_answers(self, side: Side) -> bool:
        """Answers are made of requests: who does not read a buffer full of them is not asked for more."""
        if side is not self._requests_from:
            return False
        waiting = len(self._unix_out if side is Side.UNIX else self._link_out)
        return waiting + len(self._splice.answers) > len(_BUFFER)

    def _report(self) -> None:
        end = self._unix_end or self._link_end
        if self._ended and end:
            ended, self._ended = self._ended, None
            ended(end)

    def _finish(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._drop_link()
        self._readiness.watch(self._unix.fileno(), 0, self._finish)
        self._unix.close()
        self._report()


def _is_readable(link: ssl.SSLSocket) -> bool:
    poll = select.poll()
    poll.register(link, select.POLLIN)
    return bool(poll.poll(0))


def link_end(error: OSError | None) -> End:
    """What an error of the link means, or its orderly end (None)."""
    match error:
        case None | ssl.SSLZeroReturnError():
            reason = "closed in order by the other end"
        case ssl.SSLEOFError() if error.reason:
            reason = "ended without a goodbye, as when the other end's program is killed"
        case ssl.SSLEOFError():  # Python up to 3.12 says no more of an error of the socket
            reason = "broken: reset, or no answer from the other end's machine for too long"
        case ssl.SSLError(reason=tls.CUT):  # early Pythons of 3.11
            reason = "ended without a goodbye, as when the other end's program is killed"
        case ssl.SSLError():
            reason = f"TLS failed: {error.reason or error}"
        case _:
            reason = f"broken: {error.strerror or error}"
    return End(Side.LINK, reason)
