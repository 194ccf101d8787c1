"""Who waits for the end of jobs, and hears of it: one connection, however many jobs, and no polling."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from aios_dist.errors import FleetUnavailable, ResultTimeout
from aios_dist.journal import Journal

T = TypeVar("T")

PATIENCE_S = 30.0
"""How long a producer waits for a Redis that was there before and is away: a restart, a failover."""

LOOK_AGAIN_S = 15.0
"""Waiting callers' jobs are looked at again after this long without any news: belt and braces."""


class Endings:
    """Follows the fleet's stream of ends for all callers of one event loop."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: defaultdict[str, list[asyncio.Future[None]]] = defaultdict(list)
        self._watcher: asyncio.Task[None] | None = None
        self._watching = asyncio.Event()
        self._met = False

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """A question, or a write that is safe to repeat, again and again while Redis is away.

        Raises:
            FleetUnavailable: it was not there the first time, or was away for longer than ``PATIENCE_S``.
        """
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            try:
                answer = await question()
            except FleetUnavailable:
                if not self._met or asyncio.get_running_loop().time() > deadline:
                    raise
            else:
                self._met = True
                return answer
            await asyncio.sleep(0.25)

    async def close(self) -> None:
        """Follow no longer."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)

    async def wait(self, id: str, timeout: float) -> None:
        """Return when the job has ended.

        Raises:
            ResultTimeout: it has not ended in time.
            UnknownName: no such job.
        """
        future = self._notice(id)
        try:
            await self._watch()
            state, _ = await self.ask(functools.partial(self._journal.state, id))
            if not state.ended:
                await asyncio.wait_for(asyncio.shield(future), timeout)
        except TimeoutError:
            raise ResultTimeout(f"Job {id!r} has not ended within {timeout:g} s; it goes on.") from None
        finally:
            future.cancel()
            self._forget(id, future)

    async def in_order(self, ids: Sequence[str], timeout: float) -> AsyncIterator[str]:
        """The jobs' ids in the order in which they end.

        Raises:
            ResultTimeout: some have not ended within ``timeout`` seconds; they go on.
        """
        ended: asyncio.Queue[str] = asyncio.Queue()
        futures = {id: self._notice(id) for id in ids}

        def note(id: str, future: asyncio.Future[None]) -> None:
            if not future.cancelled():
                ended.put_nowait(id)

        for id, future in futures.items():
            future.add_done_callback(functools.partial(note, id))
        try:
            await self._watch()
            await self._look(ids)
            deadline = asyncio.get_running_loop().time() + timeout
            for left in range(len(futures), 0, -1):
                rest = deadline - asyncio.get_running_loop().time()
                try:
                    id = await asyncio.wait_for(ended.get(), max(0.0, rest))
                except TimeoutError:
                    raise ResultTimeout(
                        f"{left} of {len(futures)} jobs have not ended within {timeout:g} s."
                    ) from None
                futures[id].result()  # the watcher's own end, if that is why
                yield id
        finally:
            for id, future in futures.items():
                future.cancel()
                self._forget(id, future)

    def _notice(self, id: str) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[id].append(future)
        return future

    def _forget(self, id: str, future: asyncio.Future[None]) -> None:
        waiters = self._waiting.get(id)
        if waiters and future in waiters:
            waiters.remove(future)
        if not waiters:
            self._waiting.pop(id, None)

    async def _watch(self) -> None:
        """From here on, no end is missed."""
        if self._watcher is None or self._watcher.done():
            self._watching.clear()
            self._watcher = asyncio.create_task(self._follow())
            self._watcher.add_done_callback(self._failed)
        waiter = asyncio.create_task(self._watching.wait())
        await asyncio.wait([waiter, self._watcher], return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if self._watcher.done():
            self._watcher.result()

    async def _follow(self) -> None:
        after = await self.ask(self._journal.ends_now)
        self._watching.set()
        async for ids in self._journal.ends(after, idle=LOOK_AGAIN_S):
            for id in ids:
                self._tell(id)
            if not ids and self._waiting:
                with contextlib.suppress(Exception):
                    await self._look(list(self._waiting))

    async def _look(self, ids: Sequence[str]) -> None:
        states = await self.ask(functools.partial(self._journal.states, ids))
        for id, state in zip(ids, states, strict=True):
            if state is None or state.ended:
                self._tell(id)

    def _tell(self, id: str) -> None:
        for future in self._waiting.pop(id, ()):
            if not future.done():
                future.set_result(None)

    def _failed(self, watcher: asyncio.Task[None]) -> None:
        """An account that Redis refuses, say: nobody may be left waiting for news that cannot come."""
        error = None if watcher.cancelled() else watcher.exception()
        for futures in list(self._waiting.values()) if error is not None else []:
            for future in futures:
                if error is not None and not future.done():
                    future.set_exception(error)
