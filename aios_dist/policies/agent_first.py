"""Agent-first: the work-conserving form of a fixed order, and of groups in a fixed order.

AIOS' fixed order lets slots stand idle while the one admitted agent thinks. Here all members of the plan are
admitted, and the rank is the place in the plan: the first member's steps go before all others', and an idle
slot takes the next member's (list scheduling; Graham 1966). Towards steps outside the plan all of it ranks
as if it had become ready when the plan was admitted.
"""

from __future__ import annotations

WINDOW_US = 1e6
"""All places of a plan share one second of ranks."""

PARTS = 4.0
"""Ranks that doubles can tell apart in a µs: times since the epoch leave two bits."""


def agent_first(admitted: float, place: int, places: int, nth: int) -> float:
    """A step's rank.

    Args:
        admitted: when the plan was admitted, µs since the epoch.
        place: the member's place, from 0.
        places: how many places the plan had when it was admitted.
        nth: the how-manieth step of that place it is to become ready, from 0: FIFO within a place.
    """
    steps = max(1.0, PARTS * WINDOW_US // places)
    return admitted + WINDOW_US * (place + min(nth, steps - 1) / steps) / places
