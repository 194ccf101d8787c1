"""Running tools: users' functions, which may raise anything, take for ever, or never come back.

A plain function has a thread for itself; an ``async`` one runs on an event loop that all of them share, in a
thread of its own, so that none of them ever stands on the loop that renews the leases.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from aios_dist.errors import InvalidInput, ToolError, describe
from aios_dist.model.given import as_json
from aios_dist.program.commands import Tool, is_async, wants_a_loop
from aios_dist.worker.threads import Run, Threads, attend
from aios_dist.worker.work import Stopped, Work

UNDO_S = 1.0
"""How long an ``async`` tool that was cancelled may take to end, before its loop is taken to hang."""


class Tools:
    """The tools of one worker.

    Args:
        slots: how many run at a time.
        timeout: seconds for a tool that says nothing else; 0: no limit.
        result_limit: bytes.
        check: one that keeps something for its agent, which would not see it, fails.
    """

    def __init__(self, slots: int, timeout: float, result_limit: int, check: bool = False) -> None:
        self._check = check
        self._threads = Threads("aios-tool", slots)
        self._loop: ToolLoop | None = None
        self._timeout = timeout
        self._limit = result_limit
        self._hung: dict[Run, None] = {}

    @property
    def lost(self) -> list[Run]:
        """The tools that were given up and still run."""
        self._hung = {run: None for run in self._hung if not run.done.done()}
        return [*self._threads.lost, *self._hung]

    def resize(self, slots: int) -> None:
        """So many run at a time from now on."""
        self._threads.resize(slots)

    async def run(self, work: Work, command: Tool, still_ours: Callable[[], None] = lambda: None) -> Any:
        """Run a tool, once.

        Args:
            still_ours: raises ``Stopped`` where the step may be somebody else's by now. Asked in the tool's
                own thread, right before it begins: the process may have stood still on the way there.

        Returns:
            What it returned, as JSON gives it back.

        Raises:
            ToolError: whatever it raised, or its time is over; what it returned cannot be kept.
            Stopped: the work was stopped. After these two it may still run: ``work.hung``.
        """
        label = work.claim.label
        name = f"tool {label} of job {work.claim.job}"
        limit = self._timeout if command.timeout is None else command.timeout
        begun = time.monotonic()
        try:
            if is_async(command.call):
                value = await self._await(work, name, command.call, command, limit, begun, still_ours)
            else:
                value = await self._call(work, name, command.call, limit, still_ours)
                if isinstance(value, _Later):
                    value = await self._await(work, name, value.get, command, limit, begun)
        except _Raised as raised:
            error = raised.error
            if isinstance(error, Stopped):  # it was not begun
                raise error from None
            text = f"{label}: {describe(error)}"
            raise ToolError(text, error=type(error).__name__) from error
        if self._check and (said := command.kept()):
            raise ToolError(f"{label}: {said}", error=InvalidInput.__name__)
        return value

    async def _call(
        self, work: Work, name: str, call: Callable[[], Any], limit: float, still_ours: Callable[[], None]
    ) -> Any:
        def whole() -> Any:
            still_ours()
            value = call()
            return _Later(lambda: value) if inspect.isawaitable(value) else self._kept(value)

        run = self._threads.start(name, whole)
        if not await self._threads.attend(run, work, limit):
            work.hung = run if run.begun is not None else None
            work.check()
            raise _late(limit)
        if run.error is not None and wants_a_loop(call, run.error):
            return _Later(call)
        return _result(run)

    async def _await(
        self,
        work: Work,
        name: str,
        call: Callable[[], Any],
        command: Tool,
        limit: float,
        begun: float,
        still_ours: Callable[[], None] = lambda: None,
    ) -> Any:
        if self._loop is None:
            self._loop = ToolLoop()
        loop = self._loop
        context = command.context

        async def whole() -> Any:
            still_ours()
            return self._kept(await call())

        run = loop.start(name, whole, context.copy() if context is not None else None)
        left = max(0.001, begun + limit - time.monotonic()) if limit else 0.0
        run.begun = time.monotonic()
        if not await attend(run, work, left):
            loop.cancel(run)
            await asyncio.wait({run.done}, timeout=UNDO_S)
            if not run.done.done():
                run.lost = time.monotonic()
                self._hung[run] = None
                work.hung = run
                loop.retire()
                self._loop = None if self._loop is loop else self._loop  # the next ones get another
            work.check()
            raise _late(limit)
        return _result(run)

    def _kept(self, value: Any) -> Any:
        value = as_json(value, "tool's result")
        size = len(msgspec.json.encode(value))
        if size > self._limit:
            raise ValueError(
                f"the result has {size:,} bytes, more than result_limit ({self._limit:,}); return a reference"
            )
        return value


class ToolLoop:
    """An event loop in a thread, for ``async`` tools. Nothing that they raise, or cancel, ends it."""

    def __init__(self) -> None:
        self._home = asyncio.get_running_loop()
        self._loop = asyncio.new_event_loop()
        self._tasks: dict[Run, asyncio.Task[None]] = {}
        self._retired = False
        threading.Thread(target=self._serve, name="aios-tool-loop", daemon=True).start()

    def start(self, name: str, make: Callable[[], Awaitable[Any]], context: Any) -> Run:
        """Await ``make()`` there, with these context variables."""
        run = Run(name, lambda: None)
        self._loop.call_soon_threadsafe(self._begin, run, make, context)
        return run

    def cancel(self, run: Run) -> None:
        """Cancel what runs there, as asyncio does it."""
        with contextlib.suppress(RuntimeError):  # all has ended there, and the loop with it
            self._loop.call_soon_threadsafe(self._cancel, run)

    def retire(self) -> None:
        """It gets no more tools: its thread ends with those that it has."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._retire)

    def _cancel(self, run: Run) -> None:
        task = self._tasks.get(run)
        if task is not None:
            task.cancel()

    def _retire(self) -> None:
        self._retired = True
        self._stop_unless_busy()

    def _stop_unless_busy(self) -> None:
        if self._retired and not self._tasks:
            self._loop.stop()

    def _begin(self, run: Run, make: Callable[[], Awaitable[Any]], context: Any) -> None:
        async def guarded() -> None:
            try:
                run.value = await make()
            except BaseException as exc:
                run.error = exc

        task = self._loop.create_task(guarded(), context=context)
        self._tasks[run] = task
        task.add_done_callback(lambda task: self._ended(run, task))

    def _ended(self, run: Run, task: asyncio.Task[None]) -> None:
        del self._tasks[run]
        if task.cancelled():  # before it had begun
            run.error = asyncio.CancelledError()
        with contextlib.suppress(RuntimeError):  # the worker has ended
            self._home.call_soon_threadsafe(run.end)
        self._stop_unless_busy()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not (self._retired and not self._tasks):
            # A task that raises SystemExit or KeyboardInterrupt comes out here.
            with contextlib.suppress(BaseException):
                self._loop.run_forever()
            if self._loop.is_closed():
                return
        with contextlib.suppress(BaseException):
            self._loop.run_until_complete(self._clean_up())
        self._loop.close()

    async def _clean_up(self) -> None:
        """As ``asyncio.run`` does it: what tools have left behind here is cancelled."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._loop.shutdown_asyncgens()


class _Later:
    """What a plain function returned: something to await. Or the function, where that needs a loop."""

    __slots__ = ("get",)

    def __init__(self, get: Callable[[], Any]) -> None:
        self.get = get


class _Raised(Exception):
    """The tool raised. Carried in here: a StopIteration or CancelledError would mean something on its way."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


def _result(run: Run) -> Any:
    if run.error is not None:
        raise _Raised(run.error)
    return run.value


def _late(limit: float) -> _Raised:
    return _Raised(TimeoutError(f"it had not ended within its timeout of {limit:g} s"))
