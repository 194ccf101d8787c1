"""Threads for users' code: our own, because one that hangs must not keep anything else.

A thread cannot be ended. One whose work nobody waits for any more is *lost*: it is replaced, and named for as
long as it goes on. All are daemons, so that none keeps the process alive.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from aios_dist.worker.limits import stood_still
from aios_dist.worker.work import Work

_here = threading.local()


class Run:
    """One function on its way through a thread.

    Attributes:
        name: for people: what runs, and for which job.
        done: a future of the worker's loop; its result says nothing.
        begun: when a thread took it, on the monotonic clock; None before.
        lost: when it was given up, or None.
        value, error: what it returned or raised, whatever that is.
    """

    __slots__ = ("_token", "begun", "done", "error", "function", "lost", "name", "value")

    def __init__(self, name: str, function: Callable[[], Any]) -> None:
        self.name = name
        self.function = function
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.begun: float | None = None
        self.lost: float | None = None
        self.value: Any = None
        self.error: BaseException | None = None
        self._token = [None]

    def take(self) -> bool:
        """Only the first who asks gets it: the thread, or whoever gives it up before it has begun."""
        try:
            self._token.pop()
        except IndexError:
            return False
        return True

    def run(self) -> None:
        """What a thread does with it. Whatever comes out of users' code stays in here."""
        if not self.take():
            return
        self.begun = time.monotonic()
        _here.run = self
        try:
            self.value = self.function()
        except BaseException as exc:
            self.error = exc

    def end(self) -> None:
        """It has ended; on the worker's loop."""
        if not self.done.done():
            self.done.set_result(None)

    def result(self) -> Any:
        """What it returned, or raises what it raised."""
        if self.error is not None:
            raise self.error
        return self.value


def rested() -> None:
    """What runs in this thread has come to an await: its limit counts anew. Elsewhere it does nothing."""
    run: Run | None = getattr(_here, "run", None)
    if run is not None:
        run.begun = time.monotonic()


async def attend(run: Run, work: Work, limit: float) -> bool:
    """Wait for a run, for ``limit`` seconds from its beginning (0: for ever), as long as its work goes on.

    The limit counts anew where the process stood still when it was over: the run did so too.

    Returns:
        Whether it has ended.
    """
    anew = 0.0
    while not run.done.done():
        now = time.monotonic()
        due = max(now if run.begun is None else run.begun, anew) + limit
        if limit and stood_still(due, now):
            anew = now
            continue
        if work.stopped or (limit and due <= now):
            return False
        await work.wait(run.done, due - now if limit else None)
    return True


class Threads:
    """Up to ``most`` threads, beside those that are lost. Its methods are called on the worker's loop.

    Attributes:
        alive: threads that are not lost.
        lost: what was given up and still runs.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Run | None] = SimpleQueue()
        self.alive = 0
        self._asked = 0
        self._made = 0
        self._alone: set[Run] = set()  # nobody waits for these
        self.lost: dict[Run, None] = {}

    def resize(self, most: int) -> None:
        """Up to so many from now on; those that are there already stay."""
        self._most = max(most, self.alive)
        self._fill()

    def start(self, name: str, function: Callable[[], Any]) -> Run:
        """Run the function in a thread, after those that wait already where all are at work."""
        run = Run(name, function)
        self._asked += 1
        self._queue.put(run)
        self._fill()
        return run

    def soon(self, function: Callable[[], Any]) -> None:
        """The same, from any thread, where nobody waits for the end."""
        self._loop.call_soon_threadsafe(self._start_alone, function)

    def _start_alone(self, function: Callable[[], Any]) -> None:
        self._alone.add(self.start("clean-up of a program", function))

    async def attend(self, run: Run, work: Work, limit: float) -> bool:
        """See :func:`attend`; what has not ended is given up."""
        ended = await attend(run, work, limit)
        if not ended:
            self.lose(run)
        return ended

    def lose(self, run: Run) -> None:
        """Nobody waits for it any more; its thread, if it has one, is replaced."""
        if run.lost is not None or run.done.done():
            return
        run.lost = time.monotonic()
        if not run.take():
            self.lost[run] = None
            self._asked -= 1
            self.alive -= 1
            self._fill()

    def sweep(self, limit: float) -> None:
        """Give up what nobody waits for and what has run for longer than ``limit`` seconds."""
        now = time.monotonic()
        for run in list(self._alone):
            if run.begun is not None and now - run.begun > limit > 0:
                self._alone.discard(run)
                self.lose(run)

    def _fill(self) -> None:
        while self._asked > self.alive and self.alive < self._most:
            try:
                threading.Thread(target=self._serve, name=f"{self._name}-{self._made}", daemon=True).start()
            except RuntimeError:  # the machine has no more
                if not self.alive:
                    raise
                return
            self.alive += 1
            self._made += 1

    def _serve(self) -> None:
        while (run := self._queue.get()) is not None:
            run.run()
            try:
                self._loop.call_soon_threadsafe(self._ended, run)
            except RuntimeError:
                return  # the worker has ended
            del run

    def _ended(self, run: Run) -> None:
        self._alone.discard(run)
        if run in self.lost:  # its thread is back
            del self.lost[run]
            self.alive += 1
            if self.alive > self._most:
                self.alive -= 1
                self._queue.put(None)
        else:
            self._asked -= 1
        run.end()
