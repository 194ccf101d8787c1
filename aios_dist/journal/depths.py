"""What waits on lanes: how many steps, of whom, for how long, and for what."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aios_dist.journal.heads import unpack_head
from aios_dist.journal.reading import UNREADABLE, Reading
from aios_dist.journal.views import LaneCount, Need

MOST_TENANTS = 100
"""Tenants of a lane that are named with their steps, where nobody asks for others."""


class Depths(Reading):
    """The part of the journal that counts it."""

    async def waiting(
        self, lanes: Sequence[str], *, first: int = 0, most: int = MOST_TENANTS, due: bool = False
    ) -> dict[str, LaneCount]:
        """The steps that wait on each lane, also by tenant where it is shared.

        Args:
            lanes: their names.
            first, most: so many tenants from that place on are named; who is served next has place 0.
            due: also what is due and nobody has brought there yet: without a worker nobody does.
        """
        found = await self._run("counts", lanes=list(lanes), first=first, most=most, due=int(due))
        return {
            lane: LaneCount(
                count, {t.decode(): n for t, n in zip(by[::2], by[1::2], strict=True)}, tenants, over
            )
            for lane, (count, by, tenants, over) in zip(lanes, found, strict=True)
        }

    async def longest_wait(self, lane: str) -> float:
        """Seconds for which the first step of a lane (of a shared one: of the tenant that goes first) has
        been ready; 0.0 where there is none."""
        first, tenants = await self._gather(
            [("ZRANGE", self.keys.ready(lane), 0, 0), ("ZRANGE", self.keys.ready_by(lane), 0, 0)]
        )
        if not first and tenants:
            name = tenants[0].decode("utf-8", "replace")
            first = await self.connection.command("ZRANGE", self.keys.ready(f"{lane}|{name}"), 0, 0)
        if not first:
            return 0.0
        job, _, step = first[0].decode("utf-8", "replace").rpartition("/")
        packed, now = await asyncio.gather(
            self.connection.command("HGET", self.keys.job(job), f"h{step}"), self.now()
        )
        try:
            return max(0.0, now - unpack_head(packed).ready / 1e6) if packed else 0.0
        except UNREADABLE:  # the walk sets it aside
            return 0.0

    async def waiting_steps(self, lanes: Sequence[str]) -> dict[str, int]:
        """How many steps wait on each lane: as :meth:`waiting`, but by plain commands that only read, for
        an account that may run no script. Not all at one moment.
        """
        found = {}
        for lane in lanes:
            ready, stray, needs = await self._gather(
                [
                    ("ZCARD", self.keys.ready(lane)),
                    ("ZCARD", f"{self.keys.prefix}stray:{lane}"),
                    ("ZRANGE", self.keys.wanted(lane), 0, -1),
                ]
            )
            count = ready + stray + await self._in_parts("ready", lane)
            for need in needs:
                shelf = f"?{need.decode()}"
                (held,) = await self._gather([("ZCARD", self.keys.held(shelf))])
                count += held + await self._in_parts("held", shelf)
            found[lane] = count
        return found

    async def _in_parts(self, shelf: str, name: str) -> int:
        """The steps in the tenants' sets of a shelf: as they are counted, else counted now."""
        (known,) = await self._gather([("HGET", self.keys.waits, f"{shelf}:{name}")])
        if known is not None and known.lstrip(b"-").isdigit():
            return max(0, int(known))
        prefix = self.keys.prefix
        (parts,) = await self._gather([("ZRANGE", f"{prefix}{shelf}by:{name}", 0, -1)])
        counts = await self._gather([("ZCARD", f"{prefix}{shelf}:{name}|{part.decode()}") for part in parts])
        return sum(counts)

    async def needs(self, lanes: Sequence[str]) -> list[Need]:
        """Steps of the lanes that the workers which met them could not serve, by what they need."""
        wanted = await self._gather(("ZRANGE", self.keys.wanted(lane), 0, -1) for lane in lanes)
        pairs = [(lane, n.decode()) for lane, names in zip(lanes, wanted, strict=True) for n in names]
        now = await self.now()
        found = []
        for lane, name in pairs:
            shelf = f"?{name}"
            code = name.startswith("code/")  # where nobody has it any more, it is tried with what there is
            own = f"has/{name[5:]}" if code else name
            instead = f"agent/{name[5:].rpartition('@')[0]}" if code else name
            alone, shared, *until = await self._gather(
                [
                    ("ZCARD", self.keys.held(shelf)),
                    ("HGET", self.keys.waits, f"held:{shelf}"),
                    ("ZSCORE", self.keys.serving, own),
                    ("ZSCORE", self.keys.serving, instead),
                ]
            )
            served = any(end is not None and float(end) / 1e6 > now for end in until)
            if count := alone + int(shared or 0):
                found.append(Need(lane, name, count, served))
        return found

    async def counts(self, lanes: Sequence[str]) -> dict[str, int]:
        """Numbers for people: open jobs, held and timed steps, and ``ready:<lane>`` for each lane."""
        keys = self.keys
        sets = {"open": keys.open, "leased": keys.leases, "timed": keys.timers}
        sizes = await self._gather(("ZCARD", key) for key in sets.values())
        waiting = await self.waiting(lanes, most=0)
        ready = {f"ready:{lane}": count.ready for lane, count in waiting.items()}
        return dict(zip(sets, sizes, strict=True)) | ready
