"""Agent-first: the work-conserving form of a fixed order, and of groups in a fixed order.

AIOS' fixed order lets slots stand idle while the one admitted agent thinks. Here all members of the plan are
admitted, and the rank is the place in the plan: the first member's steps go before all others', and an idle
slot takes the next member's (list scheduling; Graham 1966). Towards steps outside the plan all of it ranks
as if it had become ready when the plan was admitted. On a lane with ``round-robin``, whose ranks are rounds
and no times, places say nothing.
"""

from __future__ import annotations

JOB_US, WINDOW_US = 32.0, 1e6
"""A plan's ranks span so many µs for each of its jobs, a second at the most; places added later follow."""

PARTS = 4.0
"""Ranks that doubles can tell apart in a µs: times since the epoch leave two bits, until the year 2041."""


def agent_first(admitted: float, place: int, places: int, nth: int, jobs: int | None = None) -> float:
    """A step's rank.

    Args:
        admitted: when the plan was admitted, µs since the epoch.
        place: the member's place, from 0.
        places: how many places the plan had when it was admitted.
        nth: how many steps of that place became ready before it: FIFO within a place.
        jobs: how many jobs the plan had when it was admitted; None for one a place.

    Returns:
        A number that no other step of the plan has, as long as no place has had more than 128 steps for each
        job of an even share (fewer where the plan has over 31,250 jobs); those beyond share the place's last.
    """
    window = min(WINDOW_US, JOB_US * (jobs or places))
    steps = max(1.0, PARTS * window // places)
    return admitted + window * (place + min(nth, steps - 1) / steps) / places
