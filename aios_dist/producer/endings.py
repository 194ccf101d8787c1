"""Who waits for the end of jobs, and hears of it: one connection, however many jobs, and no polling.

What is heard is of these jobs alone, on a channel of each; where workers of a release before run, which say
it on the fleet's stream only, that is followed as well. A channel keeps nothing: who begins to hear it looks,
and so does who has not heard for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import defaultdict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, TypeVar

from aios_dist.errors import FleetUnavailable, RedisUnfit, ResultTimeout
from aios_dist.journal import Journal
from aios_dist.journal.patience import Patience
from aios_dist.threads.errands import CLOSED_MEANWHILE, INSIST_S

T = TypeVar("T")

PATIENCE_S = 30.0
"""How long a producer waits for a Redis that was there before and is away: a restart, a failover."""

ASK_AGAIN_S = 0.25
"""Between two tries, in that time."""

LOOK_AGAIN_S = 10.0
"""Jobs that are waited for are looked at this often, whatever is heard or not heard of them, and so are the
releases of the workers. Where the look itself meets a line that nobody hears, an end that was missed is found
some 15 s later."""

LOOK_SOON_S = 0.2
"""After a member of a plan was parked: who waits for one behind it hears of it within a second."""

PAGE = 1000
"""Jobs that are looked at in one go: who asks for something else meanwhile comes between two pages."""

LOOKS_A_SECOND = 2500
"""… but very many, somewhat less often: a look takes some microseconds of this loop."""

LOOK_S = 1.0
"""A caller with less time than this still gets one look: Redis has so long to answer it."""


class Endings:
    """Hears of the ends of jobs for all callers of one event loop."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._hearing = journal.hearing(LOOK_AGAIN_S)
        self._plans: set[str] = set()
        """Those whose parked members are heard of, because others are waited for."""
        self._stream: asyncio.Task[None] | None = None
        self._waiting: defaultdict[str, list[asyncio.Future[None]]] = defaultdict(list)
        self._over: set[str] = set()
        """Jobs that were waited for, and whose channels are still heard."""
        self._watcher: asyncio.Task[None] | None = None
        self._looker: asyncio.Task[None] | None = None
        self._soon: asyncio.Task[None] | None = None
        self._behind = False
        self._closing = asyncio.Event()

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """A question, or a write that is safe to repeat, again and again while Redis is away.

        Raises:
            FleetUnavailable: it was not there the first time, is away for longer than ``PATIENCE_S``, or the
                fleet was closed; RedisUnfit: at once, as waiting does not help.
        """

        def away(why: FleetUnavailable) -> None:
            if not self._journal.connection.met or isinstance(why, RedisUnfit):
                raise why

        self._look_whether_closed()
        return await Patience(ASK_AGAIN_S, ASK_AGAIN_S, PATIENCE_S).ask(question, away=away, wait=self._pass)

    async def _pass(self, seconds: float) -> None:
        """So long, unless the fleet is closed meanwhile."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)
        self._look_whether_closed()

    def _look_whether_closed(self) -> None:
        if self._closing.is_set():
            raise FleetUnavailable(CLOSED_MEANWHILE)

    async def by(self, deadline: float, question: Callable[[], Awaitable[T]]) -> T:
        """The answer to a question, for a caller whose time ends.

        Args:
            deadline: on the loop's clock; Redis gets ``LOOK_S`` at the least.
            question: as for :meth:`ask`.

        Raises:
            ResultTimeout: there is none in time.
            FleetUnavailable: see :meth:`ask`.
        """
        try:
            async with asyncio.timeout_at(max(deadline, _clock() + LOOK_S)) as limit:
                return await self.ask(question)
        except TimeoutError:
            if not limit.expired():
                raise
            raise ResultTimeout(
                "The wait ended while Redis did not answer: how it stands is not known; it goes on."
            ) from None

    async def close(self) -> None:
        """Follow no longer; whoever waits is told."""
        self._closing.set()
        for futures in list(self._waiting.values()):
            for future in futures:
                if not future.done():
                    future.set_exception(FleetUnavailable(CLOSED_MEANWHILE))
        tasks = [t for t in (self._watcher, self._looker, self._soon, self._stream) if t is not None]
        while left := [task for task in tasks if not task.done()]:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=INSIST_S)
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._hearing.close()

    async def news(self, waiting: Coroutine[Any, Any, object]) -> None:
        """Return when what is waited for has come, or the fleet is closed."""
        both = [asyncio.ensure_future(work) for work in (waiting, self._closing.wait())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if both[0].done():
                both[0].result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def wait(self, id: str, deadline: float) -> None:
        """Return when the job has ended, or at the deadline (on the loop's clock): who asks looks then.

        Raises:
            UnknownName: no such job.
        """
        future = self._notice(id)
        try:
            async with asyncio.timeout_at(deadline) as limit:
                await self._watch()
                await self._hear([id])
                look = functools.partial(self._journal.standing, id)
                standing = await self.ask(look)
                if standing.plan and await self._hear_plans([standing.plan]):
                    standing = await self.ask(look)  # one that it waits for may have been parked just before
                if not standing.over:
                    await future
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            self._forget(id, future)

    async def in_order(self, ids: Sequence[str], timeout: float) -> AsyncIterator[str]:
        """The jobs' ids in the order in which they end; what has ended comes before the clock is looked at.

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
        deadline = _clock() + timeout
        try:
            await self.by(deadline, self._watch)
            for page in _pages(ids):
                await self.by(deadline, functools.partial(self._hear, page))
                await self.by(deadline, functools.partial(self._look, page))
            for left in range(len(futures), 0, -1):
                next_ = await self._next(ended, deadline, futures)
                if next_ is None:
                    raise ResultTimeout(f"{left} of {len(futures)} jobs have not ended within {timeout:g} s.")
                futures[next_].result()  # the watcher's own end, if that is why
                yield next_
        finally:
            for id, future in futures.items():
                self._forget(id, future)

    async def _next(
        self, ended: asyncio.Queue[str], deadline: float, futures: Mapping[str, asyncio.Future[None]]
    ) -> str | None:
        """The next that has ended; None where there is none at the deadline, which Redis was asked for."""
        if ended.empty():
            try:
                async with asyncio.timeout_at(deadline) as limit:
                    return await ended.get()
            except TimeoutError:
                if not limit.expired():
                    raise
        if ended.empty():  # this loop may have stood still, and the news be unread
            late = [id for id, future in futures.items() if not future.done()]
            for page in _pages(late):
                await self.by(deadline, functools.partial(self._look, page))
            await asyncio.sleep(0)  # what it found is noted
        return None if ended.empty() else ended.get_nowait()

    def _notice(self, id: str) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[id].append(future)
        return future

    def _forget(self, id: str, future: asyncio.Future[None]) -> None:
        if not future.cancel() and not future.cancelled():
            future.exception()  # the caller has raised that, or another, already
        waiters = self._waiting.get(id)
        if waiters and future in waiters:
            waiters.remove(future)
        if not waiters:
            self._waiting.pop(id, None)
            self._over.add(id)

    async def _hear(self, ids: Iterable[str]) -> None:
        """From here on, no end of these is missed."""
        over, self._over = [id for id in self._over if id not in self._waiting], set()
        await self._hearing.leave(map(self._journal.keys.end, over))
        await self._hearing.hear(map(self._journal.keys.end, ids))

    async def _hear_plans(self, plans: Iterable[str]) -> bool:
        """The same of members of these that are parked; whether some were not heard of before."""
        new = set(plans) - self._plans
        self._plans |= new
        await self._hearing.hear(map(self._journal.keys.behind, plans))
        return bool(new)

    async def _watch(self) -> None:
        """Somebody listens from here on, or will soon, and looks then."""
        self._look_whether_closed()
        if self._watcher is None or self._watcher.done():
            self._hearing.tried.clear()
            self._watcher = asyncio.create_task(self._follow())
            self._watcher.add_done_callback(self._failed)
        if self._looker is None:
            self._looker = asyncio.create_task(self._look_now_and_then())
        if self._hearing.tried.is_set():
            return
        waiter = asyncio.create_task(self._hearing.tried.wait())
        both = [waiter, self._watcher]
        await asyncio.wait(both, timeout=LOOK_S / 2, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        self._look_whether_closed()  # … which has cancelled the watcher: that is no cancelling of who waits
        if self._watcher.done():
            self._watcher.result()

    async def _follow(self) -> None:
        await self._look_for_releases_before()
        end, behind = self._journal.keys.end(""), self._journal.keys.behind("")
        async for said in self._hearing.listen():
            if said is None:  # a gap
                await self._look_at_all()
            elif said[0].startswith(end):
                self._tell(said[0][len(end) :])
            elif said[0].startswith(behind):
                self._parked()

    async def _look_for_releases_before(self) -> None:
        """Where one of their workers runs, the fleet's stream is followed, too, and while it does."""
        registry = await self.ask(self._journal.registry)
        there = not all(worker.tells_who_waits for worker in registry.workers)
        if not there and self._stream is not None:
            self._stream.cancel()
            self._stream = None
        elif there and (self._stream is None or self._stream.done()):
            after = await self.ask(self._journal.ends_now)
            self._stream = asyncio.create_task(self._follow_stream(after))
            self._stream.add_done_callback(self._failed)

    async def _follow_stream(self, after: str) -> None:
        async for ids in self._journal.ends(after, idle=LOOK_AGAIN_S):
            for id in ids:
                self._tell(id)
            if not ids:  # a gap
                await self._look_at_all()
            elif ids.behind:
                self._parked()

    def _parked(self) -> None:
        self._behind = True
        if self._soon is None or self._soon.done():
            self._soon = asyncio.create_task(self._look_soon())

    async def _look_now_and_then(self) -> None:
        """An end may be missed: who has ended the job may be of a release before and no worker, and a line
        that nobody answers on is given up late."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_S + len(self._waiting) / LOOKS_A_SECOND)
            with contextlib.suppress(Exception):
                await self._look_for_releases_before()
            await self._look_at_all()
            if not self._waiting:
                plans, self._plans = self._plans, set()
                await self._hearing.leave(map(self._journal.keys.behind, plans), at_once=True)

    async def _look_soon(self) -> None:
        """Members of a plan may wait for one that was parked, or for several: one look is for all."""
        while self._behind:
            await asyncio.sleep(LOOK_SOON_S)
            self._behind = False  # one that is parked during the look may be missed by it
            await self._look_at_all()

    async def _look_at_all(self) -> None:
        with contextlib.suppress(Exception):
            for page in _pages(list(self._waiting)):
                await self.ask(functools.partial(self._look, page))

    async def _look(self, ids: Sequence[str]) -> None:
        over, plans = await self._journal.over_and_plans(ids)
        if plans and await self._hear_plans(plans):
            over, _ = await self._journal.over_and_plans(ids)
        for id, is_over in zip(ids, over, strict=True):
            if is_over:
                self._tell(id)

    def _tell(self, id: str) -> None:
        self._over.add(id)
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


def _pages(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[at : at + PAGE] for at in range(0, len(ids), PAGE))


def _clock() -> float:
    return asyncio.get_running_loop().time()
