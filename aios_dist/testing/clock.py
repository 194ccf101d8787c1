"""A clock that moves only when a test says so."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class FakeClock:
    """Stands in for ``time.time``/``time.monotonic`` (call it) and for ``asyncio.sleep`` (``sleep``).

    All times are seconds. Not for use from several threads.
    """

    def __init__(self, start: float = 1_000.0) -> None:
        # Not 0.0: code that takes "no time yet" and "time zero" for the same thing should not pass by luck.
        self._now = float(start)
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._tie = itertools.count()

    def now(self) -> float:
        """The time in seconds."""
        return self._now

    __call__ = now

    @property
    def sleepers(self) -> int:
        """How many ``sleep`` calls are waiting."""
        return sum(not future.done() for _, _, future in self._sleepers)

    def advance(self, seconds: float) -> None:
        """Move ``seconds`` forward and wake every sleeper that is due, the earliest first.

        The woken coroutines run when the event loop next gets its turn.
        """
        if seconds < 0:
            raise ValueError(f"a clock does not run backwards: advance({seconds:g})")
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)

    async def sleep(self, seconds: float) -> None:
        """Return once the clock has been moved ``seconds`` on; at the loop's next turn if not positive."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._tie), future))
        await future

    async def run_for(self, seconds: float, turns: int = 10) -> None:
        """Move ``seconds`` forward in stops, one at each sleeper's time, so that who wakes may sleep again.

        ``turns``: how often the event loop may run at each stop before the clock moves on.
        """
        end = self._now + seconds
        await _let_run(turns)
        while self._sleepers and self._sleepers[0][0] <= end:
            self.advance(max(0.0, self._sleepers[0][0] - self._now))
            await _let_run(turns)
        self.advance(max(0.0, end - self._now))
        await _let_run(turns)


async def _let_run(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
