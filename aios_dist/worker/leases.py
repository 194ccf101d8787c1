"""The leases of one worker: renewed together, on the loop that runs the calls.

On that loop on purpose: a loop that hangs renews nothing, so its steps go to other workers. Users' code never
runs on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any, Protocol

from aios_dist.broker.messages import Tally
from aios_dist.errors import FleetUnavailable, JournalError
from aios_dist.journal import Claim, Journal

logger = logging.getLogger("aios_dist.leases")
outages = logging.getLogger("aios_dist.outage")

SOON_S = 0.1
"""After a renewal that did not get through; doubles up to the usual time between two."""

REMIND_S = 30.0
"""A long outage is mentioned again after this long."""


class Outage:
    """What a worker says of a Redis that is away: hundreds of calls may be waiting to be written."""

    def __init__(self) -> None:
        self._since = 0.0
        self._said = 0.0

    @contextlib.contextmanager
    def passes(self) -> Iterator[None]:
        """What needs Redis and is made up for later: where it is away, that is said, and no fault."""
        try:
            yield
        except FleetUnavailable as exc:
            self.away(exc)

    def away(self, why: Exception) -> None:
        """Somebody could not write."""
        now = time.monotonic()
        self._since = self._since or now
        if not self._said or now - self._said >= REMIND_S:
            self._said = now
            outages.warning("%s Waiting for it; nothing is lost.", why)

    def over(self) -> None:
        """The worker's sign of life was written."""
        if self._since:
            outages.warning("Redis is back after %.1f s.", time.monotonic() - self._since)
        self._since = self._said = 0.0


class Stoppable(Protocol):
    """What works on a lease."""

    def cancel(self, msg: Any | None = None) -> bool:
        """Stop it, and say why."""


class Leases:
    """What this worker holds.

    Attributes:
        held: each lease and what works on it.
        outage: what is said while Redis is away; whoever cannot write tells it.
    """

    def __init__(self, journal: Journal) -> None:
        self.outage = Outage()
        self.held: dict[str, tuple[Claim, Stoppable]] = {}
        self._lost: set[str] = set()
        self._journal = journal
        self._through = time.monotonic()
        self._may_rest = journal.config.lease - journal.config.renew
        self._broke = Tally(logger.error, "Renewing leases: %s (%d since this was last said).")

    @property
    def fresh(self) -> bool:
        """Renewals get through: what is claimed now would be kept."""
        return time.monotonic() - self._through <= self._may_rest

    def sure(self, claim: Claim, asked: float) -> bool:
        """Whether nobody else can have the step, so that something may be begun for it that is paid for.

        Args:
            asked: when it was claimed, on the monotonic clock: the process may have stood still since.
        """
        known = max(asked, self._through)
        return claim.lease not in self._lost and time.monotonic() - known <= self._may_rest

    def add(self, claim: Claim, work: Stoppable) -> None:
        """A step was claimed."""
        self.held[claim.lease] = (claim, work)

    def remove(self, claim: Claim) -> None:
        """The step was committed or given back."""
        self.held.pop(claim.lease, None)
        self._lost.discard(claim.lease)

    def cancel(self, job: str, step: str) -> bool:
        """The job has ended: stop the call, if it is ours."""
        for claim, work in self.held.values():
            if (claim.job, claim.step) == (job, step):
                work.cancel("job ended")
                return True
        return False

    def stop_all(self, reason: str) -> None:
        """Stop all that is worked on."""
        for _, work in list(self.held.values()):
            work.cancel(reason)

    async def renew(self) -> None:
        """One round trip for all, also for none. Of a lost lease the answer may still be wanted."""
        sent = time.monotonic()
        lost = [self.held[lease][0] for lease in await self._journal.renew(self.held) if lease in self.held]
        self._through = sent
        if not lost:
            return
        for claim in await self._journal.regain(lost):
            if claim.lease in self.held:
                self._lost.add(claim.lease)
                logger.warning(
                    "The lease %s has ended; its answer counts only if nobody took the step.", claim.lease
                )

    async def keep(self, every: float) -> None:
        """Renew for ever, and do nothing else. After a try that did not get through, the next comes soon: it
        may have waited for most of a lease for a line that was dead."""
        pause = every
        while True:
            await asyncio.sleep(pause)
            try:
                await self.renew()
                self.outage.over()
                pause = every
            except FleetUnavailable as exc:
                self.outage.away(exc)
                pause = min(every, SOON_S if pause == every else 2 * pause)
            except JournalError as exc:  # one record that breaks it slows down the renewing of no other
                self._broke.add(str(exc))
                pause = every
