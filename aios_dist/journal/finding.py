"""Jobs that are looked for among all there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aios_dist.errors import JournalError
from aios_dist.journal.reading import VIEWED, Reading, view_of
from aios_dist.journal.views import JobView, Wanted

FOUND_AT_ONCE = 500
"""Jobs that are read in one round trip."""


class Finding(Reading):
    """The part of the journal that finds them."""

    async def find_jobs(self, wanted: Wanted, limit: int | None = None) -> list[JobView]:
        """Jobs of which that holds, newest first, all of them or so many: looked for among all there are."""
        if wanted.states == ("parked",) and wanted.ended is not True:
            return (await self._parked(wanted))[:limit]
        found: dict[str, JobView] = {}
        for ended in wanted.where():
            key = self.keys.ended if ended else self.keys.open
            taken = 0
            last = "+inf"  # by score, and not by place: jobs end meanwhile
            oldest = "-inf" if wanted.since is None else f"{wanted.since * 1e6:.0f}"
            while limit is None or taken < limit:
                page = await self.connection.command(
                    "ZRANGE", key, last, oldest, "BYSCORE", "REV", "LIMIT", 0, FOUND_AT_ONCE, "WITHSCORES"
                )
                pairs = _scored(page)
                ids = [id for id, _ in pairs]
                for view in await self._taken(ids, wanted):
                    taken += view.id not in found
                    found[view.id] = view
                if len(pairs) < FOUND_AT_ONCE:
                    break
                last = f"({pairs[-1][1]:.0f}"
        return sorted(found.values(), key=lambda v: -v.submitted_at)[:limit]

    async def _parked(self, wanted: Wanted) -> list[JobView]:
        """The same of those that are parked, which have a set of their own."""
        found: list[JobView] = []
        last = "-"
        while True:
            page = await self.connection.command(
                "ZRANGE", self.keys.parked, last, "+", "BYLEX", "LIMIT", 0, FOUND_AT_ONCE
            )
            names = [name.decode("utf-8", "replace") for name in page]
            found += await self._taken([name.partition("|")[2] for name in names], wanted)
            if len(page) < FOUND_AT_ONCE:
                return sorted(found, key=lambda v: -v.submitted_at)
            last = f"({names[-1]}"

    async def _taken(self, ids: Sequence[str], wanted: Wanted) -> list[JobView]:
        views: list[JobView] = []
        for id, facts in zip(ids, await self._seen(ids, VIEWED), strict=True):
            try:
                view = view_of(id, facts)
            except JournalError:
                continue  # `doctor` names it
            if view is not None and wanted.takes(view):
                views.append(view)
        return views


def _scored(found: Any) -> list[tuple[str, float]]:
    """Names and scores from a ZRANGE's answer, in RESP2 and RESP3 form."""
    nested = bool(found) and isinstance(found[0], (list, tuple))
    pairs = found if nested else list(zip(found[::2], found[1::2], strict=True))
    return [(name.decode("utf-8", "replace"), float(score)) for name, score in pairs]
