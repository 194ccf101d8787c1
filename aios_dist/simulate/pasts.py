"""What is known of earlier runs, learnt as the fleet learns it: from the last runs that succeeded."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping

from aios_dist.policies import Past

MOST = 200
"""Runs of an agent that the fleet remembers."""

NOTHING = Past()


class _Runs:
    """The last runs of one program."""

    __slots__ = ("last", "past", "steps", "totals")

    def __init__(self) -> None:
        self.last: deque[tuple[float, int]] = deque()
        self.totals: list[float] = []
        self.steps = 0
        self.past: Past | None = NOTHING


class Pasts:
    """The past of each program.

    Args:
        known: pasts that stay as they are.
    """

    def __init__(self, known: Mapping[str, Past] | None = None) -> None:
        self._known = known or {}
        self._runs: dict[str, _Runs] = {}

    def add(self, program: str, total: float, steps: int) -> None:
        """A run has ended well: its seconds in calls, and how many calls those were."""
        runs = self._runs.get(program)
        if runs is None:
            runs = self._runs[program] = _Runs()
        runs.last.append((total, steps))
        insort(runs.totals, total)
        runs.steps += steps
        if len(runs.last) > MOST:
            old, count = runs.last.popleft()
            del runs.totals[bisect_left(runs.totals, old)]
            runs.steps -= count
        runs.past = None

    def known(self) -> dict[str, Past]:
        """All of it, as it is now."""
        return {program: self.of(program) for program in {*self._known, *self._runs}}

    def of(self, program: str) -> Past:
        """What is known of a program now."""
        known = self._known.get(program)
        if known is not None:
            return known
        runs = self._runs.get(program)
        if runs is None:
            return NOTHING
        if runs.past is None:
            runs.past = Past(tuple(runs.totals), runs.steps)
        return runs.past
