"""Whose turn it is to lead, told from the Lease. Pure.

Clocks of different machines are never compared: what counts is for how long *this* process has seen the Lease
unchanged, on its own monotonic clock. The leader counts from the moment before it sent its renewal, so it stops before
anybody who saw that renewal later may begin.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

# Parts of the Lease's duration. The leader stops acting when it could not renew for the first of them: the rest, five
# seconds of fifteen, is for its calls under way to end. It renews five times within that.
DEADLINE: Final = 2 / 3
RETRY: Final = 2 / 15


@dataclass(frozen=True, slots=True)
class Record:
    """What the Lease says."""

    holder: str = ""
    duration: float = 0.0  # seconds
    renewed: str = ""  # RFC 3339, by the holder's clock: never compared with ours
    transitions: int = 0
    version: str = ""  # resourceVersion


@dataclass(frozen=True, slots=True)
class Sighting:
    """A record, and when (monotonic seconds) this process first saw it so."""

    record: Record
    at: float


def read(lease: Mapping[str, Any]) -> Record:
    """The record of a Lease object; nonsense in it is as good as nothing."""
    spec = lease.get("spec") or {}
    duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    return Record(
        holder=str(spec.get("holderIdentity") or ""),
        duration=float(duration) if isinstance(duration, int) and duration > 0 else 0.0,
        renewed=str(spec.get("renewTime") or ""),
        transitions=transitions if isinstance(transitions, int) else 0,
        version=str((lease.get("metadata") or {}).get("resourceVersion") or ""),
    )


def seen(last: Sighting | None, record: Record, now: float) -> Sighting:
    """`last` if nothing was renewed or taken over since then."""
    if last is not None and replace(last.record, version=record.version) == record:
        return replace(last, record=record)
    return Sighting(record, now)


def may_take(sighting: Sighting, me: str, now: float) -> bool:
    """Whether `me` may lead: nobody does, `me` does, or the leader was not heard of for as long as it promised."""
    record = sighting.record
    return record.holder in ("", me) or now - sighting.at >= record.duration


def spec(record: Record, me: str, duration: float, stamp: str) -> dict[str, Any]:
    """The Lease's spec with `me` as the leader since or still; `stamp` is the time now, RFC 3339 with microseconds."""
    told: dict[str, Any] = {"holderIdentity": me, "leaseDurationSeconds": math.ceil(duration), "renewTime": stamp}
    if record.holder == me:
        return told
    return {**told, "acquireTime": stamp, "leaseTransitions": record.transitions + 1}


def released(stamp: str) -> dict[str, Any]:
    """The spec that lets anybody lead at once."""
    return {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": stamp}
