"""The reconciler: what a crash left between two writes moves again.

Every worker has one, one at a time is in office. Its pass is bounded, so it does not grow with the number of
waiting steps; and made of parts, each of which may break without keeping the others from their work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from aios_dist.broker.messages import SAY_EVERY_S, Tally
from aios_dist.broker.tickets import Tickets
from aios_dist.config import Config
from aios_dist.journal import Journal, Ticket
from aios_dist.worker.leases import Outage
from aios_dist.worker.office import Office
from aios_dist.worker.rows import Rows

logger = logging.getLogger("aios_dist.reconciler")

MOST_TICKETS = 1000
"""Tickets added to a lane in one pass at the most."""

PAGE = 200
"""Entries of each kind in one call of the verb, which blocks Redis for as long as it takes."""

MOST_PAGES = 50
"""Calls in one pass."""

MOST_SLICES = 100
"""Of plans, of wide jobs, and of lanes with new rules, some milliseconds of Redis each, in one pass."""

WALK_S = 1740.0
"""In this time every open job is looked at, whether a broken verb has left it aside."""

NEEDS_S = 5.0
"""Between two looks at what waits for a worker that is not there."""

LIBRARIES_S = 60.0
"""Between two looks for functions that nobody uses any more."""

MATCH_S = 0.25
"""Between two looks at the tickets at the most."""

STEP_S = 0.01
"""Looks of one worker come in steps of this: at most so many, however much is due."""

SOONEST_S = 0.05
"""… and passes of the one in office."""


class Reconciler:
    """Restores invariants 4 to 6 of the design from the journal, within its period.

    Attributes:
        broken: how often each part of a pass broke.
    """

    def __init__(
        self,
        config: Config,
        journal: Journal,
        tickets: Tickets,
        worker: str,
        outage: Outage | None = None,
        rank_anew: Callable[[str], Awaitable[bool]] | None = None,
        rows: Rows | None = None,
    ) -> None:
        self._period = config.fleet.reconcile
        self._journal = journal
        self._tickets = tickets
        self._office = Office(journal, worker, self._period)
        self._outage = outage or Outage()
        self._rank_anew = rank_anew  # steps of a lane whose rules have changed; whether there may be more
        self._rows = rows
        self._cursor = "0"
        self._walked = "0"
        self._parked = b"-"
        self._slots = dict.fromkeys(config.lane_names(), 0)  # of each lane, over all workers
        self._needs: dict[str, float] = {}  # what nobody has, and when that is said again
        self._needs_at = 0.0
        self._libraries_at = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._due: set[int] = set()  # in steps of the loop's clock, none later than a period from now
        self._counted = float("-inf")
        self._tallies: dict[str, Tally] = {}
        self.broken: Counter[str] = Counter()
        self._mended = Tally(
            logger.warning, "The journal was put right: %s (%d such since this was last said)."
        )

    async def run(self) -> None:
        """Work for ever; a Redis that is away is waited for."""
        while True:
            pause = self._period
            with self._part("office"):
                if await self._office.ask("take"):
                    pause = await self._pass()
            while self._office.mine and pause > MATCH_S:  # tickets may pile up fast
                await asyncio.sleep(MATCH_S)
                pause -= MATCH_S
                with self._part("tickets"):
                    await self._match_tickets()
            await asyncio.sleep(pause)

    def in_office(self) -> bool:
        """It is this worker that reconciles."""
        return self._office.mine

    async def leave(self) -> None:
        """Give the office up, so that nobody has to wait for it.

        Raises:
            FleetUnavailable: Redis is away; others take it after three periods.
        """
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._office.mine:
            await self._office.ask("leave")

    # Looking between two passes --------------------------------------------------------------------------

    def look_again(self, seconds: float) -> None:
        """Something is due then. What is due later than a period from now is seen by whoever is in office."""
        if seconds < self._period:
            self._due.add(math.ceil((asyncio.get_running_loop().time() + seconds) / STEP_S))
            self._set_alarm()

    def look_again_in_office(self) -> None:
        """The same, at once, where one is enough."""
        if self._office.mine:
            self.look_again(0.0)

    def _set_alarm(self) -> None:
        """One timer, for the next of them all."""
        at = min(self._due) * STEP_S
        if self._alarm is not None:
            if self._alarm.when() == at:
                return
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_at(at, self._look)

    def _look(self) -> None:
        loop, self._alarm = asyncio.get_running_loop(), None
        now = math.floor(loop.time() / STEP_S + 0.01)  # timers may be early
        self._due = {due for due in self._due if due > now}
        if self._looking is None or self._looking.done():
            self._looking = loop.create_task(self._look_once())
        else:
            self._due.add(now + 1)  # that look may be past it already
        if self._due:
            self._set_alarm()

    async def _look_once(self) -> None:
        """Without the office: verbs are atomic, and two at once only share the work."""
        with self._part("look"):
            await self.once()

    # A pass ----------------------------------------------------------------------------------------------

    async def once(self) -> float:
        """One pass, in office or not.

        Returns:
            Seconds until the next one is worth while: the period, or less when something is due before.
        """
        await self._office.ask("look")
        return await self._pass()

    async def _pass(self) -> float:
        if asyncio.get_running_loop().time() - self._counted >= self._period / 2:
            with self._part("lanes"):
                await self._count_slots()
        pause = self._period
        with self._part("new rules"):
            await self._go_on_with_lanes()
        with self._part("reap"):
            pause = min(pause, await self._reap())
        with self._part("plans"):
            await self._in_slices(self._journal.go_on)
        with self._part("sweeps"):
            await self._in_slices(self._journal.sweep)
        with self._part("parked"):
            await self._in_slices(self._unpark)
        with self._part("walk"):
            await self._walk()
        with self._part("needs"):
            await self._say_needs()
        with self._part("tickets"):
            await self._match_tickets()
        with self._part("libraries"):
            await self._drop_libraries()
        return pause

    @contextlib.contextmanager
    def _part(self, name: str) -> Iterator[None]:
        """What breaks here breaks nothing else; a Redis that is away is said once for all."""
        try:
            with self._outage.passes():
                yield
        except Exception as exc:
            self._breaks(name, f"{type(exc).__name__}: {exc}", exc_info=True)

    def _breaks(self, part: str, why: str, *, exc_info: bool = False) -> None:
        self.broken[part] += 1
        tally = self._tallies.setdefault(
            part,
            Tally(logger.error, f"The reconciler's part {part!r} broke: %s (%d since this was last said)."),
        )
        tally.add(why[:500], exc_info=exc_info)

    async def _count_slots(self) -> None:
        registry = await self._journal.registry()
        slots = dict.fromkeys(registry.lanes(self._slots), 0)
        for worker in registry.workers:
            for lane in worker.lanes:
                slots[lane] += worker.slots
        self._slots, self._counted = slots, asyncio.get_running_loop().time()

    async def _reap(self) -> float:
        """What time or a crash has left behind; seconds until there is more of it."""
        for _ in range(MOST_PAGES):
            reaped = await self._journal.reap(list(self._slots), self._cursor, PAGE)
            self._cursor = reaped.cursor
            if self._rows is not None:
                for lost in reaped.lost:
                    self._rows.lost(lost)
            if reaped.moved:
                logger.info("Moved %d that a crash or time had left behind.", reaped.moved)
            if reaped.moved < PAGE:
                break  # else a whole machine was lost: go on at once
        more = False
        for lane in reaped.astray if self._rank_anew else ():
            with self._part(f"ranking lane {lane}"):
                assert self._rank_anew is not None
                more |= await self._rank_anew(lane)
        if more:
            return 0.0
        if reaped.next_s is None:
            return self._period
        return max(SOONEST_S, reaped.next_s - await self._journal.now())

    async def _unpark(self) -> tuple[int, list[Ticket], bool]:
        """Some of the parked jobs, from where the last look stood: there may be more codes than one sees."""
        went_on, tickets, more, self._parked = await self._journal.unpark(self._parked)
        return went_on, tickets, more

    async def _in_slices(self, go_on: Callable[[], Awaitable[tuple[Any, ...]]]) -> None:
        """What verbs have left for later, of plans (members are admitted or dropped, and what nobody submits
        further goes) or of wide jobs (steps follow the states of their jobs)."""
        if not self._office.mine:
            return
        for _ in range(MOST_SLICES):
            _, tickets, more, *_ = await go_on()
            await self._publish(tickets)
            if not more:
                return
        self.look_again(0.0)

    async def _publish(self, tickets: Sequence[Ticket]) -> None:
        commands = self._tickets.commands(tickets)
        await asyncio.gather(*(self._journal.connection.command(*c) for c in commands))

    async def _go_on_with_lanes(self) -> None:
        """What waits on lanes that have other rules now, and whose caller is gone, is gathered."""
        if not self._office.mine:
            return
        for _ in range(MOST_SLICES):
            if not await self._journal.gather():
                return
        self.look_again(0.0)

    async def _walk(self) -> None:
        """What broken verbs have left: what is marked at once, all open jobs within ``WALK_S``."""
        if not self._office.mine:
            return
        looked = 0
        for _ in range(MOST_PAGES):  # of jobs with many steps a page holds few
            walked = await self._journal.walk(self._walked, PAGE)
            self._walked = walked.cursor
            for job, what in walked.found:
                self._mended.add(f"job {job}: {what}")
            looked += walked.looked
            if walked.cursor == "0" or looked >= walked.open * self._period / WALK_S:
                return

    async def _say_needs(self) -> None:
        """What waits for a worker that nobody has started: within some seconds, and then once a minute."""
        now = asyncio.get_running_loop().time()
        if not self._office.mine or now < self._needs_at:
            return
        self._needs_at = now + NEEDS_S
        for need in await self._journal.needs(list(self._slots)):
            if need.served:
                self._needs.pop(need.need, None)
                continue
            if now >= self._needs.get(need.need, now):
                self._needs[need.need] = now + SAY_EVERY_S
                logger.warning("%s: none that runs has it.", need)

    async def _drop_libraries(self) -> None:
        """Redis forgets the functions of releases that are gone."""
        now = asyncio.get_running_loop().time()
        if not self._office.mine or now < self._libraries_at:
            return
        self._libraries_at = now + LIBRARIES_S
        for name in await self._journal.drop_libraries(await self._journal.now()):
            logger.info("Nobody has used the functions %s for long: Redis has forgotten them.", name)

    async def _match_tickets(self) -> None:
        """As many tickets as ready steps on every lane (invariant 5), and not more than slots besides."""
        lanes = list(self._slots)
        found = await self._journal.tickets(lanes, [*map(self._tickets.key, lanes)], [*self._slots.values()])
        for lane, has in found.items():
            if has.wrong:
                self._breaks(f"tickets of lane {lane}", has.wrong)
            with self._part(f"tickets of lane {lane}"):
                missing = min(has.ready - has.tickets, MOST_TICKETS)
                await self._publish([Ticket(lane, "?", "?")] * missing)
