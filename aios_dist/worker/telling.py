"""Whoever is in office tells people how jobs end, also where a producer, a deadline or a plan ended them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from aios_dist.errors import class_of
from aios_dist.journal import Ended, Journal
from aios_dist.model.jobs import JobState
from aios_dist.text.lines import fields_line
from aios_dist.worker.rows import UNKNOWN, Rows

logger = logging.getLogger("aios_dist.telling")

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
        given, gone: numbers of events: of the last that was to be sent, and of the last that was. An end is
            written down as told when its events have gone: a worker that is killed takes others with it.
    """

    def __init__(
        self,
        journal: Journal,
        rows: Rows,
        in_office: Callable[[], bool],
        given: Callable[[], int] = lambda: 0,
        gone: Callable[[], int] = lambda: 0,
    ) -> None:
        self._journal = journal
        self._rows = rows
        self._in_office = in_office
        self._given = given
        self._gone = gone
        self._written = ""
        self._told: tuple[str, int] | None = None  # not written yet: the last end, and the last of its events

    async def tell(self) -> None:
        """All ends since the last that was told.

        Raises:
            FleetUnavailable: Redis is away.
        """
        if not self._in_office():
            self._told = None
            return
        await self._write()
        written, behind = await self._journal.told_upto()
        if self._told is None or written != self._written:  # else another has told, or Redis was put back
            self._told, self._written = None, written
        after = began = self._told[0] if self._told is not None else behind
        for _ in range(MOST_PAGES):
            ends, upto = await self._journal.to_tell(after, PAGE)
            for end in ends:
                self._rows.job_ended(end)
                if end.state is JobState.FAILED:
                    _say_failed(end)
            if upto == after:
                break
            after = upto
        if after != began:
            self._told = (after, self._given())
        await self._write()

    async def _write(self) -> None:
        """Down what was told, if it has gone out."""
        if self._told is not None and self._gone() >= self._told[1]:
            (upto, _), self._told = self._told, None
            await self._journal.tell(upto)


def _say_failed(end: Ended) -> None:
    """That a job has failed, and where in the user's code; of the error's own words nothing."""
    error = end.error or UNKNOWN
    said = {
        "job": end.job,
        "agent": end.agent,
        "tenant": end.tenant,
        "error": class_of(error),
        "traceback": str(error.get("traceback") or ""),
    }
    logger.warning("Job failed: %s", fields_line(said), extra={"failure": said})
