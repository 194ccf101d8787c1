"""Whether this worker reconciles, and whether Redis' clock goes as ours does.

Redis has no clock that only goes forward, and keys with a time to live move with the one it has. So an office
does not expire: whoever holds it counts a beat, and others follow when, by their own clocks, it has stopped.
"""

from __future__ import annotations

import logging
import time
from typing import Literal, NamedTuple

from aios_dist.journal import Journal
from aios_dist.journal.office import Seat

logger = logging.getLogger("aios_dist.office")

JUMP_S = 1.0
"""Redis' clock and ours differ by more than this from one look to the next: it has jumped."""

STOPPED = 2.0
"""Periods after which a beat has stopped; looked at once a period, so an office is taken within three."""


def _elapsed() -> float:
    """Seconds on a clock that nobody sets. It goes on while the machine sleeps, where there is such a one."""
    return time.clock_gettime(_CLOCK) if _CLOCK is not None else time.monotonic()


_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class _Look(NamedTuple):
    """Redis said ``now_us`` between two times of our own clock; that many jumps were known then."""

    now_us: int
    sent: float
    got: float
    jumps: int


class Office:
    """One worker's eye on the office and on the clock.

    Args:
        journal: whose office it is.
        worker: this worker's id.
        period: seconds between two passes of the reconciler.

    Attributes:
        mine: this worker was in office when it asked last.
    """

    def __init__(self, journal: Journal, worker: str, period: float) -> None:
        self.mine = False
        self._journal = journal
        self._worker = worker
        self._period = period
        self._beat = ""
        self._beat_since = 0.0
        self._last: _Look | None = None

    async def ask(self, want: Literal["take", "look", "leave"]) -> bool:
        """Take (or keep), look at or leave the office; and put right what a jump of the clock has displaced.

        Returns:
            Whether this worker is in office. What is due may be looked for only after this.

        Raises:
            FleetUnavailable: Redis is away.
        """
        sent = _elapsed()
        stopped = self._beat if sent - self._beat_since >= STOPPED * self._period else ""
        seat = await self._journal.office(self._worker, want, stopped)
        got = _elapsed()
        if seat.beat != self._beat:
            self._beat, self._beat_since = seat.beat, got
        await self._compare(_Look(seat.now_us, sent, got, seat.jumps))
        new, self.mine = seat.mine and not self.mine, seat.mine
        if new:  # the clock may have jumped while nobody was there to see it
            await self._journal.shift(0.0, 0.0, seat.jumps)
        return self.mine

    async def _compare(self, look: _Look) -> None:
        last = self._last
        if last is not None:
            passed = (look.now_us - last.now_us) / 1e6
            least, most = look.sent - last.got, look.got - last.sent  # by our clock, since nobody knows more
            if not least - JUMP_S <= passed <= most + JUMP_S:
                jumped = passed - (least + most) / 2
                moved, jumps = await self._journal.shift(jumped, most, last.jumps)
                look = look._replace(jumps=jumps)
                logger.warning("Redis' clock has jumped by %+.1f s; %d times were put right.", jumped, moved)
        self._last = look


__all__ = ["Office", "Seat"]
