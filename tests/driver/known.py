"""Faults of the journal that are known and not mended yet: mended in memory, so that the next is found.

Each that is mended in the Lua goes from here (its text is not found any more, and the tests say so). Empty
is right, but for what is made small here, so that plans of some jobs are cut as those of thousands are.
"""

from __future__ import annotations

from tests.driver.patched import Change

FENCED = True
"""A claim is told from another by more than numbers: ids are used again, Redis is put back to a snapshot."""

MENDS: tuple[Change, ...] = (
    Change("plans go on in small slices", "_members", "local AT_ONCE = 16", "local AT_ONCE = 3"),
    Change("… and are thrown away so", "_new", "local MOST_THROWN = 40", "local MOST_THROWN = 2"),
    Change("what waits is gathered so", "_gather", "local SLICE = 500", "local SLICE = 1"),
    Change("… set by set", "_gather", "local SET = 6", "local SET = 1"),
    Change("… and noted where it is held", "_gather", "local SETS = 20", "local SETS = 1"),
)

WIDE: tuple[Change, ...] = (
    *MENDS,
    Change("more than one step is many", "_lib", "local STEPS_AT_ONCE = 30", "local STEPS_AT_ONCE = 1"),
    Change("… which are mended so", "_mend", "MOST_MENDED, MOST_LOOKED = 10", "MOST_MENDED, MOST_LOOKED = 1"),
    Change("… and walked over so", "_mend", "(touched and MOST_MENDED or MOST_LOOKED))", "MOST_MENDED)"),
    Change("… and signalled so", "signal", "at + MOST_LOOKED)", "at + 2)"),
    Change("… and forked so", "fork", "so_far[2] + STEPS_AT_ONCE)", "so_far[2] + 2)"),
)
"""The same, and jobs of some steps are cut as those of thousands are."""


def cut(seed: int) -> tuple[Change, ...]:
    """Every other run has wide jobs."""
    return WIDE if seed % 2 else MENDS
