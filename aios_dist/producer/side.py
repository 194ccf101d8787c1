"""The far side of a fleet without asyncio: a thread, its loop, and the AsyncFleet that lives there, as one.

What it must ask of users' code goes back to the thread that waits: :mod:`aios_dist.threads.errands`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Generic, Protocol, TypeVar

from aios_dist.errors import FleetUnavailable, UsageError
from aios_dist.threads import forks
from aios_dist.threads import real as real_threads
from aios_dist.threads.errands import CLOSED, CLOSED_MEANWHILE, INSIST_S, Call

T = TypeVar("T")


class Closes(Protocol):
    """What lives on the far side."""

    async def close(self) -> None:
        """Close the connections."""


F = TypeVar("F", bound=Closes)


def here() -> UsageError | None:
    """What is wrong with asking a fleet in this thread."""
    if real_threads.ident() not in real_threads.fleets:
        return None
    return UsageError(
        "A fleet cannot be asked on its own thread, which would wait for itself (a finalizer like __del__ "
        "may run there): ask it elsewhere."
    )


class _Stream(Generic[T]):
    """An iterator of the far side, which somebody here may never finish."""

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._source = source
        self._one = asyncio.Lock()  # a step that was cancelled is still on its way out

    async def next(self) -> T:
        async with self._one:
            return await self._source.__anext__()

    async def close(self) -> None:
        close = getattr(self._source, "aclose", None)
        if close is not None:
            async with self._one:
                await close()


class Side(Generic[F]):
    """A thread, its loop, and what ``make`` gives to live there. ``threads.forks`` ends its use in a child.

    Raises:
        UsageError: there can be no such thread in this process; or what ``make`` raises.
    """

    def __init__(self, make: Callable[[], F]) -> None:
        if (why := real_threads.lacking()) is not None:
            raise UsageError(why)
        self.fleet = make()  # before there is a thread: where it cannot be, nothing is left behind
        self._process = os.getpid()
        self._closing = self._over = False
        self._ident = 0
        self._failed: Exception | None = None
        self._calls: set[Call] = set()
        self._streams: set[_Stream[Any]] = set()
        self._rings: list[Callable[[], None]] = []
        self._end: asyncio.Task[None] | None = None
        wait, ring = real_threads.bell()
        forks.note(self)
        real_threads.start(lambda: self._serve(ring), "aios-fleet")
        wait()
        if self._failed is not None:
            raise self._failed

    def put_aside(self) -> None:
        """See :class:`aios_dist.threads.forks.Heir`."""
        real_threads.fleets.discard(self._ident)
        forks.keep(self)
        for call in list(self._calls):  # of a greenlet, or of a thread whose signal handler has forked
            call.end(FleetUnavailable(forks.FORKED))

    @property
    def _inherited(self) -> bool:
        return os.getpid() != self._process  # also after a fork that told nobody

    # The thread ----------------------------------------------------------------------------------------

    def _serve(self, ready: Callable[[], None]) -> None:
        self._ident = real_threads.ident()
        real_threads.fleets.add(self._ident)
        try:
            self._loop = real_threads.new_loop()
        except Exception as error:  # too many open files
            real_threads.fleets.discard(self._ident)
            self._failed = error
            ready()
            return
        self._loop.call_soon(ready)
        try:
            self._loop.run_forever()
        finally:
            self._over = True
            real_threads.fleets.discard(self._ident)
            for call in list(self._calls):
                call.end(FleetUnavailable(CLOSED_MEANWHILE))
            self._loop.close()
            for ring in self._rings:
                ring()

    def _post(self, what: Callable[..., object], *args: Any) -> None:
        """Have the loop do this. Waits for nothing and takes no lock: also for finalizers, on any thread."""
        if self._inherited or self._over:
            return
        try:
            self._loop.call_soon_threadsafe(what, *args)
        except RuntimeError:
            pass  # it has ended just now

    # Asking --------------------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What it gives, run over there.

        Raises:
            FleetUnavailable: the fleet is closed, or is while this waits.
            UsageError: called by a finalizer that Python runs on a fleet's own thread.
        """
        if (refusal := self._refusal()) is not None:
            work.close()
            raise refusal
        call = Call(work)
        self._calls.add(call)
        try:
            self._post(call.begin)
            if self._over:  # between the two; whoever ends us may have seen us or not
                call.end(FleetUnavailable(CLOSED))
            value: T = call.answer(self._post)
            return value
        finally:
            self._calls.discard(call)

    def _refusal(self) -> Exception | None:
        if self._inherited:
            return FleetUnavailable(forks.FORKED)
        if self._closing:
            return FleetUnavailable(CLOSED)
        if (refusal := here()) is not None:
            return refusal
        if sys.is_finalizing():
            return FleetUnavailable("Python is ending: the fleet can be asked no more.")
        return None

    def iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        """The same, here."""
        stream = _Stream(source)
        self._streams.add(stream)  # held by us: in a child nothing of it may be finalized
        try:
            while True:
                try:
                    item = self.run(stream.next())
                except StopAsyncIteration:
                    return
                yield item
        finally:  # on any thread, at any time: Python's collector may have come upon it
            if not sys.is_finalizing():
                self._post(self._drop, stream)

    def _drop(self, stream: _Stream[Any]) -> None:
        closing = asyncio.get_running_loop().create_task(stream.close())
        closing.add_done_callback(lambda _: self._streams.discard(stream))

    # Ending --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Whoever waits in another thread is told; then the connections are closed. Idempotent."""
        if self._closing or self._inherited or sys.is_finalizing():
            return
        wait, ring = real_threads.bell()
        self._rings.append(ring)
        self._closing = True
        self._post(self._begin_to_end)
        if real_threads.ident() not in real_threads.fleets:
            wait()

    def abandon(self) -> None:
        """The fleet was not closed, and nobody has it any more. Waits for nothing."""
        if self._closing or self._inherited or sys.is_finalizing():
            return
        self._closing = True
        self._post(self._begin_to_end)
        warnings.warn(
            "A Fleet was not closed: use it as `with Fleet(…) as fleet`, or call fleet.close().",
            ResourceWarning,
            stacklevel=2,
        )

    def _begin_to_end(self) -> None:
        self._end = asyncio.get_running_loop().create_task(self._to_the_end())

    async def _to_the_end(self) -> None:
        try:
            await self.fleet.close()
            if told := asyncio.all_tasks() - {asyncio.current_task()}:  # who is told why, says it himself
                await asyncio.wait(told, timeout=INSIST_S)
            while waiting := asyncio.all_tasks() - {asyncio.current_task()}:  # ending, some begin others
                for task in waiting:
                    task.cancel()
                await asyncio.wait(waiting, timeout=INSIST_S)
            await asyncio.get_running_loop().shutdown_asyncgens()
            await asyncio.sleep(0)  # what has ended just now is passed on
        finally:
            asyncio.get_running_loop().stop()
