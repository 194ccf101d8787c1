"""Loops of all makes: in a turn none of them begins, and whoever would begin one there is found out.

A loop that begins sets the thread's running loop, or its hooks for generators. uvloop's asks in C whether one
runs, and is watched by its class, which says that it is a loop of asyncio's; trio by what its functions ask
of the thread. What refuses to begin by itself, with an error that an agent may catch, is known by its name.
Outside of turns all of this does what it always did. A thread that an agent starts is outside, and known: the
turn hears what it awaits of ours.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import functools
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType, FunctionType
from typing import Any

ASKERS = frozenset(
    {
        *("asyncio.base_events", "asyncio.runners", "anyio._backends._asyncio", "anyio._core._eventloop.run"),
        *("asgiref.sync", "nest_asyncio.manage_run", "nest_asyncio2.manage_run", "uvloop.run"),
    }
)
"""Modules, and functions, that ask which loop runs only to begin another one, or to give it work."""

DEEP = 4
"""Calls from one of these to its question: sniffio's stand between."""


Away = list[tuple[dict[str, Any], dict[str, Any]]]
"""Attributes of this thread's, and what they were."""


class Loops:
    """Where loops begin, watched.

    Args:
        in_turn: whether a turn runs on this thread.
        misuse: notes that one was to begin there, and gives what is to be raised.
        carried: makes of a function one for a thread that the turn here starts.
        answers: the classes of what stands in a turn for the running loop and the current task.
    """

    def __init__(
        self,
        in_turn: Callable[[], bool],
        misuse: Callable[[], BaseException],
        carried: Callable[[Callable[..., Any]], Callable[..., Any]],
        answers: tuple[type, type],
    ) -> None:
        self._answers = answers
        self._in_turn = in_turn
        self._misuse = misuse
        self._carried = carried

    def watch(self) -> None:
        """Once a process; what is imported later is watched too."""
        events: Any = asyncio.events
        asks = self._watched(events._get_running_loop, _asks_to_begin)
        sets = self._watched(events._set_running_loop, lambda by: _name(by) != "on_fork")
        modules: list[Any] = [events, asyncio]
        for module in modules:
            module._get_running_loop, module._set_running_loop = asks, sets
        asyncio.get_running_loop = self._answered(asyncio.get_running_loop)
        asyncio.current_task = self._answered(asyncio.current_task)
        sys.set_asyncgen_hooks = self._watched(sys.set_asyncgen_hooks)
        self._watch_classes()
        self._watch_threads()

    def trio_away(self) -> Away | None:
        """What trio knows of this thread, taken from it for a turn: see :meth:`trio_back`."""
        context = getattr(sys.modules.get("trio._core._run"), "GLOBAL_RUN_CONTEXT", None)
        if context is None:
            return None
        kind: Any = type(context)
        if "__getattr__" not in vars(kind):

            def asked(context: Any, name: str) -> Any:
                if self._in_turn() and not _name(sys._getframe(1)).startswith("in_trio_"):  # who only asks
                    raise self._misuse()
                raise AttributeError(f"{type(context).__name__!r} object has no attribute {name!r}")

            kind.__getattr__ = asked
        name = getattr(sys.modules.get("sniffio"), "thread_local", None)
        away = [(vars(there), dict(vars(there))) for there in (context, name) if there is not None]
        for there, _ in away:
            there.clear()
        return away

    def trio_back(self, away: Away) -> None:
        """It is as it was."""
        for there, held in away:
            there.update(held)

    def _watched(
        self, function: Callable[..., Any], means_it: Callable[[FrameType], bool] = lambda by: True
    ) -> Callable[..., Any]:
        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._in_turn() and means_it(sys._getframe(1)):
                raise self._misuse()
            return function(*args, **kwargs)

        return watched

    def _answered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same for what everybody asks all the time: the answer says whether a turn runs here."""
        ours = self._answers

        @functools.wraps(function)
        def answered(*args: Any, **kwargs: Any) -> Any:
            answer = function(*args, **kwargs)
            if type(answer) in ours and _asks_to_begin(sys._getframe(1)):
                raise self._misuse()
            return answer

        return answered

    def _watch_classes(self) -> None:
        base: Any = asyncio.AbstractEventLoop
        seen, todo = {base}, [base]
        while todo:
            more = set(todo.pop().__subclasses__()) - seen
            seen |= more
            todo += more
            for kind in more:
                self._watch_class(kind)

        def begun(kind: Any, /, **kwargs: Any) -> None:
            super(base, kind).__init_subclass__(**kwargs)  # of what else it is derived from
            self._watch_class(kind)

        base.__init_subclass__ = classmethod(begun)

    def _watch_threads(self) -> None:
        thread: Any = threading.Thread
        pool: Any = ThreadPoolExecutor
        start, submit = thread.start, pool.submit

        @functools.wraps(start)
        def starts(one: Any) -> Any:
            if self._in_turn():
                one.run = self._carried(one.run)
            return start(one)

        @functools.wraps(submit)
        def submits(one: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            return submit(one, self._carried(function) if self._in_turn() else function, *args, **kwargs)

        thread.start, pool.submit = starts, submits

    def _watch_class(self, kind: Any) -> None:
        for name in ("run_forever", "run_until_complete"):
            runs = getattr(kind, name)
            if not isinstance(runs, FunctionType):  # Python's own begins as asyncio's do
                setattr(kind, name, self._watched(runs))


def _name(frame: FrameType) -> str:
    return frame.f_code.co_name


def _asks_to_begin(by: FrameType) -> bool:
    frame: FrameType | None = by
    for _ in range(DEEP):
        if frame is None:
            return False
        module = frame.f_globals.get("__name__", "")
        if module in ASKERS or f"{module}.{_name(frame)}" in ASKERS:
            return True
        frame = frame.f_back
    return False
