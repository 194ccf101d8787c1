"""What verbs take of Redis on a machine that is shared, where the longest of many says more of it than of us.

So what is measured runs several times, on fresh servers, through the very same verbs: what is long in all
runs is ours. And between ours, one in EVERY, goes a script that always does the same: what is long there is
the machine's.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from aios_dist.journal import Journal
from benchmarks.measures import MainThread

EVERY = 8
ASK_S = 0.005
SAME = "for _ = 1, 4000 do redis.call('GET', 'nothing') end"


@dataclass
class Part:
    """One run of one part: ms of Redis' main thread for each of our verbs and of the script between, ms that
    others waited, and its seconds."""

    name: str
    ours: list[float] = field(default_factory=list)
    same: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    seconds: float = 0.0


def row_of(about: dict[str, Any], runs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The figures of one part: how many verbs, what they took, and the longest in all runs.

    Args:
        about: what the row begins with.
        runs: ms of each verb, by run.
    """
    each = sorted(ms for run in runs for ms in run)
    ours = [min(same) for same in zip(*runs, strict=False)]
    return {
        **about,
        "verbs": len(runs[0]),
        "cpu_ms": sum(each) / len(each),
        "cpu_99_ms": each[int(0.99 * len(each))],
        "longest_ms": each[-1],
        "longest_in_all_ms": max(ours),
    }


@contextlib.contextmanager
def measured(part: Part, journal: Journal, url: str, thread: MainThread) -> Iterator[None]:
    """What its verbs take (with another client's GETs), and how long somebody waits who asks all the time."""
    over = threading.Event()

    def ask() -> None:
        with redis.Redis.from_url(url) as other:
            other.ping()
            while not over.is_set():
                start = time.perf_counter()
                other.get("nothing")
                part.waits.append(1000 * (time.perf_counter() - start))
                time.sleep(ASK_S)

    run = journal.connection.eval

    async def measured(*args: Any, **named: Any) -> Any:
        before = thread.ms()
        answer = await run(*args, **named)
        part.ours.append(thread.ms() - before)
        if len(part.ours) % EVERY == 0:
            before = thread.ms()
            await journal.connection.command("EVAL", SAME, 0)
            part.same.append(thread.ms() - before)
        return answer

    asking = threading.Thread(target=ask)
    asking.start()
    start = time.perf_counter()
    journal.connection.eval = measured  # type: ignore[method-assign]
    try:
        yield
    finally:
        journal.connection.eval = run  # type: ignore[method-assign]
        part.seconds = time.perf_counter() - start
        over.set()
        asking.join()
