"""Whoever is in office tells people how jobs end, also where a producer, a deadline or a plan ended them."""

from __future__ import annotations

from collections.abc import Callable

from aios_dist.journal import Journal
from aios_dist.worker.rows import Rows

TELL_S = 0.5
"""Between two looks."""

PAGE = 200
MOST_PAGES = 20
"""Ends in one question to Redis, and questions in one look."""


class Teller:
    """Told is every end at least once: by the next in office, where this one dies over it.

    Args:
        rows: makes rows of them.
        in_office: whether it is this worker's turn.
    """

    def __init__(self, journal: Journal, rows: Rows, in_office: Callable[[], bool]) -> None:
        self._journal = journal
        self._rows = rows
        self._in_office = in_office

    async def tell(self) -> None:
        """All ends since the last that was told.

        Raises:
            FleetUnavailable: Redis is away.
        """
        if not self._in_office():
            return
        after = await self._journal.told_upto()
        for _ in range(MOST_PAGES):
            ends, upto = await self._journal.to_tell(after, PAGE)
            for end in ends:
                self._rows.job_ended(end)
            if upto == after:
                return
            await self._journal.tell(upto)
            after = upto
