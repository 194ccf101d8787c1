"""Time and chance as a program's journal gives them: the same on every replay, and no steps of their own."""

from __future__ import annotations

import hashlib
import threading
from array import array
from typing import Any


class Known:
    """What a program can know of time and chance where it stands.

    Time stands still between its awaits: it is that of the last outcome. Chance is a digest over the
    job's seed and all outcomes: where a fork and its original part, so do their numbers.

    Args:
        seed: random, of the job.
        submitted_at: when it was submitted, seconds since the epoch.

    Attributes:
        origin: these two.
        now: seconds since the epoch; it never goes back.
        given: what ``once()`` gave since the last step that was asked for.
        then: what it gave before the next one, where the journal holds that.
        ahead: the journal holds the step that is asked for next.
        changes: what ``changed()`` has said of each change.
    """

    __slots__ = (
        *("_chain", "_drawn", "_times", "_told"),
        *("ahead", "changes", "given", "now", "origin", "then"),
    )

    def __init__(self, seed: str = "", submitted_at: float = 0.0) -> None:
        self.origin = (seed, submitted_at)
        self.now = submitted_at
        self.given: list[Any] = []
        self.then: tuple[Any, ...] = ()
        self.ahead = False
        self.changes: dict[str, bool] = {}
        self._chain = hashlib.blake2b(seed.encode(), digest_size=16)
        self._drawn = 0
        self._told = array("q")  # what the chain is still to be given: few programs ever draw
        self._times = array("d")

    def told(self, number: int, at: float) -> None:
        """The program has an outcome: of which step, and when it came, seconds since the epoch."""
        if at > self.now:
            self.now = at
        self._told.append(number)
        self._times.append(at)

    def draw(self) -> bytes:
        """Sixteen random bytes, others each time."""
        for number, at in zip(self._told, self._times, strict=True):
            self._chain.update(f" told {number} {at!r}".encode())
        del self._told[:], self._times[:]
        self._drawn += 1
        chain = self._chain.copy()
        chain.update(f" draw {self._drawn}".encode())
        return chain.digest()


class _Here(threading.local):
    known: Known | None = None


here = _Here()
"""What the program knows whose turn runs on this thread."""
