"""Who reconciles, what a jump of Redis' clock has put out of place, and how many tickets lanes need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from aios_dist.journal.access import Access

KEEP_S = 86400.0
"""The office of a fleet without workers is forgotten after this long."""


class Seat(NamedTuple):
    """What the office looks like.

    Attributes:
        mine: the one who asks is in office.
        beat: another one each time that whoever is in office has asked; empty when nobody is.
        now_us: µs on Redis' clock.
        jumps: how often that clock has been seen to jump.
    """

    mine: bool
    beat: str
    now_us: int
    jumps: int


class LaneTickets(NamedTuple):
    """A lane's ready steps and tickets; ``wrong`` says why they cannot be read, where that is so."""

    ready: int
    tickets: int
    wrong: str = ""


class Office(Access):
    """The part of the journal that keeps it and the tickets in step with each other and with the clock."""

    async def office(self, worker: str, want: Literal["take", "look", "leave"], stopped: str = "") -> Seat:
        """Ask for the one office of the fleet.

        Args:
            worker: who asks.
            want: ``take`` it or stay in it, only ``look``, or ``leave`` it.
            stopped: the beat that has been there for too long: whoever counts it is gone.
        """
        mine, beat, now, jumps = await self._run(
            "office", worker=worker, want=want, stopped=stopped, keep_ms=int(KEEP_S * 1000)
        )
        return Seat(bool(mine), beat.decode(errors="replace"), int(now), int(jumps))

    async def shift(self, by: float, within: float, seen: int) -> tuple[int, int]:
        """Redis' clock has jumped: move what was made before, so that it keeps its distance from now.

        Args:
            by: seconds, negative for a jump back; 0 only shortens leases that end later than any can.
            within: it did so no more than this many seconds ago.
            seen: the jumps that were known before; where there are more now, nothing is moved a second time.

        Returns:
            How many entries were moved, and the jumps that are known now.
        """
        moved, jumps = await self._run(
            "shift",
            by_us=round(by * 1e6),
            within_us=round(within * 1e6),
            lease_us=int(self.config.lease * 1e6),
            seen=seen,
        )
        return int(moved), int(jumps)

    async def tickets(
        self, lanes: Sequence[str], lists: Sequence[str], spare: Sequence[int]
    ) -> dict[str, LaneTickets]:
        """Count ready steps and tickets, and take away tickets that nothing can need.

        Args:
            lanes: their names.
            lists: the Redis list of each lane's tickets.
            spare: how many tickets each may have beyond its ready steps, while it has any of those.
        """
        found = await self._run("tickets", lanes=list(lanes), lists=list(lists), spare=list(spare))
        return {
            lane: LaneTickets(0, 0, what.decode(errors="replace")) if ready < 0 else LaneTickets(ready, what)
            for lane, (ready, what) in zip(lanes, found, strict=True)
        }

    async def publish(self, tickets: Mapping[str, Sequence[bytes]], lists: Mapping[str, str]) -> int:
        """Publish tickets as far as the ready steps of their lanes have none.

        Args:
            tickets: of each lane, as Celery reads them; the first go first.
            lists: the Redis list of each lane's tickets.

        Returns:
            How many were published.
        """
        found = await self._run(
            "publish",
            lanes=list(tickets),
            lists=[lists[lane] for lane in tickets],
            tickets=[list(made) for made in tickets.values()],
        )
        return int(found)
