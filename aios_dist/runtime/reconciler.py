"""The reconciler: what a crash left between two writes moves again.

Every worker has one, one at a time works, under a lock with a time to live. Its pass is bounded, so it does
not grow with the number of waiting steps.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aios_dist.broker import Tickets, depth_commands
from aios_dist.config import Config
from aios_dist.errors import FleetUnavailable
from aios_dist.journal import Journal, Ticket
from aios_dist.runtime.outage import Outage

logger = logging.getLogger("aios_dist.reconciler")

MOST_TICKETS = 1000
"""Tickets added to a lane in one pass at the most."""

PAGE = 200
"""Entries of each kind in one call of the verb, which blocks Redis for as long as it takes."""

MOST_PAGES = 50
"""Calls in one pass."""


class Reconciler:
    """Restores invariants 4 to 6 of the design from the journal, within its period."""

    def __init__(
        self,
        config: Config,
        journal: Journal,
        tickets: Tickets,
        worker: str,
        outage: Outage | None = None,
        rank_anew: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        self._config = config
        self._journal = journal
        self._tickets = tickets
        self._worker = worker
        self._outage = outage or Outage()
        self._rank_anew = rank_anew  # steps of a lane whose rules have changed; whether there may be more
        self._in_office = False
        self._cursor = "0"
        self._lanes = config.lane_names()
        self._looking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Work for ever; a Redis that is away is waited for."""
        period = self._config.fleet.reconcile
        while True:
            pause = period
            try:
                self._in_office = await self._journal.take_reconciler(self._worker, 2 * period)
                if self._in_office:
                    pause = await self.once()
            except FleetUnavailable as exc:
                self._outage.away(exc)
            except Exception:
                logger.exception("A pass of the reconciler broke; the next one tries again.")
            await asyncio.sleep(pause)

    def look_again(self, seconds: float) -> None:
        """Something is due then, sooner perhaps than the reconciler in office expects."""
        asyncio.get_running_loop().call_later(seconds + 0.002, self._look)

    def look_again_in_office(self) -> None:
        """The same, at once, where one is enough."""
        if self._in_office:
            self._look()

    def _look(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look_once())

    async def _look_once(self) -> None:
        try:
            await self.once()  # without the lock: the verb is atomic, and two at once only share the work
        except FleetUnavailable as exc:
            self._outage.away(exc)

    async def once(self) -> float:
        """One pass.

        Returns:
            Seconds until the next one is worth while: the period, or less when something is due before.
        """
        registry = await self._journal.registry()
        lanes = registry.lanes(self._lanes)
        for _ in range(MOST_PAGES):
            reaped = await self._journal.reap(lanes, self._cursor, PAGE)
            self._cursor = reaped.cursor
            if reaped.moved:
                logger.info("Moved %d that a crash or time had left behind.", reaped.moved)
            if reaped.moved < PAGE:
                break  # else a whole machine was lost: go on at once
        await self._top_up(reaped.ready)
        more = [await self._rank_anew(lane) for lane in reaped.astray] if self._rank_anew else []
        period = self._config.fleet.reconcile
        if any(more):
            return 0.0
        if reaped.next_s is None:
            return period
        return min(period, max(0.05, reaped.next_s - await self._journal.now()))

    async def _top_up(self, ready: dict[str, int]) -> None:
        """As many tickets as ready steps, on every lane (invariant 5). A spare one is a no-op."""
        connection = self._journal.connection
        lanes = [lane for lane, count in ready.items() if count]
        depths = await asyncio.gather(*(connection.command(*c) for c in depth_commands(self._config, lanes)))
        for lane, depth in zip(lanes, depths, strict=True):
            missing = min(ready[lane] - depth, MOST_TICKETS)
            if missing > 0:
                spare = self._tickets.commands([Ticket(lane, "?", "?")] * missing)
                await asyncio.gather(*(connection.command(*c) for c in spare))
