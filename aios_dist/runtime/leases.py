"""The leases of one worker: renewed together, on the loop that runs the calls.

On that loop on purpose: a loop that hangs renews nothing, so its steps go to other workers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aios_dist.errors import FleetUnavailable
from aios_dist.journal import Claim, Journal
from aios_dist.runtime.outage import Outage

logger = logging.getLogger("aios_dist.leases")


class Leases:
    """What this worker holds.

    Attributes:
        held: each lease and the asyncio task that works on it.
        outage: what is said while Redis is away; whoever cannot write tells it.
    """

    def __init__(self, journal: Journal) -> None:
        self.outage = Outage()
        self.held: dict[str, tuple[Claim, asyncio.Task[object]]] = {}
        self._journal = journal

    def add(self, claim: Claim, task: asyncio.Task[object]) -> None:
        """A step was claimed."""
        self.held[claim.lease] = (claim, task)

    def remove(self, claim: Claim) -> None:
        """The step was committed or given back."""
        self.held.pop(claim.lease, None)

    def cancel(self, job: str, step: str) -> bool:
        """The job has ended: stop the call, if it is ours."""
        for claim, task in self.held.values():
            if (claim.job, claim.step) == (job, step):
                task.cancel("job ended")
                return True
        return False

    async def renew(self) -> None:
        """One round trip for all. A lost lease is only reported: the answer may still be wanted."""
        if not self.held:
            return
        lost = [self.held[lease][0] for lease in await self._journal.renew(self.held) if lease in self.held]
        if not lost:
            return
        for claim in await self._journal.regain(lost):
            if claim.lease in self.held:
                logger.warning(
                    "The lease %s has ended; its answer counts only if nobody took the step.", claim.lease
                )

    async def keep(self, every: float, also: Callable[[], object]) -> None:
        """Renew for ever. ``also`` is awaited at each beat (the worker's own sign of life)."""
        while True:
            await asyncio.sleep(every)
            try:
                await self.renew()
                beat = also()
                if asyncio.iscoroutine(beat):
                    await beat
                self.outage.over()
            except FleetUnavailable as exc:
                self.outage.away(exc)
