"""Programs kept as they stand after a turn, so that the next turn need not replay. The journal decides."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from aios_dist.model.jobs import Outcome
from aios_dist.program.replay import Replay

MOST_BYTES = 48 * 1024 * 1024
"""Of outcomes that live programs have seen and of requests that they wait for, together; beyond, those that
rested longest go."""

MOST = 4096
IDLE_S = 600.0
"""A program that nobody asked for in this time goes."""

FRAME = 8 * 1024
"""Bytes of a program that has seen nothing."""

ALWAYS = 64
"""Outcomes of a program up to which it is run again at every turn; beyond, whenever there are a quarter more,
and at its end: what a job costs in all is to stay a small multiple of what it costs without."""

SHORT_S = 0.05
"""A program that takes longer to run again is run as seldom from the start."""


class Seen:
    """What a live program has seen, and when it is next run again beside, to see whether it repeats itself.

    One that draws a random number between its awaits goes well while it is kept alive, and fails once another
    worker replays it. With ``check_replays`` that is seen at the next turn.

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


class Live:
    """A live program and what it weighs.

    Attributes:
        gone: it was dropped, or a thread that nobody waits for has it: whoever wants to go on replays.
        models: those that it may ask for.
        seen: the outcomes that it was told, where it is run again beside; else None.
        events: events of its job that it need not look at, see ``Journal.news``.
    """

    __slots__ = ("_seen", "events", "gone", "models", "replay", "seen", "used")

    def __init__(
        self, replay: Replay, models: Mapping[str, str], events: int, seen: Seen | None = None
    ) -> None:
        self.replay = replay
        self.models = models
        self.events = events
        self.seen = seen
        self.gone = False
        self.used = time.monotonic()
        self._seen = FRAME

    @property
    def bytes(self) -> int:
        """About what it takes: a conversation stands in its last request."""
        return self._seen + self.replay.awaited

    def weigh(self, more: Iterable[Any]) -> None:
        """Add what it has seen since."""
        self._seen += _size(more)


class Programs:
    """The live programs of one worker, bounded in bytes, in number and in age.

    Args:
        dispose: runs a program's ``close`` on a thread for users' code.
    """

    def __init__(self, dispose: Callable[[Callable[[], None]], object]) -> None:
        self._live: OrderedDict[str, Live] = OrderedDict()
        self._weights: dict[str, int] = {}
        self._bytes = 0
        self._dispose = dispose

    def __len__(self) -> int:
        return len(self._live)

    @property
    def bytes(self) -> int:
        """What all of them weigh."""
        return self._bytes

    def get(self, job: str) -> Live | None:
        """The job's live program, as it stands."""
        return self._live.get(job)

    def take(self, job: str) -> Live | None:
        """The same, taken out: whoever has it keeps it or drops it."""
        live = self._live.pop(job, None)
        self._bytes -= self._weights.pop(job, 0)
        return live

    def keep(self, job: str, live: Live) -> None:
        """Keep it for the next turn."""
        before = self.take(job)
        if before is not live:
            self.drop(before)
        live.used = time.monotonic()
        self._live[job] = live
        self._weights[job] = live.bytes
        self._bytes += live.bytes
        while len(self._live) > 1 and (self._bytes > MOST_BYTES or len(self._live) > MOST):
            self.drop(self.take(next(iter(self._live))))

    def drop(self, live: Live | None) -> None:
        """Close a program that nobody will ask again; its ``finally`` blocks are users' code."""
        if live is not None and not live.gone:
            live.gone = True
            if live.replay.waits():
                self._dispose(live.replay.close)

    def sweep(self) -> None:
        """Drop those that have rested for long."""
        oldest = time.monotonic() - IDLE_S
        while self._live and (first := next(iter(self._live.items())))[1].used < oldest:
            self.drop(self.take(first[0]))


def _size(values: Iterable[Any]) -> int:
    """About how many bytes the values take in memory."""
    total, todo = 0, list(values)
    while todo:
        value = todo.pop()
        if isinstance(value, (str, bytes)):
            total += value.__sizeof__()
        elif isinstance(value, dict):
            total += 64 + 100 * len(value)
            todo += value.keys()
            todo += value.values()
        elif isinstance(value, (list, tuple)):
            total += 56 + 8 * len(value)
            todo += value
        elif isinstance(value, msgspec.Struct):
            total += 64
            todo += msgspec.structs.astuple(value)
        else:
            total += 32
    return total
