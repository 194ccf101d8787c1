"""Journals of the same fleet in another format: releases that know only theirs see nothing of ours, nor we of
theirs. Both may run side by side; what is open there, only workers of such a release go on with."""

from __future__ import annotations

from aios_dist.journal.access import Access
from aios_dist.journal.keys import other_formats


async def open_elsewhere(journal: Access) -> dict[str, int]:
    """How many jobs are open in journals of other formats, by the format; none where there are none.

    Raises:
        FleetUnavailable: Redis cannot be reached.
    """
    names = other_formats(journal.config.name)
    counts = [await journal.connection.command("ZCARD", key) for key in names.values()]
    return {format: count for format, count in zip(names, counts, strict=True) if count}


def drain(format: str, jobs: int) -> tuple[str, str]:
    """What to say of them, and what to do."""
    some = "1 job is" if jobs == 1 else f"{jobs:,} jobs are"
    what = f"{some} open in a journal of format {format}, which this release does not read or see."
    fix = (
        "Let workers of the release that wrote them run beside these until they have ended; submit new jobs "
        "with this one."
    )
    return what, fix
