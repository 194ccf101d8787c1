"""The asyncio pool: Celery 5.7 has none.

An event loop in a thread of its own; each task's synchronous tracer runs in a greenlet on it (``greenback``),
so that a provider call deep inside is a plain ``await``. Slots are Celery's ``worker_concurrency``. When one
frees, a byte in a pipe wakes the worker's own loop, which then takes the next ticket: without that it would
not look before its next poll (measured: 9.7 × the bound instead of 1.12).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import logging
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import greenback
from celery.concurrency.base import BasePool, apply_target
from celery.worker import state

from aios_dist.errors import AiosError
from aios_dist.worker.lookups import WorkerLoop

logger = logging.getLogger("aios_dist.pool")

MOST_SLOTS = 100_000
"""So many slots one process has at the most; far more than it can serve."""

SIGNALS_S = 0.2
"""So often is looked for signals while what runs on the loop is waited for."""


Spawn = Callable[[Coroutine[Any, Any, None]], object]
"""Runs a coroutine in a slot, on the pool's loop."""


class Resident(Protocol):
    """What lives on the pool's loop as long as the pool does."""

    async def open(self, busy: Callable[[], int], set_slots: Callable[[int], None], spawn: Spawn) -> None:
        """Called once, before the first task; ``busy`` counts the tasks that run, ``set_slots`` bounds them
        for now, ``spawn`` begins one that Celery has not sent."""

    def resize(self, slots: int) -> None:
        """The pool has so many slots from now on; called on its loop."""

    def hurry(self) -> None:
        """Called before ``close``, or while it waits: nothing in flight is waited for any more."""

    async def close(self) -> None:
        """Called once."""


class AsyncioPool(BasePool):
    """Runs each Celery task as an asyncio task. ``limit`` is the number of slots."""

    limit: int
    signal_safe = False
    task_join_will_block = False
    body_can_be_buffer = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._loop = WorkerLoop()
        self._thread: threading.Thread | None = None
        self._ended = self._stopping = False
        self._context = contextvars.copy_context()
        self._most = sys.maxsize
        self._tasks: set[asyncio.Task[None]] = set()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    @property
    def resident(self) -> Resident | None:
        """The app's runtime, if it has one."""
        return getattr(self.app, "aios_runtime", None)

    def on_start(self) -> None:
        """Start the loop, and on it the runtime."""
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), name="aios-loop", daemon=True)
        self._thread.start()
        started.wait()
        if self.resident is not None:
            try:
                self._call(self.resident.open(lambda: len(self._tasks), self._bound, self._begin))
            except AiosError as exc:
                # Celery would show a traceback for what one sentence says.
                sys.stderr.write(f"aios-dist: {exc}\n")
                self._end_loop()
                raise SystemExit(2) from None  # Celery makes it the exit code

    def _serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(started.set)
        while not self._ended:
            try:
                self._loop.run_forever()
            except BaseException:  # a task raised SystemExit or KeyboardInterrupt: not ours to obey
                logger.exception("Something tried to end the loop of this worker.")

    def _call(self, coroutine: Any) -> Any:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        while True:
            # Not for ever: the system may give a signal to another thread, and this one, whose handler it is
            # for, sleeps on.
            done, _ = concurrent.futures.wait([future], timeout=SIGNALS_S)
            if done:
                return future.result()

    def register_with_event_loop(self, hub: Any) -> None:
        """Called again after each reconnect: the hub was reset then."""
        hub.add_reader(self._reader, self._woken)

    def _woken(self, *_: Any) -> None:
        try:
            os.read(self._reader, 4096)
        except BlockingIOError:
            return

    def wake(self) -> None:
        """Let the worker's loop look whether it may take a ticket."""
        try:
            os.write(self._writer, b"\0")
        except (BlockingIOError, OSError):
            return  # full: it will wake anyway; closed: there is nobody to wake

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        **_: Any,
    ) -> Applied:
        """Called by the worker's loop for each ticket."""
        run = functools.partial(apply_target, target, args or (), kwargs or {}, callback, accept_callback)
        self._loop.call_soon_threadsafe(self._spawn, run)
        return Applied()

    def _spawn(self, run: Callable[[], Any]) -> None:
        self._begin(greenback.with_portal_run_sync(run))

    def _begin(self, body: Coroutine[Any, Any, Any]) -> None:
        # Of no other task's variables: one that goes on is no child of the one before.
        task = self._loop.create_task(self._run(body), context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def _run(self, body: Coroutine[Any, Any, Any]) -> None:
        try:
            await body
        except BaseException:
            logger.exception("A task broke outside of its body.")

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.wake()

    def on_stop(self) -> None:
        """Warm shutdown: the runtime finishes or hands back what is in flight."""
        if self._thread is None:
            return
        if self.resident is not None and state.should_terminate not in (None, False):
            self.resident.hurry()
        if self._stopping:  # SIGQUIT's handler, in the midst of the waiting below: that goes on
            return
        self._stopping = True
        try:
            if self.resident is not None:
                self._call(self.resident.close())
            elif self._tasks:
                self._call(asyncio.wait(set(self._tasks)))
        finally:
            self._end_loop()

    def on_terminate(self) -> None:
        """Cold shutdown: what is in flight goes back at once."""
        if self._thread is not None and self.resident is not None:
            self.resident.hurry()
        self.on_stop()

    def _end_loop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._ended = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        thread.join(timeout=5.0)

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """Celery's ``revoke(terminate=True)`` ends processes; here `aios-dist job cancel` ends the call."""
        logger.warning("Tickets cannot be terminated; use `aios-dist job cancel ID`.")

    @property
    def num_processes(self) -> int:
        """What Celery takes tickets by."""
        return min(self.limit, self._most)

    def _bound(self, most: int) -> None:
        """No more than so many slots for now, whatever the limit is; on the pool's loop."""
        self._most = most
        self.wake()

    def grow(self, n: int = 1) -> None:
        """More slots while running (``celery control pool_grow``)."""
        self._resize(self.limit + n)

    def shrink(self, n: int = 1) -> None:
        """Fewer slots; what is in flight goes on."""
        self._resize(max(1, self.limit - n))

    def _resize(self, limit: int) -> None:
        self.limit = limit
        if self.resident is not None:
            self._loop.call_soon_threadsafe(self.resident.resize, limit)
        self.wake()

    def _get_info(self) -> dict[str, Any]:
        return {**super()._get_info(), "in-flight": len(self._tasks)}


class Applied:
    """What Celery keeps of a task that was given to the pool."""

    def terminate(self, signal: Any = None) -> None:
        """Celery may not end a step: it is journaled, and `aios-dist job cancel` ends it in good order."""


__all__ = ["MOST_SLOTS", "AsyncioPool", "Resident"]
