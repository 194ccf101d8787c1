"""Names by score, as in a sorted set of Redis: what the simulator's ready sets are made of."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

N = TypeVar("N", str, int)

SPARE = 16
"""Stale entries that are never worth a clean-up."""


class Scores(Generic[N]):
    """Names, the lowest score first; between equal scores the lower name.

    A name that moves or leaves stays behind in the heap until it comes to the top, or until most of the heap
    is stale: so each operation takes O(log n), amortised.
    """

    __slots__ = ("_heap", "_scores")

    def __init__(self) -> None:
        self._scores: dict[N, float] = {}
        self._heap: list[tuple[float, N]] = []

    def __len__(self) -> int:
        return len(self._scores)

    def __contains__(self, name: N) -> bool:
        return name in self._scores

    def put(self, name: N, score: float) -> None:
        """Add the name, or move it."""
        self._scores[name] = score
        heappush(self._heap, (score, name))
        if len(self._heap) > 2 * len(self._scores) + SPARE:
            self._heap = [(score, name) for name, score in self._scores.items()]
            heapify(self._heap)

    def discard(self, name: N) -> None:
        """Take the name out, if it is in."""
        self._scores.pop(name, None)

    def first(self) -> tuple[float, N] | None:
        """The lowest score and its name; None where there is none."""
        while self._heap:
            score, name = self._heap[0]
            if self._scores.get(name) == score:
                return self._heap[0]
            heappop(self._heap)
        return None
