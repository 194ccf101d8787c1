"""Whether programs repeat themselves, looked at in development: they are run again beside the live ones.

A worker keeps programs alive, so one that draws a random number between its awaits goes well there, and fails
once another worker replays it. With ``check_replays`` that is seen at the next turn.
"""

from __future__ import annotations

import time

from aios_dist.model.jobs import Outcome

ALWAYS = 64
"""Outcomes of a program up to which it is run again at every turn; beyond, whenever there are a quarter more,
and at its end: what a job costs in all is to stay a small multiple of what it costs without."""

SHORT_S = 0.05
"""A program that takes longer to run again is run as seldom from the start."""


class Seen:
    """What a live program has seen, and when it is next run again.

    Attributes:
        outcomes: by number of their steps, in their order.
    """

    __slots__ = ("_began", "_next", "outcomes")

    def __init__(self, outcomes: list[tuple[int, Outcome]]) -> None:
        self.outcomes = outcomes
        self._next = 0  # it has just been replayed from its journal
        self._began = 0.0

    def due(self, finished: bool) -> bool:
        """Whether it is to be run again now."""
        self._began = time.monotonic()
        return finished or len(self.outcomes) >= self._next

    def ran(self) -> None:
        """It was run again, since it was due."""
        count = len(self.outcomes)
        often = count < ALWAYS and time.monotonic() - self._began < SHORT_S
        self._next = count + (1 if often else max(1, count // 4))
