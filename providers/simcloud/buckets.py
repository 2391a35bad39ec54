"""The token bucket that clouds pace their callers with."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` tokens at most, `refill` of them back per second."""

    burst: float
    refill: float

    def scaled(self, factor: float) -> "Rate":
        """Never less than one token deep: a bucket that can not hold one would refuse everything."""
        return Rate(max(1.0, self.burst * factor), self.refill * factor)


class Bucket:
    """Starts full. `now` is any monotonic scale in seconds; the caller brings it."""

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._filled_at = now

    def holds(self, tokens: float, now: float) -> bool:
        """Whether so many could be taken now. A wish beyond the burst is met by a full bucket, as EC2 does."""
        self._fill(now)
        return self._tokens >= min(tokens, self._rate.burst)

    def take(self, tokens: float, now: float) -> None:
        """Take them; may leave a debt when `tokens` is beyond the burst."""
        self._fill(now)
        self._tokens -= tokens

    def left(self, now: float) -> int:
        """Whole tokens in it."""
        self._fill(now)
        return max(0, int(self._tokens))

    def wait(self, now: float) -> float:
        """Seconds until it holds one token."""
        self._fill(now)
        return max(0.0, (1 - self._tokens) / self._rate.refill)

    def _fill(self, now: float) -> None:
        self._tokens = min(self._rate.burst, self._tokens + (now - self._filled_at) * self._rate.refill)
        self._filled_at = now
