"""Time-outs that are just to a worker that stood still, and what stands still is noticed.

A process is paused (a live migration, SIGSTOP, a machine that swaps) and goes on: all deadlines that fell
into the pause are due at once, while the answers lie in its sockets. So one that fires late first lets the
loop read; and what fails in a call that saw such a pause says nothing of the model.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

logger = logging.getLogger("aios_dist.limits")

LATE_S = 0.5
"""A timer that comes so much later than it was due: the loop stood still."""

GRACE_S = 2.0
"""For reading, after that."""

BEAT_S = 0.25


def stood_still(due: float, now: float) -> bool:
    """Whether a timer was late by more than a busy loop makes it."""
    return now - due > LATE_S


class Limit:
    """As ``asyncio.timeout``: ``async with Limit(3.0) as limit``; after a standstill it waits a little.

    Args:
        seconds: for all.
        pause: seconds between two calls of :meth:`heard`, from the first one on; 0: no limit.

    Attributes:
        expired: what is over: ``"timeout"``, ``"pause"``, or "".

    Raises:
        TimeoutError: at the end of the block, where it is over.
    """

    def __init__(self, seconds: float, pause: float = 0.0) -> None:
        self.expired = ""
        self._seconds, self._pause = seconds, pause
        self._heard: float | None = None
        self._granted = 0.0

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + self._seconds
        self._inner = asyncio.timeout(None)
        await self._inner.__aenter__()
        self._timer = self._loop.call_at(self._end, self._look, self._end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._inner.__aexit__(kind, error, trace)

    def heard(self) -> None:
        """Something came: the pause begins anew."""
        first, self._heard = self._heard is None, self._loop.time()
        if first and self._pause:
            self._arm()

    def _arm(self) -> None:
        self._timer.cancel()
        due = max(min(self._end, self._quiet()), self._granted)
        self._timer = self._loop.call_at(due, self._look, due)

    def _quiet(self) -> float:
        return float("inf") if self._heard is None or not self._pause else self._heard + self._pause

    def _look(self, due: float) -> None:
        now = self._loop.time()
        if stood_still(due, now):
            self._granted = now + GRACE_S
        if now < max(min(self._end, self._quiet()), self._granted):
            self._arm()
            return
        self.expired = "timeout" if now >= self._end else "pause"
        self._inner.reschedule(now)


class Stillness:
    """Notices when its loop stood still.

    Attributes:
        ended: when it went on last, by the loop's clock.
        count: how often it did.
        late: seconds by which it was late when it was looked at last.
    """

    def __init__(self) -> None:
        self.ended = float("-inf")
        self.count = 0
        self.late = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look, from now on."""
        self._loop = asyncio.get_running_loop()
        self._beat(None)

    def _beat(self, due: float | None) -> None:
        now = self._loop.time()
        self.late = now - due if due is not None else 0.0
        if due is not None and stood_still(due, now):
            self.ended = now
            self.count += 1
            logger.warning("This worker stood still for %.1f s; it goes on.", now - due)
        self._timer = self._loop.call_at(now + BEAT_S, self._beat, now + BEAT_S)

    def since(self, begun: float) -> bool:
        """Whether what began then (by the loop's clock) has seen it."""
        return self.ended > begun

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
