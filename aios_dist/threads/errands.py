"""A question from one thread to the loop of another, and what the thread that waits does meanwhile.

Users' code (an agent's first turn) never runs on a loop that others wait for: it goes back, as an errand, to
the thread that asked.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from aios_dist.errors import FleetUnavailable
from aios_dist.threads import real as real_threads

T = TypeVar("T")

CLOSED = "This fleet has been closed: make another."
CLOSED_MEANWHILE = "The fleet was closed while this waited; its jobs go on."

INSIST_S = 0.1
"""A task that was cancelled and goes on is cancelled again: redis-py, as it connects, may lose the first."""

Outcome = tuple[Any, BaseException | None]

_caller: contextvars.ContextVar[Call | None] = contextvars.ContextVar("aios_caller", default=None)


async def users_code(work: Callable[[], T]) -> T:
    """Run what may compute or block: in the thread that waits for this call, if one does, else in a new one.

    Raises:
        Exception: what it raised.
    """
    call, loop = _caller.get(), asyncio.get_running_loop()
    if call is None and real_threads.lacking():
        return work()
    future: asyncio.Future[Outcome] = loop.create_future()
    if call is not None:
        call.errand(work, future)
    else:
        context = contextvars.copy_context()

        def run() -> None:
            outcome = _outcome(lambda: context.run(work), BaseException)
            try:
                loop.call_soon_threadsafe(_settle, future, outcome)
            except RuntimeError:
                pass  # the loop has ended meanwhile

        # Not one of asyncio's own threads: for those a program waits at its end, and this may never end.
        threading.Thread(target=run, name="aios-first-turn", daemon=True).start()
    value: T = _taken(await future)
    return value


def _outcome(work: Callable[[], Any], caught: type[BaseException] = Exception) -> Outcome:
    try:
        return work(), None
    except caught as error:
        return None, error


def _taken(outcome: Outcome) -> Any:
    value, error = outcome
    try:
        if error is not None:
            raise error
        return value
    finally:
        del outcome, error  # a traceback holds this frame, and this frame held it


def _settle(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)


class Call:
    """A question to the far side, and the thread that waits for the answer."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work
        self._task: asyncio.Task[Any] | None = None
        self._given_up = False
        self._errand: tuple[Callable[[], Any], asyncio.Future[Outcome]] | None = None
        self.outcome: Outcome | None = None
        self._wait, self.ring = real_threads.bell()

    # In the caller's thread ----------------------------------------------------------------------------

    def answer(self, post: Callable[..., None]) -> Any:
        """Wait for the end, and do meanwhile what is asked of this thread."""
        try:
            while True:
                self._wait()
                if self.outcome is not None:
                    return _taken(self.outcome)
                errand, self._errand = self._errand, None
                if errand is not None:
                    post(_settle, errand[1], _outcome(errand[0]))
        except BaseException:
            if self.outcome is None:  # Ctrl-C in the caller ends the wait on the loop too
                post(self.give_up)
            raise
        finally:
            self.outcome = None

    # On the loop ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Let the question run, in a context of this call's own."""
        if self._given_up:
            self._work.close()
            return
        _caller.set(self)
        self._task = asyncio.get_running_loop().create_task(self._work)
        self._task.add_done_callback(self._ended)

    def errand(self, work: Callable[[], Any], future: asyncio.Future[Outcome]) -> None:
        """Have the caller do this."""
        self._errand = work, future
        self.ring()

    def give_up(self) -> None:
        """Nobody waits any more."""
        self._given_up = True
        if self._task is not None:
            self._task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self.end(FleetUnavailable(CLOSED_MEANWHILE))
        else:
            error = task.exception()
            self.outcome = (None, error) if error is not None else (task.result(), None)
            self.ring()

    # Anywhere ------------------------------------------------------------------------------------------

    def end(self, error: BaseException) -> None:
        """There will be no answer."""
        if self._task is None:
            self._work.close()
        if self.outcome is None:
            self.outcome = None, error
        self.ring()
