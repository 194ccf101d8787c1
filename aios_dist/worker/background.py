"""The tasks of a worker that nobody waits for: none of them ends unseen."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from aios_dist.journal.patience import Patience

logger = logging.getLogger("aios_dist.background")

BEFORE_NEXT = Patience(0.1, 10.0)
"""Before a task that broke is begun anew; it doubles until one has lasted."""

WELL_S = 60.0
"""A task that lasted so long was well."""

REMIND_S = 60.0
"""What breaks again and again is said in full once, and then in a line this often."""


class Background:
    """Runs tasks for as long as the worker lives: what one raises is logged, and it is begun anew.

    Attributes:
        broken: how often each broke.
    """

    def __init__(self) -> None:
        self.broken: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False

    def start(self, name: str, run: Callable[[], Awaitable[object]]) -> None:
        """Run ``run()``, which does not end by itself."""
        self._tasks.append(asyncio.create_task(self._watch(name, run), name=name))

    def repeat(self, name: str, every: float, once: Callable[[], Awaitable[object]]) -> None:
        """Run ``once()`` every so many seconds; one that breaks is due again at the next beat."""

        async def run() -> None:
            while True:
                await asyncio.sleep(every)
                await once()

        self.start(name, run)

    async def _watch(self, name: str, run: Callable[[], Awaitable[object]]) -> None:
        pauses, said = BEFORE_NEXT.pauses(), float("-inf")
        while True:
            begun = time.monotonic()
            error: BaseException
            try:
                await run()
                error = RuntimeError("it came to its end")
            except BaseException as exc:  # also a CancelledError that is not ours
                if self._ending:
                    return
                error = exc
            now = time.monotonic()
            self.broken[name] = self.broken.get(name, 0) + 1
            if now - begun > WELL_S:
                pauses = BEFORE_NEXT.pauses()
            if self.broken[name] == 1:
                logger.error("The task %r of this worker broke; it is begun anew.", name, exc_info=error)
            elif now - said >= REMIND_S:
                logger.error(
                    "The task %r of this worker broke %d times, last by %s; it is begun anew.",
                    name,
                    self.broken[name],
                    type(error).__name__,
                )
            else:
                now = said
            said = now
            try:
                await asyncio.sleep(next(pauses))
            except asyncio.CancelledError:  # perhaps not ours: an adapter that cancels all tasks of its loop
                if self._ending:
                    return

    async def end(self) -> None:
        """End all of them."""
        self._ending = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
